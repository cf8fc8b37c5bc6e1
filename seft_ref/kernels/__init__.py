"""Kernel sets: modules that multiply sparse matrices by the same twelve functions, passed as an argument (KRN).

    packed = kernels.pack(topology, values)       # once per topology
    y = kernels.matmul(x, packed)                 # (n, in)  -> (n, out)    y = x Wᵀ
    dx = kernels.matmul_transposed(dy, packed)    # (n, out) -> (n, in)     dx = dy W
    dvalues = kernels.sample(dy, x, topology)     # (nnz,)   dyᵀ x at the stored positions, in slot order
    packed = kernels.store(packed, kernels.locate(packed, topology, slots), values)

reference        the definition of all results, on any array library
cpu              compiled, for NumPy arrays
cpu.transposed   `cpu` with a second, transposed copy of every sparse matrix
cpu.tiles        `cpu` with products in bfloat16, for processors with AMX (KRN-019)
gpu              for CuPy arrays; needs CuPy; holds no codes

W is (out, in); x and dy are two-dimensional, one token a row, contiguous. A set multiplies only what it packed itself.
Wrong arrays raise KernelError.

`held` describes the 16-bit floats and codes of compact matrices. `seft_ref.topology` has the positions of stored
entries. Start with `reference.py`, which defines the others.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, Dtype
from seft_ref.kernels.held import Held, New, Stored
from seft_ref.topology.csr import Topology

NAMES = (
    *("pack", "pack_dense", "locate", "store", "matmul", "matmul_transposed", "sample", "exceeding"),
    *("compact", "unpack", "clear", "split"),
)
"""Names of the functions of a kernel set."""


@runtime_checkable
class Packed(Protocol):
    """A matrix in the layout of a kernel set, which callers do not look into."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix, (out, in)."""

    @property
    def dtype(self) -> Dtype:
        """Dtype of the products: float32 or float64."""

    @property
    def held_in(self) -> Held | None:
        """How a compact matrix stores its numbers: a 16-bit dtype, or codes with these scales; None if not compact."""

    @property
    def opens(self) -> bool:
        """Whether `unpack` returns topology and values (KRN-017)."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of the matrix."""


@runtime_checkable
class KernelSet(Protocol):
    """The functions of a kernel set; the last four are for models whose weights stay in 16 bits or codes."""

    LAYERS: str
    """The layer set that goes with it: a module of `seft_ref.layers` (LYR-018)."""

    def pack(self, topology: Topology, values: Float[Array, " nnz"], into: Packed | None = None) -> Packed:
        """Return a matrix of values in slot order; it may reuse the memory of the packed matrix `into` (KRN-011)."""

    def pack_dense(self, weight: Float[Array, "out in"]) -> Packed:
        """Return a matrix in which every position is stored, without copying weight (KRN-011)."""

    def locate(self, packed: Packed, topology: Topology, slots: Int[Array, " m"]) -> Int[Array, " m"]:
        """Return the places of CSR slots: numbers that only this set's `store` and `clear` understand (KRN-012)."""

    def store(self, packed: Packed, where: Int[Array, " m"], values: New) -> Packed:
        """Return the matrix with values at the places `where`; packed is not to be used again (KRN-012).

        A compact matrix takes float32 values that its 16 bits represent exactly (KRN-015); one of codes takes codes.
        """

    def matmul(self, x: Float[Array, "n in"], packed: Packed) -> Float[Array, "n out"]:
        """Return y = x Wᵀ (KRN-001)."""

    def matmul_transposed(self, dy: Float[Array, "n out"], packed: Packed) -> Float[Array, "n in"]:
        """Return dx = dy W (KRN-002)."""

    def sample(self, dy: Float[Array, "n out"], x: Float[Array, "n in"], topology: Topology) -> Float[Array, " nnz"]:
        """Return dyᵀ x at the stored positions, in slot order (KRN-003)."""

    def exceeding(self, values: Float[Array, " n"], least: float) -> Int[Array, " m"]:
        """Return the ascending indices of the values with |value| > least, or that are not finite (KRN-014)."""

    def compact(self, topology: Topology, values: Stored, into: Packed | None = None) -> Packed:
        """Return a matrix of 16-bit values or codes, multiplied as float32 numbers (KRN-015, KRN-018).

        It may reuse the memory of the compact matrix `into`, which must store no fewer positions.
        """

    def unpack(self, packed: Packed) -> tuple[Topology, Float[Array, " nnz"] | Stored]:
        """Return topology and values, bit for bit, of a compact matrix or another that `opens` (KRN-015, KRN-017)."""

    def clear(self, packed: Packed, where: Int[Array, " m"]) -> Packed:
        """Return a compact matrix with zeros at the places `where`, and leave packed as it was (KRN-016)."""

    def split(self, frozen: Packed, live: Packed) -> Packed:
        """Return the sum of two matrices; `locate` and `store` work on the live one only (KRN-016)."""
