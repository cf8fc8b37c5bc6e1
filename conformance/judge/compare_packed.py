"""Compares compressed files by their expanded sections, and by the rules of 12.6 (FMT-140 to FMT-142)."""

from typing import Any

from conformance.answers import files_packed
from conformance.cases.profiles import requires_zstd
from conformance.oracle.second_reader import Refused

__all__ = ["broken_packing"]


def broken_packing(raw: bytes, want: dict[str, Any]) -> str:
    """Return an error text for a wrong compressed file, else an empty text.

    want  `raw`, the file without compression; `packed`, the sections that must be compressed
    """
    try:
        plain, compressed = files_packed.plain(raw) if requires_zstd(raw) else (raw, [])
    except Refused as refused:
        return str(refused)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        return f"no file of chapter 12: {type(error).__name__}: {error}"
    for name in want["packed"]:
        if name not in compressed:
            return f"{name} is not compressed, although it becomes less than half"
    return "" if plain == want["raw"].tobytes() else "what its sections expand to is not the file without compression"
