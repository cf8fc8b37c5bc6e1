"""The numbers of a compact matrix: 16-bit floats, or codes of a grid (KRN-015, KRN-018).

    stored = narrowed(values, held_in, topology)       # floats -> 16 bits or codes, rounded
    values = widened(stored, topology)                 # 16 bits or codes -> float32, exact

`held_in` is a 16-bit dtype, or codes whose scales new codes take over. `seft_ref.quantise` makes codes.
"""

from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float, Int8

from seft_ref.arrays.library import Array, Dtype, NumpyArray, from_halves, to_halves
from seft_ref.topology.csr import Topology


@runtime_checkable
class Coded(Protocol):
    """Codes of a matrix, and the scales by which they stand for weights (QNT-001, QNT-002)."""

    @property
    def bits(self) -> int:
        """Bits of a code, 4 or 8."""

    @property
    def columns(self) -> int:
        """Columns of a group, which has one scale in each row."""

    @property
    def codes(self) -> Int8[Array, " nnz"]:
        """The code of each slot."""

    @property
    def scales(self) -> Float[Array, "out groups"]:
        """The scale of each group of each row, float32."""

    @property
    def zeros(self) -> Int8[Array, "out groups"]:
        """The zero point of each group of each row."""

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are 0."""

    @property
    def exact(self) -> bool:
        """Whether trained weights are rounded onto the grid before they are multiplied (QNT-011)."""

    def bare(self, scales: Float[Array, "out groups"], zeros: Int8[Array, "out groups"]) -> "Coded":
        """Return the same grid without codes; `scales` and `zeros` are copies of its own, in another memory order."""

    def at(self, topology: Topology, codes: Int8[Array, " n"]) -> "Coded":
        """Return the given codes of the slots of a topology, with the scales of this grid."""

    def holding(self, topology: Topology, values: Float[Array, " n"]) -> "Coded":
        """Return the codes to which values at the slots of a topology are rounded, with the scales of this grid."""

    def weights(self) -> Float[Array, " nnz"]:
        """Return the weights that the codes stand for, float32."""


Held: TypeAlias = Dtype | Coded
"""How a compact matrix stores numbers: a 16-bit dtype, or codes whose scales new codes take over."""
Stored: TypeAlias = NumpyArray | Coded
"""The numbers of a compact matrix in slot order."""
New: TypeAlias = Float[Array, " m"] | Int8[Array, " m"]
"""What `store` writes: values, or codes into a matrix of codes (KRN-018)."""


def narrowed(values: Float[Array, " nnz"], held_in: Held, topology: Topology) -> Stored:
    """Return values in slot order, rounded to a 16-bit dtype or to codes."""
    return held_in.holding(topology, values) if isinstance(held_in, Coded) else to_halves(values, held_in)


def widened(stored: Stored, topology: Topology) -> Float[Array, " nnz"]:
    """Return 16-bit floats or codes as float32, in the library of the topology; exact (KRN-015, KRN-018)."""
    return stored.weights() if isinstance(stored, Coded) else from_halves(stored, topology.indptr)


def as_multiplied(values: Float[Array, " n"], held_in: Held | None, topology: Topology) -> Float[Array, " n"]:
    """Return the effective weights at the slots of a topology with which layers multiply.

    They are rounded onto the grid if `held_in` is exact (QNT-011), and unchanged otherwise.
    """
    if not isinstance(held_in, Coded) or not held_in.exact:
        return values
    return widened(narrowed(values, held_in, topology), topology)


def as_new(values: Float[Array, " m"], held_in: Held, slots: Topology) -> New:
    """Return values at `slots` in the form that `store` takes for a compact matrix that holds them exactly."""
    return held_in.holding(slots, values).codes if isinstance(held_in, Coded) else values


def held_of(stored: Stored) -> Held:
    """Return the `held_in` of these numbers: their 16-bit dtype, or the codes themselves."""
    return stored if isinstance(stored, Coded) else stored.dtype


def held_alike(held_in: Coded, other: Coded) -> bool:
    """Return whether the codes of two matrices of one shape have one layout, so that memory can pass between them."""
    return (held_in.bits, held_in.columns, held_in.symmetric) == (other.bits, other.columns, other.symmetric)


def stored_as(values: Float[Array, " m"], held_in: Dtype | None, bits: Dtype) -> Array:
    """Return values as a set stores them: float32 as the bits of 16-bit floats in a compact matrix (KRN-015.4).

    held_in  the 16-bit dtype of a compact matrix; None for any other, which stores the values as they are
    bits     the dtype in which the set keeps the bits
    """
    return values if held_in is None else to_halves(values, held_in).view(bits)
