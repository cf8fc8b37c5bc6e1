"""The operations `quantise.*` as calls into the engine (chapter 19)."""

from pathlib import Path
from typing import Any

import formats
from conformance.engine.files import described, encoded
from conformance.engine.files_convert import laid_out
from conformance.engine.values import Values, read_topology, work_folder
from seft_ref.arrays.library import array_namespace, device
from seft_ref.prune.sparsegpt import BLOCK, DAMPING, hessian_of
from seft_ref.quantise.gptq import gptq
from seft_ref.quantise.grid import Quantised, nearest, parse_grid, weights_of
from seft_ref.quantise.merge import beside, check_merge, in_grid
from seft_ref.runs.quantise import quantise
from seft_ref.topology.csr import flat, from_flat


def _matrix(a: Values) -> Values:
    grid, weights = parse_grid(a["grid"]), a["weights"]
    stored = from_flat((weights.shape[0], weights.shape[1]), a["positions"])
    if a["inputs"] is None:
        made = nearest(weights, stored, grid)
    else:
        damping = DAMPING if a["damping"] is None else a["damping"]
        block = BLOCK if a["block"] is None else a["block"]
        made = gptq(weights, stored, hessian_of(a["inputs"]), grid, damping=damping, block=block)
    xp = array_namespace(weights)
    return {
        "codes": xp.astype(made.codes, xp.int64),
        "scales": xp.astype(made.scales, weights.dtype),
        "zeros": xp.astype(made.zeros, xp.int64),
    }


def _read(a: Values) -> Quantised:
    scales, codes = a["scales"], a["codes"]
    xp = array_namespace(scales)
    none = xp.zeros(scales.shape, dtype=xp.int8, device=device(scales))
    zeros = none if a["zeros"] is None else xp.astype(a["zeros"], xp.int8)
    grid, topology = parse_grid(a["grid"]), read_topology(a, "positions")
    return Quantised(grid, topology, xp.astype(codes, xp.int8), xp.astype(scales, xp.float32), zeros)


def _merge(a: Values) -> Values:
    matrix, support, values = _read(a), read_topology(a, "support"), a["values"]
    check_merge(a["mode"])
    made, differs, counts = beside(matrix, support, values)
    # QNT-011.3
    if a["mode"] != "beside":
        made, counts = in_grid(matrix, support, values)
        differs = differs & ~differs
    xp = array_namespace(values)
    return {
        "positions": flat(made.topology),
        "codes": xp.astype(made.codes, xp.int64),
        "update": flat(support)[differs],
        "update_values": values[differs],
        "changed": counts.changed,
        "vanished": counts.vanished,
        "saturated": counts.saturated,
    }


def _model(a: Values) -> Values:
    with work_folder() as place:
        source, target = laid_out(Path(place) / "source", a), Path(place) / "target"
        quantise(source, target, a["grid"])
        with formats.open(target) as reader:
            return {
                "tensors": {name: described(reader.load_verified(name)) for name in reader.names()},
                "attributes": encoded(reader.attributes),
                "scales": encoded(reader.scales),
            }


OPERATIONS: dict[str, Any] = {
    "quantise.matrix": _matrix,
    "quantise.weights": lambda a: {"values": weights_of(_read(a), a["scales"].dtype)},
    "quantise.merge": _merge,
    "quantise.model": _model,
}
