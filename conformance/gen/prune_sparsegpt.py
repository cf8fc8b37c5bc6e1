"""Cases of SparseGPT (PRN-005, PRN-009 to PRN-013)."""

from typing import Any

import numpy as np

from conformance.gen.model import MODELS, tensors_of
from conformance.gen.numbers import Area, Array, Numbers, ids
from conformance.oracle import prune

_GAP = 1e-6
"""Smallest relative gap between removed and kept scores in a case (PRN-013)."""

_EXACT = ("identity", "last-bit", "scales", "pattern-ties", "dead-kept", "nothing-seen")
"""Cases with exact ties, because H is diagonal or the tied weights are 0."""


def sparsegpt() -> Area:
    """Return cases of SparseGPT (PRN-005, PRN-009 to PRN-013)."""
    area = Area("sparsegpt", "an inverse a column")
    _blocks(area)
    _hessians(area)
    _patterns(area)
    _refusals(area)
    _whole_model(area)
    return area


def add(area: Area, name: str, clauses: str, purpose: str, inputs: dict[str, Any], **more: Any) -> None:
    """Add a case of SparseGPT on one matrix; fail if its choice depends on too small a gap."""
    pattern = (inputs["n"], inputs["m"]) if "n" in inputs else None
    options = {key: inputs[key] for key in ("damping", "block") if key in inputs}
    kept, weights, gap = prune.sparsegpt(inputs["weights"], inputs["inputs"], inputs["sparsity"], pattern, **options)
    assert gap > _GAP or name in _EXACT, f"{name} hangs on a relative gap of {gap}"
    answer = {"kept": ids(kept), "weights": weights}
    area.add(name, "prune.sparsegpt", clauses, purpose, inputs, answer, zeros=("weights",), **more)


def _given(weights: Array, inputs: Array, sparsity: float, **more: Any) -> dict[str, Any]:
    return {"weights": weights, "inputs": inputs, "sparsity": sparsity, **more}


def _blocks(area: Area) -> None:
    n = Numbers(41, 1)
    levels, spread, inputs = n.lattice((6, 12), 3), n.real((6, 12)), n.real((30, 12))
    one = "PRN-010 PRN-011"
    text = "ties to a higher position, one choice for the whole matrix, or none in the short last block"
    add(area, "identity", f"{one} SEL-002", text, _given(levels, np.eye(12), 0.5, block=5))
    text = "0.29 · 100 is 28.999999999999996"
    add(area, "last-bit", f"{one} PRN-001", text, _given(n.lattice((20, 7), 9), np.eye(7), 0.29, block=5))
    text = "no compensation, or later blocks left out of it"
    add(area, "blocks", one, text, _given(spread, inputs, 0.5, block=5))
    text = "rows that must each lose as many"
    heavy = spread * np.array([1.0, 4.0, 0.25, 1.0, 8.0, 1.0])[:, None]
    add(area, "uneven-rows", one, text, _given(heavy, inputs, 0.5, block=4))
    text = "all columns chosen from at once where they fit into one block: W of later columns is not yet compensated"
    add(area, "one-block", one, text, _given(spread, inputs, 0.7))
    text = "a block wider or narrower than 128"
    wide = n.lattice((24, 133), 2)
    add(area, "default-width", one, text, _given(n.real((2, 133)), wide, 0.6))
    add(area, "nothing-removed", one, "sparsity 0 removes or changes something", _given(spread, inputs, 0.0, block=5))


def _hessians(area: Area) -> None:
    n = Numbers(41, 2)
    levels, spread, inputs = n.lattice((5, 8), 4), n.real((5, 8)), n.real((40, 8))
    text = "U_ii for U_ii²: 2^k of each input is 4^k in H"
    scales = np.diag([1.0, 2.0, 4.0, 1.0, 8.0, 2.0, 1.0, 4.0])
    add(area, "scales", "PRN-009 PRN-011 SEL-002", text, _given(levels, scales, 0.5, damping=0.0, block=8))
    text = "damping left out, or added by its share of each entry"
    few = n.real((3, 8))
    add(area, "few-tokens", "PRN-009", text, _given(spread, few, 0.5))
    add(
        area,
        "much-damping",
        "PRN-009",
        "damping fixed",
        _given(spread, inputs * [1, 1, 9, 1, 1, 3, 1, 1], 0.5, damping=0.5),
    )
    add(area, "no-damping", "PRN-009", "damping fixed", _given(spread, inputs, 0.5, damping=0.0))
    alive = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    text = "dead inputs in the mean of the damping as 1, or their weights not the first to go"
    add(area, "dead-removed", "PRN-009", text, _given(spread, inputs * alive / 64, 0.5))
    text = "weights of dead inputs that stay must be zero, and stay in the mask"
    add(area, "dead-kept", "PRN-009 PRN-013", text, _given(spread, inputs * alive, 0.2))
    add(area, "nothing-seen", "PRN-009", "an H of zeros is divided by", _given(spread, inputs * 0, 0.5))
    text = "factor or sums in binary32: columns that differ in a few units of a thousand"
    near = np.round(n.real((40, 1)) * 512) + n.lattice((40, 8), 1)
    add(area, "near-equal", "PRN-013 NUM-006", text, _given(spread, near, 0.5, damping=0.0, block=3))


def _patterns(area: Area) -> None:
    n = Numbers(41, 3)
    levels, spread, inputs = n.lattice((4, 12), 2), n.real((4, 12)), n.real((30, 12))
    text = "groups chosen before the columns of the block have been compensated"
    for name, keep, of, more in (
        ("two-of-four", 2, 4, {}),
        ("one-of-two", 1, 2, {}),
        ("four-of-six", 4, 6, {}),
        ("whole-row", 5, 12, {}),
        ("over-blocks", 2, 4, {"block": 6}),
        ("wider-than-a-block", 3, 6, {"block": 4}),
    ):
        add(area, name, "PRN-004 PRN-012", text, _given(spread, inputs, 0.0, n=keep, m=of, **more))
    text = "ties kept at the higher column"
    add(area, "pattern-ties", "PRN-004 PRN-012", text, _given(levels, np.eye(12), 0.0, n=2, m=4))


def _refusals(area: Area) -> None:
    n = Numbers(41, 4)
    spread, inputs = n.real((3, 6)), n.real((20, 6))
    twins = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    broken = inputs.copy()
    broken[4, 2] = np.nan
    huge = np.array([[3e38, 3e38]]).astype(np.float32).astype(np.float64)
    for name, clause, purpose, case_inputs in (
        ("sparsity", "PRN-001", "a sparsity outside 0 to 1", _given(spread, inputs, 1.0)),
        ("pattern", "PRN-004", "a row that does not divide", _given(spread, inputs, 0.0, n=2, m=4)),
        ("nan", "PRN-009", "NaN in the inputs", _given(spread, broken, 0.5)),
        ("damping", "PRN-009", "damping that takes away", _given(spread, inputs, 0.5, damping=-0.01)),
        ("endless-damping", "PRN-009", "damping without end", _given(spread, inputs, 0.5, damping=float("inf"))),
        ("singular", "PRN-009", "an H without inverse", _given(spread[:, :2], twins, 0.5, damping=0.0)),
        ("width", "PRN-011", "blocks of nothing", _given(spread, inputs, 0.5, block=0)),
    ):
        area.add(f"refuse-{name}", "prune.sparsegpt", clause, purpose, case_inputs, refused=clause)
    case_inputs = _given(huge, twins, 0.5)
    text = "a weight that has become infinite"
    area.add("refuse-overflow", "prune.sparsegpt", "PRN-013", text, case_inputs, refused="PRN-013", dtypes=("float32",))


def _whole_model(area: Area) -> None:
    config = MODELS["llama"]
    n = Numbers(41, 5)
    tensors = tensors_of(config, n)
    tokens = n.integers((4, 8), 0, 10)
    kept, weights, gap = prune.model(config, tensors, tokens, lambda w, x: prune.sparsegpt(w, x, 0.5))
    assert gap > 1e-4, f"the choice hangs on a relative gap of {gap}"
    inputs = {"config": config, "tensors": tensors, "tokens": tokens, "sparsity": 0.5}
    purpose = "statistics taken behind unpruned blocks, or kept weights of earlier blocks not changed"
    answer = {"kept": {name: ids(k) for name, k in kept.items()}, "weights": weights}
    area.add("model", "prune.model_sparsegpt", "PRN-005 PRN-006 PRN-009 PRN-010 PRN-011", purpose, inputs, answer)
    broken = dict(tensors)
    name = "model.layers.1.mlp.up_proj.weight"
    broken[name] = tensors[name].copy()
    broken[name][2, 3] = np.nan
    inputs = inputs | {"tensors": broken}
    area.add("refuse-model", "prune.model_sparsegpt", "PRN-006", "NaN ranked", inputs, refused="PRN-006")


AREAS = (sparsegpt,)
