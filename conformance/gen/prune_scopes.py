"""Cases of scopes, random pruning and OWL (PRN-016 to PRN-018)."""

import numpy as np

from conformance.gen.numbers import Area, Numbers, ids
from conformance.oracle import prune


def scopes() -> Area:
    """Return cases of pruning by row, by matrix and by model, at random, and with a sparsity for each block."""
    area = Area("prune-scope", "sorted tuples")
    n = Numbers(171, 1)
    levels = [np.abs(n.lattice(shape, 3)) for shape in ((4, 6), (3, 5), (2, 9))]
    # the scores of the first matrix are all large, those of the second are all small
    apart = [np.abs(n.real((3, 7))) + 8.0, np.abs(n.real((5, 4))) * 0.25]
    for name, scores, sparsity, purpose in (
        ("ties", levels, 0.4, "ties to another matrix or a higher position"),
        ("apart", apart, 0.45, "a count for each matrix where the model is asked, or the other way round"),
        ("last-bit", [np.abs(n.real((10, 10))), np.abs(n.real((5, 20)))], 0.29, "0.29 · 100 is 28.999999999999996"),
        ("zeros", [np.where(n.lattice((4, 5), 1) > 0, 0.0, -0.0), np.zeros((2, 3))], 0.5, "−0 ranked below +0"),
        ("nothing", apart, 0.0, "sparsity 0 removes something"),
        ("empty", [np.zeros((0, 4)), levels[1], np.zeros((3, 0))], 0.5, "a matrix without weights"),
    ):
        for scope in ("row", "matrix", "model"):
            inputs = {"scores": scores, "sparsity": sparsity, "scope": scope}
            answer = {"kept": [ids(kept) for kept in prune.scope(scores, sparsity, scope)]}
            area.add(f"{name}-{scope}", "prune.scope", "PRN-001 PRN-016", purpose, inputs, answer)
    bad = {"scores": levels, "sparsity": 0.5, "scope": "block"}
    area.add("refuse-scope", "prune.scope", "PRN-016", "a scope that there is not", bad, refused="PRN-016")
    broken = [levels[0], levels[1].copy()]
    broken[1][1, 2] = np.nan
    for scope in ("row", "matrix", "model"):
        bad = {"scores": broken, "sparsity": 0.5, "scope": scope}
        area.add(f"refuse-nan-{scope}", "prune.scope", "PRN-015 SEL-004", "NaN ranked", bad, refused="SEL-004")
    bad = {"scores": levels, "sparsity": 1.0, "scope": "model"}
    area.add("refuse-sparsity", "prune.scope", "PRN-001", "a sparsity of 1", bad, refused="PRN-001")
    _random(area)
    _owl(area)
    return area


def _random(area: Area) -> None:
    for name, shape, sparsity, seed, matrix, purpose in (
        ("first", (5, 8), 0.5, 0, 0, "another key"),
        ("matrix", (5, 8), 0.5, 0, 3, "the same mask for matrices of one shape"),
        ("seed", (7, 3), 0.7, 2**40 + 1, 1, "a seed cut to 32 bits"),
        ("none", (3, 4), 0.0, 1, 0, "sparsity 0 removes something"),
    ):
        inputs = {"out": shape[0], "in": shape[1], "sparsity": sparsity, "seed": seed, "matrix": matrix}
        answer = {"kept": ids(prune.random_mask(shape, sparsity, seed, matrix))}
        area.add(f"random-{name}", "prune.random", "PRN-017 PRN-016", purpose, inputs, answer)


def _owl(area: Area) -> None:
    n = Numbers(171, 2)
    shapes = ((4, 6), (3, 4))
    blocks = [[np.abs(n.lattice(shape, 3 + 4 * i)) for shape in shapes] for i in range(4)]
    for i, block in enumerate(blocks):
        for j in range(i):
            block[j % 2][j, j] = 64.0
    flat = [[np.full((2, 3), 2.0)], [np.full((4, 4), 3.0)]]
    for name, scores, outlier, spread, purpose in (
        ("usual", blocks, 5.0, 0.08, "a mean of each matrix instead of the block, or shares that are not centred"),
        ("near", blocks, 1.75, 0.25, "outliers counted from the mean on"),
        ("none", blocks, 5.0, 0.0, "a spread that is not used"),
        ("equal", flat, 5.0, 0.08, "0 divided by 0 where blocks are alike"),
        ("exact", [[np.array([[1.0, 1.0, 1.0, 5.0]])], [np.array([[1.0, 1.0, 1.0, 1.0]])]], 2.5, 0.1, "≥ for >"),
    ):
        sparsities, nearest = prune.owl(scores, 0.6, outlier, spread)
        assert name == "exact" or nearest > 1e-6
        inputs = {"scores": scores, "sparsity": 0.6, "outlier": outlier, "spread": spread}
        area.add(f"owl-{name}", "prune.owl", "PRN-018", purpose, inputs, {"sparsities": sparsities})
    usual = {"scores": blocks, "sparsity": 0.6, "outlier": 5.0, "spread": 0.08}
    for name, change in (
        ("outlier", {"outlier": 0.0}),
        ("infinite", {"outlier": float("inf")}),
        ("spread", {"spread": -0.01}),
        ("wide", {"spread": 0.75}),
    ):
        purpose = "numbers that give no sparsity"
        area.add(f"refuse-owl-{name}", "prune.owl", "PRN-018", purpose, usual | change, refused="PRN-018")


AREAS = (scopes,)
