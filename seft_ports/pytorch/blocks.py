"""The gradient dyᵀ x one block of rows at a time, so that it is never whole: its entries, and its best positions.

Factors are dy, (n, out), and x, (n, in), of each backward pass of a step. The gradient of the step is the sum of dyᵀ x.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from seft_ports.pytorch import kernels
from seft_ports.pytorch.decide import check_evidence
from seft_ports.pytorch.select import at_most, smallest

__all__ = ["Best", "Collected", "Factors", "entries", "in_blocks", "largest_of", "summed", "terms"]

Factors = Sequence[tuple[Tensor, Tensor]]

_BLOCK = 1 << 20
"""Number of positions in a block of rows."""


def summed(product: Callable[[Tensor, Tensor], Tensor], factors: Factors) -> Tensor:
    """Return the sum of a product over factors, flat.

    product  `kernels.whole` or `kernels.tokens`
    """
    total = product(*factors[0])
    for dy, x in factors[1:]:
        total += product(dy, x)
    return total.view(-1)


def in_blocks(factors: Factors) -> Iterator[tuple[int, Factors]]:
    """Yield the first row of each block of rows, and the factors of the block."""
    out, width = factors[0][0].shape[1], factors[0][1].shape[1]
    rows = max(1, _BLOCK // max(1, width))
    for first in range(0, out, rows):
        yield first, [(dy[:, first : first + rows], x) for dy, x in factors]


def entries(product: Callable[[Tensor, Tensor], Tensor], factors: Factors, positions: Tensor) -> Tensor:
    """Return the sum of a product over factors at ascending flat positions.

    `kernels.sample` takes few positions, and this function many, because it multiplies whole rows.

    product  as in `summed`
    """
    width, taken = factors[0][1].shape[1], []
    for first, rows in in_blocks(factors):
        block, start = summed(product, rows), first * width
        begin, end = torch.searchsorted(positions, positions.new_tensor([start, start + len(block)])).tolist()
        taken.append(block[positions[begin:end] - start])
    return torch.cat(taken)


def terms(gradient: Tensor, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield what the gradient of a step adds to each sum of these names (GRD-004, GRD-005)."""
    if "gradient" in names:
        yield "gradient", gradient
    if "absolute" in names:
        yield "absolute", gradient.abs()
    if "square" in names:
        yield "square", gradient * gradient


def largest_of(factors: Factors, k: int) -> Tensor:
    """Return the flat positions of the k largest |dyᵀ x|, ascending, ties by position.

    Raises:
        SeftError: EVT-005 for a gradient with a NaN or infinite entry, SEL-005 for a k larger than the gradient.
    """
    x = factors[0][1]
    best = Best(k, 0, torch.zeros(0, dtype=kernels.wide(x.dtype), device=x.device))
    for first, rows in in_blocks(factors):
        scores = summed(kernels.whole, rows).abs_().neg_()
        check_evidence([scores])
        best.offer(scores, first * x.shape[1])
    return best.positions[smallest(best.scores, k)]


class Collected:
    """The factors of the steps of a window.

    Attributes:
        steps: those of each step, of the running one last.
    """

    def __init__(self) -> None:
        self.steps: list[list[tuple[Tensor, Tensor]]] = [[]]
        self._most: Tensor | float = 0.0

    def add(self, dy: Tensor, x: Tensor) -> None:
        """Add the factors of a backward pass to the running step."""
        self.steps[-1].append((dy, x))
        if dy.numel() and x.numel():
            # a tensor, because a GPU would be waited for if it were read in a backward pass
            self._most = self._most + len(x) * dy.abs().max().float() * x.abs().max().float()

    def end_step(self) -> None:
        """End the running step."""
        self.steps.append([])

    def numel(self) -> int:
        """Return how many numbers the factors have."""
        return sum(dy.numel() + x.numel() for step in self.steps for dy, x in step)

    def may_overflow(self, limit: float, *, squared: bool) -> bool:
        """Return whether a sum of |g|, or of g², may be NaN or not below a limit."""
        most = float(self._most)
        return not (most * most if squared else most) < limit

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply a function, such as a move to another device, to all factors."""
        self.steps = [[(fn(dy), fn(x)) for dy, x in step] for step in self.steps]


class Best:
    """The k smallest scores that were offered, ties by position (SEL-001 to SEL-003), and numbers beside each.

    Attributes:
        scores, positions: (k,), ascending by position; shorter if fewer scores were offered.
        beside: (k, beside), the numbers beside them.
    """

    def __init__(self, k: int, beside: int, like: Tensor) -> None:
        self.k = k
        self.scores = like.new_zeros(0)
        self.positions = torch.zeros(0, dtype=torch.int64, device=like.device)
        self.beside = like.new_zeros(0, beside)
        self._limit = torch.inf

    def offer(self, scores: Tensor, start: int, *beside: Tensor) -> None:
        """Keep the scores of the next block that are better than the k best so far.

        scores  infinite where a position must not be chosen
        start   the position of the first score
        beside  numbers to keep beside those scores
        """
        if not self.k:
            return
        better = at_most(scores, self.k) if self._limit == torch.inf else None
        if better is None or bool(torch.isinf(scores[better]).any()):
            # an equal score at a later position loses to the earlier one
            better = torch.nonzero(scores < self._limit).flatten()
        if not better.numel():
            return
        scores = torch.cat([self.scores, scores[better]])
        chosen = smallest(scores, min(self.k, scores.numel()))
        self.scores = scores[chosen]
        self.positions = torch.cat([self.positions, better + start])[chosen]
        new = [one[better].to(scores.dtype) for one in beside]
        columns = torch.stack(new, 1) if new else self.beside.new_zeros(better.numel(), 0)
        self.beside = torch.cat([self.beside, columns])[chosen]
        if self.scores.numel() == self.k:
            self._limit = float(self.scores.max())
