"""Kernel sets: modules with the same twelve functions, passed as an argument by whoever chose one (KRN).

    packed = kernels.pack(topology, values)       # once per topology
    y = kernels.matmul(x, packed)                 # (n, in)  -> (n, out)    y = x Wᵀ
    dx = kernels.matmul_transposed(dy, packed)    # (n, out) -> (n, in)     dx = dy W
    dvalues = kernels.sample(dy, x, topology)     # (nnz,)   dyᵀ x at the stored positions, in slot order
    packed = kernels.store(packed, kernels.locate(packed, topology, slots), values)

`reference` is the definition and runs on any array library; `cpu` is compiled for NumPy arrays, and `cpu.transposed` is
`cpu` with a second copy of every sparse matrix; `gpu` is for CuPy's arrays, which must be installed before it is
imported.

W is (out, in); x and dy are two-dimensional, one token a row, contiguous. A set multiplies only what it packed itself.
Wrong arrays raise KernelError.

Where entries are stored is in `topology`. Start with `reference.py`, which defines the others.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, Dtype, NumpyArray
from seft_ref.topology.csr import Topology

NAMES = (
    *("pack", "pack_dense", "locate", "store", "matmul", "matmul_transposed", "sample", "exceeding"),
    *("compact", "unpack", "clear", "split"),
)
"""The functions of a kernel set."""


@runtime_checkable
class Packed(Protocol):
    """A matrix in the layout of a kernel set; nothing else of it concerns a caller."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    @property
    def dtype(self) -> Dtype:
        """Dtype of the products: float32 or float64."""

    @property
    def held_in(self) -> Dtype | None:
        """The 16-bit dtype of a compact matrix, else None."""

    @property
    def opens(self) -> bool:
        """Whether `unpack` returns topology and values (KRN-017)."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""


@runtime_checkable
class KernelSet(Protocol):
    """The functions of a kernel set; the last four are for models that are held in 16 bits."""

    def pack(self, topology: Topology, values: Float[Array, " nnz"], into: Packed | None = None) -> Packed:
        """Return a matrix of values in slot order; a packed matrix `into` donates its memory (KRN-011)."""

    def pack_dense(self, weight: Float[Array, "out in"]) -> Packed:
        """Return a matrix in which every position is stored; no copy (KRN-011)."""

    def locate(self, packed: Packed, topology: Topology, slots: Int[Array, " m"]) -> Int[Array, " m"]:
        """Return the positions of CSR slots in the layout's own order of values (KRN-012)."""

    def store(self, packed: Packed, where: Int[Array, " m"], values: Float[Array, " m"]) -> Packed:
        """Return the matrix with values replaced at `where`; it donates its argument (KRN-012)."""

    def matmul(self, x: Float[Array, "n in"], packed: Packed) -> Float[Array, "n out"]:
        """Return y = x Wᵀ (KRN-001)."""

    def matmul_transposed(self, dy: Float[Array, "n out"], packed: Packed) -> Float[Array, "n in"]:
        """Return dx = dy W (KRN-002)."""

    def sample(self, dy: Float[Array, "n out"], x: Float[Array, "n in"], topology: Topology) -> Float[Array, " nnz"]:
        """Return dyᵀ x at the stored positions, in slot order (KRN-003)."""

    def exceeding(self, values: Float[Array, " n"], least: float) -> Int[Array, " m"]:
        """Return the indices at which |values| is above a number, or not finite (KRN-014)."""

    def compact(self, topology: Topology, values: NumpyArray, into: Packed | None = None) -> Packed:
        """Return a matrix of 16-bit values that is multiplied as the float32 numbers they stand for; a compact matrix
        `into` that is no smaller donates its memory (KRN-015).
        """

    def unpack(self, packed: Packed) -> tuple[Topology, Float[Array, " nnz"]]:
        """Return topology and values of a matrix that `opens`, as a compact one does, bit for bit (KRN-017)."""

    def clear(self, packed: Packed, where: Int[Array, " m"]) -> Packed:
        """Return a compact matrix with zeros at `where` (KRN-016)."""

    def split(self, frozen: Packed, live: Packed) -> Packed:
        """Return the sum of two matrices, of which `locate` and `store` know the live one only (KRN-016)."""
