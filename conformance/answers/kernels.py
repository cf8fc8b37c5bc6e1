"""Products with a sparse or dense matrix, and values stored into it (chapter 3: KRN)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.answers.answer import Answer, Inputs, answers, ids, refuse
from conformance.answers.select import rise
from conformance.cases.case import Bound
from conformance.cases.compare import tau
from conformance.oracle import kernels

__all__: list[str] = []
Array = NDArray[Any]


@answers("kernel.sparse")
def _sparse(a: Inputs) -> Answer:
    at, values = a["positions"], a["values"]
    refuse(TOP_003=not rise(at.tolist(), a["out"] * a["in"]))
    _refuse_operands(a, (a["out"], a["in"]), values_fit=values.shape == at.shape)
    return _products(a, _dense(a, at, values), _dense(a, at, np.ones(len(at))), at)


@answers("kernel.dense")
def _of_dense(a: Inputs) -> Answer:
    _refuse_operands(a, a["weight"].shape)
    return _products(a, a["weight"], np.ones(a["weight"].shape))


def _refuse_operands(a: Inputs, shape: tuple[int, int], *, values_fit: bool = True) -> None:
    x, dy = a["x"], a["dy"]
    fit = values_fit and x.ndim == dy.ndim == 2 and (x.shape[1], dy.shape[1]) == shape[::-1] and len(x) == len(dy)
    refuse(KRN_009=not fit, KRN_010=bool(a["odd"]))


def _dense(a: Inputs, positions: Array, values: Array) -> Array:
    """Return a matrix with these values at these flat positions, and 0 elsewhere."""
    flat = np.zeros(a["out"] * a["in"])
    flat[positions] = values
    return flat.reshape(a["out"], a["in"])


def _products(a: Inputs, w: Array, stored: Array, at: Array | None = None) -> Answer:
    """Return y and dx, and the entries of dyᵀ x at flat positions; `stored` is 1 where W stores a value."""
    x, dy = a["x"], a["dy"]
    # frozen cases of matrices in other representations have the bounds of KRN-006, and not those of KRN-007
    exact = not a["held"] and kernels.is_integral(w, x, dy)
    factors = {"y": (x, w.T, stored.sum(axis=1)), "dx": (dy, w, stored.sum(axis=0)), "dvalues": (dy.T, x, len(x))}
    outputs: dict[str, Any] = {"shape": ids(w.shape)}
    bounds: dict[str, Bound] = {}
    for name, (left, right, n_terms) in factors.items():
        # a `Bound` has one number of terms: it is 0, and the gauge is τ(K) / τ(0) times as large
        part = np.vectorize(lambda k: tau(int(k)) / tau(0), otypes=[float])(n_terms)
        value, gauge = kernels.product(left, right), kernels.product(abs(left), abs(right)) * part * (not exact)
        if name == "dvalues":
            if at is None:
                continue
            value, gauge = value.reshape(-1)[at], gauge.reshape(-1)[at]
        outputs[name], bounds[name] = value, Bound(gauge, 0)
    return Answer(outputs, bounds)


@answers("kernel.store")
def _store(a: Inputs) -> dict[str, Any]:
    return _stored(a, _dense(a, a["positions"], a["values"]))


@answers("kernel.store_dense")
def _store_dense(a: Inputs) -> dict[str, Any]:
    return _stored(a, a["weight"])


def _stored(a: Inputs, w: Array) -> dict[str, Any]:
    """Return the product with x after new values are stored at slots."""
    at, slots = a["positions"], a["slots"]
    misfit = w.shape != (a["out"], a["in"]) or slots.shape != a["new"].shape
    refuse(KRN_009=misfit, KRN_012=misfit or bool(np.any((slots < 0) | (slots >= len(at)))))
    after = w.copy()
    after.reshape(-1)[at[slots]] = a["new"]
    return {"y": kernels.product(a["x"], after.T)}


@answers("kernel.exceeding")
def _exceeding(a: Inputs) -> dict[str, Any]:
    refuse(KRN_009=a["values"].ndim != 1)
    # NaN exceeds every number, because no comparison with it is true
    return {"indices": ids(i for i, x in enumerate(a["values"].tolist()) if not abs(x) <= a["least"])}
