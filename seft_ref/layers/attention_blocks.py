"""Attention over a long context, a block of queries at a time, so that T x T scores are never stored (LYR-013).

Each block calls the attention of a layer set with the stretch of keys that its queries can see at all. The backward
computes the forward of each block again.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float

from seft_ref.arrays.library import Array, array_namespace
from seft_ref.layers.attention import AttentionCache, visible_keys
from seft_ref.layers.sets import LayerSet

WHOLE = 512
"""Most queries for which all scores are stored at once."""
ROWS = 256
"""Queries of a block."""


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """The keys that the queries of a forward see (LYR-008), computed for some queries at a time."""

    length: int
    window: int | None
    mask: Bool[Array, "B S"] | None
    like: Array
    first: int = 0
    """position of the first query"""

    def keys(self, start: int, stop: int) -> tuple[int, int]:
        """Return (first, end) of the keys that queries start to stop can see at all."""
        low = 0 if self.window is None else max(0, self.first + start - self.window + 1)
        return low, self.first + stop

    def rows(self, start: int, stop: int) -> Bool[Array, "M rows keys"]:
        """Return which of the keys of `keys(start, stop)` each of the queries start to stop sees."""
        low, high = self.keys(start, stop)
        mask = None if self.mask is None else self.mask[:, low:high]
        # count positions from the first key of the stretch, because only differences of positions matter
        return visible_keys(high - low, self.window, mask, self.like, self.first + start - low)


@dataclass(frozen=True, slots=True, eq=False)
class BlockwiseCache:
    """Arguments of a forward that `blockwise_backward` needs."""

    q: Float[Array, "B H T D"]
    k: Float[Array, "B K S D"]
    v: Float[Array, "B K S D"]
    sight: Sight


def blockwise_forward(
    q: Float[Array, "B H T D"],
    k: Float[Array, "B K S D"],
    v: Float[Array, "B K S D"],
    sight: Sight,
    layers: LayerSet,
) -> tuple[Float[Array, "B H T D"], BlockwiseCache]:
    """Return the output of attention, and the cache (LYR-007 to LYR-009, LYR-013)."""
    cache = BlockwiseCache(q, k, v, sight)
    blocks = [_block(cache, start, stop, layers)[0] for start, stop in _edges(q.shape[2])]
    return array_namespace(q).concat(blocks, axis=2), cache


def blockwise_backward(
    dy: Float[Array, "B H T D"], cache: BlockwiseCache, layers: LayerSet
) -> tuple[Float[Array, "B H T D"], Float[Array, "B K S D"], Float[Array, "B K S D"]]:
    """Return (dq, dk, dv)."""
    xp = array_namespace(dy)
    dk, dv, dqs = xp.zeros_like(cache.k), xp.zeros_like(cache.v), []
    for start, stop in _edges(dy.shape[2]):
        low, high = cache.sight.keys(start, stop)
        _, of_block = _block(cache, start, stop, layers)
        dq, dk_block, dv_block = layers.attention_backward(dy[:, :, start:stop, :], of_block)
        dqs.append(dq)
        # forward: every block reads its stretch of the keys
        dk[:, :, low:high, :] = dk[:, :, low:high, :] + dk_block
        dv[:, :, low:high, :] = dv[:, :, low:high, :] + dv_block
    return xp.concat(dqs, axis=2), dk, dv


def _block(
    cache: BlockwiseCache, start: int, stop: int, layers: LayerSet
) -> tuple[Float[Array, "B H rows D"], AttentionCache]:
    low, high = cache.sight.keys(start, stop)
    q, k, v = cache.q[:, :, start:stop, :], cache.k[:, :, low:high, :], cache.v[:, :, low:high, :]
    return layers.attention_forward(q, k, v, cache.sight.rows(start, stop))


def _edges(n: int) -> list[tuple[int, int]]:
    return [(start, min(start + ROWS, n)) for start in range(0, n, ROWS)]
