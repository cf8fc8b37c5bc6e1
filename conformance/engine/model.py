"""Configs, whole models and perplexity in the engine (chapters 5 and 11)."""

from typing import Any

from conformance.engine.values import Values
from seft_ref.arrays.library import Array, array_namespace
from seft_ref.matrix.window import Window
from seft_ref.model.config import ATTENTION, MLP, ModelConfig
from seft_ref.model.decoder import model_forward
from seft_ref.model.weights import Weights, assemble
from seft_ref.text.batch import Batch
from seft_ref.text.evaluate import evaluate_examples, evaluate_windows
from seft_ref.text.examples import Example, Examples, check_data
from seft_ref.topology.csr import full
from seft_ref.train.gradients import StepGradients, every_gradient, loss_and_gradients


def weights_of_case(config: ModelConfig, tensors: dict[str, Array], kernels: Any) -> Weights:
    """Return the engine's weights of a model in which every position is stored."""
    packed = {name: kernels.pack_dense(x) for name, x in tensors.items() if x.ndim == 2}
    if config.tie_word_embeddings:
        packed["lm_head.weight"] = packed["model.embed_tokens.weight"]
    return assemble(config, tensors, packed)


def _describe(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    return {
        "targets": [matrix.name for matrix in config.targets()],
        "windows": list(config.windows),
        "head_dim": config.head_dim,
        "kv_heads": config.num_key_value_heads,
    }


def _biases(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    return {"projections": [projection for projection in (*ATTENTION, *MLP) if projection in config.biased]}


def _step(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    tokens, labels, mask, n = a["tokens"], a["labels"], a["mask"], a["rows_at_once"]
    batches = [
        Batch(tokens[i : i + n, :], labels[i : i + n, :], None if mask is None else mask[i : i + n, :])
        for i in range(0, tokens.shape[0], n)
    ]
    loss, gradients = every_gradient(weights, config, batches, a["kernels"])
    if a["recompute"]:
        # MDL-008: with recomputation the gradients of the targets come from the function that training calls
        like = weights.norm
        everywhere = {m.name: full(m.shape, like) for m in config.targets()}
        again: StepGradients[Window] = loss_and_gradients(
            weights, config, batches, a["kernels"], everywhere, recompute=True
        )
        shapes = {m.name: m.shape for m in config.targets()}
        loss, xp = again.loss, array_namespace(like)
        gradients |= {name: xp.reshape(values, shapes[name]) for name, values in again.at.items()}
    parts = [model_forward(b.tokens, weights, config, a["kernels"], b.mask)[0] for b in batches]
    return {"loss": loss, "logits": array_namespace(tokens).concat(parts), "gradients": gradients}


def _perplexity(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    text = [int(t) for t in a["text"]]
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    result = evaluate_windows(weights, config, text, a["kernels"], length=a["length"], windows=a["windows"], rows=2)
    return {"perplexity": result.perplexity, "targets": result.targets}


def _examples(a: Values) -> Values:
    config = ModelConfig.from_json(a["config"])
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    pairs = zip(a["tokens"], a["labels"], strict=True)
    examples = Examples([Example([int(t) for t in tokens], [int(n) for n in labels]) for tokens, labels in pairs])
    check_data(examples, max(len(one.tokens) for one in examples.items), config)
    loss = evaluate_examples(weights, config, examples, a["kernels"], rows=a["rows"])
    return {"loss": loss, "counted": sum(one.targets() for one in examples.items)}


OPERATIONS: dict[str, Any] = {
    "config.describe": _describe,
    "config.biases": _biases,
    "model.step": _step,
    "evaluate.perplexity": _perplexity,
    "evaluate.examples": _examples,
}
