"""What a compact matrix holds in place of floats: numbers of 16 bits, or codes of a grid (KRN-015, KRN-018).

    stored = narrowed(values, held_in, topology)       # floats -> what is held, rounded
    values = widened(stored, topology)                 # what is held -> float32, exact

`held_in` says how: a 16-bit dtype, or codes whose scales are those to be used. `seft_ref.quantise` makes codes.
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
        """float32."""

    @property
    def zeros(self) -> Int8[Array, "out groups"]:
        """Zero points."""

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are 0."""

    @property
    def exact(self) -> bool:
        """Whether weights that are trained are multiplied as codes stand for them (QNT-011)."""

    def bare(self, scales: Float[Array, "out groups"], zeros: Int8[Array, "out groups"]) -> "Coded":
        """Return the same grid without codes, holding these copies of its own scales and zero points."""

    def at(self, topology: Topology, codes: Int8[Array, " n"]) -> "Coded":
        """Return other codes with the same scales."""

    def holding(self, topology: Topology, values: Float[Array, " n"]) -> "Coded":
        """Return the codes of other weights, rounded, with the same scales."""

    def weights(self) -> Float[Array, " nnz"]:
        """Return the weights that the codes stand for, float32."""


Held: TypeAlias = Dtype | Coded
"""How numbers are held: a 16-bit dtype, or codes with the scales that others are to have."""
Stored: TypeAlias = NumpyArray | Coded
"""The numbers of a compact matrix in slot order."""


def narrowed(values: Float[Array, " nnz"], held_in: Held, topology: Topology) -> Stored:
    """Return values in slot order as they are held, rounded."""
    return held_in.holding(topology, values) if isinstance(held_in, Coded) else to_halves(values, held_in)


def widened(stored: Stored, topology: Topology) -> Float[Array, " nnz"]:
    """Return what is held as float32, in the library and on the device of the topology; exact (KRN-015, KRN-018)."""
    return stored.weights() if isinstance(stored, Coded) else from_halves(stored, topology.indptr)


def as_multiplied(values: Float[Array, " n"], held_in: Held | None, topology: Topology) -> Float[Array, " n"]:
    """Return effective weights at the slots of a topology as they are multiplied: rounded onto the grid where a run
    stays on it (QNT-011), else as they are.
    """
    if not isinstance(held_in, Coded) or not held_in.exact:
        return values
    return widened(narrowed(values, held_in, topology), topology)


def held_of(stored: Stored) -> Held:
    """Return how these numbers are held."""
    return stored if isinstance(stored, Coded) else stored.dtype


def held_alike(held_in: Coded, other: Coded) -> bool:
    """Tell whether codes of two matrices of one shape are held alike, so that one may take the other's memory."""
    return (held_in.bits, held_in.columns, held_in.symmetric) == (other.bits, other.columns, other.symmetric)
