"""JSON with exactly one spelling: sorted keys, no spaces, integers only, every other spelling refused.

canonical({"b": 1, "a": [True, "é"]})   ->   {"a":[true,"é"],"b":1}
"""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from formats.errors import FormatError

JSON: TypeAlias = "bool | int | str | list[JSON] | dict[str, JSON] | None"
"""A value of a manifest or of attributes. A fraction is stored as a string, for example `float.hex(x)`."""


class Fraction(str):
    """A number with a point or an exponent, as a foreign JSON text spells it; JSON strings become plain str."""

    __slots__ = ()


MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 16
MAX_FOREIGN_DEPTH = 100
"""Most levels of a foreign JSON text; far below the limit of the parser, which depends on how deep its caller is."""


def canonical(value: JSON) -> str:
    """Return the canonical text of value (FMT-028): keys in code point order, no spaces, no needless escapes."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def parse(data: bytes, what: str) -> JSON:
    """Return the value of a JSON text, which must be canonical.

    Args:
        data: the text in UTF-8.
        what: its name in messages, for example ``"the manifest"``.

    Raises:
        FormatError: FMT-024 to FMT-028, the first that is broken.
    """
    value, text = _load(data, what)
    if depth(value) > MAX_DEPTH:
        raise FormatError("FMT-027", f"{what} is nested {depth(value)} levels deep, at most {MAX_DEPTH} are allowed")
    expected = canonical(value)
    if expected != text:
        at = next(
            (i for i, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b),
            min(len(text), len(expected)),
        )
        raise FormatError(
            "FMT-028",
            f"{what} has {text[at : at + 20]!r} at character {at}, its canonical form has {expected[at : at + 20]!r}",
        )
    return value


def parse_any(data: bytes, what: str) -> JSON:
    """Return the value of a foreign JSON text in any spelling; keys must be unique, and fractions become `Fraction`.

    Raises:
        FormatError: FMT-024 to FMT-026; FMT-027 if it is nested deeper than 100 levels.
    """
    value, _ = _load(data, what, Fraction)
    check_foreign_depth(value, what)
    return value


def foreign_object(data: bytes) -> dict[str, JSON]:
    """Return a foreign JSON object with numbers of any size; empty if data is no object or deeper than 100 levels.

    Use it only to see what a configuration describes; code that relies on its values parses them by its own rules.
    """
    try:
        value = json.loads(data)
        check_foreign_depth(value, "a configuration")
    except (ValueError, RecursionError, FormatError):
        return {}
    return value if isinstance(value, dict) else {}


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of a foreign JSON value; a hook for `json.loads`.

    Raises:
        ValueError: for a key that stands twice.
    """
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("an object has a key twice")
    return entries


def check_foreign_depth(value: JSON, what: str) -> None:
    """Verify that a foreign JSON value has few enough levels for recursive functions.

    Raises:
        FormatError: FMT-027.
    """
    if depth(value) > MAX_FOREIGN_DEPTH:
        raise FormatError("FMT-027", f"{what} is nested deeper than {MAX_FOREIGN_DEPTH} levels")


def _load(data: bytes, what: str, float_hook: Callable[[str], str] | None = None) -> tuple[JSON, str]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = next(key for key, count in counts.items() if count > 1)
            raise FormatError("FMT-025", f"{what} has the key {twice[:80]!r} twice in one object")
        return entries

    def integer(text: str) -> int:
        # FMT-026: the length is tested first, so that no huge number is ever converted
        if len(text) > 17 or abs(int(text)) > MAX_INTEGER:
            raise FormatError("FMT-026", f"{what} has the number {text[:40]}, beyond 2^53 - 1 in size")
        return int(text)

    def fraction(text: str) -> NoReturn:
        raise FormatError(
            "FMT-026", f"{what} has the number {text[:40]}, expected an integer without point or exponent"
        )

    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("FMT-024", f"{what} is not UTF-8: byte {error.start} does not belong") from error
    try:
        value = json.loads(
            text,
            object_pairs_hook=unique,
            parse_int=integer,
            parse_float=float_hook or fraction,
            parse_constant=fraction,
        )
    except json.JSONDecodeError as error:
        raise FormatError("FMT-024", f"{what} is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise FormatError("FMT-027", f"{what} is nested deeper than {MAX_DEPTH} levels") from error
    return value, text


def depth(value: JSON) -> int:
    """Return how many brackets enclose the innermost value: 0 for a scalar, 1 for ``{}``."""
    deepest, level = 0, [value]
    while level:
        inner = [v for v in level if isinstance(v, dict | list)]
        deepest += bool(inner)
        level = [x for v in inner for x in (v.values() if isinstance(v, dict) else v)]
    return deepest


def check_plain(value: object, name: str, level: int = 1) -> None:
    """Verify that value is made of null, booleans, integers, strings, lists and objects only.

    Args:
        value: the value to check.
        name: its name in messages.
        level: the nesting level of value in the final JSON text, counting value itself.

    Raises:
        FormatError: FMT-011.
    """
    if isinstance(value, list | dict):
        if level > MAX_DEPTH:
            raise FormatError("FMT-011", f"{name} would be nested deeper than {MAX_DEPTH} levels")
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, x in inner:
            if isinstance(value, dict):
                if not isinstance(key, str):
                    raise FormatError("FMT-011", f"{name} has the key {key!r}, expected a string")
                _check_scalar(key, f"key {key!r} of {name}")
            check_plain(x, f"{name}[{key!r}]", level + 1)
    else:
        _check_scalar(value, name)


def _check_scalar(value: object, name: str) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise FormatError("FMT-011", f"{name} is {value}, beyond 2^53 - 1 in size; store it as a string")
    elif isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise FormatError("FMT-011", f"{name} holds half of a surrogate pair, which UTF-8 cannot carry")
    elif isinstance(value, float):
        raise FormatError(
            "FMT-011", f"{name} is the float {value!r}; store float.hex({value!r}) instead, which loses no bit"
        )
    else:
        raise FormatError("FMT-011", f"{name} is a {type(value).__name__}, which JSON of this format does not have")
