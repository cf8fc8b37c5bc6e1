"""Properties of layers (chapter 4)."""

from typing import Any

import numpy as np

from conformance.answers import answer
from conformance.answers.answer import ids, reals
from conformance.cases.case import Bound
from conformance.oracle import layers
from conformance.properties.draws import Array, Draw
from conformance.properties.trial import Trial, property_of


def _layer(t: Trial, op: str, inputs: dict[str, Any], scales: dict[str, float]) -> None:
    """Ask for a layer; `scales` has for each output the size of the terms that it sums, which gives its bound."""
    outputs = dict(answer(op, inputs).outputs)
    bounds = {name: Bound(np.asarray(max(scales[name], _top(x))), 1) for name, x in outputs.items()}
    t.case(op, inputs, outputs or None, bounds=bounds)


def _top(x: Array | float) -> float:
    return float(np.max(np.abs(x), initial=0.0))


@property_of(
    "layer.linear", "LYR-003 GRD-001 NUM-003", "layers", "layer.linear", sees=("a bias", "no rows"), reduced=True
)
def _linear(d: Draw, t: Trial) -> None:
    """The layer y = x Wᵀ + bias and its gradients are exact on integers."""
    shape, rows = d.shape(8), d.choice((1, 2, 5, 0))
    x, w, dy = d.lattice((rows, shape[1])), d.lattice(shape), d.lattice((rows, shape[0]))
    bias = d.lattice((shape[0],)) if d.flag() else None
    t.saw("a bias", bias is not None)
    t.saw("no rows", rows == 0)
    t.case("layer.linear", {"x": x, "weight": w, "bias": bias, "dy": dy})


@property_of(
    "layer.embedding",
    "LYR-001",
    "layers",
    "layer.embedding",
    sees=("a repeated token", "a token outside"),
    reduced=True,
)
def _embedding(d: Draw, t: Trial) -> None:
    """Embeddings are rows of the table, and gradients of a repeated token add up."""
    rows, width, n = d.integer(1, 8), d.integer(1, 5), d.length(18)
    tokens = d.integers(n, 0, rows - 1)
    weight, dy = d.lattice((rows, width)), d.lattice((n, width))
    if n and d.flag(6):
        tokens[d.integer(0, n - 1)] = d.choice((rows, -1))
        t.saw("a token outside")
    t.saw("a repeated token", len(set(tokens)) < n)
    t.case("layer.embedding", {"weight": weight, "dy": dy, "tokens": ids(tokens)})


@property_of("layer.rmsnorm", "LYR-002 NUM-004", "layers", "layer.rmsnorm", sees=("a row of zeros",))
def _rmsnorm(d: Draw, t: Trial) -> None:
    """RMSNorm is y = x · r · weight, where r has eps inside the root."""
    shape, eps = (d.integer(1, 3), d.integer(1, 8)), 2.0 ** -d.choice((16, 2, 8))
    x, weight, dy = (reals(d.levels(n, 8)) for n in (shape[0] * shape[1], shape[1], shape[0] * shape[1]))
    x, dy = x.reshape(shape), dy.reshape(shape)
    t.saw("a row of zeros", not x.any(axis=1).all())
    r = float(np.max(1 / np.sqrt(np.mean(x * x, axis=1) + eps)))
    top = r * _top(dy) * _top(weight)
    scales = {"y": r * _top(x) * _top(weight), "dx": 2 * top, "dweight": shape[0] * r * _top(x) * _top(dy)}
    _layer(t, "layer.rmsnorm", {"x": x, "weight": weight, "eps": eps, "dy": dy}, scales)


_ROPES = ("default", "linear", "dynamic", "llama3")


@property_of(
    "layer.rope",
    "LYR-004 LYR-005 LYR-006 NUM-002",
    "layers",
    "layer.rope",
    sees=(*_ROPES, "longer than its context", "several heads"),
    reduced=True,
)
def _rope(d: Draw, t: Trial) -> None:
    """Pairs of entries half a head apart rotate by position times frequency, and gradients rotate back."""
    kind = d.choice(_ROPES)
    # dynamic needs a width above 2, because its base has the exponent width / (width − 2)
    half = d.integer(1 + (kind == "dynamic"), 4)
    size = (d.integer(1, 2), d.choice((1, 2, 5, 9, 18)), d.integer(1, 2), 2 * half)
    context, factor = d.choice((4, 8, 64)), d.integer(2, 8) / 2
    inputs: dict[str, Any] = {"type": kind, "base": d.choice((100.0, 10000.0, 3.0)), "max_position_embeddings": context}
    inputs |= {} if kind == "default" else {"factor": factor}
    low = d.integer(1, 2)
    inputs |= {"low": float(low), "high": float(low + d.integer(1, 3)), "original": context} if kind == "llama3" else {}
    x, dy = (reals(d.levels(int(np.prod(size)), 8)).reshape(size) for _ in range(2))
    t.saw(kind)
    t.saw("longer than its context", size[1] > context)
    t.saw("several heads", size[2] > 1)
    made = answer("layer.rope", {"x": x, "rope": inputs, "dy": dy})
    # `rope.frequencies` allows a frequency an error of 16 units, so an angle may have that times its position
    angles = np.outer(np.arange(size[1]), layers.frequencies(2 * half, inputs, size[1]))[None, :, None, :]
    off = np.tile(1 + 1.5 * angles * (1.0 if t.dtype == "float64" else 2.0**-29), 2)
    bounds = {name: Bound(bound.gauge * off, bound.terms) for name, bound in made.bounds.items()}
    t.case("layer.rope", {"x": x, "rope": inputs, "dy": dy}, dict(made.outputs), bounds=bounds)


@property_of(
    "rope.frequencies", "LYR-005 LYR-006", "layers", "rope.frequencies", sees=(*_ROPES, "longer than its context")
)
def _frequencies(d: Draw, t: Trial) -> None:
    """Frequencies of every kind are those of the written formulas in binary64."""
    kind = d.choice(_ROPES)
    width, length = 2 * d.integer(1 + (kind == "dynamic"), 16), d.integer(1, 100)
    context, low = d.choice((4, 32, 64, 2048)), d.integer(1, 2)
    inputs: dict[str, Any] = {"type": kind, "base": float(d.integer(3, 500000)), "max_position_embeddings": context}
    inputs |= {} if kind == "default" else {"factor": d.integer(5, 32) / 4}
    inputs |= {"low": float(low), "high": float(low + d.integer(1, 3)), "original": context} if kind == "llama3" else {}
    t.saw(kind)
    t.saw("longer than its context", kind == "dynamic" and length > context)
    t.case("rope.frequencies", {"head_dim": width, "length": length, "rope": inputs})


@property_of(
    "layer.attention",
    "LYR-007 LYR-008 LYR-009 NUM-004",
    "layers",
    "layer.attention",
    sees=("a query that sees nothing", "a window", "shared heads"),
)
def _attention(d: Draw, t: Trial) -> None:
    """Attention is a softmax over the keys that a query sees; a query that sees none gives zeros."""
    rows, length, kv, share, width = (
        d.integer(1, 2),
        d.integer(1, 5),
        d.integer(1, 2),
        d.integer(1, 3),
        2 * d.integer(1, 2),
    )
    size = (rows, length, kv * share, width)
    q, dy = (reals(d.levels(int(np.prod(size)), 8)).reshape(size) for _ in range(2))
    small = (rows, length, kv, width)
    k, v = (reals(d.levels(int(np.prod(small)), 8)).reshape(small) for _ in range(2))
    mask = np.array(d.integers(rows * length, 0, 2)).reshape(rows, length) > 0 if d.flag() else None
    wide = d.integer(1, length + 1) if d.flag() else None
    visible_keys = [
        layers.visible(i, wide, None if mask is None else mask[b].tolist()) for b in range(rows) for i in range(length)
    ]
    t.saw("a query that sees nothing", not all(visible_keys))
    t.saw("a window", wide is not None and wide < length)
    t.saw("shared heads", share > 1)
    top = width * length * share * _top(dy) * max(_top(v), 1.0)
    scales = {"y": _top(v), "dq": top * _top(k), "dk": top * _top(q), "dv": share * length * _top(dy)}
    _layer(t, "layer.attention", {"q": q, "k": k, "v": v, "mask": mask, "window": wide, "dy": dy}, scales)


@property_of("layer.swiglu", "LYR-010 NUM-004", "layers", "layer.swiglu", sees=("a large gate", "a very negative gate"))
def _swiglu(d: Draw, t: Trial) -> None:
    """SwiGLU is y = silu(gate) · up, and is finite for every finite gate."""
    n = d.length(18)
    gate = reals(d.levels(n, 80, 0.125))
    if n and d.flag():
        far = d.choice((100.0, -80.0, 60.0))
        gate[d.integer(0, n - 1)] = far
        t.saw("a large gate", far > 50)
        t.saw("a very negative gate", far < -50)
    up, dy = reals(d.levels(n, 8)), reals(d.levels(n, 8))
    scales = {"y": 0.0, "dgate": 2 * _top(dy) * _top(up), "dup": 0.0}
    _layer(t, "layer.swiglu", {"gate": gate, "up": up, "dy": dy}, scales)


@property_of(
    "layer.cross-entropy",
    "LYR-011 NUM-004",
    "layers",
    "layer.cross_entropy",
    sees=("an ignored row", "a class outside", "large logits"),
)
def _cross_entropy(d: Draw, t: Trial) -> None:
    """The loss sums over counted rows, and its gradient is exactly zero in the others."""
    rows, classes = d.integer(1, 5), d.integer(1, 6)
    unit = d.choice((0.125, 32.0))
    logits = reals(d.levels(rows * classes, 8, unit)).reshape(rows, classes)
    targets = [d.choice((-100, d.integer(0, classes - 1), d.integer(0, classes - 1))) for _ in range(rows)]
    inputs: dict[str, Any] = {"logits": logits, "count": rows, "dloss": 0.5}
    t.saw("an ignored row", -100 in targets)
    t.saw("large logits", unit > 1 and logits.any())
    if d.flag(6):
        targets[0] = d.choice((classes, -1, -99))
        t.saw("a class outside")
    scales = {"loss": 2 * _top(logits) + 2.0, "dlogits": 0.5 / rows}
    _layer(t, "layer.cross_entropy", inputs | {"targets": ids(targets)}, scales)
