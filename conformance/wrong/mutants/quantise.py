"""Mutants of quantised matrices (QNT): grids, roundings and merges of other libraries, and mistakes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.engine.parts import quantise_gptq as gptq
from conformance.engine.parts import quantise_grid as grid
from conformance.engine.parts import quantise_merge as merge
from conformance.wrong.mutants.base import Mutant, Values, edits, ids, mutants, right

_ROUND, _WEIGH, _MERGE = "quantise.matrix", "quantise.weights", "quantise.merge"


def nonzero_support(a: Values) -> Values:
    """Take weights that are not 0 for the support, as SQFT does: kept weights that round to zero leave it."""
    out = right(_MERGE)(a)
    if a["mode"] != "grid":
        return out
    matrix = {"out": a["out"], "in": a["in"], "grid": a["grid"], "scales": a["scales"], "zeros": a["zeros"]}
    weights = right(_WEIGH)(matrix | {"positions": out["positions"], "codes": out["codes"]})["values"]
    return out | {name: out[name][weights != 0] for name in ("positions", "codes")}


def made_anew(a: Values) -> Values:
    """Quantise the merged weights with scales of their own, as PEFT merges into a quantised base."""
    out = right(_MERGE)(a)
    if a["mode"] != "grid":
        return out
    dense = np.zeros((a["out"], a["in"]), dtype=a["values"].dtype)
    dense.reshape(-1)[a["support"]] = a["values"]
    anew = right(_ROUND)({"grid": a["grid"], "weights": dense, "positions": a["support"], "inputs": None})
    return out | {"positions": a["support"], "codes": anew["codes"]}


def stored_weights_that_are_not_zero(a: Values) -> Values:
    """Give a stored weight whose code is the zero point the smallest weight that is not 0."""
    out = right(_WEIGH)(a)["values"]
    return {"values": np.where(out == 0, np.finfo(out.dtype).tiny, out)}


def wrapped(a: Values) -> Values:
    """Let codes wrap around instead of clamping them."""
    out = right(_MERGE)(a)
    if a["mode"] != "grid" or not out["saturated"]:
        return out
    codes = out["codes"].copy()
    ends = (codes == grid.parse_grid(a["grid"]).highest) | (codes == grid.parse_grid(a["grid"]).lowest)
    codes[ends] = -codes[ends] - 1
    return out | {"codes": codes}


def half(scales: NDArray[Any]) -> NDArray[Any]:
    """Return scales rounded to float16, as a model of 16 bits holds them."""
    return scales.astype(np.float16).astype(scales.dtype)


def everything_beside(a: Values) -> Values:
    """Store every weight of the support beside the codes."""
    out = right(_MERGE)(a)
    if a["mode"] != "beside":
        return out
    return out | {"update": ids(a["support"]), "update_values": a["values"], "changed": len(a["support"])}


def difference_beside(a: Values) -> Values:
    """Store beside the codes the differences to their weights, in place of the new weights."""
    out = right(_MERGE)(a)
    if a["mode"] != "beside":
        return out
    coded = right(_WEIGH)({name: a[name] for name in ("out", "in", "grid", "positions", "codes", "scales", "zeros")})
    under = np.zeros(a["out"] * a["in"], dtype=a["values"].dtype)
    under[a["positions"]] = coded["values"]
    return out | {"update_values": out["update_values"] - under[out["update"]]}


MUTANTS: list[Mutant] = [
    *mutants(_ROUND,
        ("QNT-003", grid.only_stored, "xp.where(stored, weight, xp.zeros_like(weight))", "weight",
         "a scale from pruned weights"),
        ("QNT-005", gptq._less, "xp.where(mask, weights - errors, xp.zeros_like(weights))", "weights - errors",
         "errors carried to pruned weights"),
        ("QNT-003", grid.nearest, "declared(scales))", "declared(scales) * 1.0000001)", "scales moved"),
        ("QNT-005", {"inputs": lambda a: None}, "nearest for GPTQ"),
        ("QNT-001", lambda out, _: {"zeros": out["zeros"] + 8}, "unsigned zero points"),
        ("QNT-003", lambda out, _: {"scales": half(out["scales"])}, "scales of 16 bits"),
        unchecked="QNT-001 QNT-003"),
    *edits(_ROUND, "QNT-003", grid.scales_of,
        (" / grid.highest", " / (grid.highest + 0.5)", "a scale for half a code more"),
        (" / grid.highest", " / -grid.lowest", "a scale for the lowest code"),
        ("/ (grid.highest - grid.lowest)", "/ 15", "15 steps, whatever the bits"),
        ("xp.maximum(-low, high)", "high", "the largest weight for the largest |w|"),
        ("xp.minimum(xp.min(groups, axis=2), none)", "xp.min(groups, axis=2)", "lo > 0"),
        ("xp.maximum(xp.max(groups, axis=2), none)", "xp.max(groups, axis=2)", "hi < 0"),
        ("xp.astype(wide, xp.float32)", "wide", "scales in binary64"),
        ("xp.round(-low / divisor) + grid.lowest", "xp.round(-low / divisor + grid.lowest + 0.25)",
         "zero points rounded elsewhere"),
        ("xp.clip(xp.round(-low / divisor) + grid.lowest, grid.lowest, grid.highest)",
         "xp.round(-low / divisor) + grid.lowest + 1", "zero points stored less 1, as GPTQ's files do"),
        ("xp.where(scales > 0, zeros, none)", "zeros", "zero points at the end"),
        ("farthest <= xp.finfo(xp.float32).max", "scales <= xp.finfo(xp.float32).max", "codes beyond float32")),
    *edits(_ROUND, "QNT-003", grid.declared,
        ("xp.where(scales > 0, scales, largest)", "scales", "a scale of 0"),
        ("xp.where(scales > 0, scales, largest)", "xp.where(scales > 0, scales, xp.ones_like(scales))",
         "a scale of 1 for a group without weights"),
        ("axis=1, keepdims=True)", ")", "the largest scale of the matrix")),
    *edits(_ROUND, "QNT-004", grid.unclamped,
        ("xp.round(", "xp.trunc(", "codes cut towards zero"),
        ("xp.round(", "xp.floor(0.5 + ", "ties up"),
        ("+ xp.astype(zeros, xp.float64)", "- xp.astype(zeros, xp.float64)", "zero points taken off"),
        ("/ xp.astype(scales, xp.float64)) + xp.astype(zeros, xp.float64)",
         "/ xp.astype(scales, xp.float64) + xp.astype(zeros, xp.float64))",
         "rounded after the zero point is added"),
        ("/ xp.astype(scales, xp.float64)", "* (1 / xp.astype(scales, xp.float64))", "a product with 1 / s")),
    *edits(_ROUND, "QNT-005", gptq.gptq,
        ("xp.stack(errors, axis=1) @ u[:, n:]", "0.0", "errors lost behind a block"),
        ("error[:, None] * u[i, i + 1 : n][None, :]", "0.0", "errors lost inside a block"),
        ("error = error / u[i, i]", "error = error + 0.0", "errors not divided by U_jj"),
        ("xp.where(dead[None, :], xp.zeros_like(rest), rest)", "rest", "dead inputs weigh"),
        ("(panel if grid.group else rest)[:, :size]",
         "only_stored(weight, topology)[:, (first + i) // size * size :][:, :size]",
         "scales from before any error")),
    *mutants(_WEIGH,
        ("QNT-002", grid.weights_at, "- xp.astype(zeros, xp.float64)", "", "zero points left out"),
        ("QNT-002", grid.weights_at, "xp.astype(steps * xp.astype(scales, xp.float64), dtype)",
         "xp.astype(xp.astype(steps, xp.float32) * xp.astype(scales, xp.float32), dtype)", "products in binary32"),
        ("QNT-001", grid.groups_of, "topology.indices // size", "topology.indices % (n_in // size)",
         "columns dealt out to groups in turn"),
        ("QNT-002", stored_weights_that_are_not_zero, "no stored weight of 0")),
    *mutants(_MERGE,
        ("QNT-007", nonzero_support, "weights of 0 leave the support"),
        ("QNT-007", made_anew, "scales of the merged weights"),
        ("QNT-007", wrapped, "codes that wrap around"),
        ("QNT-011", {"mode": lambda a: "grid" if a["mode"] == "grid" else "beside"},
         "`grid-exact` merged beside the codes"),
        ("QNT-006", everything_beside, "every weight beside the codes"),
        ("QNT-006", difference_beside, "the difference to the weight of the code beside it")),
    *edits(_MERGE, "QNT-006", merge.beside,
        (" | ((values == 0) & xp.signbit(values))", "", "−0 for the weight of a code"),
        ("codes=matrix.codes[stays]", "codes=matrix.codes[: int(xp.sum(stays))]",
         "codes not moved with their positions"),
        ("~coded | ", "", "grown weights of 0 lost")),
    *edits(_MERGE, "QNT-007", merge.in_grid,
        ("xp.where(differs, codes_of(values, scales, zeros, matrix.grid), before)", "before",
         "an update that no code takes"),
        ("(free < matrix.grid.lowest) | (free > matrix.grid.highest)",
         "(free <= matrix.grid.lowest) | (free >= matrix.grid.highest)", "codes at the end counted as saturated"),
        ("differs & (codes == before)", "differs & (codes == scales * 0)", "codes of 0 counted as vanished")),
]  # fmt: skip
