"""Pruners of matrices and of whole models (chapter 11)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from conformance.answers.answer import Inputs, answers, ids, refuse
from conformance.oracle import prune

__all__ = ["model", "sparsegpt"]

Sure = tuple[dict[str, Any], float]
"""Outputs, and the smallest relative gap of the scores on which they depend."""


def _refuse_sparsity(a: Inputs) -> None:
    refuse(PRN_001=not 0 <= a["sparsity"] < 1)


def _refuse_scores(scores: Any) -> None:
    """Refuse NaN or infinite scores (PRN-015); as scores they break SEL-004 too."""
    odd = not np.isfinite(scores).all()
    refuse(PRN_015=odd, SEL_004=odd)


def _pattern(a: Inputs, columns: int) -> tuple[int, int] | None:
    """Return N and M, None without them."""
    refuse(PRN_004=a["n"] is not None and columns % a["m"] != 0)
    return None if a["n"] is None else (a["n"], a["m"])


@answers("prune.magnitude")
def _magnitude(a: Inputs) -> dict[str, Any]:
    _refuse_sparsity(a)
    _refuse_scores(a["weights"])
    return {"kept": ids(prune.magnitude(a["weights"], a["sparsity"]))}


@answers("prune.wanda")
def _wanda(a: Inputs) -> dict[str, Any]:
    _refuse_sparsity(a)
    sums = a["square_sums"]
    # an infinite sum is refused as a sum; a program may see NaN in the scores only
    nan = bool(np.isnan(sums).any())
    refuse(PRN_003=not np.isfinite(sums).all(), PRN_015=nan, SEL_004=nan)
    norms = np.sqrt(sums)
    with np.errstate(over="ignore"):
        _refuse_scores(a["weights"] * norms)
    return {"kept": ids(prune.wanda(a["weights"], norms.tolist(), a["sparsity"]))}


@answers("prune.pattern")
def _by_pattern(a: Inputs) -> dict[str, Any]:
    pattern = _pattern(a, a["scores"].shape[1])
    assert pattern is not None
    _refuse_scores(a["scores"])
    return {"kept": ids(prune.pattern(a["scores"], *pattern))}


@answers("prune.scope")
def _scope(a: Inputs) -> dict[str, Any]:
    _refuse_sparsity(a)
    refuse(PRN_016=a["scope"] not in ("row", "matrix", "model"))
    refuse(SEL_004=not all(np.isfinite(scores).all() for scores in a["scores"]))
    return {"kept": [ids(kept) for kept in prune.scope(a["scores"], a["sparsity"], a["scope"])]}


@answers("prune.random")
def _random(a: Inputs) -> dict[str, Any]:
    _refuse_sparsity(a)
    return {"kept": ids(prune.random_mask((a["out"], a["in"]), a["sparsity"], a["seed"], a["matrix"]))}


@answers("prune.owl")
def _owl(a: Inputs) -> dict[str, Any]:
    _refuse_sparsity(a)
    refuse(PRN_018=not 0 < a["outlier"] < math.inf or a["spread"] < 0)
    sparsities, _ = prune.owl(a["scores"], a["sparsity"], a["outlier"], a["spread"])
    refuse(PRN_018=not all(0 <= x < 1 for x in sparsities))
    return {"sparsities": sparsities}


def sparsegpt(a: Inputs) -> Sure:
    """Return the outputs of `prune.sparsegpt`, and the smallest relative gap of its choices (PRN-013.4)."""
    _refuse_sparsity(a)
    pattern = _pattern(a, a["weights"].shape[1])
    options = {name: a[name] for name in ("damping", "block") if a[name] is not None}
    refuse(PRN_011=options.get("block", 1) < 1)
    kept, weights, gap = prune.sparsegpt(a["weights"], a["inputs"], a["sparsity"], pattern, **options)
    refuse(PRN_013=not all(math.isfinite(a.rounded(w)) for w in weights.reshape(-1).tolist()))
    return {"kept": ids(kept), "weights": weights}, gap


@answers("prune.sparsegpt")
def _sparsegpt(a: Inputs) -> dict[str, Any]:
    return sparsegpt(a)[0]


def model(a: Inputs, how: Callable[[float], prune.Prune]) -> Sure:
    """Return kept positions and new weights by target, and the smallest relative gap (PRN-005, PRN-014.2).

    how  sparsity -> pruner of a matrix
    """
    config, tensors, tokens = a["config"], a["tensors"], a["tokens"]
    _refuse_sparsity(a)
    refuse(PRN_006=not all(np.isfinite(t).all() for t in tensors.values()))
    refuse(TRN_017=tokens.shape[1] > config.get("max_position_embeddings", math.inf))
    unknown = not ((tokens >= 0) & (tokens < config["vocab_size"])).all()
    refuse(TRN_018=unknown, LYR_001=unknown)
    # what the first RMSNorm sees: its squares may overflow in the dtype of the call
    squares = (tensors["model.embed_tokens.weight"][tokens] ** 2).sum(axis=-1).reshape(-1).tolist()
    far = not all(math.isfinite(a.rounded(x)) for x in squares)
    refuse(LYR_015=far, PRN_003=far)
    kept, weights, gap = prune.model(config, tensors, tokens, how(a["sparsity"]))
    return {"kept": {name: ids(at) for name, at in kept.items()}, "weights": weights}, gap


@answers("prune.model")
def _model(a: Inputs) -> Mapping[str, Any]:
    return {"kept": model(a, prune.by_wanda)[0]["kept"]}


@answers("prune.model_sparsegpt")
def _model_sparsegpt(a: Inputs) -> Mapping[str, Any]:
    return model(a, prune.by_sparsegpt)[0]


@answers("prune.record")
def _record(a: Inputs) -> dict[str, Any]:
    pattern = prune.pattern_of(a["record"])
    return {"pattern": None if pattern is None else ids(pattern)}
