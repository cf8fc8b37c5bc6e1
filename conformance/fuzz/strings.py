"""Numbers, words and bytes that are likely to break readers."""

from random import Random

_EDGES = (0, 1, 2, 3, 7, 8, 63, 64, 65, 127, 128, 255, 256, 512, 65535, 65536, 65537)
INTEGERS = (*_EDGES, *(2**k + d for k in (20, 24, 31, 32, 53, 63, 64) for d in (-1, 0, 1)), -1, 2**200)
"""Numbers near the limits of integer types and of clauses (FMT-007, FMT-008, FMT-026, FMT-056, FMT-065)."""

AS_BYTES = tuple((x % 2**64).to_bytes(8, "little") for x in INTEGERS)

NAMED = ("", "#pad", "#values", "#mask", "#x", "x", "\0", "\x7f", "#", "!", "é", "\ud800", "\U0001f600")
"""Endings that mutations add to a name."""

_WORDS: tuple[str, ...] = (
    "",
    "a",
    "A",
    "__metadata__",
    "zstd",
    "delta",
    "model",
    "1.0",
    "1.7",
    "1.00",
    "2.0",
    "1.10000",
    "NONE",
    "F16",
)
_WORDS = (*_WORDS, "scale", "0" * 64, "f" * 64, "x" * 513, "é" * 256, "../a", "model.sparse.x", "a.bin", "CON", "a b")
_WORDS = (*_WORDS, "replace:w", "remove:w", "whole:", "xor:w", "\n", "\ud800", "\udfff\ud800", "\uffff", "\U0010ffff")


def a_string(chance: Random, value: str) -> str:
    """Return another string: an edit of `value`, or a word that is likely to break readers."""
    kind = chance.randrange(5)
    if kind == 0:
        return chance.choice(_WORDS)
    if kind == 1:
        return value + chance.choice(NAMED)
    if kind == 2:
        return value.swapcase()
    at = chance.randint(0, len(value))
    if kind == 3:
        return value[:at] + value[at + 1 :]
    return value[:at] + chance.choice(("0", "a", "é", " ", "\n", "-", ".", "\x1f", '"', "\\")) + value[at:]
