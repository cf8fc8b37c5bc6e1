"""Properties of sizes beyond every boundary of an index type: prune."""

import numpy as np

from conformance.answers.answer import Inputs
from conformance.answers.prune import model, sparsegpt
from conformance.oracle import prune
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND, beyond, shapes
from conformance.properties.model_large import WIDE, wide_config, wide_tensors
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
        t.case("prune.magnitude", {"weights": w, "sparsity": sparsity})
        t.case("prune.wanda", {"weights": w, "square_sums": norms**2, "sparsity": sparsity})
    # inputs are the identity, because ties are exact if H is diagonal
    w = Many(d).lattice((11_000, 6), 9)
    t.case("prune.sparsegpt", {"weights": w, "inputs": np.eye(6), "sparsity": 0.5, "block": 4})


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
        t.case("prune.scope", {"scores": scores, "sparsity": sparsity, "scope": scope})
    for shape in ((65_600, 1), (257, 260)):
        inputs = {"out": shape[0], "in": shape[1], "sparsity": sparsity, "seed": d.integer(0, 9), "matrix": 1}
        t.case("prune.random", inputs)
    # leave out the rare draw in which a score, which is an integer, lies on the limit (PRN-018.6)
    blocks = [[score] for score in scores]
    if prune.owl(blocks, 0.5, 1.75, 0.25)[1] > 1e-9:
        t.case("prune.owl", {"scores": blocks, "sparsity": 0.5, "outlier": 1.75, "spread": 0.25})


@property_of("prune.pattern-large", "PRN-004", "nm", "prune.pattern", sees=(BEYOND,), seeded=1)
def _pattern(d: Draw, t: Trial) -> None:
    """N of every M columns of a large matrix are kept, ties at the lower one."""
    for shape in ((1, 65_600), (16_400, 4), (257, 260)):
        scores = abs(Many(d).lattice(shape, 5))
        t.saw(BEYOND, scores.size > 65_536)
        t.case("prune.pattern", {"scores": scores, "n": 2, "m": 4})


_TRIED = 20
"""The most examples that are drawn to get one in which rounding cannot change a choice."""
_SURE = 1e-5
"""The least relative gap between scores of Wanda; the error of a score in binary32 is below a tenth of it."""
_SURE_COST = 2e-4
"""The least relative gap between costs of SparseGPT, whose errors an inverse makes larger."""
_FEW = 0.03
"""A low sparsity, at which costs beside the boundary lie further apart, relative to their size."""


@property_of("prune.model-large", "PRN-003 PRN-005", "prune", "prune.model", sees=(WIDE,), seeded=1)
def _model(d: Draw, t: Trial) -> None:
    """A model of wide matrices is pruned by the inputs of more tokens than a batch has."""
    for _ in range(_TRIED):
        config = wide_config(d)
        tensors, length = wide_tensors(d, config), beyond(d, 64)
        tokens = Many(d).integers(4 * length, 0, config["vocab_size"] - 1).reshape(4, length)
        inputs = {"config": config, "tensors": tensors, "tokens": tokens, "sparsity": 0.5}
        expected, gap = model(Inputs(inputs), prune.by_wanda)
        if gap > _SURE:
            t.saw(WIDE)
            t.case("prune.model", inputs, {"kept": expected["kept"]})
            break


_BLOCKS = "more columns than a block of 128 and a rest"


@property_of("prune.sparsegpt-large", "PRN-009 PRN-010 PRN-011", "prune", "prune.sparsegpt", sees=(_BLOCKS,), seeded=1)
def _blocks(d: Draw, t: Trial) -> None:
    """SparseGPT prunes a matrix of more columns than its default block, block by block, by one inverse."""
    for _ in range(_TRIED):
        many, columns = Many(d), 129 + d.integer(0, 9)
        w, x = many.lattice((7, columns), 2**20) / 2**20, many.lattice((beyond(d, 128), columns), 255) / 256
        inputs = {"weights": w, "inputs": x, "sparsity": _FEW}
        expected, gap = sparsegpt(Inputs(inputs))
        if gap > _SURE_COST:
            t.saw(_BLOCKS)
            t.case("prune.sparsegpt", inputs, expected)
            break


@property_of(
    "prune.model-sparsegpt-large",
    "PRN-005 PRN-009 PRN-010 PRN-011",
    "prune",
    "prune.model_sparsegpt",
    sees=("matrices of more than 64 rows and columns",),
    seeded=1,
)
def _model_blocks(d: Draw, t: Trial) -> None:
    """SparseGPT prunes a model whose matrices have more rows and columns than a tile."""
    for _ in range(_TRIED):
        config = wide_config(d) | {name: 66 + 2 * d.integer(0, 2) for name in ("hidden_size", "intermediate_size")}
        config |= {"head_dim": 34}
        tensors, length = wide_tensors(d, config), beyond(d, 64)
        tokens = Many(d).integers(4 * length, 0, config["vocab_size"] - 1).reshape(4, length)
        inputs = {"config": config, "tensors": tensors, "tokens": tokens, "sparsity": _FEW}
        expected, gap = model(Inputs(inputs), prune.by_sparsegpt)
        if gap > _SURE_COST:
            t.saw("matrices of more than 64 rows and columns")
            t.case("prune.model_sparsegpt", inputs, expected)
            break
