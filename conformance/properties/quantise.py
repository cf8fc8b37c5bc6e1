"""Properties of quantised matrices (chapter 19)."""

from typing import Any

import numpy as np

from conformance.answers import answer
from conformance.answers.answer import Inputs, ids, reals
from conformance.answers.quantise import rounded
from conformance.oracle import quantise
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND
from conformance.properties.trial import Trial, property_of

_SURE = 1e-4
"""Least distance of a quotient of GPTQ from a tie in an example that is asked."""


def _grid(d: Draw, columns: int) -> str:
    group = d.choice([n for n in (1, 2, 3, 4, 8, 17) if columns % n == 0])
    return d.choice(("int4", "int8")) + d.choice(("", f":g{group}")) + d.choice(("", ":asym"))


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
    t.case("quantise.matrix", {"grid": grid, "weights": weights, "positions": ids(at)})


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
    case_inputs |= {"damping": 0.5} if d.flag() else {}
    expected, gap = rounded(Inputs(case_inputs))
    if gap < _SURE:
        return
    t.saw("blocks", case_inputs.get("block", columns) < columns)
    t.saw("groups", ":g" in grid)
    t.saw("a dead input", not inputs.any(axis=0).all())
    t.case("quantise.matrix", case_inputs, expected)


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
    zeros = zeros.reshape(scales.shape)
    inputs: dict[str, Any] = {"out": shape[0], "in": shape[1], "grid": grid, "scales": scales}
    inputs |= {"positions": ids(at), "codes": ids(codes)} | ({} if symmetric else {"zeros": zeros})
    t.case("quantise.weights", inputs)
    weights = dict(zip(at, answer("quantise.weights", inputs).outputs["values"].tolist(), strict=True))
    levels = d.with_specials(d.levels(len(support), 300))
    stays = d.integers(len(support), 0, 1)
    values = [weights[p] if stay and p in weights else w for p, w, stay in zip(support, levels, stays, strict=True)]
    merged = inputs | {"support": ids(support), "values": reals(values), "mode": d.choice(("beside", "grid"))}
    expected = dict(answer("quantise.merge", merged).outputs)
    t.saw(merged["mode"])
    t.saw("a vanished weight", expected["vanished"])
    t.saw("a saturated weight", expected["saturated"])
    t.saw("a code that leaves", set(at) - set(support))
    t.saw("a weight of its code", expected["changed"] < len(support))
    t.case("quantise.merge", merged, expected)


@property_of(
    "quantise.large", "QNT-001 QNT-002 QNT-004 QNT-006", "quant", "quantise.matrix quantise.weights quantise.merge",
    sees=(BEYOND,), seeded=1,
)  # fmt: skip
def _large(d: Draw, t: Trial) -> None:
    """Codes are right if there are more than 65,536, and if flat positions are above 2³²."""
    shape, many = (257 + d.integer(0, 3), 272), Many(d)
    size = shape[0] * shape[1]
    at = many.subset(size, size - size // 200)
    t.saw(BEYOND, len(at) > 65_536)
    t.case("quantise.matrix", {"grid": "int4:g16", "weights": many.lattice(shape, 7), "positions": at})
    wide = (70_000, 70_001)
    far = many.subset(wide[0] * wide[1], 40)
    codes, scales = many.integers(40, -128, 127), 2.0 ** -many.integers(wide[0], 0, 3).astype(np.float64)[:, None]
    matrix: dict[str, Any] = {"out": wide[0], "in": wide[1], "grid": "int8", "positions": far, "codes": codes}
    t.case("quantise.weights", matrix | {"scales": scales})
    values = (codes * scales[far // wide[1], 0])[::2] + 0.0625
    t.case("quantise.merge", matrix | {"scales": scales, "support": far[::2], "values": values, "mode": "beside"})
