"""The decoder of chapter 5 in binary64, from a config.json and named tensors (MDL, GRD, TRN-001)."""

from typing import Any

import numpy as np

from conformance.oracle import layers
from conformance.oracle.tape import Array, Var, gradients

Config = dict[str, Any]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def place(block: int, projection: str) -> str:
    """Return the name of the weight of a projection in a checkpoint."""
    part = "self_attn" if projection in PROJECTIONS[:4] else "mlp"
    return f"model.layers.{block}.{part}.{projection}.weight"


def targets(config: Config) -> list[str]:
    """Return the names of the targets in the order of the matrix index (MDL-007)."""
    return [place(i, p) for i in range(config["num_hidden_layers"]) for p in PROJECTIONS]


def head_width(config: Config) -> int:
    """Return D (MDL-004)."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def biases(config: Config) -> tuple[str, ...]:
    """Return the projections that have a bias (MDL-002)."""
    kind = config["model_type"]
    has: tuple[str, ...] = PROJECTIONS[:3] if kind == "qwen2" else ()
    if kind in ("llama", "qwen3") and config.get("attention_bias"):
        has += PROJECTIONS[:4]
    if kind == "llama" and config.get("mlp_bias"):
        has += PROJECTIONS[4:]
    return has


def window(config: Config, block: int) -> int | None:
    """Return the sliding window of a block, None if its queries see all earlier keys (MDL-003)."""
    size = config.get("sliding_window")
    if config["model_type"] == "mistral":
        return size
    if config["model_type"] not in ("qwen2", "qwen3"):
        return None
    if config.get("layer_types") is not None:
        return size if config["layer_types"][block] == "sliding_attention" else None
    slides = config.get("use_sliding_window") and block >= config.get("max_window_layers", 28)
    return size if slides else None


def described(config: Config) -> dict[str, Any]:
    """Return the answer to `config.describe`: targets, windows, head width and number of KV heads."""
    return {
        "targets": targets(config),
        "windows": [window(config, i) for i in range(config["num_hidden_layers"])],
        "head_dim": head_width(config),
        "kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
    }


ROPE_NUMBERS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
"""The numbers that the settings of each type of RoPE have."""


def rope(config: Config) -> dict[str, Any]:
    """Return the RoPE settings of a config, which must not contradict itself (MDL-004, MDL-009 to MDL-011)."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = settings.get("rope_type") or settings.get("type") or "default"
    factor, low, high = (settings.get(key) if key in ROPE_NUMBERS[kind] else None for key in ROPE_NUMBERS["llama3"])
    most = config.get("max_position_embeddings")
    contexts = [c.get("original_max_position_embeddings") for c in (settings, config)]
    return {
        "type": kind,
        "base": settings.get("rope_theta") or config.get("rope_theta") or 10000.0,
        "factor": factor,
        "low": low,
        "high": high,
        "original": (contexts[0] or contexts[1] or most) if kind == "llama3" else None,
        "max_position_embeddings": most,
    }


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of the architecture."""
    c, f, d = config["hidden_size"], config["intermediate_size"], head_width(config)
    heads = config["num_attention_heads"]
    kv = config.get("num_key_value_heads") or heads
    size = {"q_proj": (heads * d, c), "k_proj": (kv * d, c), "v_proj": (kv * d, c), "o_proj": (c, heads * d)}
    size |= {"gate_proj": (f, c), "up_proj": (f, c), "down_proj": (c, f)}
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], c)}
    for i in range(config["num_hidden_layers"]):
        for p in PROJECTIONS:
            out[place(i, p)] = size[p]
            if p in biases(config):
                out[place(i, p).removesuffix("weight") + "bias"] = size[p][:1]
        out |= {f"model.layers.{i}.{n}_layernorm.weight": (c,) for n in ("input", "post_attention")}
        if config["model_type"] == "qwen3":
            out |= {f"model.layers.{i}.self_attn.{n}_norm.weight": (d,) for n in "qk"}
    out["model.norm.weight"] = (c,)
    if not config.get("tie_word_embeddings"):
        out["lm_head.weight"] = (config["vocab_size"], c)
    return out


class Decoder:
    """A model whose tensors are Vars.

    Attributes:
        inputs: inputs of each target in the last pass of `block`, for calibration, by name.
        outputs: outputs of each target in that pass, by name.
        passed: the loss of the last pass.
    """

    def __init__(self, config: Config, tensors: dict[str, Array]) -> None:
        self.config = config
        self.tensors = {name: Var(x) for name, x in tensors.items()}
        self.inputs: dict[str, Array] = {}
        self.outputs: dict[str, Var] = {}
        self.passed = Var(0.0)

    def _linear(self, x: Var, block: int, projection: str) -> Var:
        name = place(block, projection)
        self.inputs[name] = x.value
        y = layers.linear(x, self.tensors[name], self.tensors.get(name.removesuffix("weight") + "bias"))
        self.outputs[name] = y
        return y

    def embed(self, tokens: Array) -> Var:
        """Return the embedded tokens (B, T, C)."""
        return layers.embedding(self.tensors["model.embed_tokens.weight"], tokens)

    def block(self, x: Var, i: int, mask: Array | None = None) -> Var:
        """Return the output of block i (MDL-001)."""
        c, t, at = self.config, self.tensors, f"model.layers.{i}."
        d, eps = head_width(c), c["rms_norm_eps"]
        u = layers.rmsnorm(x, t[at + "input_layernorm.weight"], eps)
        q, k, v = (self._linear(u, i, p).reshape(*x.shape[:2], -1, d) for p in PROJECTIONS[:3])
        if c["model_type"] == "qwen3":
            q = layers.rmsnorm(q, t[at + "self_attn.q_norm.weight"], eps)
            k = layers.rmsnorm(k, t[at + "self_attn.k_norm.weight"], eps)
        f = layers.frequencies(d, rope(c), x.shape[1])
        mixed = layers.attention(layers.rotate(q, f), layers.rotate(k, f), v, mask, window(c, i))
        h = x + self._linear(mixed.reshape(*x.shape[:2], -1), i, "o_proj")
        u = layers.rmsnorm(h, t[at + "post_attention_layernorm.weight"], eps)
        act = layers.swiglu(self._linear(u, i, "gate_proj"), self._linear(u, i, "up_proj"))
        return h + self._linear(act, i, "down_proj")

    def logits(self, tokens: Array, mask: Array | None = None) -> Var:
        """Return the logits (B, T, V) of tokens (B, T) (MDL-001, MDL-005)."""
        x = self.embed(tokens)
        for i in range(self.config["num_hidden_layers"]):
            x = self.block(x, i, mask)
        x = layers.rmsnorm(x, self.tensors["model.norm.weight"], self.config["rms_norm_eps"])
        tied = self.config.get("tie_word_embeddings")
        return layers.linear(x, self.tensors["model.embed_tokens.weight" if tied else "lm_head.weight"])

    def loss(self, tokens: Array, labels: Array, mask: Array | None = None) -> tuple[Var, Var]:
        """Return the mean loss over the counted targets, and the logits (TRN-001)."""
        logits = self.logits(tokens, mask)
        target_ids = np.concatenate([labels[:, 1:], np.full((len(labels), 1), -100)], axis=1).reshape(-1)
        flat = logits.reshape(-1, logits.shape[-1])
        self.passed = layers.cross_entropy(flat, target_ids, int((target_ids != -100).sum()))
        return self.passed, logits

    def loss_and_gradients(
        self, tokens: Array, labels: Array, mask: Array | None = None
    ) -> tuple[float, Array, dict[str, Array]]:
        """Return loss, logits and the gradient of every tensor (GRD-001)."""
        loss, logits = self.loss(tokens, labels, mask)
        names = list(self.tensors)
        grads = gradients(loss, 1.0, [self.tensors[n] for n in names])
        return float(loss.value), logits.value, dict(zip(names, grads, strict=True))

    def upstream(self, tokens: Array, labels: Array, mask: Array | None = None) -> dict[str, Array]:
        """Return dy, the gradient of the outputs, for every target (GRD-008)."""
        loss, _ = self.loss(tokens, labels, mask)
        names = list(self.outputs)
        return dict(zip(names, gradients(loss, 1.0, [self.outputs[n] for n in names]), strict=True))
