"""Cases of chapters 2, 7 and 8 that the other cases lack: gaps of pools, shares of budgets, norms."""

from math import hypot
from typing import Any

import numpy as np

from conformance.gen.numbers import Area, Numbers, ids, reals
from conformance.oracle import select_pools, update_counts

_BOTH = ("float64", "float32")


def selections() -> Area:
    """Return cases of gaps, shares and norms (SEL-008, DLT-002, TRN-009)."""
    area = Area("hole", "plain Python")
    for name, scores, pools, counts, purpose in (
        ("far", [100.0, 101.0, 0.5, 0.75], [0, 0, 1, 1], [1, 1], "the smallest difference, not the smallest gap"),
        ("near", [-3.0, -2.0, 64.0, 66.0, 1.0], [1, 1, 2, 2, 0], [1, 1, 1], "a gap by a score with its sign"),
        ("zero", [0.0, -0.0, 8.0, 8.0, 1.0, 2.0], [2, 2, 1, 1, 0, 0], [1, 1, 1], "0 / 0 for a gap of equal zeros"),
        ("sides", [-1.0, 1.0, 4.0, 1.0], [0, 0, 1, 1], [1, 1], "a gap above 1 across zero"),
    ):
        for largest in (0, 1):
            scored = [(pool, i, x) for i, (pool, x) in enumerate(zip(pools, scores, strict=True))]
            selection = select_pools.select(scored, dict(enumerate(counts)), largest=bool(largest))
            near = select_pools.nearest([b for _, b in selection.boundaries])
            inputs: dict[str, Any] = {"scores": reals(scores), "ids": ids(range(len(scores))), "pools": ids(pools)}
            inputs |= {"counts": ids(counts), "largest": largest}
            answer: dict[str, Any] = {"chosen": ids(selection.chosen)}
            boundary = (near[0] + 0.0, near[1] + 0.0, select_pools.gap(near)) if near else ()
            for i, key in enumerate(("inside", "outside", "gap")):
                answer[key] = reals(boundary[i : i + 1])
            side = "largest" if largest else "smallest"
            area.add(f"gap-{name}-{side}", "select.pools", "SEL-008 SEL-007", purpose, inputs, answer)
    for name, amount, shapes in (
        ("49", 49, [(1, 1), (6, 8)]),
        ("whole", 1, [(7, 7)]),
        ("reciprocal", 103, [(1, 1), (2, 51)]),
    ):
        stored = [m * n for m, n in shapes]
        inputs = {"by": "count", "amount": amount, "shapes": np.array(shapes, dtype=np.int64), "stored": ids(stored)}
        answer = {"n": ids(update_counts.delta_budgets("count", amount, shapes, stored))}
        purpose = "n · (m / total) or (n / total) · m in floating point, one below the share"
        area.add(f"share-{name}", "count.budgets", "DLT-002", purpose, inputs, answer)
    n = Numbers(123, 1)
    plain = n.lattice((19, 17), 3)
    for name, gradient, dtypes, purpose in (
        ("large", plain * 2.0**70, _BOTH, "squares that overflow in binary32, in a sum of many"),
        ("tiny", plain * 2.0**-80, _BOTH, "squares that underflow in binary32, in a sum of many"),
    ):
        inputs = {"out": 19, "in": 17, "gradient": gradient}
        answer = {"norm": hypot(*(float(g) for g in gradient.reshape(-1)))}
        area.add(f"norm-{name}", "gradient.norm", "EVT-005 TRN-009 NUM-004", purpose, inputs, answer, dtypes=dtypes)
    return area


AREAS = (selections,)
