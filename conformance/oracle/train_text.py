"""The start positions of windows in a text (TRN-003, PRN-007, EVL-001)."""

from conformance.oracle import select_rng


def window_starts(seed: int, stream: int, first: int, n: int, tokens: int, length: int) -> list[int]:
    """Return the starts of n windows from draws `first` to `first` + n − 1 (TRN-003: stream 2, PRN-007: stream 4)."""
    key = select_rng.key(seed, stream)
    return [select_rng.draw(key, first + i) % (tokens - length + 1) for i in range(n)]


def evaluation_starts(tokens: int, length: int, windows: int | None) -> list[int]:
    """Return the starts of the evaluation windows (EVL-001)."""
    if windows is None:
        return [i * length for i in range(tokens // length)]
    return [i * (tokens - length) // max(windows - 1, 1) for i in range(windows)]
