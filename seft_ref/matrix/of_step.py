"""The gradient of one matrix in one step, summed over its micro-batches (chapter 6).

`Accumulated` has every position, `Sampled` some. Both keep dy and x while these are smaller than the sum.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Float

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.arrays.ranks import Ranks
from seft_ref.kernels import KernelSet
from seft_ref.layers.linear import WeightGradient
from seft_ref.topology.csr import Topology, flat


@dataclass(frozen=True, slots=True, eq=False)
class Accumulated:
    """The gradient of a matrix summed over micro-batches: as factors while they are smaller, else as one matrix."""

    shape: tuple[int, int]
    factors: tuple[WeightGradient, ...] = ()
    dense: Float[Array, "out in_"] | None = None

    def plus(self, gradient: WeightGradient) -> "Accumulated":
        """Return the sum with one more gradient (GRD-001)."""
        factors = (*self.factors, gradient)
        if _size(factors) < self.shape[0] * self.shape[1]:
            return Accumulated(self.shape, factors, self.dense)
        return Accumulated(self.shape, (), self._rows_of(factors, 0, self.shape[0]))

    def rows(self, start: int, stop: int) -> Float[Array, "rows in_"]:
        """Return rows start to stop of the gradient."""
        return self._rows_of(self.factors, start, stop)

    def at(self, topology: Topology, kernels: KernelSet) -> Float[Array, " nnz"]:
        """Return the gradient at the slots of a topology (GRD-002)."""
        total = None
        if self.dense is not None:
            xp = array_namespace(self.dense)
            total = xp.take(xp.reshape(self.dense, (-1,)), flat(topology))
        for f in self.factors:
            part = kernels.sample(f.dy, f.x, topology)
            total = part if total is None else total + part
        return total

    def whole(self) -> Float[Array, "out in_"]:
        """Return the whole gradient."""
        return self.rows(0, self.shape[0])

    def over(self, ranks: Ranks) -> "Accumulated":
        """Return the sum over all ranks, the same on each rank (TRN-013).

        It keeps the factors of all ranks while they are smaller than the matrix.
        """
        if ranks.size == 1 or (self.dense is None and not self.factors):
            return self
        n_out, n_in = self.shape
        # ask all ranks, because each must make the same choice, and one of them may hold a dense sum
        answers = ranks.every(None if self.dense is not None else sum(f.x.shape[0] for f in self.factors))
        n_rows = [n for n in answers if n is not None]
        if len(n_rows) < len(answers) or sum(n_rows) * (n_out + n_in) >= n_out * n_in:
            return Accumulated(self.shape, (), ranks.sum(self.whole()))
        xp = array_namespace(self.factors[0].dy)
        dy, x = (ranks.join(xp.concat(parts)) for parts in ([f.dy for f in self.factors], [f.x for f in self.factors]))
        return Accumulated(self.shape, (WeightGradient(dy, x),))

    def _rows_of(self, factors: tuple[WeightGradient, ...], start: int, stop: int) -> Array:
        total = None if self.dense is None else self.dense[start:stop, :]
        for f in factors:
            xp = array_namespace(f.dy)
            part = xp.matrix_transpose(f.dy[:, start:stop]) @ f.x
            total = part if total is None else total + part
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """The gradient of a matrix at some positions, summed over micro-batches: as factors while they are smaller.

    With `squares` it is the sum of the squared gradients of single tokens (GRD-008).
    """

    positions: Callable[[], Topology]
    most: int
    """Factors are kept while they have fewer numbers than this: the size of the sum, or that of the matrix where the
    gradient of the whole matrix keeps the same factors."""
    squares: bool = False
    factors: tuple[WeightGradient, ...] = ()
    """micro-batches that `values` does not contain yet"""
    values: Float[Array, " p"] | None = None

    def plus(self, gradient: WeightGradient, kernels: KernelSet) -> "Sampled":
        """Return the sum with one more gradient."""
        after = replace(self, factors=(*self.factors, gradient))
        if _size(after.factors) < self.most:
            return after
        return replace(after, factors=(), values=after.at(kernels))

    def at(self, kernels: KernelSet, positions: Callable[[], Topology] | None = None) -> Float[Array, " p"]:
        """Return the values, by one sampled product for each micro-batch (GRD-002).

        positions  returns the positions, if the caller can get them faster than this sum
        """
        total = self.values
        if self.factors:
            topology = (positions or self.positions)()
            for f in self.factors:
                dy, x = (f.dy * f.dy, f.x * f.x) if self.squares else (f.dy, f.x)
                part = kernels.sample(dy, x, topology)
                total = part if total is None else total + part
        assert total is not None, "the step holds no micro-batch"
        return total

    def over(self, ranks: Ranks, kernels: KernelSet) -> "Sampled":
        """Return the sum over all ranks, the same on each rank (TRN-013)."""
        if ranks.size == 1 or (self.values is None and not self.factors):
            return self
        return replace(self, factors=(), values=ranks.sum(self.at(kernels)))


def _size(factors: tuple[WeightGradient, ...]) -> int:
    """Return how many numbers factors have."""
    return sum(f.x.shape[0] * (f.dy.shape[1] + f.x.shape[1]) for f in factors)
