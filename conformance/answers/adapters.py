"""Adapters on a frozen weight: LoRA, SPP, SparsePEFT, their start values, and LoRA* (ADP)."""

from typing import Any

import numpy as np

from conformance.answers.answer import Inputs, answers, ids, reals, refuse
from conformance.oracle import adapters, prune

__all__: list[str] = []

_LARGEST = float(np.finfo(np.float32).max)


def _weight(a: Inputs) -> dict[adapters.Place, float]:
    """Return the stored values of the frozen weight by row and column."""
    at = (divmod(p, a["in"]) for p in a["positions"].tolist())
    return dict(zip(at, a["values"].tolist(), strict=True))


def _everywhere(a: Inputs) -> list[adapters.Place]:
    return [(o, i) for o in range(a["out"]) for i in range(a["in"])]


def _scale(a: Inputs, rank: int) -> float:
    """Return s, alpha / rank (ADP-001, ADP-006)."""
    refuse(ADP_009=rank < 1 or not 0 < a["alpha"] / max(rank, 1) <= _LARGEST)
    return float(a["alpha"]) / rank


def _trained(a: Inputs, other: str, change: adapters.Change, grads: list[Any]) -> dict[str, Any]:
    """Return the outputs of an adapter, whose factors are `a` and `other`.

    change  what it adds to the weight, by place
    grads   gradients of its two factors
    """
    x, dy, weight = a["x"], a["dy"], adapters.merged(_weight(a), change)
    y = adapters.forward(x.reshape(-1, a["in"]), weight, a["out"], a["bias"])
    dx = adapters.backward(dy.reshape(-1, a["out"]), weight, a["in"])
    return {
        "y": y.reshape(dy.shape),
        "dx": dx.reshape(x.shape),
        "da": grads[0],
        f"d{other}": grads[1],
        "merged": reals(weight.values()),
        "parameters": a["a"].size + a[other].size,
    }


def _low_rank(a: Inputs, places: list[adapters.Place]) -> dict[str, Any]:
    factors, rank = (a["a"], a["b"]), len(a["a"])
    refuse(ADP_009=a["a"].shape != (rank, a["in"]) or a["b"].shape != (a["out"], rank))
    s, flat = _scale(a, rank), (a["dy"].reshape(-1, a["out"]), a["x"].reshape(-1, a["in"]))
    grads = adapters.low_rank_gradients(*flat, *factors, s, places)
    return _trained(a, "b", adapters.low_rank(*factors, s, places), grads)


@answers("adapter.lora")
def _lora(a: Inputs) -> dict[str, Any]:
    return _low_rank(a, _everywhere(a))


@answers("adapter.sparsepeft")
def _sparsepeft(a: Inputs) -> dict[str, Any]:
    return _low_rank(a, list(_weight(a)))


@answers("adapter.spp")
def _spp(a: Inputs) -> dict[str, Any]:
    w, bands = _weight(a), len(a["a"])
    refuse(ADP_009=bands < 1 or a["out"] % bands != 0)
    refuse(ADP_009=a["a"].shape != (bands, a["in"]) or a["c"].shape != (a["out"],))
    s, flat = _scale(a, a["rank"]), (a["dy"].reshape(-1, a["out"]), a["x"].reshape(-1, a["in"]))
    grads = adapters.proportional_gradients(*flat, w, a["a"], a["c"], s)
    return _trained(a, "c", adapters.proportional(w, a["a"], a["c"], s), grads)


@answers("adapter.initial")
def _initial(a: Inputs) -> dict[str, Any]:
    rows, banded = a["rows"], a["kind"] == "spp"
    refuse(ADP_009=rows < 1 or (banded and a["out"] % rows != 0))
    other = np.zeros(a["out"] if banded else (a["out"], rows))
    start = adapters.start(rows, a["in"], a["seed"], a["matrix"])
    return {"a": start, "other": other, "parameters": start.size + other.size}


@answers("adapter.lora_star")
def _star(a: Inputs) -> dict[str, Any]:
    change = adapters.low_rank(a["a"], a["b"], _scale(a, len(a["a"])), _everywhere(a))
    merged = reals(adapters.merged(_weight(a), change).values()).reshape(a["out"], a["in"])
    refuse(ADP_005=not np.isfinite(merged).all())
    norms = np.sqrt(a["square_sums"])
    if a["pattern"] is None:
        kept = prune.wanda(merged, norms.tolist(), a["sparsity"])
    else:
        kept = prune.pattern(abs(merged) * norms, *a["pattern"].tolist())
    stored = len(a["positions"])
    refuse(ADP_005=len(kept) < stored or (a["pattern"] is None and len(kept) != stored))
    return {"kept": ids(kept), "values": merged.reshape(-1)[kept] + 0.0}
