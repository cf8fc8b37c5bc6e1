"""Runs whose layers multiply by the weights of codes at the slots (QNT-011)."""

from conformance.oracle import quantise
from conformance.oracle.train import Trainer

__all__ = ["OnGrid"]


class OnGrid(Trainer):
    """A run of mode `grid-exact`.

    A weight that is x steps of its grid away from a tie counts as a gap of x / 10 of the run.

    Attributes:
        coded: the codes of each target.
    """

    coded: list[quantise.Coded]

    def multiplied(self, i: int, weights: dict[int, float]) -> dict[int, float]:
        """Return the weights with those at slots rounded to codes."""
        return {p: self.rounded(i, p, w) if p in self.parts[i].phi else w for p, w in weights.items()}

    def rounded(self, i: int, p: int, w: float) -> float:
        """Return the weight of the nearest code (QNT-004)."""
        matrix = self.coded[i]
        scale, zero = matrix.parts(p)
        self.gap = min(self.gap, abs(abs(w / scale) % 1.0 - 0.5) / 10)
        return (matrix.clamped(matrix.free(p, w)) - zero) * scale
