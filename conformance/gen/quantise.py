"""Cases of chapter 19: rounding onto grids, the weights of codes, and merging an update into codes."""

from typing import Any

import numpy as np

from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.oracle import quantise

_GAP = 1e-6
"""Least distance of a quotient of GPTQ from a tie. Nearer ones may round differently in another order of summation."""


def rounding() -> Area:
    """Return cases of scales, zero points, codes and weights (QNT-001 to QNT-005)."""
    area = Area("quantise", "fractions")
    _nearest(area)
    _gptq(area)
    _weights(area)
    _refusals(area)
    return area


def merging() -> Area:
    """Return cases of merging a fine-tuned matrix back into codes (QNT-006, QNT-007)."""
    area = Area("quantise-merge", "fractions")
    n = Numbers(60, 5)
    stored, support = n.subset(24, 13), n.subset(24, 14)
    codes = {p: n.integer(-8, 7) for p in stored}
    scales = np.array([[0.5, 2.0], [0.25, 1.0], [4.0, 0.125]])
    zeros = n.integers((3, 2), -8, 7)
    at = {p: float(n.integer(-9, 9)) / 4 for p in support}
    for name, grid, zero_points in (("", "int4:g4", None), ("-asym", "int4:g4:asym", zeros)):
        matrix = (grid, (3, 8), codes, scales, zero_points)
        coded = quantise.given(*matrix)
        # every third position keeps the weight of its code, if it has one
        kept = {p: float(coded.weight(p)) if p in codes and i % 3 == 0 else w for i, (p, w) in enumerate(at.items())}
        text = "codes of positions that left the support kept, or a weight that did not change beside them"
        _merge(area, f"beside{name}", "QNT-006", text, matrix, kept, "beside")
        text = "another scale or zero point, ties away from zero, or grown positions without a code"
        _merge(area, f"grid{name}", "QNT-007", text, matrix, kept, "grid")
        _merge(area, f"grid-exact{name}", "QNT-007 QNT-011", "merged beside the codes", matrix, kept, "grid-exact")
    matrix = ("int8", (2, 4), {0: 127, 1: -128, 5: 3}, np.array([[1.0], [0.5]]), None)
    far = {0: 127.25, 1: -128.5, 2: 127.5, 3: -900.0, 5: 1.5, 6: 0.125, 7: 64.0}
    _merge(area, "saturated", "QNT-007", "codes that wrap around, or counts before clamping", matrix, far, "grid")
    matrix = ("int8", (2, 4), {0: 127, 1: 0, 5: 0, 7: 3}, np.array([[1.0], [0.5]]), None)
    signed = {0: -0.0, 1: 0.0, 5: -0.0, 6: -0.0, 7: 1.5}
    text = "−0 taken for the weight of a code, or a zero that leaves the support"
    _merge(area, "zeros", "QNT-006 QNT-007", text, matrix, signed, "grid")
    _merge(area, "zeros-beside", "QNT-006", text, matrix, signed, "beside")
    _merge(area, "nothing-left", "QNT-006", "an empty support", matrix, {}, "beside")
    for mode, wrong in (("beside", np.nan), ("grid", -np.inf)):
        text = "a code for a weight that is not finite, or such a weight beside the codes"
        inputs = _merge_inputs(matrix, {0: 1.0, 5: wrong}, mode)
        area.add(f"refuse-{mode}", "quantise.merge", "QNT-006", text, inputs, refused="QNT-006")
    tenth = float(np.float32(0.1))
    matrix = ("int8:g2", (1, 4), {0: 93, 1: -77, 2: 3}, np.array([[tenth, 3 * tenth]]).astype(np.float32), None)
    rounded = {p: float(np.float32(float(quantise.given(*matrix).weight(p)))) for p in (0, 1, 2)}
    text = "a weight compared before it is rounded to the dtype of computation"
    _merge(area, "rounded", "QNT-002 QNT-006", text, matrix, rounded, "beside", dtypes=("float32",))
    return area


def _nearest(area: Area) -> None:
    n = Numbers(60, 1)
    weights, few = n.real((5, 12)), n.subset(60, 20)
    most = [p for p in range(60) if p % 7]
    for grid in ("int4", "int8", "int4:g4", "int8:g3", "int4:asym", "int8:g6:asym", "int4:g12", "int4:g1"):
        text = f"{grid}: another divisor, a group of columns in all rows, or zeros outside the support as codes"
        _round(area, f"nearest-{grid.replace(':', '-')}", "QNT-001 QNT-003 QNT-004", text, grid, weights, most)
    text = "a scale from weights that are not stored"
    _round(area, "nearest-outside", "QNT-003 QNT-002", text, "int4:g4", weights * (1 + 7 * (weights > 0.9)), few)
    text = "a group without weights that has scale 0, NaN or that of another row"
    bare = [p for p in few if p // 12 != 2 and p % 12 // 4 != 1]
    _round(area, "nearest-empty-group", "QNT-003", text, "int4:g4", weights, bare)
    _round(area, "nearest-empty-group-asym", "QNT-003", text, "int4:g4:asym", weights, bare)
    _round(area, "nearest-nothing", "QNT-003", text, "int8:g4", weights, [])
    text = "stored zeros that leave the support, or a division by 0"
    _round(
        area, "nearest-zeros", "QNT-002 QNT-003 QNT-004", text, "int4:g4", weights * (n.lattice((5, 12), 1) > 0), most
    )
    text = "ties away from zero"
    ties = np.array([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5], [14.0, 1.0, 3.0, 5.0, -1.0, -3.0, -5.0, -14.0]])
    _round(area, "nearest-ties", "QNT-004", text, "int4", ties, range(16))
    text = "rounded after the zero point is added"
    _round(area, "nearest-ties-asym", "QNT-004", text, "int4:asym", np.array([[-3.0, 12.0, 0.5, 1.5]]), range(4))
    # the scale is that of 57 and 127 codes, so 1 / s is not exact, and (k + 1/2) · s is
    scale = float(np.float32(57 / 127))
    text = "a product with 1 / s"
    ties = np.array([[57.0, *(scale * (k + 0.5) for k in (1, 3, 5, 7, 9, 11, 13))]])
    _round(area, "nearest-ties-inexact", "QNT-004", text, "int8", ties, range(8), dtypes=("float64",))
    text = "lo or hi without 0: all weights of one sign"
    _round(area, "nearest-one-sign", "QNT-003", text, "int4:g4:asym", np.abs(weights) + 1, most)
    _round(area, "nearest-negative", "QNT-003", text, "int8:asym", -np.abs(weights) - 1, most)
    text = "zero points that are not clamped, or rounded after 2^(b − 1) is taken off"
    lopsided = np.array([[-15.5, -0.5, -8.0, -1.0], [15.5, 7.0, 0.0, 1.0], [7.5, -7.5, 0.5, -0.5]])
    _round(area, "nearest-zero-points", "QNT-003 QNT-004", text, "int4:asym", lopsided, range(12))
    text = "a group whose scale underflows: codes by the scale of another group, or a zero point at the lowest code"
    small = np.array([[3.0, -3.0, 7.0, 2.0], [1.0, 0.0, 1e44, -1e44]]) * 2.0**-149
    small[1, 2:] = [7.0, -7.0]
    _round(area, "nearest-underflow", "QNT-003", text, "int4:g2", small, range(8))
    _round(area, "nearest-underflow-asym", "QNT-003", text, "int8:g2:asym", small, range(8))
    text = "scales in binary64, or quotients in binary32"
    thirds = (n.real((4, 6)) / 3).astype(np.float32).astype(np.float64)
    _round(area, "nearest-binary32", "QNT-003 QNT-004", text, "int8:g2", thirds, range(24))


def _gptq(area: Area) -> None:
    n = Numbers(60, 2)
    weights, inputs = n.real((5, 12)), n.real((40, 12))
    most = [p for p in range(60) if p % 3]
    clauses = "QNT-005"
    for grid in ("int4", "int4:g4", "int8:g6", "int4:g4:asym", "int8:asym"):
        text = f"{grid}: errors that are not carried, carried to pruned weights, or scales from before they are carried"
        _round(area, f"gptq-{grid.replace(':', '-')}", clauses, text, grid, weights, most, inputs=inputs)
    text = "errors lost at the end of a block, or a block within a group"
    _round(area, "gptq-blocks", clauses, text, "int4:g2", weights, most, inputs=inputs, block=5)
    _round(area, "gptq-blocks-row", clauses, text, "int4", weights, most, inputs=inputs, block=5)
    _round(
        area, "gptq-damping", "QNT-005 PRN-009", "damping fixed", "int4:g4", weights, most, inputs=inputs, damping=0.5
    )
    dead = inputs * np.array([1.0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0])
    text = "dead inputs that keep their weights, or leave the support"
    _round(area, "gptq-dead", "QNT-005 PRN-009", text, "int4:g4", weights, most, inputs=dead)
    text = "a group without weights inside a row"
    bare = [p for p in most if p % 12 // 4 != 1]
    _round(area, "gptq-empty-group", "QNT-005 QNT-003", text, "int4:g4", weights, bare, inputs=inputs)


def _weights(area: Area) -> None:
    n = Numbers(60, 3)
    scales, zeros = n.integers((3, 2), 1, 63).astype(np.float64) / 64, n.integers((3, 2), -128, 127)
    positions = n.subset(24, 17)
    codes = n.integers(17, -128, 127)
    for name, grid, zero_points in (("", "int8:g4", None), ("-asym", "int8:g4:asym", zeros)):
        text = "a scale of another group, or zero points with the wrong sign"
        _stand_for(area, f"weights{name}", text, grid, (3, 8), positions, codes, scales, zero_points)
    text = "a code equal to its zero point that leaves the support, or stands for −0"
    some = n.subset(8, 5)
    _stand_for(area, "weights-zero", text, "int4:asym", (1, 8), some, ids([3] * 5), reals([0.5])[None], ids([3])[None])
    text = "products rounded twice, or zero points taken off after the scale"
    third = (n.real((3, 2)) ** 2 / 3 + 0.01).astype(np.float32).astype(np.float64)
    _stand_for(area, "weights-rounded", text, "int8:g4:asym", (3, 8), positions, codes, third, zeros)


def _refusals(area: Area) -> None:
    weights = Numbers(60, 4).real((2, 6))
    for name, grid in (
        ("width", "int4:g4"), ("bits", "int2"), ("group", "int4:g0"), ("case", "INT4"), ("order", "int4:asym:g3"),
        ("empty", ""), ("more", "int8:g3:asym:"),
    ):  # fmt: skip
        inputs: dict[str, Any] = {"grid": grid, "weights": weights, "positions": ids(range(12))}
        text = "a row that groups do not divide, or text that is no grid"
        area.add(f"refuse-{name}", "quantise.matrix", "QNT-001", text, inputs, refused="QNT-001")
    for name, value, dtypes in (("nan", np.nan, None), ("infinity", -np.inf, None), ("scale", 1e300, ("float64",))):
        spoilt = weights.copy()
        spoilt[1, 2] = value
        inputs = {"grid": "int4:g3", "weights": spoilt, "positions": ids(range(12))}
        text = "a scale that is not a number"
        more: dict[str, Any] = {"dtypes": dtypes} if dtypes else {}
        area.add(f"refuse-{name}", "quantise.matrix", "QNT-003", text, inputs, refused="QNT-003", **more)
    for name, grid in (("near", "int4:g3"), ("near-asym", "int8:g3:asym")):
        spoilt = weights.copy()
        spoilt[1, 1:3] = np.array([1.0, -1.0]) * float(np.finfo(np.float32).max)
        inputs = {"grid": grid, "weights": spoilt, "positions": ids(range(12))}
        text = "a code that stands for an infinite weight"
        area.add(f"refuse-{name}", "quantise.matrix", "QNT-003", text, inputs, refused="QNT-003")
    inputs = {"grid": "int4:g3", "weights": weights, "positions": ids(range(12)), "inputs": np.eye(6), "block": 0}
    text = "a block without columns taken for one with some"
    area.add("refuse-block", "quantise.matrix", "QNT-005", text, inputs, refused="QNT-005")
    large = np.array([[1.0, 0.5, 3.4e38, 1.0]])
    inputs = {"grid": "int4:g2", "weights": large, "positions": ids(range(4)), "inputs": np.eye(4)[[0, 1, 3]]}
    text = "weights of dead inputs set to 0 before they are checked"
    area.add("refuse-dead", "quantise.matrix", "QNT-005", text, inputs, refused="QNT-003")
    spoilt = weights.copy()
    spoilt[1, 2] = np.nan
    _round(area, "spoilt-outside", "QNT-003", "NaN that is not stored refused", "int4:g3", spoilt, [0, 1, 4, 9])


def _round(
    area: Area, name: str, clauses: str, purpose: str, grid: str, weights: Array, positions: Any, **more: Any
) -> None:
    """Add a case of rounding a matrix; fail if a choice of GPTQ is too near to a tie."""
    at, which = sorted(positions), {key: more.pop(key) for key in ("dtypes",) if key in more}
    inputs = {"grid": grid, "weights": weights, "positions": ids(at), **more}
    if "inputs" in more:
        options = {key: more[key] for key in ("damping",) if key in more}
        coded, gap = quantise.gptq(weights, at, grid, more["inputs"], **options)
        assert gap > _GAP, f"{name} hangs on a distance of {gap}"
    else:
        coded = quantise.nearest(weights, at, grid)
    answer = {
        "codes": ids(coded.codes[p] for p in at),
        "scales": np.array(coded.scales, dtype=np.float64),
        "zeros": np.array(coded.zeros, dtype=np.int64),
    }
    area.add(name, "quantise.matrix", clauses, purpose, inputs, answer, **which)


def _stand_for(
    area: Area,
    name: str,
    purpose: str,
    grid: str,
    shape: tuple[int, int],
    positions: list[int],
    codes: Array,
    scales: Array,
    zeros: Array | None,
    **more: Any,
) -> None:
    coded = quantise.given(grid, shape, dict(zip(positions, codes.tolist(), strict=True)), scales, zeros)
    inputs = {"out": shape[0], "in": shape[1], "grid": grid, "positions": ids(positions), "codes": codes}
    inputs |= {"scales": scales} | ({} if zeros is None else {"zeros": zeros})
    answer = {"values": reals(float(coded.weight(p)) for p in positions)}
    area.add(name, "quantise.weights", "QNT-001 QNT-002", purpose, inputs, answer, **more)


def _merge(
    area: Area, name: str, clauses: str, purpose: str, matrix: Any, support: dict[int, float], mode: str, **more: Any
) -> None:
    dtype = np.float32 if more else np.float64
    made = quantise.merge(quantise.given(*matrix), support, mode, dtype)
    changed, vanished, saturated = made["counts"]
    answer = {
        "positions": ids(made["positions"]),
        "codes": ids(made["codes"]),
        "update": ids(made["update"]),
        "update_values": reals(made["update_values"]),
        "changed": changed,
        "vanished": vanished,
        "saturated": saturated,
    }
    area.add(name, "quantise.merge", clauses, purpose, _merge_inputs(matrix, support, mode), answer, **more)


def _merge_inputs(matrix: Any, support: dict[int, float], mode: str) -> dict[str, Any]:
    grid, shape, codes, scales, zeros = matrix
    inputs = {"out": shape[0], "in": shape[1], "grid": grid, "mode": mode, "scales": scales.astype(np.float64)}
    inputs |= {"positions": ids(sorted(codes)), "codes": ids(codes[p] for p in sorted(codes))}
    inputs |= {} if zeros is None else {"zeros": zeros}
    return inputs | {"support": ids(support), "values": reals(support.values())}


AREAS = (rounding, merging)
