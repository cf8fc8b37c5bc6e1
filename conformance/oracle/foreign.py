"""Foreign folders, read byte by byte: JSON texts, safetensors files and Hugging Face folders (FMT-120, FMT-121).

A rule that is broken raises `Refused` with its words; `by` gives it the clauses that an answer names.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_convert import INDEX, WHOLE
from conformance.oracle.select_pools import RefusedError

Tree = Mapping[str, bytes | None]
"""The files of a folder: name -> bytes, or None for a subfolder in the place of a file."""

DTYPES = tuple(name for name in BITS if name != "NONE")
LONGEST = 100_000_000
"""The most bytes of a header or an index."""

LIBRARY = (None, "compressed-tensors", "sparseml")
DESCRIPTIONS = ("quantization_config", "compression_config")


class Refused(Exception):
    """An input breaks a rule."""


def need(holds: object, rule: str) -> None:
    """Refuse an input for which a rule does not hold.

    Raises:
        Refused: with the rule.
    """
    if not holds:
        raise Refused(rule)


@contextmanager
def by(clauses: str) -> Iterator[None]:
    """Refuse by these clauses whatever breaks a rule, lacks a part, or has a part of another kind."""
    try:
        yield
    except RefusedError:
        raise
    except (Refused, LookupError, TypeError, ValueError, AttributeError, RecursionError, struct.error) as broken:
        raise RefusedError(f"{clauses}: {broken}") from broken


def parsed(raw: bytes | None, *, constants: bool = False, header: bool = False) -> Any:
    """Return the value of a JSON text with unique keys and at most 100 levels (FMT-027.2).

    Args:
        raw: the text.
        constants: NaN, infinity and integers from 2^53 on are allowed.
        header: half of a surrogate pair and −0 are not allowed (FMT-121.6).

    Raises:
        Refused, ValueError, RecursionError: the bytes are no such text, or None.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(pairs)) == len(pairs), "unique keys")
        return dict(pairs)

    def constant(text: str) -> float:
        need(constants, "no NaN")
        return float(text)

    def integer(text: str) -> int:
        need(not header or text != "-0", "a zero without a sign")
        need(constants or abs(int(text)) < 2**53, "an integer that binary64 holds")
        return int(text)

    def levels(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(levels, inner), default=0)

    need(raw is not None, "a file")
    text = (raw or b"").decode()
    value = json.loads(text, object_pairs_hook=unique, parse_constant=constant, parse_int=integer)
    with by("FMT-027"):
        need(levels(value) <= 100, "100 levels")
    if header:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def is_whole(value: object) -> bool:
    """Return whether a JSON value is an integer from 0."""
    return type(value) is int and value >= 0


def read_stock(raw: bytes | None) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return metadata and tensors of a safetensors file (FMT-121).

    Raises:
        RefusedError: it breaks a rule.
    """
    with by("FMT-121"):
        need(raw is not None and len(raw) >= 8, "8 bytes")
        raw = raw or b""
        length = int.from_bytes(raw[:8], "little")
        need(length <= min(LONGEST, len(raw) - 8), "a header within the file")
        header, data = parsed(raw[8 : 8 + length], header=True), raw[8 + length :]
        stated = header.pop("__metadata__", None)
        metadata = {} if stated is None else stated
        need(all(isinstance(text, str) for text in metadata.values()), "metadata of texts")
        tensors, at = {}, 0
        for name, entry in header.items():
            need(set(entry) == {"dtype", "shape", "data_offsets"}, "an entry")
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            need(dtype in DTYPES and isinstance(shape, list) and len(shape) <= 8, "a dtype and a shape")
            need(all(map(is_whole, (*shape, begin, end))) and prod(d or 1 for d in shape) < 2**53, "sizes")
            need(BITS[dtype] * prod(shape) == 8 * (end - begin), "as many bytes as the shape takes")
            tensors[name] = Tensor(dtype, tuple(shape), data[begin:end])
        for begin, end in sorted(entry["data_offsets"] for entry in header.values()):
            need(begin == at, "no hole and no overlap")
            at = end
        need(at == len(data), "nothing behind the tensors")
        return metadata, tensors


def read_folder(tree: Tree) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a Hugging Face folder, and the names of the files that it reads (FMT-120).

    Raises:
        RefusedError: it breaks a rule.
    """
    with by("FMT-168"):
        need(b"delta_encoding" not in (tree.get(INDEX) or b""), "a model, not a version")
    if tree.get(WHOLE) is not None:
        return read_stock(tree[WHOLE])[1], [WHOLE]
    with by("FMT-120"):
        need(len(tree[INDEX] or b"") <= LONGEST, "an index of so many bytes")
        tensors: dict[str, Tensor] = {}
        places = mapped(parsed(tree[INDEX]), r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,242}\.safetensors")
        for file, names in places.items():
            need(tree[file] is not None, "a file")
            own = read_stock(tree[file])[1]
            need(set(own) == names, "index and file alike")
            tensors |= own
        return tensors, [*places, INDEX]


def mapped(index: Any, pattern: str) -> dict[str, set[str]]:
    """Return the names of the tensors of each file that an index maps, whose name must match a pattern."""
    places: dict[str, set[str]] = {}
    for name, file in index["weight_map"].items():
        need(re.fullmatch(pattern, file), "a file of the folder")
        places.setdefault(file, set()).add(name)
    return places


def numbers(t: Tensor, *dtypes: str) -> list[Any]:
    """Return the numbers of a tensor of one of these dtypes, row-major."""
    code = {"I8": "b", "U16": "H", "I32": "i", "U32": "I", "I64": "q", "F32": "f"}
    need(t.dtype in dtypes, f"one of {dtypes}")
    return [*struct.unpack(f"<{8 * len(t.bits) // BITS[t.dtype]}{code[t.dtype]}", t.bits)]


# configurations ----------------------------------------------------------------------------------


def described(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the descriptions of a quantisation at any depth of a configuration (FMT-128.2)."""
    for inner in value if isinstance(value, list) else ():
        yield from described(inner)
    for key, inner in value.items() if isinstance(value, dict) else ():
        if quantises(key, inner):
            yield inner
        else:
            yield from described(inner)


def quantises(key: str, value: Any) -> bool:
    """Return whether a key and its value describe a quantisation, and not only sparsity."""
    if key not in DESCRIPTIONS or not isinstance(value, dict):
        return False
    if value.get("quant_method") not in LIBRARY:
        return True
    return any(value.get(part) for part in ("config_groups", "kv_cache_scheme", "transform_config"))


def without_descriptions(value: Any) -> Any:
    """Return a configuration without its descriptions of a quantisation (FMT-175.4)."""
    if isinstance(value, list):
        return [without_descriptions(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {key: without_descriptions(inner) for key, inner in value.items() if not quantises(key, inner)}


def without_sparsity(value: Any, formats: set[str]) -> Any:
    """Return a configuration without its descriptions of sparsity, whose formats are added to `formats` (FMT-158)."""
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, inner in value.items():
        if key == "sparsity_config" and isinstance(inner, dict) and isinstance(inner.get("format"), str):
            formats.add(inner["format"])
            continue
        rest = without_sparsity(inner, formats)
        if key in DESCRIPTIONS and isinstance(inner, dict) and inner.get("quant_method") in LIBRARY:
            rest.pop("sparsity_config", None)
            if not quantises(key, rest):
                continue
        kept[key] = rest
    return kept


def states_sparsity(config: Any) -> bool:
    """Return whether a configuration states the packing of sparse tensors in a place that FMT-150 names."""
    places = [config, *(config.get(key) for key in DESCRIPTIONS)] if isinstance(config, dict) else []
    stated = [place.get("sparsity_config") for place in places if isinstance(place, dict)]
    return any(isinstance(one, dict) and one.get("format") for one in stated)
