"""Finds descriptions of quantisation in config.json; descriptions of sparsity alone do not count (FMT-128)."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from formats.errors import FormatError
from formats.strict_json import JSON, foreign_object

DESCRIPTIONS = frozenset({"quantization_config", "compression_config"})
"""Keys of config.json, at any depth, that describe how tensors are packed."""

LIBRARY = (None, "compressed-tensors", "sparseml")
"""Values of quant_method in files of the library compressed-tensors; version 0.3 wrote sparseml."""


def quantises(description: Mapping[str, Any]) -> bool:
    """Return whether a description contains a quantisation; one of compressed-tensors may describe sparsity alone."""
    if description.get("quant_method") not in LIBRARY:
        return bool(description)
    return any(description.get(part) for part in ("config_groups", "kv_cache_scheme", "transform_config"))


def config_to_extend(config: bytes, clause: str) -> dict[str, JSON]:
    """Return a config.json to which a description is added.

    Raises:
        FormatError: the clause, if it is no JSON object, because writing it anew would lose what it says.
    """
    value = foreign_object(config)
    if not value and config.strip() != b"{}":
        raise FormatError(clause, "config.json is no JSON object of at most 100 levels; mend it")
    return value


def quantisations(config: bytes) -> list[str]:
    """Return method and format of each quantisation that a config.json describes; none if it is not JSON."""
    try:
        return list(dict.fromkeys(_named(json.loads(config))))
    except (ValueError, RecursionError):
        return []


def _named(value: object) -> Iterator[str]:
    # FMT-128: descriptions count at any depth, in lists, too
    for inner in value if isinstance(value, list) else ():
        yield from _named(inner)
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key in DESCRIPTIONS and isinstance(inner, dict) and quantises(inner):
            method, packed = inner.get("quant_method"), inner.get("format")
            yield ", ".join(str(part)[:40] for part in (method, packed) if part) or "without a name"
        else:
            yield from _named(inner)
