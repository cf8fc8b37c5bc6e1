"""The operations `generate.*` as calls into the engine (chapter 17)."""

from typing import Any

import numpy as np

from conformance.engine.model import weights_of_case
from conformance.engine.values import Values
from seft_ref.arrays.library import array_namespace
from seft_ref.files.model import stop_tokens_of
from seft_ref.model.config import ModelConfig
from seft_ref.text.generate import generate_tokens, nothing_read, read
from seft_ref.text.sampling import Sampling, pick


def _stops(a: Values) -> Values:
    texts = {"config.json": a["config"], "generation_config.json": a.get("generation")}
    files = {name: text.encode() for name, text in texts.items() if text is not None}
    return {"stops": np.array(stop_tokens_of(files), dtype=np.int64)}


def _sampling(a: Values) -> Sampling:
    top_p = a.get("top_p")
    return Sampling(a["temperature"], a.get("top_k"), 1.0 if top_p is None else top_p, a["seed"])


def _read(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    weights, tokens = weights_of_case(config, a["tensors"], a["kernels"]), a["tokens"]
    context, outputs = nothing_read(config), []
    for n in a["parts"]:
        part = tokens[:, context.length : context.length + n]
        logits, context = read(part, context, weights, config, a["kernels"])
        outputs.append(logits)
    return {"logits": array_namespace(tokens).stack(outputs, axis=1)}


def _fork(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    _, context = read(a["tokens"], nothing_read(config), weights, config, a["kernels"])
    return {"logits": [read(branch, context, weights, config, a["kernels"])[0] for branch in a["branches"]]}


def _pick(a: Values) -> Values:
    sampling = _sampling(a)
    return {"picked": np.array([pick(a["logits"], sampling, n) for n in a["numbers"]], dtype=np.int64)}


def _text(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    tokens = generate_tokens(
        a["prompt"],
        weights_of_case(config, a["tensors"], a["kernels"]),
        config,
        a["kernels"],
        sampling=_sampling(a),
        max_tokens=a.get("max_tokens"),
        stops=a["stops"],
    )
    return {"tokens": np.array(list(tokens), dtype=np.int64)}


OPERATIONS: dict[str, Any] = {
    "generate.stops": _stops,
    "generate.read": _read,
    "generate.fork": _fork,
    "generate.pick": _pick,
    "generate.text": _text,
}
