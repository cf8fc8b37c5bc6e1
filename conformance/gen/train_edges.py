"""Cases of chapters 4, 7, 10 and 11, each for a condition that no other case has alone."""

import math
from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.numbers import Area, ids, product_bound, reals
from conformance.oracle import update_counts

# Each value is (a, weights, inputs). a · a is 0.78 or 0.88 of a last place above a number of the 16-bit type, and the
# sums need rounding too. The products of `subnormal` are subnormal in binary16, whose smallest number is 2^-24.
_ROUNDED: dict[str, tuple[float, list[float], list[float]]] = {
    "bfloat16": (138 / 128, [16.0, 1.0, 0.5], [16.0, 1.5, 0.5]),
    "float16": (1054 / 1024, [16.0, 1.0, 0.5], [128.0, 1.5, 0.5]),
    "subnormal": (2.0**-9, [2.0**-10, 2.0**-11, 2.0**-12], [2.0**-9, 2.0**-10, 2.0**-24]),
}


def others() -> Area:
    """Return cases of one condition each (DLT-002, SEL-008, LYR-011, PRN-007, PRN-009)."""
    area = Area("edge", "sorted tuples and integers")
    inputs: dict[str, Any] = {"logits": np.zeros((2, 3)), "targets": ids([-100, -100]), "count": 0, "dloss": 1.0}
    area.add("no-count", "layer.cross_entropy", "LYR-011", "0 / 0", inputs, refused="LYR-011")
    inputs = {"by": "nnz", "amount": 0.29, "shapes": np.array([(10, 20)], dtype=np.int64), "stored": ids([100])}
    answer = {"n": ids(update_counts.delta_budgets("nnz", 0.29, [(10, 20)], [100]))}
    area.add("nnz-last-bit", "count.budgets", "DLT-002 SEL-006", "0.29 · 100 cut to 28", inputs, answer)
    # gaps are 1.25 / 2.25 and 4 / 4; divided by the inner scores they would be 1.25 and 1, so the order changes
    inputs = {"scores": reals([1.0, 2.25, -4.0, 0.0]), "ids": ids(range(4)), "pools": ids([0, 0, 1, 1])}
    inputs |= {"counts": ids([1, 1]), "largest": 0}
    pool_answer = {"chosen": ids([0, 2]), "inside": reals([1.0]), "outside": reals([2.25]), "gap": reals([1.25 / 2.25])}
    area.add("gap", "select.pools", "SEL-008 SEL-007", "gaps over the score inside", inputs, pool_answer)
    inputs = {"scores": reals([-0.0, 1.0, -0.0, -2.0]), "ids": ids(range(4)), "pools": ids([0, 0, 1, 1])}
    inputs |= {"counts": ids([1, 0]), "largest": 0}
    pool_answer = {"chosen": ids([0]), "inside": reals([0.0]), "outside": reals([1.0]), "gap": reals([1.0])}
    area.add("zero-inside", "select.pools", "SEL-008", "a boundary of −0", inputs, pool_answer)
    inputs = inputs | {"counts": ids([0, 1]), "largest": 0}
    pool_answer = {"chosen": ids([3]), "inside": reals([-2.0]), "outside": reals([0.0]), "gap": reals([1.0])}
    area.add("zero-outside", "select.pools", "SEL-008", "a boundary of −0", inputs, pool_answer)
    short = {"tokens": 7, "length": 8, "seed": 0, "n": 1}
    area.add("calibration", "text.calibration", "PRN-007", "a text that wraps", short, refused="PRN-007")
    plain: dict[str, Any] = {"weights": np.eye(2), "inputs": np.eye(2), "sparsity": 0.5}
    sums = {"weights": np.eye(2), "square_sums": reals([math.nan, 1.0]), "sparsity": 0.5}
    text = "NaN taken for an input that is never there"
    area.add("nan-sum", "prune.wanda", "PRN-003", text, sums, refused="PRN-003 PRN-015 SEL-004")
    bad_inputs = reals([math.inf, 1.0, 0.0, 1.0]).reshape(2, 2)
    for name, change in (("damping", {"damping": math.inf}), ("inputs", {"inputs": bad_inputs})):
        text = "numbers that are not finite"
        area.add(f"infinite-{name}", "prune.sparsegpt", "PRN-009", text, plain | change, refused="PRN-009")
    _rounded(area)
    return area


def _rounded(area: Area) -> None:
    """Add gradients that a 16-bit type rounds (PRT-011)."""
    for name, (a, weights, inputs) in _ROUNDED.items():
        dy, rows = reals([a, 1.0, 1.0, -a]).reshape(2, 2), reals([a, *inputs, 0.0, *weights]).reshape(2, 4)
        whole, bound = dy.T @ rows, product_bound(dy.T, rows, 2)
        case_inputs: dict[str, Any] = {"dy": dy, "x": rows}
        text, clauses = "a result cut to sixteen bits, rounded to one side, or flushed to zero", "NUM-002 PRT-011"
        how: dict[str, Any] = {"bounds": {"gradient": bound}}
        answer = {"gradient": whole}
        area.add(f"gradient-rounded-{name}", "gradient.whole", f"GRD-001 {clauses}", text, case_inputs, answer, **how)
        case_inputs = case_inputs | {"out": 2, "in": 4, "positions": ids(range(8))}
        how = {"bounds": {"values": Bound(bound.gauge.reshape(-1), 2)}}
        answer = {"values": whole.reshape(-1)}
        area.add(f"at-rounded-{name}", "gradient.at", f"GRD-002 {clauses}", text, case_inputs, answer, **how)


AREAS = (others,)
