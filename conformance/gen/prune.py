"""Cases of chapter 11: pruning by magnitude, Wanda and patterns, and of whole models."""

import numpy as np

from conformance.gen import layers_overflows
from conformance.gen.model import MODELS, ONE_HEAD, SMALL, tensors_of
from conformance.gen.numbers import Area, Numbers, ids
from conformance.oracle import prune

_NUDGE = 2.0**-20
"""What SEL-006 adds to a rate before it takes the floor."""


def pruning() -> Area:
    """Return cases of pruning (PRN-001 to PRN-006)."""
    area = Area("prune", "sorted tuples")
    n = Numbers(40, 1)
    levels, spread = n.lattice((8, 12), 2), n.real((10, 10))
    zeros = np.where(n.lattice((5, 7), 1) > 0, 0.0, -0.0)
    for name, w, sparsity, purpose in (
        ("ties", levels, 0.5, "ties to a higher position"),
        ("last-bit", spread, 0.29, "0.29 · 100 is 28.999999999999996"),
        ("signed", spread, 0.7, "W ranked instead of |W|"),
        ("zeros", zeros, 0.4, "−0 ranked below +0"),
        ("nothing", spread, 0.0, "sparsity 0 removes something"),
        ("almost-all", spread, 0.999, "rounding up"),
        ("inside", spread, (7 - 0.99 * _NUDGE) / 100, "a nudge below 2⁻²⁰"),
        ("outside", spread, (7 - 1.01 * _NUDGE) / 100, "a nudge above 2⁻²⁰"),
    ):
        kept = ids(prune.magnitude(w, sparsity))
        inputs = {"weights": w, "sparsity": sparsity}
        area.add(f"magnitude-{name}", "prune.magnitude", "PRN-001 PRN-002 SEL-006", purpose, inputs, {"kept": kept})
    squares = n.integers(12, 0, 3).astype(np.float64) ** 2
    for name, w, square, sparsity, purpose in (
        ("ties", levels, squares, 0.5, "ties across a row, inputs never seen"),
        ("rows", levels, squares, 0.58, "a count over the matrix instead of each row: 0.58 · 12 = 6.96"),
        ("last-bit", spread, np.full(10, 4.0), 0.7, "0.7 · 10"),
        ("dead-inputs", levels, np.zeros(12), 0.25, "scores that are all 0"),
    ):
        kept = ids(prune.wanda(w, [float(x) ** 0.5 for x in square], sparsity))
        inputs = {"weights": w, "square_sums": square, "sparsity": sparsity}
        area.add(f"wanda-{name}", "prune.wanda", "PRN-001 PRN-003", purpose, inputs, {"kept": kept})
    layers_overflows.pruning_scores(area)
    for name, scores, keep, of in (
        ("two-of-four", np.abs(levels), 2, 4),
        ("one-of-two", np.abs(levels), 1, 2),
        ("four-of-six", np.abs(levels), 4, 6),
        ("equal", np.ones((3, 8)), 2, 4),
        ("whole-row", np.abs(levels), 5, 12),
        ("of-128", np.arange(256.0).reshape(2, 128) % 7, 2, 128),
    ):
        inputs = {"scores": scores, "n": keep, "m": of}
        kept = ids(prune.pattern(scores, keep, of))
        area.add(f"pattern-{name}", "prune.pattern", "PRN-004", "ties to the higher column", inputs, {"kept": kept})
    inputs = {"scores": np.ones((2, 6)), "n": 2, "m": 4}
    area.add("refuse-pattern", "prune.pattern", "PRN-004", "a row that does not divide", inputs, refused="PRN-004")
    for name, sparsity in (("one", 1.0), ("negative", -0.1), ("above", 1.5)):
        inputs = {"weights": spread, "sparsity": sparsity}
        purpose = "a sparsity outside 0 to 1"
        area.add(f"refuse-{name}", "prune.magnitude", "PRN-001", purpose, inputs, refused="PRN-001")
    _whole_model(area)
    return area


def _whole_model(area: Area) -> None:
    config = MODELS["llama"]
    n = Numbers(40, 2)
    tensors = tensors_of(config, n)
    tokens = n.integers((4, 8), 0, 10)
    kept, _, gap = prune.model(config, tensors, tokens, prune.by_wanda(0.5))
    assert gap > 1e-5, f"the choice hangs on a relative gap of {gap}"
    inputs = {"config": config, "tensors": tensors, "tokens": tokens, "sparsity": 0.5}
    purpose = "statistics taken behind unpruned blocks, or behind parts of the block already pruned"
    answer = {"kept": {name: ids(k) for name, k in kept.items()}}
    area.add("blocks", "prune.model", "PRN-005 PRN-003", purpose, inputs, answer)
    broken = dict(tensors)
    name = "model.layers.1.mlp.up_proj.weight"
    broken[name] = tensors[name].copy()
    broken[name][2, 3] = np.nan
    inputs = inputs | {"tensors": broken}
    area.add("refuse-nan", "prune.model", "PRN-006", "NaN ranked", inputs, refused="PRN-006")
    far = dict(tensors)
    name = "model.embed_tokens.weight"
    far[name] = tensors[name] * 2.0**80
    purpose = "RMSNorm gives 0 behind squares that overflow, all scores tie, and position decides"
    area.add(
        "refuse-overflow",
        "prune.model",
        "LYR-015 TRN-019",
        purpose,
        inputs | {"tensors": far},
        refused="LYR-015 PRN-003",
        dtypes=("float32",),
    )

    config = SMALL | ONE_HEAD | {"max_position_embeddings": 8}
    inputs = inputs | {"config": config, "tensors": tensors_of(config, n), "tokens": tokens % config["vocab_size"]}
    bad = inputs | {"config": config | {"max_position_embeddings": 7}}
    purpose = "statistics of positions that the model does not have"
    area.add("refuse-positions", "prune.model", "TRN-017", purpose, bad, refused="TRN-017")
    other = tokens % config["vocab_size"]
    other[3, 7] = config["vocab_size"]
    bad = inputs | {"tokens": other}
    purpose = "a token outside the vocabulary"
    area.add("refuse-vocabulary", "prune.model", "TRN-018 LYR-001", purpose, bad, refused="TRN-018 LYR-001")
    config = config | {"mlp_bias": True}
    # no matrix is pruned after the last down_proj, so this bias makes no statistic NaN
    tensors = tensors_of(config, n)
    tensors["model.layers.0.mlp.down_proj.bias"][1] = np.nan
    bad = inputs | {"config": config, "tensors": tensors}
    purpose = "tensors that are not pruned looked at only where a statistic shows them"
    area.add("refuse-nan-bias", "prune.model", "PRN-006", purpose, bad, refused="PRN-006")


AREAS = (pruning,)
