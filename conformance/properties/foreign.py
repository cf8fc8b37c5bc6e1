"""Builders of foreign folders: adapters of PEFT, and inputs of conversions."""

import json
from collections.abc import Mapping
from typing import Any

from conformance.answers.files_content import content, raw_array
from conformance.oracle.files import Tensor
from conformance.oracle.files_convert import stock
from conformance.oracle.files_convert_adapters import CONFIG, PREFIX, WEIGHTS

__all__ = ["ADAPTER", "LORA", "NAME", "SPIEL", "SUPER", "adapter", "changing", "files_of"]

ADAPTER, MODULE = "convert.adapter", "model.layers.0.q"
NAME = f"{MODULE}.weight"
SPIEL: dict[str, Any] = {"peft_type": "SFT", "task_type": "CAUSAL_LM", "selection_algorithm": "rigl"}
SUPER: dict[str, Any] = {"peft_type": "SUPERTUNING", "task_type": "CAUSAL_LM", "r": None, "select_top": True}
LORA: dict[str, Any] = {"peft_type": "LORA", "target_modules": ["q"]}


def files_of(tree: Mapping[str, bytes], **more: Any) -> dict[str, Any]:
    """Return the inputs of a conversion of a folder."""
    return {"files": {name: raw_array(raw) for name, raw in tree.items()}} | more


def changing(kind: str, tree: Mapping[str, bytes], base: dict[str, Tensor]) -> dict[str, Any]:
    """Return the inputs of `convert.adapter`."""
    return files_of(tree, kind=kind, tensors=content(base))


def adapter(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Return the folder of an adapter of the module of `NAME`, with tensors by role."""
    own = {f"{PREFIX}{MODULE}.{role}": t for role, t in tensors.items()}
    return {CONFIG: json.dumps(dict(config)).encode(), WEIGHTS: stock(own, {"format": "pt"})}
