"""Cases of selection in pools (SEL-007, SEL-008)."""

import math

import numpy as np

from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.oracle import select_pools


def in_pools() -> Area:
    """Return cases of selection in pools (SEL-007, SEL-008)."""
    area = Area("pools", "sorted tuples")
    n = Numbers(73, 1)
    levels = [float(x) for x in n.integers(18, 1, 3)]
    of = sorted(int(x) for x in n.integers(18, 0, 5))
    sizes = [of.count(p) for p in range(6)]
    spread = [float(x) for x in abs(n.real(18))]
    for name, scored, pool, counts, purpose in (
        ("one", [1.0, 3.0, 3.0, 2.0], [0] * 4, [2], "the example of chapter 7: a boundary of another pair"),
        ("levels", levels, of, [s // 2 for s in sizes], "one selection over all pools; ties to a higher id"),
        ("spread", spread, of, [s // 2 for s in sizes], "the largest gap taken, or the boundary of the first pool"),
        ("mixed", levels, of, [0, *sizes[1:3], 1, 1, 0], "a boundary where nothing is chosen or nothing left"),
        ("none", levels, of, [0] * 6, "a boundary of an empty selection"),
        ("all", levels, of, sizes, "a boundary of a selection that leaves nothing"),
        ("empty-pools", [4.0, 1.0, 2.0], [1, 1, 4], [0, 1, 0, 0, 1, 0], "pools without ids shift those after them"),
        ("zero-scores", [0.0] * 8, [0] * 4 + [1] * 4, [2, 3], "0 / 0 in a gap where both scores are 0"),
        ("equal-gaps", [1.0, 2.0, 4.0, 8.0, 3.0, 6.0], [0, 0, 1, 1, 2, 2], [1, 1, 1], "the last of equal gaps"),
        ("nothing", [], [], [], "no ids at all"),
        ("no-ids", [], [], [0, 0], "pools without any ids"),
    ):
        labels = ids(3 * i + 1 for i in range(len(scored)))
        for largest in (0, 1) if name in ("one", "levels", "spread") else (len(scored) % 2,):
            entries = list(zip(pool, [int(i) for i in labels], scored, strict=True))
            selection = select_pools.select(entries, dict(enumerate(counts)), largest=bool(largest))
            near = select_pools.nearest([b for _, b in selection.boundaries])
            answer = {"chosen": ids(selection.chosen), "inside": reals([near[0]] if near else [])}
            answer |= {"outside": reals([near[1]] if near else []), "gap": _gap_of(near)}
            inputs = {"scores": reals(scored), "ids": labels, "pools": ids(pool), "counts": ids(counts)}
            kind = "largest" if largest else "smallest"
            clauses = f"SEL-007 SEL-008 {'SEL-001' if largest else 'SEL-002'} SEL-003"
            area.add(f"{kind}-{name}", "select.pools", clauses, purpose, inputs | {"largest": largest}, answer)
    close = [float(np.float32(x)) for x in (1.612568736, 1.877071857, 1.458720088, 1.697988033)]
    selection = select_pools.select(list(zip([0, 0, 1, 1], range(4), close, strict=True)), {0: 1, 1: 1}, largest=False)
    best = select_pools.nearest([b for _, b in selection.boundaries])
    assert best is not None
    inputs = {"scores": reals(close), "ids": ids(range(4)), "pools": ids([0, 0, 1, 1]), "counts": ids([1, 1])}
    answer = {
        "chosen": ids(selection.chosen),
        "inside": reals(best[:1]),
        "outside": reals(best[1:]),
        "gap": _gap_of(best),
    }
    text = "gaps compared in float32, in which the wrong one is the smaller or both are equal"
    clauses = "SEL-008 SEL-007"
    area.add("near-gaps", "select.pools", clauses, text, inputs | {"largest": 0}, answer, dtypes=("float32",))
    for name, bad, counts, clause in (
        ("too-many", [1.0, 2.0, 3.0], [2, 2], "SEL-005 SEL-007"),
        ("negative", [1.0, 2.0, 3.0], [-1, 1], "SEL-005 SEL-007"),
        ("nan", [1.0, math.nan, 3.0], [1, 1], "SEL-004"),
    ):
        inputs = {"scores": reals(bad), "ids": ids([0, 1, 2]), "pools": ids([0, 1, 1]), "counts": ids(counts)}
        text = "a pool that lacks ids borrows from another; NaN ranked" if name != "nan" else "NaN ranked"
        if name == "too-many":
            inputs["pools"] = ids([0, 0, 1])
        area.add(f"refuse-{name}", "select.pools", clause, text, inputs | {"largest": 1}, refused=clause)
    return area


def _gap_of(near: select_pools.Boundary | None) -> Array:
    return reals([select_pools.gap(near)] if near else [])


AREAS = (in_pools,)
