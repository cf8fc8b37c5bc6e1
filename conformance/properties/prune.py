"""Properties of pruners (chapter 11)."""

from typing import Any

from conformance.answers import answer
from conformance.answers.answer import Inputs, reals
from conformance.answers.prune import sparsegpt
from conformance.oracle import prune as oracle
from conformance.oracle import update_counts
from conformance.properties.draws import Draw
from conformance.properties.states import ties
from conformance.properties.trial import Trial, property_of

_SURE = 1e-4
"""Smallest relative gap between removed and kept scores of SparseGPT in an example that is asked (PRN-013)."""


@property_of(
    "prune.magnitude",
    "PRN-001 PRN-002 SEL-002",
    "prune",
    "prune.magnitude",
    sees=("a tie at the boundary", "nothing removed"),
)
def _magnitude(d: Draw, t: Trial) -> None:
    """The kept weights are those that are not among the smallest |W|."""
    shape = d.shape()
    w, sparsity = reals(d.with_specials(d.levels(shape[0] * shape[1], 2))).reshape(shape), d.integer(0, 99) / 100
    n = update_counts.count(sparsity * w.size)
    t.saw("a tie at the boundary", ties([abs(float(x)) for x in w.reshape(-1)], n))
    t.saw("nothing removed", n == 0)
    t.case("prune.magnitude", {"weights": w, "sparsity": sparsity})


@property_of("prune.wanda", "PRN-003", "prune", "prune.wanda", sees=("a tie at the boundary", "a dead input"))
def _wanda(d: Draw, t: Trial) -> None:
    """Each row keeps the weights that are not among its smallest |W| · ‖X‖."""
    shape = d.shape()
    w, sparsity = reals(d.levels(shape[0] * shape[1], 2)).reshape(shape), d.integer(0, 99) / 100
    norms = [float(x) for x in d.integers(shape[1], 0, 3)]
    n = update_counts.count(sparsity * shape[1])
    t.saw(
        "a tie at the boundary", any(ties([abs(float(x)) * h for x, h in zip(row, norms, strict=True)], n) for row in w)
    )
    t.saw("a dead input", 0.0 in norms)
    t.case("prune.wanda", {"weights": w, "square_sums": reals(x * x for x in norms), "sparsity": sparsity})


@property_of(
    "prune.sparsegpt",
    "PRN-001 PRN-009 PRN-010 PRN-011 PRN-012",
    "prune",
    "prune.sparsegpt",
    sees=("blocks", "a pattern", "a dead input", "an input that is not finite"),
)
def _sparsegpt(d: Draw, t: Trial) -> None:
    """The kept weights and their new values are those of one inverse for each column, block by block."""
    cols = 4 * d.integer(1, 3)
    w, x = d.real((d.integer(1, 6), cols)), d.real((d.integer(2, 20), cols))
    inputs: dict[str, Any] = {"weights": w, "inputs": x, "sparsity": d.choice((0.5, 0.25, 0.7))}
    if d.flag(3):
        x[:, d.integer(0, cols - 1)] = 0.0
    if d.flag():
        inputs |= {"damping": d.choice((0.01, 0.5, 0.125))}
    pattern = d.choice((None, (2, 4), (1, 2)))
    inputs |= {"block": d.integer(3, 6)} if d.flag() else {}
    inputs |= {"n": pattern[0], "m": pattern[1], "sparsity": 0.0} if pattern else {}
    if d.flag(8):
        x[0, 0] = d.choice((float("nan"), float("inf")))
        t.saw("an input that is not finite")
        t.case("prune.sparsegpt", inputs)
        return
    expected, gap = sparsegpt(Inputs(inputs))
    if gap < _SURE:
        return
    t.saw("blocks", inputs.get("block", cols) < cols and not pattern)
    t.saw("a pattern", pattern)
    t.saw("a dead input", not x.any(axis=0).all())
    t.case("prune.sparsegpt", inputs, expected)


@property_of(
    "prune.scope",
    "PRN-001 PRN-016",
    "prune",
    "prune.scope",
    sees=("row", "matrix", "model", "a tie at the boundary", "a matrix that loses nothing beside one that does"),
)
def _scope(d: Draw, t: Trial) -> None:
    """A matrix keeps weights whose scores are not the smallest of their row, of the matrix, or of all matrices."""
    shapes = [d.shape(6) for _ in range(d.integer(1, 3))]
    scale = [1.0, 4.0, 16.0] if d.flag() else [1.0, 1.0, 1.0]
    scores = [s * abs(reals(d.levels(h * w, 2)).reshape(h, w)) for (h, w), s in zip(shapes, scale, strict=False)]
    sparsity, scope = d.integer(0, 99) / 100, d.choice(("row", "matrix", "model"))
    inputs = {"scores": scores, "sparsity": sparsity, "scope": scope}
    expected = dict(answer("prune.scope", inputs).outputs)
    t.saw(scope)
    everything = [float(x) for matrix in scores for x in matrix.reshape(-1)]
    n = update_counts.count(sparsity * len(everything))
    t.saw("a tie at the boundary", scope == "model" and ties(everything, n))
    lost = [matrix.size - len(one) for matrix, one in zip(scores, expected["kept"], strict=True)]
    t.saw("a matrix that loses nothing beside one that does", scope == "model" and 0 in lost and any(lost))
    t.case("prune.scope", inputs, expected)


@property_of("prune.random", "PRN-016 PRN-017 RNG-001", "prune", "prune.random", sees=("a later matrix", "a long seed"))
def _random(d: Draw, t: Trial) -> None:
    """The weights that a matrix keeps have the largest draws of its own key."""
    shape, seed, matrix = d.shape(), d.choice((0, 1, 7, 2**32 + 5, 2**63)), d.integer(0, 5)
    sparsity = d.integer(0, 99) / 100
    t.saw("a later matrix", matrix > 0)
    t.saw("a long seed", seed >= 2**32)
    t.case("prune.random", {"out": shape[0], "in": shape[1], "sparsity": sparsity, "seed": seed, "matrix": matrix})


@property_of(
    "prune.owl", "PRN-018", "prune", "prune.owl", sees=("blocks that differ", "blocks that are alike", "a wide spread")
)
def _owl(d: Draw, t: Trial) -> None:
    """The sparsities of blocks follow their shares of outliers, and their mean is the requested sparsity."""
    shapes = [d.shape(5) for _ in range(d.integer(1, 2))]
    blocks = [[abs(d.lattice(shape, 6)) for shape in shapes] for _ in range(d.integer(1, 4))]
    sparsity, outlier = d.choice((0.5, 0.25, 0.7)), d.choice((5.0, 1.5, 1.25, 3.0))
    spread = d.choice((0.08, 0.0, 0.25, 0.6))
    sparsities, nearest = oracle.owl(blocks, sparsity, outlier, spread)
    if nearest < _SURE or any(abs(x) < _SURE or abs(x - 1) < _SURE for x in sparsities):
        return
    if all(0 <= x < 1 for x in sparsities):
        t.saw("blocks that differ" if max(sparsities) > min(sparsities) else "blocks that are alike")
    else:
        t.saw("a wide spread")
    t.case("prune.owl", {"scores": blocks, "sparsity": sparsity, "outlier": outlier, "spread": spread})


@property_of("prune.pattern", "PRN-004 TOP-005", "nm", "prune.pattern", sees=("a tie in a group", "several groups"))
def _pattern(d: Draw, t: Trial) -> None:
    """N of every M columns are kept, ties at the lower one."""
    n, m = d.choice(((2, 4), (1, 2), (1, 4), (4, 8)))
    shape = (d.integer(1, 4), m * d.integer(1, 4))
    scores = abs(reals(d.levels(shape[0] * shape[1], 2)).reshape(shape))
    t.saw("a tie in a group", any(ties([-float(x) for x in group], n) for group in scores.reshape(-1, m)))
    t.saw("several groups", scores.size > m)
    t.case("prune.pattern", {"scores": scores, "n": n, "m": m})
