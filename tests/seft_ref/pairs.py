"""The table of all forward/backward pairs. A new layer is one more row.

A row says how to make its inputs and how to run it. Every float input is differentiated; tokens, masks and
settings are not. `run(inputs, fixed, backend)` returns the output and a function from dy to the gradients,
which have the names of the inputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from seft_ref.adapters.frozen import frozen
from seft_ref.adapters.lora import Lora, lora_backward, lora_forward
from seft_ref.adapters.sparsepeft import sparsepeft_backward, sparsepeft_forward
from seft_ref.adapters.spp import Spp, spp_backward, spp_forward
from seft_ref.kernels import reference
from seft_ref.layers.attention import attention_backward, attention_forward, visible_keys
from seft_ref.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from seft_ref.layers.embedding import (
    EmbeddingGradient,
    embedding_backward,
    embedding_forward,
    embedding_gradient,
)
from seft_ref.layers.linear import Linear, WeightGradient, linear_backward, linear_forward
from seft_ref.layers.past import NOTHING, extend
from seft_ref.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward
from seft_ref.layers.rope import Rope, rope_backward, rope_forward, rope_table
from seft_ref.layers.swiglu import swiglu_backward, swiglu_forward
from seft_ref.model.config import ModelConfig
from seft_ref.model.decoder import (
    block_backward,
    block_forward,
    mlp_backward,
    mlp_forward,
    model_backward,
    model_forward,
    self_attention_backward,
    self_attention_forward,
    surroundings,
)
from seft_ref.topology.csr import from_flat
from tests.backends import Backend
from tests.seft_ref.families import CONFIGS, padding, parameters_of, stored_positions, weights_of

Arrays = dict[str, Any]
Run = Callable[[Arrays, Arrays, Backend], tuple[Any, Callable[[Any], Arrays]]]


@dataclass(frozen=True)
class Pair:
    """A row: shapes of the float inputs and of the output, what is fixed, and how to run both directions."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    output: tuple[int, ...]
    run: Run
    fixed: Mapping[str, np.ndarray] = field(default_factory=dict)
    draw: Callable[[], dict[str, np.ndarray]] | None = None

    def inputs(self) -> dict[str, np.ndarray]:
        """Return the inputs in float64: float32 numbers, so that every backend gets the same ones."""
        if self.draw is not None:
            return self.draw()
        rng = np.random.default_rng([len(self.name), *self.name.encode()])
        return {
            key: rng.standard_normal(shape).astype(np.float32).astype(np.float64) for key, shape in self.shapes.items()
        }


def _product(gradient: WeightGradient, backend: Backend) -> Any:
    return backend.xp.matrix_transpose(gradient.dy) @ gradient.x


def _embedding(x: Arrays, fixed: Arrays, backend: Backend) -> Any:
    y, cache = embedding_forward(fixed["tokens"], x["weight"])
    return y, lambda dy: {"weight": embedding_gradient(embedding_backward(dy, cache))}


def _rmsnorm(x: Arrays, fixed: Arrays, backend: Backend) -> Any:
    y, cache = rmsnorm_forward(x["x"], x["weight"], 0.1)
    return y, lambda dy: dict(zip(("x", "weight"), rmsnorm_backward(dy, cache), strict=True))


def _linear(x: Arrays, fixed: Arrays, backend: Backend, shape: tuple[int, int]) -> Any:
    topology = from_flat(shape, fixed["positions"]) if fixed else None
    packed = reference.pack(topology, x["weight"]) if topology else reference.pack_dense(x["weight"])
    y, cache = linear_forward(x["x"], Linear(packed, x.get("bias")), reference)

    def back(dy: Any) -> Arrays:
        dx, dweight, dbias = linear_backward(dy, cache)
        assert (dbias is None) == ("bias" not in x)
        weight = reference.sample(dweight.dy, dweight.x, topology) if topology else _product(dweight, backend)
        return {"x": dx, "weight": weight} | ({} if dbias is None else {"bias": dbias})

    return y, back


def _rope(x: Arrays, fixed: Arrays, backend: Backend, rope: Rope) -> Any:
    y, cache = rope_forward(x["x"], rope_table(rope, x["x"].shape[-1], x["x"].shape[-2], 5, x["x"]))
    return y, lambda dy: {"x": rope_backward(dy, cache)}


def _attention(x: Arrays, fixed: Arrays, backend: Backend, window: int | None = None) -> Any:
    length = x["k"].shape[2]
    visible = visible_keys(length, window, fixed.get("mask"), x["q"], length - x["q"].shape[2])
    y, cache = attention_forward(x["q"], x["k"], x["v"], visible)
    return y, lambda dy: dict(zip(("q", "k", "v"), attention_backward(dy, cache), strict=True))


def _swiglu(x: Arrays, fixed: Arrays, backend: Backend) -> Any:
    y, cache = swiglu_forward(x["gate"], x["up"])
    return y, lambda dy: dict(zip(("gate", "up"), swiglu_backward(dy, cache), strict=True))


def _cross_entropy(x: Arrays, fixed: Arrays, backend: Backend) -> Any:
    loss, cache = cross_entropy_forward(x["logits"], fixed["targets"], 9)
    return loss, lambda dloss: {"logits": cross_entropy_backward(dloss, cache)}


def _adapter(x: Arrays, fixed: Arrays, backend: Backend, kind: str, out: int) -> Any:
    """Run an adapter beside a frozen weight, of which some stored values are zero."""
    topology = from_flat((out, x["x"].shape[-1]), fixed["positions"])
    base = frozen(topology, fixed["values"], reference, fixed.get("bias"))
    if kind == "spp":
        y, spp_cache = spp_forward(x["x"], base, Spp(x["a"], x["c"], 3.0, 2), reference)
        return y, lambda dy: dict(zip(("x", "a", "c"), spp_backward(dy, spp_cache), strict=True))
    if kind == "lora":
        y, lora_cache = lora_forward(x["x"], base, Lora(x["a"], x["b"], 2.0), reference)
        return y, lambda dy: dict(zip(("x", "a", "b"), lora_backward(dy, lora_cache), strict=True))
    y, cache = sparsepeft_forward(x["x"], base, Lora(x["a"], x["b"], 2.0), reference)
    return y, lambda dy: dict(zip(("x", "a", "b"), sparsepeft_backward(dy, cache), strict=True))


def _named(gradients: Any, backend: Backend, config: ModelConfig) -> Arrays:
    """Return gradients by parameter name, multiplied out; the two uses of a tied table are summed."""
    total: Arrays = {}
    for name, gradient in gradients:
        key = "model.embed_tokens.weight" if config.tie_word_embeddings and name == "lm_head.weight" else name
        value = gradient
        if isinstance(gradient, WeightGradient):
            value = _product(gradient, backend)
        elif isinstance(gradient, EmbeddingGradient):
            value = embedding_gradient(gradient)
        total[key] = total[key] + value if key in total else value
    return total


def _part(x: Arrays, fixed: Arrays, backend: Backend, config: ModelConfig, part: str) -> Any:
    """Run the attention half, the MLP half, or all of block 1, whose window is the config's last."""
    named = backend.arrays(parameters_of(config, 3)) | {name: value for name, value in x.items() if name != "x"}
    layer = config.num_hidden_layers - 1
    block = weights_of(config, named, backend).blocks[layer]
    around, past = surroundings(config, x["x"].shape[1], fixed.get("mask"), x["x"]), None
    if "past_k" in fixed:
        past = extend(NOTHING, fixed["past_k"], fixed["past_v"])
        around = surroundings(config, past.length + x["x"].shape[1], None, x["x"], past.length)
    prefix = f"model.layers.{layer}"
    if part == "self_attn":
        y, cache = self_attention_forward(x["x"], block, config, layer, around, reference, past)
        backward = partial(self_attention_backward, cache=cache, prefix=f"{prefix}.self_attn")
    elif part == "mlp":
        y, cache = mlp_forward(x["x"], block, reference)
        backward = partial(mlp_backward, cache=cache, prefix=f"{prefix}.mlp")
    else:
        y, cache = block_forward(x["x"], block, config, layer, around, reference)
        backward = partial(block_backward, cache=cache, prefix=prefix)

    def back(dy: Any) -> Arrays:
        dx, gradients = backward(dy)
        return {"x": dx} | _named(gradients, backend, config)

    return y, back


def _model(x: Arrays, fixed: Arrays, backend: Backend, config: ModelConfig) -> Any:
    weights = weights_of(config, x, backend)
    y, cache = model_forward(fixed["tokens"], weights, config, reference, fixed.get("mask"))
    return y, lambda dy: _named(model_backward(dy, cache), backend, config)


def _part_row(name: str, family: str, part: str, pad: str, past: int = 0) -> Pair:
    config = ModelConfig.from_json(CONFIGS[family])
    mask = padding(pad)
    within = f"model.layers.{config.num_hidden_layers - 1}.{'' if part == 'block' else part}"

    def draw() -> dict[str, np.ndarray]:
        rng = np.random.default_rng([4, *name.encode()])
        x = rng.standard_normal((3, 7, config.hidden_size)).astype(np.float32).astype(np.float64)
        return {"x": x} | {key: value for key, value in parameters_of(config, 3).items() if key.startswith(within)}

    shapes = {"x": (3, 7, config.hidden_size)} | {
        key: shape for key, shape in config.parameters().items() if key.startswith(within)
    }
    fixed = {} if mask is None else {"mask": mask}
    if past:
        rng = np.random.default_rng(9)
        held = rng.standard_normal((2, 3, config.num_key_value_heads, past, config.head_dim)).astype(np.float32)
        fixed |= {"past_k": held[0].astype(np.float64), "past_v": held[1].astype(np.float64)}
    return Pair(name, shapes, (3, 7, config.hidden_size), partial(_part, config=config, part=part), fixed, draw)


def _model_row(name: str, family: str, pad: str) -> Pair:
    config = ModelConfig.from_json(CONFIGS[family])
    mask = padding(pad)
    tokens = np.random.default_rng(5).integers(0, config.vocab_size, size=(3, 7))
    fixed = {"tokens": tokens} | ({} if mask is None else {"mask": mask})
    return Pair(
        name,
        config.parameters(),
        (3, 7, config.vocab_size),
        partial(_model, config=config),
        fixed,
        partial(parameters_of, config, 6),
    )


_POSITIONS = {"positions": stored_positions((5, 7), 1)}
_STORED = _POSITIONS["positions"].shape
_FROZEN = {
    "positions": stored_positions((6, 7), 2),
    "values": np.random.default_rng(8).integers(-1, 3, stored_positions((6, 7), 2).shape) / 2.0,
    "bias": np.array([0.5, -1.0, 0.0, 2.0, 1.0, -0.25]),
}
_FACTORS = {"x": (2, 3, 7), "a": (3, 7), "b": (6, 3)}
_QKV = {"q": (3, 6, 7, 4), "k": (3, 3, 7, 4), "v": (3, 3, 7, 4)}
_TARGETS = np.array([3, -100, 0, 6, -100, 3, 3, 5, 1, -100, 2])

PAIRS = {
    pair.name: pair
    for pair in (
        Pair(
            "embedding",
            {"weight": (5, 3)},
            (8, 3),
            _embedding,
            {"tokens": np.array([1, 4, 1, 0, 1, 2, 4, 0])},
        ),
        Pair("rmsnorm", {"x": (2, 3, 7), "weight": (7,)}, (2, 3, 7), _rmsnorm),
        Pair("linear", {"x": (2, 3, 7), "weight": (5, 7)}, (2, 3, 5), partial(_linear, shape=(5, 7))),
        Pair(
            "linear-bias",
            {"x": (2, 3, 7), "weight": (5, 7), "bias": (5,)},
            (2, 3, 5),
            partial(_linear, shape=(5, 7)),
        ),
        Pair(
            "linear-sparse",
            {"x": (2, 3, 7), "weight": _STORED},
            (2, 3, 5),
            partial(_linear, shape=(5, 7)),
            _POSITIONS,
        ),
        Pair(
            "linear-sparse-bias",
            {"x": (6, 7), "weight": _STORED, "bias": (5,)},
            (6, 5),
            partial(_linear, shape=(5, 7)),
            _POSITIONS,
        ),
        Pair("rope", {"x": (2, 3, 7, 6)}, (2, 3, 7, 6), partial(_rope, rope=Rope("default", 100.0))),
        Pair(
            "rope-dynamic",
            {"x": (2, 3, 7, 6)},
            (2, 3, 7, 6),
            partial(_rope, rope=Rope("dynamic", 100.0, 3.0)),
        ),
        Pair("attention", {"q": (2, 3, 7, 4), "k": (2, 3, 7, 4), "v": (2, 3, 7, 4)}, (2, 3, 7, 4), _attention),
        Pair("attention-gqa", _QKV, (3, 6, 7, 4), _attention),
        Pair("attention-window", _QKV, (3, 6, 7, 4), partial(_attention, window=3)),
        Pair("attention-past", {"q": (3, 6, 2, 4), "k": (3, 3, 7, 4), "v": (3, 3, 7, 4)}, (3, 6, 2, 4), _attention),
        Pair(
            "attention-past-window",
            {"q": (3, 6, 4, 4), "k": (3, 3, 7, 4), "v": (3, 3, 7, 4)},
            (3, 6, 4, 4),
            partial(_attention, window=3),
        ),
        Pair("attention-mask", _QKV, (3, 6, 7, 4), _attention, {"mask": padding("left")}),
        Pair(
            "attention-window-mask",
            _QKV,
            (3, 6, 7, 4),
            partial(_attention, window=2),
            {"mask": padding("right")},
        ),
        Pair("swiglu", {"gate": (2, 3, 5), "up": (2, 3, 5)}, (2, 3, 5), _swiglu),
        Pair("cross_entropy", {"logits": (11, 7)}, (), _cross_entropy, {"targets": _TARGETS}),
        Pair("lora", _FACTORS, (2, 3, 6), partial(_adapter, kind="lora", out=6), _FROZEN),
        Pair("spp", {"x": (2, 3, 7), "a": (3, 7), "c": (6,)}, (2, 3, 6), partial(_adapter, kind="spp", out=6), _FROZEN),
        Pair("sparsepeft", _FACTORS, (2, 3, 6), partial(_adapter, kind="sparsepeft", out=6), _FROZEN),
        _part_row("self_attention", "mistral", "self_attn", "none"),
        _part_row("self_attention-norms-biases-mask", "qwen3-attention-bias", "self_attn", "left"),
        _part_row("self_attention-past", "qwen3-sliding", "self_attn", "none", past=2),
        _part_row("mlp", "llama-gqa", "mlp", "none"),
        _part_row("mlp-biases", "llama-mlp-bias", "mlp", "none"),
        _part_row("block", "llama-head_dim", "block", "none"),
        _part_row("block-sliding-mask", "qwen2-max_window_layers", "block", "left"),
        _model_row("model", "llama-gqa", "none"),
        _model_row("model-tied-mask", "qwen3-attention-bias", "left"),
    )
}
