"""Layers forward and backward, and the frequencies of RoPE (chapter 4: LYR)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.answers.answer import Answer, Inputs, answers, reals, refuse
from conformance.cases.case import Bound
from conformance.oracle import layers
from conformance.oracle.kernels import is_integral
from conformance.oracle.tape import Var, gradients

__all__: list[str] = []
Array = NDArray[Any]


def _layer(a: Inputs, names: str, layer: Callable[..., Var], dy: str = "dy") -> dict[str, Any]:
    """Return y, and the gradient of each of the inputs that a layer is a function of."""
    variables = {name: Var(a[name]) for name in names.split()}
    y = layer(*variables.values())
    grads = gradients(y, a[dy], list(variables.values()))
    return {"y": y.value} | {f"d{name}": g for name, g in zip(variables, grads, strict=True)}


@answers("layer.embedding")
def _embedding(a: Inputs) -> Answer:
    tokens, gauge = a["tokens"], np.zeros(a["weight"].shape)
    refuse(LYR_001=bool(np.any((tokens < 0) | (tokens >= len(gauge)))))
    np.add.at(gauge, tokens, abs(a["dy"]))
    # no frozen case has a token more often than five times
    return Answer(_layer(a, "weight", lambda weight: layers.embedding(weight, tokens)), {"dweight": Bound(gauge, 5)})


@answers("layer.rmsnorm")
def _rmsnorm(a: Inputs) -> dict[str, Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.mean(a["x"] ** 2, axis=-1) + a["eps"]
    refuse(LYR_015=not all(0 < a.rounded(mean) < math.inf for mean in means.reshape(-1).tolist()))
    return _layer(a, "x weight", lambda x, weight: layers.rmsnorm(x, weight, a["eps"]))


@answers("layer.linear")
def _linear(a: Inputs) -> Answer:
    x, w, bias, dy = a["x"], a["weight"], a["bias"], a["dy"]
    outputs = _layer(a, "x weight" if bias is None else "x weight bias", layers.linear)
    outputs.setdefault("dbias", None)
    rows, edge = abs(dy).reshape(-1, len(w)), 0.0 if bias is None else abs(bias)
    bounds = {
        "y": Bound(abs(x) @ abs(w).T + edge, x.shape[-1] + 1),
        "dx": Bound(abs(dy) @ abs(w), len(w)),
        "dweight": Bound(rows.T @ abs(x).reshape(-1, x.shape[-1]), len(rows)),
        "dbias": Bound(rows.sum(axis=0), len(rows)),
    }
    if is_integral(x, w, dy):
        # NUM-003
        bounds = {name: Bound(np.zeros_like(bound.gauge), bound.terms) for name, bound in bounds.items()}
    return Answer(outputs, bounds)


@answers("rope.frequencies")
def _frequencies(a: Inputs) -> Answer:
    f = reals(layers.frequencies(a["head_dim"], a["rope"], a["length"]))
    # 16 units, because rounding in the exponent makes a power lose a few units
    return Answer({"frequencies": f}, {"frequencies": Bound(abs(f), 16)})


@answers("layer.rope")
def _rope(a: Inputs) -> Answer:
    f = layers.frequencies(a["x"].shape[-1], a["rope"], a["x"].shape[1])
    outputs = _layer(a, "x", lambda x: layers.rotate(x, f))
    return Answer(outputs, {"y": _of_pairs(a["x"]), "dx": _of_pairs(a["dy"])})


def _of_pairs(x: Array) -> Bound:
    """Return the bound of a rotation: |x_j| + |x_{j+D/2}| for both entries of a pair."""
    return Bound(np.tile(sum(np.split(abs(x), 2, axis=-1)), 2), 2)


@answers("layer.attention")
def _attention(a: Inputs) -> Mapping[str, Any] | Answer:
    mask, window = a["mask"], a["window"]
    odd = not np.isfinite(a["k"]).all()
    refuse(LYR_016=odd or not all(math.isfinite(a.rounded(top)) for top in _largest_scores(a)))
    outputs = _layer(a, "q k v", lambda q, k, v: layers.attention(q, k, v, mask, window))
    # if one key has all the weight of a query, dq and dk cancel, so that their bounds are the sizes of their terms
    alone = outputs["dq"].size and not outputs["dq"].any() and not outputs["dk"].any()
    sizes = {"dq": _size(a["k"]), "dk": _size(a["q"])}
    return Answer(outputs, {n: Bound(np.asarray(x), 1) for n, x in sizes.items()} if alone or sizes["dq"] > 1 else {})


def _largest_scores(a: Inputs) -> list[float]:
    """Return the largest score of each query that sees a key."""
    q, k, mask = a["q"], a["k"], a["mask"]
    group, root = q.shape[2] // k.shape[2], math.sqrt(q.shape[3])
    return [
        float(np.max(k[b, shown, h // group] @ q[b, t, h]) / root)
        for b, t, h in np.ndindex(q.shape[:3])
        if (shown := layers.visible(t, a["window"], None if mask is None else mask[b].tolist()))
    ]


def _size(x: Array) -> float:
    """Return the power of two that the largest magnitude reaches, 1 if it is below 1024."""
    top = float(np.max(abs(x), initial=0.0))
    return 1.0 if top < 1024 else 2.0 ** math.floor(math.log2(top))


@answers("layer.swiglu")
def _swiglu(a: Inputs) -> dict[str, Any]:
    with np.errstate(over="ignore"):
        return _layer(a, "gate up", layers.swiglu)


@answers("layer.cross_entropy")
def _cross_entropy(a: Inputs) -> dict[str, Any]:
    targets, classes = a["targets"], a["logits"].shape[-1]
    outside = (targets != -100) & ((targets < 0) | (targets >= classes))
    refuse(LYR_011=a["count"] < 1 or bool(np.any(outside)))
    outputs = _layer(a, "logits", lambda logits: layers.cross_entropy(logits, targets, a["count"]), "dloss")
    return {"loss": float(outputs["y"]), "dlogits": outputs["dlogits"]}
