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
    """Large matrices are pruned as by sorted tuples, whatever the ties."""
    for shape in shapes(d)[1:]:
        many, sparsity = Many(d), d.integer(20, 80) / 100
        w, norms = many.lattice(shape, 50), many.integers(shape[1], 0, 3).astype(np.float64)
        t.saw(BEYOND, w.size > 65_536)
        kept = {"kept": ids(prune.magnitude(w, sparsity))}
        t.case("prune.magnitude", {"weights": w, "sparsity": sparsity}, kept)
        given = {"weights": w, "square_sums": norms**2, "sparsity": sparsity}
        t.case("prune.wanda", given, {"kept": ids(prune.wanda(w, norms.tolist(), sparsity))})
    # inputs are the identity, because ties are exact if H is diagonal
    w, inputs = Many(d).lattice((11_000, 6), 9), np.eye(6)
    removed, weights, _ = prune.sparsegpt(w, inputs, 0.5, block=4)
    given = {"weights": w, "inputs": inputs, "sparsity": 0.5, "block": 4}
    t.case("prune.sparsegpt", given, {"kept": ids(removed), "weights": weights})


@property_of("prune.pattern-large", "PRN-004", "nm", "prune.pattern", sees=(BEYOND,), seeded=1)
def _pattern(d: Draw, t: Trial) -> None:
    """N of every M columns of a large matrix are kept, ties at the lower one."""
    for shape in ((1, 65_600), (16_400, 4), (257, 260)):
        scores = abs(Many(d).lattice(shape, 5))
        t.saw(BEYOND, scores.size > 65_536)
        t.case("prune.pattern", {"scores": scores, "n": 2, "m": 4}, {"kept": ids(prune.pattern(scores, 2, 4))})
