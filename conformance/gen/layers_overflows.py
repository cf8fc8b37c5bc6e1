"""Cases of numbers that overflow. A port must refuse them, because a later step may make them finite (TRN-019)."""

import numpy as np

from conformance.gen.numbers import Area, Numbers, ids
from conformance.oracle import prune


def pruning_scores(area: Area) -> None:
    """Add scores of Wanda that tie in binary32 only, and scores that are not finite (PRN-014, PRN-015)."""
    n, binary32 = Numbers(40, 3), ("float32",)
    weights = abs(n.integers((4, 8), 1, 9)) * 1.0
    near = 1.9375 + n.integers((4, 8), 0, 8) * 2.0**-23
    third = np.full(8, 1.25)
    for name, w, square, purpose in (
        ("large", weights * 2.0**100, np.full(8, 2.0**100), "scores that overflow in binary32 and tie"),
        ("small", weights * 2.0**-100, np.full(8, 2.0**-110), "scores that underflow in binary32 and tie"),
        ("near", near, third, "scores rounded to binary32, in which neighbours tie"),
    ):
        kept = ids(prune.wanda(w, [float(x) ** 0.5 for x in square], 0.5))
        inputs = {"weights": w, "square_sums": square, "sparsity": 0.5}
        area.add(f"wanda-{name}", "prune.wanda", "PRN-003 PRN-014", purpose, inputs, {"kept": kept}, dtypes=binary32)
    inputs = {"weights": weights, "square_sums": third, "sparsity": 0.5}
    broken = third.copy()
    broken[3] = np.inf
    purpose = "a sum that overflowed ranked above all others"
    area.add("refuse-sum", "prune.wanda", "PRN-003", purpose, inputs | {"square_sums": broken}, refused="PRN-003")
    far = inputs | {"weights": weights * 2.0**600, "square_sums": third * 2.0**1000}
    purpose = "scores that overflow in binary64 and tie"
    area.add(
        "refuse-score", "prune.wanda", "PRN-015 SEL-004", purpose, far, refused="PRN-015 SEL-004", dtypes=("float64",)
    )
    scores = weights.copy()
    scores[2, 5] = np.inf
    pattern_inputs = {"scores": scores, "n": 2, "m": 4}
    purpose = "an infinite score ranked above all others"
    area.add("refuse-infinite", "prune.pattern", "PRN-015 SEL-004", purpose, pattern_inputs, refused="PRN-015 SEL-004")
    far = {"weights": weights * 2.0**600, "inputs": np.eye(8), "sparsity": 0.5}
    purpose = "squares of weights that overflow and tie"
    area.add(
        "refuse-cost",
        "prune.sparsegpt",
        "PRN-015 SEL-004",
        purpose,
        far,
        refused="PRN-015 SEL-004",
        dtypes=("float64",),
    )
