"""Batches: rows of tokens, and the targets to predict (TRN-001)."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Int

from seft_ref.arrays.library import Array, array_namespace, int64_like
from seft_ref.layers.cross_entropy import IGNORE
from seft_ref.model.weights import Weights
from seft_ref.text.examples import Example


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of tokens with the label of each, −100 for tokens that are not learned (TRN-001)."""

    tokens: Int[Array, "B T"]
    labels: Int[Array, "B T"]
    mask: Bool[Array, "B T"] | None = None
    """True for tokens, False for padding; None if nothing is padded"""

    def targets(self) -> Int[Array, " N"]:
        """Return the target of every position: the label of the next one, none for the last (TRN-001)."""
        xp = array_namespace(self.labels)
        nothing = xp.full_like(self.labels[:, :1], IGNORE)
        return xp.reshape(xp.concat([self.labels[:, 1:], nothing], axis=1), (-1,))

    def rows(self) -> Int[Array, " N"] | None:
        """Return the positions of the flattened batch that are a token or predict one; None without padding.

        Other positions have no gradient, because no token sees them and they have no target.
        """
        if self.mask is None:
            return None
        xp = array_namespace(self.mask)
        return xp.nonzero(xp.reshape(self.mask, (-1,)) | (self.targets() != IGNORE))[0]

    def tokens_among(self, rows: Int[Array, " N"]) -> Int[Array, " M"]:
        """Return which of the rows of `rows()` are tokens, and not padding that predicts one."""
        assert self.mask is not None, "a batch without padding has no rows to leave out"
        xp = array_namespace(self.mask)
        return xp.nonzero(xp.take(xp.reshape(self.mask, (-1,)), rows))[0]

    def count(self) -> int:
        """Return how many targets the loss is over."""
        xp = array_namespace(self.labels)
        return int(xp.sum(xp.astype(self.labels[:, 1:] != IGNORE, xp.int64)))


def batch_of(tokens: Sequence[int], starts: Sequence[int], length: int, weights: Weights) -> Batch:
    """Return the windows that start at `starts` as a batch that predicts every token but the first of each row."""
    windows = _table([tokens[start : start + length] for start in starts], length, weights)
    return Batch(windows, windows)


def batch_of_examples(examples: Sequence[Example], weights: Weights) -> Batch:
    """Return examples as the rows of a batch, padded on the right to the longest of them (TRN-021.4)."""
    lengths = [len(example.tokens) for example in examples]
    longest = max(lengths)
    tokens = [[*e.tokens, *[0] * (longest - n)] for e, n in zip(examples, lengths, strict=True)]
    labels = [[*e.labels, *[IGNORE] * (longest - n)] for e, n in zip(examples, lengths, strict=True)]
    mask = None
    if min(lengths) < longest:
        mask = _table([[*[1] * n, *[0] * (longest - n)] for n in lengths], longest, weights) == 1
    return Batch(_table(tokens, longest, weights), _table(labels, longest, weights), mask)


def _table(rows: Sequence[Sequence[int]], length: int, weights: Weights) -> Int[Array, "B T"]:
    flat = int64_like([number for row in rows for number in row], weights.norm)
    return array_namespace(weights.norm).reshape(flat, (len(rows), length))
