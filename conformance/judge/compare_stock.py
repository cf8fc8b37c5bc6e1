"""Compares Hugging Face folders that a port writes by their tensors, not by the spelling of headers (FMT-124)."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from conformance.oracle import foreign
from conformance.oracle.files_convert import INDEX, WHOLE

__all__ = ["broken_folder", "read_stock"]

_SHARD = re.compile(r"model-([0-9]+)-of-([0-9]+)\.safetensors")
Held = dict[str, tuple[str, list[int], bytes]]


def broken_folder(answer: Any, want: dict[str, Any]) -> str:
    """Return an error text for a wrong folder (files by name), else an empty text.

    want  `tensors`, each with `dtype`, `shape` and `bits`; `files`, the companions; `part_bytes` of a shard
    """
    if not isinstance(answer, dict) or not all(_is_bytes(raw) for raw in answer.values()):
        return "expected the bytes of files by name, vectors of u8"
    tree = {name: raw.tobytes() for name, raw in answer.items()}
    companions = {name: raw.tobytes() for name, raw in want["files"].items()}
    for name, raw in companions.items():
        if tree.pop(name, None) != raw:
            return f"the companion {name} is missing or changed"
    total = sum(t["bits"].size for t in want["tensors"].values())
    try:
        if total <= want["part_bytes"] or len(want["tensors"]) == 1:
            if set(tree) != {WHOLE}:
                return f"expected {WHOLE} beside the companions, got {', '.join(sorted(tree)) or 'nothing'}"
            return _differing(read_stock(tree[WHOLE]), want["tensors"])
        return _broken_shards(tree, want)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"no Hugging Face folder: {type(error).__name__}: {error}"


def _is_bytes(raw: Any) -> bool:
    return isinstance(raw, np.ndarray) and raw.dtype == np.uint8 and raw.ndim == 1


def read_stock(raw: bytes) -> Held:
    """Return dtype, shape and bytes of each tensor of a safetensors file that stock loaders accept.

    Raises:
        ValueError: the file breaks a rule of FMT-121, or its metadata is not `{"format":"pt"}` (FMT-124).
    """
    metadata, tensors = foreign.read_stock(raw)
    if metadata != {"format": "pt"}:
        raise ValueError('FMT-124: the metadata is not {"format":"pt"}')
    return {name: (t.dtype, [*t.shape], t.bits) for name, t in tensors.items()}


def _differing(tensors: Held, want: Mapping[str, Any]) -> str:
    """Return a text that says how the tensors differ from the expected ones; empty if they do not."""
    if tensors.keys() != want.keys():
        return f"expected the tensors {sorted(want)}, got {sorted(tensors)}"
    for name, t in want.items():
        if tensors[name] != (t["dtype"], t["shape"].tolist(), t["bits"].tobytes()):
            dtype, shape, bits = tensors[name]
            expected = f"{t['dtype']} {t['shape'].tolist()} {t['bits'].tobytes()[:16].hex()}"
            return f"{name}: expected {expected}, got {dtype} {shape} {bits[:16].hex()}"
    return ""


def _broken_shards(tree: dict[str, bytes], want: dict[str, Any]) -> str:
    """Return an error text for wrong shards or a wrong index, else an empty text."""
    if INDEX not in tree:
        return f"{INDEX} is missing, although the tensors take more than {want['part_bytes']} bytes"
    weight_map = json.loads(tree.pop(INDEX))["weight_map"]
    matches = {name: _SHARD.fullmatch(name) for name in tree}
    numbers = sorted((int(m[1]), int(m[2])) for m in matches.values() if m)
    if None in matches.values() or numbers != [(i + 1, len(tree)) for i in range(len(tree))] or len(tree) < 2:
        return f"expected model-<i>-of-<N>.safetensors, got {', '.join(sorted(tree))}"
    every: Held = {}
    for name, raw in tree.items():
        tensors = read_stock(raw)
        size = sum(len(bits) for _, _, bits in tensors.values())
        if not tensors or (size > want["part_bytes"] and len(tensors) > 1):
            return f"{name} holds {len(tensors)} tensors of {size} bytes, allowed are {want['part_bytes']}"
        if tensors.keys() != {tensor for tensor, place in weight_map.items() if place == name}:
            return f"the index and {name} do not agree"
        every |= tensors
    if every.keys() != weight_map.keys():
        return "the index names a tensor that no shard has"
    return _differing(every, want["tensors"])
