"""Checks of the types of JSON values; each function returns its argument, or raises a FormatError."""

import re
from collections.abc import Collection

from formats.errors import FormatError
from formats.strict_json import JSON

_SHA256 = re.compile(r"[0-9a-f]{64}")


def closed(value: dict[str, JSON], keys: Collection[str], what: str) -> dict[str, JSON]:
    """Return value if it has exactly the keys (FMT-040)."""
    if value.keys() != set(keys):
        unknown, missing = sorted(set(value) - set(keys)), sorted(set(keys) - set(value))
        raise FormatError("FMT-040", f"{what} has the unknown keys {unknown} and lacks {missing}")
    return value


def as_object(value: JSON, what: str) -> dict[str, JSON]:
    """Return value if it is an object (FMT-041)."""
    if not isinstance(value, dict):
        raise FormatError("FMT-041", f"{what} is not an object")
    return value


def as_string(value: JSON, what: str) -> str:
    """Return value if it is a string (FMT-041)."""
    if not isinstance(value, str):
        raise FormatError("FMT-041", f"{what} is {value!r:.40}, expected a string")
    return value


def as_natural(value: JSON, what: str) -> int:
    """Return value if it is an integer from 0 (FMT-041)."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise FormatError("FMT-041", f"{what} is {value!r:.40}, expected an integer from 0")
    return value


def as_digest(value: JSON, what: str) -> str:
    """Return value if it is a SHA-256 in hexadecimal (FMT-047)."""
    text = as_string(value, what)
    if not _SHA256.fullmatch(text):
        raise FormatError("FMT-047", f"{what} is {text[:80]!r}, expected 64 lower-case hexadecimal digits")
    return text


def as_strings(value: JSON, what: str) -> dict[str, str]:
    """Return value if it is an object of strings (FMT-041)."""
    return {key: as_string(x, f"{key!r:.80} of {what}") for key, x in as_object(value, what).items()}
