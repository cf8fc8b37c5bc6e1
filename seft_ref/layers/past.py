"""The key/value cache of a block: keys and values of the tokens read so far, in memory with room for more (GEN-001).

past = extend(NOTHING, k, v)      # after a first forward
past = extend(past, k, v)         # after the next one: past.keys holds both
"""

import threading
from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.errors import GenerateError

CHUNK = 256
"""The number of tokens that memory is allocated for is a multiple of it."""
_CLAIM = threading.Lock()
"""Held while a reading takes room behind a past, so that of two readings in two threads one copies."""


@dataclass(slots=True, eq=False)
class _Room:
    """Memory that several pasts share; `filled` tokens have an owner and are written by no other past."""

    keys: Float[Array, "B K room D"]
    values: Float[Array, "B K room D"]
    filled: int


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """The keys, after RoPE, and the values of the first `length` tokens. Later tokens never change a past."""

    room: _Room | None
    length: int

    @property
    def keys(self) -> Float[Array, "B K S D"] | None:
        """The keys; None if no token was read."""
        return None if self.room is None else self.room.keys[:, :, : self.length, :]

    @property
    def values(self) -> Float[Array, "B K S D"] | None:
        """The values; None if no token was read."""
        return None if self.room is None else self.room.values[:, :, : self.length, :]


NOTHING = Past(None, 0)
"""The past of a block that has read nothing."""


def extend(past: Past, k: Float[Array, "B K T D"], v: Float[Array, "B K T D"]) -> Past:
    """Return the past with T more tokens.

    Raises:
        GenerateError: GEN-002 if the past has another number of rows.
    """
    room, length = past.room, past.length + k.shape[2]
    # GEN-002
    if room is not None and room.keys.shape[0] != k.shape[0]:
        raise GenerateError(
            "GEN-002", f"the context has {room.keys.shape[0]} rows and there are tokens of {k.shape[0]}"
        )
    # copy if there is no room, or if another past already has its tokens behind those of this one
    with _CLAIM:
        free = room is not None and room.filled == past.length and room.keys.shape[2] >= length
        if room is not None and free:
            room.filled = length
    if room is None or not free:
        room = _Room(_roomy(past.keys, k, length), _roomy(past.values, v, length), length)
    room.keys[:, :, past.length : length, :] = k
    room.values[:, :, past.length : length, :] = v
    return Past(room, length)


def rows_of(past: Past, rows: Int[Array, " n"]) -> Past:
    """Return the past of these rows of the batch, in new memory."""
    if past.room is None:
        return past
    xp = array_namespace(past.room.keys)
    keys, values = (xp.take(x, rows, axis=0) for x in (past.room.keys, past.room.values))
    return Past(_Room(keys, values, past.length), past.length)


def _roomy(
    cached: Float[Array, "B K S D"] | None, like: Float[Array, "B K T D"], length: int
) -> Float[Array, "B K room D"]:
    """Return memory for `length` tokens, rounded up to whole chunks, that starts with a copy of `cached`."""
    xp = array_namespace(like)
    b, kv, _, d = like.shape
    room = xp.empty((b, kv, -(-length // CHUNK) * CHUNK, d), dtype=like.dtype, device=device(like))
    if cached is not None:
        room[:, :, : cached.shape[2], :] = cached
    return room
