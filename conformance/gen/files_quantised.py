"""Cases of a pruned model that becomes a quantised model, with codes rounded to nearest (QNT-009)."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from conformance.gen.files import content, raw_array
from conformance.gen.model import tensors_of
from conformance.gen.numbers import Area, Array, Numbers
from conformance.gen.tiny import SMALLEST
from conformance.oracle import files_codes, files_folders, prune, quantise
from conformance.oracle.files import Tensor, text
from conformance.oracle.files_codes import Codes
from conformance.oracle.model import Config, targets

OP = "quantise.model"


def pruned(weights: Mapping[str, Array], stored: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Return the tensors of a model in F32; those with stored positions are sparse."""
    tensors = {}
    for name, w in weights.items():
        at = stored.get(name, list(range(w.size)))
        support = tuple(divmod(p, w.shape[-1]) for p in at) if name in stored else None
        tensors[name] = Tensor("F32", w.shape, struct.pack(f"<{len(at)}f", *w.reshape(-1)[at]), support)
    return tensors


def rounded(name: str, w: Tensor, grid: str) -> dict[str, Tensor]:
    """Return the tensors of a target that is rounded to nearest (QNT-003, QNT-004, QNT-009)."""
    assert w.support is not None
    rows, columns = w.shape
    weights, at = [0.0] * (rows * columns), [r * columns + c for r, c in w.support]
    for p, value in zip(at, struct.unpack(f"<{len(at)}f", w.bits), strict=True):
        weights[p] = value
    made = quantise.nearest(np.array(weights).reshape(rows, columns), at, grid)
    codes = [[made.codes.get(r * columns + c, 0) for c in range(columns)] for r in range(rows)]
    scales = [[int.from_bytes(struct.pack("<f", one), "little") for one in row] for row in made.scales]
    zeros = made.zeros if grid.endswith(":asym") else None
    groups = [c // made.columns for c in range(columns)]
    return files_codes.kept(name, Codes(made.high.bit_length() + 1, codes, "F32", scales, zeros, groups, w.support))


def quantised(config: Config, tensors: Mapping[str, Tensor], grid: str) -> tuple[dict[str, Tensor], Any]:
    """Return tensors and scales of the quantised model."""
    made, scales = dict(tensors), {}
    for name in targets(config):
        parts = rounded(name, tensors[name], grid)
        scales[name] = {part.rpartition(".")[2]: part for part in parts if part != name}
        made |= parts
    return made, scales


def given(config: Config, tensors: Mapping[str, Tensor], grid: str, **more: Any) -> dict[str, Any]:
    """Return the folder of a model and a grid as inputs."""
    tree = files_folders.folder(tensors, companions={"config.json": json.dumps(config).encode()}, **more).pack()
    return {"files": {name: raw_array(raw) for name, raw in tree.items()}, "grid": grid}


def answer(config: Config, tensors: Mapping[str, Tensor], grid: str, **more: Any) -> dict[str, Any]:
    """Return the outputs of `quantise.model`."""
    made, scales = quantised(config, tensors, grid)
    attributes = more.get("attributes", {}) | {"quantised": {"grid": grid, "rounding": "nearest"}}
    return {"tensors": content(made)["tensors"], "attributes": text(attributes), "scales": text(scales)}


def models() -> Area:
    """Return cases of models that are quantised or refused."""
    area, weights = Area("quantised-model", "fractions"), tensors_of(SMALLEST, Numbers(60, 7))
    tensors = pruned(weights, {name: prune.magnitude(weights[name], 0.5) for name in targets(SMALLEST)})
    purpose = "another rounding or grid written down, a part that is missing, or a tensor that is no target rounded"
    more: dict[str, Any]
    for grid, more in (("int4:g2", {}), ("int8:asym", {"attributes": {"note": "attributes that are lost"}})):
        inputs, outputs = given(SMALLEST, tensors, grid, **more), answer(SMALLEST, tensors, grid, **more)
        area.add(grid.replace(":", "-"), OP, "QNT-009 QNT-003 QNT-004", purpose, inputs, outputs)
    made, scales = quantised(SMALLEST, tensors, "int8")
    attributes = {"quantised": {"grid": "int8", "rounding": "nearest"}}
    inputs = given(SMALLEST, made, "int8", attributes=attributes, scales=scales)
    area.add("refuse-again", OP, "QNT-009", "codes rounded as if they were weights", inputs, refused="QNT-009")
    return area


AREAS = (models,)
