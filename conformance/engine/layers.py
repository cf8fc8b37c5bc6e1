"""The layers of the engine as operations: the forward, and the gradients of the backward (chapter 4)."""

from typing import Any

import numpy as np

from conformance.engine.values import Values
from seft_ref.arrays.library import Array, array_namespace
from seft_ref.layers.attention import visible_keys
from seft_ref.layers.embedding import embedding_backward, embedding_forward, embedding_gradient
from seft_ref.layers.linear import Linear, linear_backward, linear_forward
from seft_ref.layers.rope import Rope, rope_frequencies, rope_table
from seft_ref.layers.sets import layers_of
from seft_ref.matrix.of_step import Accumulated


def _embedding(a: Values) -> Values:
    y, cache = embedding_forward(a["tokens"], a["weight"])
    return {"y": y, "dweight": embedding_gradient(embedding_backward(a["dy"], cache))}


def _rmsnorm(a: Values) -> Values:
    layers = layers_of(a["kernels"])
    y, cache = layers.rmsnorm_forward(a["x"], a["weight"], a["eps"])
    dx, dweight = layers.rmsnorm_backward(a["dy"], cache)
    return {"y": y, "dx": dx, "dweight": dweight}


def _linear(a: Values) -> Values:
    kernels = a["kernels"]
    linear = Linear(kernels.pack_dense(a["weight"]), a["bias"])
    y, cache = linear_forward(a["x"], linear, kernels)
    dx, factors, dbias = linear_backward(a["dy"], cache)
    dweight = Accumulated(tuple(a["weight"].shape)).plus(factors).whole()
    return {"y": y, "dx": dx, "dweight": dweight, "dbias": dbias}


def _rope_of(settings: Values) -> Rope:
    names = {"factor": "factor", "low": "low_freq_factor", "high": "high_freq_factor"}
    more = {new: settings[old] for old, new in names.items() if settings.get(old) is not None}
    if settings.get("original") is not None:
        more["original_max_position_embeddings"] = settings["original"]
    return Rope(settings["type"], settings["base"], **more)


def _frequencies(a: Values) -> Values:
    rope = a["rope"]
    frequencies = rope_frequencies(_rope_of(rope), a["head_dim"], a["length"], rope["max_position_embeddings"])
    return {"frequencies": np.array(frequencies)}


def _heads_first(x: Array) -> Array:
    return array_namespace(x).permute_dims(x, (0, 2, 1, 3))


def _rope(a: Values) -> Values:
    layers = layers_of(a["kernels"])
    x, rope = a["x"], a["rope"]
    table = rope_table(_rope_of(rope), x.shape[3], x.shape[1], rope["max_position_embeddings"], x)
    y, cache = layers.rope_forward(_heads_first(x), table)
    dx = layers.rope_backward(_heads_first(a["dy"]), cache)
    return {"y": _heads_first(y), "dx": _heads_first(dx)}


def _attention(a: Values) -> Values:
    layers = layers_of(a["kernels"])
    q, k, v, dy = (_heads_first(a[name]) for name in ("q", "k", "v", "dy"))
    visible = visible_keys(q.shape[2], a["window"], a["mask"], q)
    y, cache = layers.attention_forward(q, k, v, visible)
    outputs = (y, *layers.attention_backward(dy, cache))
    return {name: _heads_first(x) for name, x in zip(("y", "dq", "dk", "dv"), outputs, strict=True)}


def _swiglu(a: Values) -> Values:
    layers = layers_of(a["kernels"])
    y, cache = layers.swiglu_forward(a["gate"], a["up"])
    dgate, dup = layers.swiglu_backward(a["dy"], cache)
    return {"y": y, "dgate": dgate, "dup": dup}


def _cross_entropy(a: Values) -> Values:
    layers = layers_of(a["kernels"])
    loss, cache = layers.cross_entropy_forward(a["logits"], a["targets"], a["count"])
    xp = array_namespace(loss)
    dloss = xp.full_like(loss, a["dloss"])
    return {"loss": float(loss), "dlogits": layers.cross_entropy_backward(dloss, cache)}


OPERATIONS: dict[str, Any] = {
    "layer.embedding": _embedding,
    "layer.rmsnorm": _rmsnorm,
    "layer.linear": _linear,
    "layer.rope": _rope,
    "layer.attention": _attention,
    "layer.swiglu": _swiglu,
    "layer.cross_entropy": _cross_entropy,
    "rope.frequencies": _frequencies,
}
