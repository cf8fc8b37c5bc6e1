"""Properties of sizes beyond every boundary of an index type: prune."""

import numpy as np

from conformance.gen.numbers import ids
from conformance.oracle import (
    prune,
)
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND, shapes
from conformance.properties.trial import Trial, property_of


@property_of(
    "prune.large",
    "PRN-001 PRN-002 PRN-003 PRN-010 PRN-011 SEL-002",
    "prune",
    "prune.magnitude prune.wanda prune.sparsegpt",
    sees=(BEYOND,),
    seeded=1,
)
def _prune(d: Draw, t: Trial) -> None:
    """Pruning a large matrix keeps the same weights as sorting tuples, whatever the ties."""
    for shape in shapes(d)[1:]:
        many, sparsity = Many(d), d.integer(20, 80) / 100
        w, norms = many.lattice(shape, 50), many.integers(shape[1], 0, 3).astype(np.float64)
        t.saw(BEYOND, w.size > 65_536)
        t.case("prune.magnitude", {"weights": w, "sparsity": sparsity}, {"kept": ids(prune.magnitude(w, sparsity))})
        case_inputs = {"weights": w, "square_sums": norms**2, "sparsity": sparsity}
        t.case("prune.wanda", case_inputs, {"kept": ids(prune.wanda(w, norms.tolist(), sparsity))})
    # inputs are the identity, because ties are exact if H is diagonal
    w, inputs = Many(d).lattice((11_000, 6), 9), np.eye(6)
    kept, weights, _ = prune.sparsegpt(w, inputs, 0.5, block=4)
    case_inputs = {"weights": w, "inputs": inputs, "sparsity": 0.5, "block": 4}
    t.case("prune.sparsegpt", case_inputs, {"kept": ids(kept), "weights": weights})


@property_of(
    "prune.scope-large",
    "PRN-016 PRN-017 PRN-018",
    "prune",
    "prune.scope prune.random prune.owl",
    sees=(BEYOND,),
    seeded=1,
)
def _scope(d: Draw, t: Trial) -> None:
    """Scopes, draws and shares of outliers of large matrices are those of sorted tuples and plain sums."""
    many, sparsity = Many(d), d.integer(20, 80) / 100
    scores = [abs(many.lattice(shape, 40)) for shape in ((1, 65_600), (16_400, 4))]
    for scope in ("row", "matrix", "model"):
        t.saw(BEYOND, scores[0].size > 65_536)
        kept = [ids(one) for one in prune.scope(scores, sparsity, scope)]
        t.case("prune.scope", {"scores": scores, "sparsity": sparsity, "scope": scope}, {"kept": kept})
    for shape in ((65_600, 1), (257, 260)):
        seed = d.integer(0, 9)
        inputs = {"out": shape[0], "in": shape[1], "sparsity": sparsity, "seed": seed, "matrix": 1}
        t.case("prune.random", inputs, {"kept": ids(prune.random_mask(shape, sparsity, seed, 1))})
    # leave out the rare draw in which a score, which is an integer, lies on the limit (PRN-018.6)
    blocks = [[score] for score in scores]
    sparsities, nearest = prune.owl(blocks, 0.5, 1.75, 0.25)
    if nearest > 1e-9:
        t.case(
            "prune.owl",
            {"scores": blocks, "sparsity": 0.5, "outlier": 1.75, "spread": 0.25},
            {"sparsities": sparsities},
        )


@property_of("prune.pattern-large", "PRN-004", "nm", "prune.pattern", sees=(BEYOND,), seeded=1)
def _pattern(d: Draw, t: Trial) -> None:
    """N of every M columns of a large matrix are kept, ties at the lower one."""
    for shape in ((1, 65_600), (16_400, 4), (257, 260)):
        scores = abs(Many(d).lattice(shape, 5))
        t.saw(BEYOND, scores.size > 65_536)
        t.case("prune.pattern", {"scores": scores, "n": 2, "m": 4}, {"kept": ids(prune.pattern(scores, 2, 4))})
