"""Mutations of the text of JSON, and of the frame around the header (FMT-020 to FMT-028)."""

import re
import struct
from collections.abc import Callable
from random import Random

from conformance.fuzz.parts import Parts
from conformance.fuzz.strings import INTEGERS
from conformance.oracle import files

_NUMBER, _WORD, _EMPTY = r"\b[0-9]+\b", r'(?<=")[a-z](?=[a-z])', r"\{\}|\[\]"
_DEEP = tuple(
    form
    for deep in (15, 16, 17, 500, 20000)
    for form in ("[" * deep + "]" * deep, '{"a":' * deep + "0" + "}" * deep, "[" * deep)
)

# pattern, and the forms that may replace one match: {} and {0} stand for the match, {1} and {2} for its groups
_FORMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"[\[{,:]", ("{0} ", "{0}\n", "{0}\t", "{0}\ufeff", "{0}\u00a0", "{0}/**/")),
    (_NUMBER, ("{}.0", "{}e0", "0{}", "+{}", "-{}", "{}E1", "NaN", "Infinity", "1" * 5000)),
    (_NUMBER, tuple(str(x) for x in INTEGERS)),
    (_WORD, ("\\u00{x}", "\\u00{X}")),
    (r'"[a-z_]+":', ("{0}0,{0}", "{0}null,{0}", '"z":0,{0}')),
    (r"\\\\|/|\\n|\\u00..|\\\"", ("\\/", "\\u000A", "\\u002f", "\n", "\\x", "\\")),
    (r'(?<=")(?=[a-z])', ("\\ud800", "\\ud83d\\ude00", "\x00", "\x1f", "\ud800", "\x7f", "\\u0000")),
    ("", (",", "}", "]", '"', "{", "[", ":", "\\", "0", "\0")),
    (r"(?s:.)", ("",)),
    (r"(?s:.{30})", ("",)),
    (r"(?s:.*)", ("", "null", "[]", "{0}{0}", "0", '""', "\ufeff{0}", "{0} ", " {0}")),
    (_EMPTY, _DEEP),
    (rf"true|false|null|{_EMPTY}", ("True", "nul", "undefined", "''", "[,]", "{0:0}", "[0,]")),
    (r'("[a-z_]+":[^,{}\[\]]+),("[a-z_]+":[^,{}\[\]]+)', ("{2},{1}",)),
    (r'"[^"\\]*"', ("'{0}'", "{0}{0}", "{0}:0")),
)


def spelling(chance: Random, parts: Parts) -> None:
    """Change the text of the manifest or of the header in one place, or give the header another frame."""
    if chance.random() < 0.12:
        parts.frame = _framed(chance)
        return
    pattern, forms = chance.choice(_FORMS)
    into = parts.of_texts if chance.random() < 0.7 else parts.of_header_text
    into.append(lambda text: _one(chance, text, pattern, forms))


def respelled(chance: Random, text: str) -> str:
    """Return a JSON text with its spelling changed in one place."""
    return _one(chance, text, *chance.choice(_FORMS))


def _one(chance: Random, text: str, pattern: str, forms: tuple[str, ...]) -> str:
    """Return the text with one match of a pattern replaced by one of the forms."""
    matches = list(re.finditer(pattern, text))
    if not matches:
        return text
    match, new = chance.choice(matches), chance.choice(forms)
    whole = match.group(0)
    if new == "{2},{1}":
        new = f"{match.group(2)},{match.group(1)}"
    elif whole.isalpha() and len(whole) == 1:
        new = new.replace("{x}", f"{ord(whole):02x}").replace("{X}", f"{ord(whole):02X}")
    if len(new) < 100:
        new = new.replace("{0}", whole).replace("{}", whole)
    return text[: match.start()] + new + text[match.end() :]


def _framed(chance: Random) -> Callable[[bytes], bytes]:
    """Return a function that frames a header with a wrong length, padding or byte (FMT-020 to FMT-023)."""

    def frame(raw: bytes) -> bytes:
        legal = files.frame(raw)
        size = len(legal)
        kind = chance.randrange(7)
        if kind == 0:
            return struct.pack("<Q", chance.choice((*(x % 2**64 for x in INTEGERS), size, size - 7))) + legal[8:]
        if kind == 1:
            return struct.pack("<Q", 2 * size - 8) + legal[8:].ljust(2 * size - 8)
        if kind == 2:
            cut = chance.choice((len(raw), -(-len(raw) // 8) * 8, size - 64))
            return struct.pack("<Q", cut) + legal[8 : 8 + cut]
        if kind == 3:
            return legal[:8] + b" " + legal[8:-1]
        if kind == 4:
            return legal[: 8 + len(raw)].ljust(size, chance.choice((b"\0", b"\n", b"\t", b"}")))
        if kind == 5:
            return struct.pack("<Q", size + 56) + legal[8:].ljust(size + 56)
        at = 8 + chance.randrange(len(raw) or 1)
        return legal[:at] + chance.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80")) + legal[at + 1 :]

    return frame
