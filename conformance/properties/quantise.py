"""Properties of quantised matrices (chapter 19)."""

from typing import Any

import numpy as np

from conformance.gen.numbers import Array, ids, reals
from conformance.oracle import quantise
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND
from conformance.properties.trial import Trial, property_of

_SURE = 1e-4
"""Least distance of a quotient of GPTQ from a tie in an example that is asked."""


def _grid(d: Draw, columns: int) -> str:
    group = d.choice([n for n in (1, 2, 3, 4, 8, 17) if columns % n == 0])
    return d.choice(("int4", "int8")) + d.choice(("", f":g{group}")) + d.choice(("", ":asym"))


def _rounded(coded: quantise.Coded, at: list[int]) -> dict[str, Any]:
    return {
        "codes": ids(coded.codes[p] for p in at),
        "scales": np.array(coded.scales, dtype=np.float64).reshape(coded.shape[0], -1),
        "zeros": np.array(coded.zeros, dtype=np.int64).reshape(coded.shape[0], -1),
    }


@property_of(
    "quantise.nearest",
    "QNT-001 QNT-002 QNT-003 QNT-004",
    "quant",
    "quantise.matrix",
    sees=("groups", "zero points", "a group without weights", "a stored weight of 0"),
)
def _nearest(d: Draw, t: Trial) -> None:
    """Scales, zero points and codes equal those of exact fractions, entry by entry."""
    shape = d.shape(8)
    at, _ = d.mask(shape)
    weights = d.real(shape) if d.flag() else d.lattice(shape, 4) / 4
    grid = _grid(d, shape[1])
    coded = quantise.nearest(weights, at, grid)
    t.saw("groups", len(coded.scales[0]) > 1)
    t.saw("zero points", grid.endswith("asym"))
    groups = {(p // shape[1], p % shape[1] // coded.columns) for p in at}
    t.saw("a group without weights", len(groups) < sum(map(len, coded.scales)))
    t.saw("a stored weight of 0", any(not coded.weight(p) for p in at))
    t.case("quantise.matrix", {"grid": grid, "weights": weights, "positions": ids(at)}, _rounded(coded, at))


@property_of("quantise.gptq", "QNT-005", "quant", "quantise.matrix", sees=("blocks", "groups", "a dead input"))
def _gptq(d: Draw, t: Trial) -> None:
    """Codes are those of one inverse for each column, and errors go to stored weights alone."""
    columns = 4 * d.integer(1, 3)
    shape = (d.integer(1, 5), columns)
    weights, inputs = d.real(shape), d.real((d.integer(2, 20), columns))
    if d.flag(3):
        inputs[:, d.integer(0, columns - 1)] = 0.0
    at, grid = d.subset(shape[0] * columns), d.choice(("int4", "int8:g2", "int4:g4", "int8:asym", "int4:g4:asym"))
    case_inputs: dict[str, Any] = {"grid": grid, "weights": weights, "positions": ids(at), "inputs": inputs}
    case_inputs |= {"block": d.integer(3, 6)} if d.flag() else {}
    damping = 0.5 if d.flag() else 0.01
    case_inputs |= {"damping": damping} if damping == 0.5 else {}
    coded, gap = quantise.gptq(weights, at, grid, inputs, damping)
    if gap < _SURE:
        return
    t.saw("blocks", case_inputs.get("block", columns) < columns)
    t.saw("groups", ":g" in grid)
    t.saw("a dead input", not inputs.any(axis=0).all())
    t.case("quantise.matrix", case_inputs, _rounded(coded, at))


@property_of(
    "quantise.merge",
    "QNT-002 QNT-006 QNT-007",
    "quant",
    "quantise.weights quantise.merge",
    sees=("beside", "grid", "a vanished weight", "a saturated weight", "a code that leaves", "a weight of its code"),
)
def _merge(d: Draw, t: Trial) -> None:
    """Codes decode to weights. A merge keeps codes of unchanged weights, and codes the rest or stores it beside."""
    shape = d.shape(8)
    grid = d.choice(("int4", "int8")) + d.choice(("", ":g1")) + d.choice(("", ":asym"))
    coded, symmetric = quantise.empty(grid, shape)
    at, support = d.mask(shape)[0], d.mask(shape)[0]
    codes = [coded.low + n for n in d.integers(len(at), 0, coded.high - coded.low)]
    groups = shape[1] // coded.columns
    scales = reals(2.0**-n for n in d.integers(shape[0] * groups, 0, 3)).reshape(shape[0], groups)
    zeros = ids(coded.low + n for n in d.integers(shape[0] * groups, 0, coded.high - coded.low))
    matrix = (
        grid,
        shape,
        dict(zip(at, codes, strict=True)),
        scales,
        None if symmetric else zeros.reshape(scales.shape),
    )
    coded = quantise.given(*matrix)
    inputs: dict[str, Any] = {"out": shape[0], "in": shape[1], "grid": grid, "scales": scales}
    inputs |= {"positions": ids(at), "codes": ids(codes)} | ({} if symmetric else {"zeros": matrix[4]})
    t.case("quantise.weights", inputs, {"values": reals(float(coded.weight(p)) for p in at)})
    levels = d.with_specials(d.levels(len(support), 300))
    stays = d.integers(len(support), 0, 1)
    values = {
        p: float(coded.weight(p)) if stay and p in coded.codes else w
        for p, w, stay in zip(support, levels, stays, strict=True)
    }
    mode = d.choice(("beside", "grid"))
    made = quantise.merge(coded, values, mode, np.float64)
    changed, vanished, saturated = made["counts"]
    t.saw(mode)
    t.saw("a vanished weight", vanished)
    t.saw("a saturated weight", saturated)
    t.saw("a code that leaves", set(at) - set(support))
    t.saw("a weight of its code", changed < len(support))
    answer: dict[str, Any] = {"positions": ids(made["positions"]), "codes": ids(made["codes"])}
    answer |= {"update": ids(made["update"])}
    answer |= {"update_values": reals(made["update_values"])}
    answer |= {"changed": changed, "vanished": vanished, "saturated": saturated}
    merge_inputs = inputs | {"support": ids(support), "values": reals(values.values()), "mode": mode}
    t.case("quantise.merge", merge_inputs, answer)


@property_of(
    "quantise.large", "QNT-001 QNT-002 QNT-004 QNT-006", "quant", "quantise.matrix quantise.weights quantise.merge",
    sees=(BEYOND,), seeded=1,
)  # fmt: skip
def _large(d: Draw, t: Trial) -> None:
    """Codes are right if there are more than 65,536, and if flat positions are above 2³²."""
    shape, many = (257 + d.integer(0, 3), 272), Many(d)
    size = shape[0] * shape[1]
    at = many.subset(size, size - size // 200)
    weights = many.lattice(shape, 7)
    weights[:, ::16] = 7.0
    t.saw(BEYOND, len(at) > 65_536)
    stored = np.isin(np.arange(size), at)
    groups = np.abs(np.where(stored, weights.reshape(-1), 0)).reshape(-1, 16).max(axis=1)
    unit = groups == 7.0
    # positions of other groups are left out, because only a group that stores a weight of 7 has a scale of 1
    at = ids(p for p in at if unit[p // 16])
    inputs: dict[str, Any] = {"grid": "int4:g16", "weights": weights, "positions": at}
    answer: dict[str, Any] = {"codes": weights.reshape(-1)[at].astype(np.int64)}
    answer |= {"scales": np.ones((shape[0], 17)), "zeros": np.zeros((shape[0], 17), dtype=np.int64)}
    t.case("quantise.matrix", inputs, answer)
    wide = (70_000, 70_001)
    far = many.subset(wide[0] * wide[1], 40)
    codes, scales = many.integers(40, -128, 127), 2.0 ** -many.integers(wide[0], 0, 3).astype(np.float64)[:, None]
    matrix: dict[str, Any] = {"out": wide[0], "in": wide[1], "grid": "int8", "positions": far, "codes": codes}
    values: Array = codes * scales[far // wide[1], 0]
    t.case("quantise.weights", matrix | {"scales": scales}, {"values": values})
    half = far[::2]
    merge_inputs = matrix | {"scales": scales, "support": half, "values": values[::2] + 0.0625, "mode": "beside"}
    answer = {"positions": half, "codes": codes[::2], "update": half, "update_values": values[::2] + 0.0625}
    t.case("quantise.merge", merge_inputs, answer | {"changed": 20, "vanished": 0, "saturated": 0})
