"""Cases of chapters 5 and 6: configs and whole models."""

import numpy as np

from conformance.gen.layers import differentiate
from conformance.gen.numbers import Area, Array, Numbers
from conformance.oracle import model
from conformance.oracle.model import Config, Decoder
from conformance.oracle.tape import Var

SMALL: Config = {
    "model_type": "llama",
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "tie_word_embeddings": False,
}

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

ONE_HEAD = {
    "vocab_size": 5,
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}

_SLIDES = ["full_attention", "sliding_attention"]

MODELS: dict[str, Config] = {
    "llama": SMALL | {"attention_bias": True, "mlp_bias": True, "rope_parameters": _LLAMA3},
    "llama-plain": SMALL | {"num_key_value_heads": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "mistral": SMALL | {"model_type": "mistral", "sliding_window": 3, "tie_word_embeddings": True},
    "qwen2": SMALL
    | {
        "model_type": "qwen2",
        "sliding_window": 2,
        "use_sliding_window": True,
        "layer_types": _SLIDES,
        "max_window_layers": 0,
    },
    "qwen3": SMALL
    | {
        "model_type": "qwen3",
        "head_dim": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 2,
        "max_window_layers": 1,
        "max_position_embeddings": 4,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    },
}

_LINEAR = {"rope_type": "linear", "factor": 2.0}
_LLAMA3_IN = SMALL | {"rope_scaling": _LLAMA3}

_ROPE_TWICE: dict[str, Config] = {
    "rope-twice": SMALL
    | {"rope_parameters": _LINEAR | {"rope_theta": 100.0}, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "rope-empty": SMALL | {"rope_parameters": _LINEAR, "rope_scaling": {}},
    "rope-type-twice": SMALL | {"rope_scaling": _LINEAR | {"type": "linear"}},
    "rope-base-alone": SMALL | {"rope_parameters": {"rope_theta": 7.0}},
    "rope-context-twice": _LLAMA3_IN | {"original_max_position_embeddings": 32},
    "rope-rotary-alone": SMALL | {"rope_parameters": {"rope_theta": 7.0, "partial_rotary_factor": 1.0}},
    "rope-context-unused": SMALL
    | {
        "rope_scaling": _LINEAR | {"original_max_position_embeddings": 16},
        "original_max_position_embeddings": 32,
    },
}
"""RoPE settings that are given twice and agree, that name no type, or that the type does not use."""

_BAD_ROPE: dict[str, tuple[Config, str]] = {
    "rope-two": ({"rope_parameters": _LINEAR, "rope_scaling": _LINEAR | {"factor": 4.0}}, "MDL-009 MDL-006"),
    "rope-two-bases": ({"rope_parameters": _LINEAR | {"rope_theta": 7.0}, "rope_scaling": _LINEAR}, "MDL-009 MDL-006"),
    "rope-yarn-parameters": ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "MDL-006 MDL-004"),
    "rope-yarn-first": (
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}, "rope_scaling": _LINEAR},
        "MDL-006 MDL-004 MDL-009",
    ),
    "rope-yarn-second": (
        {"rope_parameters": _LINEAR, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        "MDL-006 MDL-004 MDL-009",
    ),
    "rope-two-types": ({"rope_scaling": _LINEAR | {"type": "dynamic"}}, "MDL-010 MDL-006"),
    "rope-no-type": ({"rope_scaling": {"factor": 2.0}}, "MDL-010 MDL-006"),
    "rope-two-contexts": (
        {"rope_scaling": _LLAMA3, "original_max_position_embeddings": 16},
        "MDL-011 MDL-006",
    ),
    "rope-by-layer": ({"rope_parameters": {"full_attention": _LINEAR}}, "MDL-012 MDL-006"),
    "rope-by-layer-beside": ({"rope_parameters": _LINEAR | {"sliding_attention": {}}}, "MDL-012 MDL-006"),
}


def tensors_of(config: Config, n: Numbers, scale: float = 0.4) -> dict[str, Array]:
    """Return random tensors of a model, exact in binary32; weights of norms are near 1."""
    return {
        name: (n.real(shape, scale) + name.endswith("norm.weight")).astype(np.float32).astype(np.float64)
        for name, shape in model.shapes(config).items()
    }


def models() -> Area:
    """Return cases of forward and backward of each kind of model (MDL-001 to MDL-005, GRD-001, TRN-001, TRN-002)."""
    area = Area("model", "binary64 decoder; gradients recorded, checked by complex step")
    for i, (name, config) in enumerate(MODELS.items()):
        n = Numbers(30, i)
        tensors = tensors_of(config, n)
        tokens = n.integers((3, 6), 0, 10)
        labels = tokens.copy()
        labels[0, 2] = labels[1, 4] = labels[1, 5] = -100
        labels[2, :4] = -100
        mask = np.ones((3, 6), dtype=bool)
        if name in ("llama", "qwen3"):
            mask[1, :2] = mask[2, 4:] = False
        _check(config, tensors, tokens, labels, mask)
        loss, logits, grads = Decoder(config, tensors).loss_and_gradients(tokens, labels, mask)
        inputs = {"config": config, "tensors": tensors, "tokens": tokens, "labels": labels}
        inputs["mask"] = None if mask.all() else mask
        answer = {"loss": loss, "logits": logits, "gradients": grads}
        clauses = "MDL-001 MDL-002 MDL-004 TRN-001 GRD-001 LYR-005 NUM-004"
        clauses += {"llama": " LYR-006", "mistral": " MDL-003 MDL-005"}.get(name, "")
        clauses += " MDL-003" if name.startswith("qwen") else ""
        text = "wiring: residuals, norms, biases, heads, windows, angles; loss averaged over padding"
        for split in {"llama": (3, 2), "mistral": (1,)}.get(name, (3,)):
            more = " TRN-002" if split < 3 else ""
            area.add(f"{name}-{split}", "model.step", clauses + more, text, inputs | {"rows_at_once": split}, answer)
    _contexts(area)
    inputs = inputs | {"tokens": tokens + 7, "rows_at_once": 3}
    area.add("refuse-token", "model.step", "LYR-001", "a token outside the vocabulary", inputs, refused="LYR-001")
    return area


def _contexts(area: Area) -> None:
    """Add models of llama3 scaling whose original context is outside the settings, or missing (MDL-011)."""
    settings = {name: value for name, value in _LLAMA3.items() if not name.startswith("original")}
    config = SMALL | ONE_HEAD | {"rope_scaling": settings}
    for name, more, purpose in (
        ("context-beside", {"original_max_position_embeddings": 8}, "an original context beside the settings ignored"),
        ("context-nowhere", {}, "another original context than max_position_embeddings, where none is named"),
    ):
        n = Numbers(30, 10)
        tensors = tensors_of(config | more, n)
        tokens = n.integers((2, 6), 0, 4)
        mask = np.ones(tokens.shape, dtype=bool)
        _check(config | more, tensors, tokens, tokens, mask)
        loss, logits, grads = Decoder(config | more, tensors).loss_and_gradients(tokens, tokens, mask)
        inputs = {"config": config | more, "tensors": tensors, "tokens": tokens, "labels": tokens, "mask": None}
        answer = {"loss": loss, "logits": logits, "gradients": grads}
        area.add(name, "model.step", "MDL-011 LYR-006", purpose, inputs | {"rows_at_once": 2}, answer)


def _check(config: Config, tensors: dict[str, Array], tokens: Array, labels: Array, mask: Array) -> None:
    """Check the recorded gradients of a whole model against a complex step."""
    names = list(tensors)

    def loss(*variables: Var) -> Var:
        decoder = Decoder(config, {})
        decoder.tensors = dict(zip(names, variables, strict=True))
        return decoder.loss(tokens, labels, mask)[0]

    differentiate(loss, [tensors[name] for name in names], np.asarray(1.0))


def biased() -> Area:
    """Return cases of the projections that have a bias: every family with each switch, and without any (MDL-002)."""
    area = Area("biases", "a table")
    text = "biases of another family, or a switch that belongs to one family read for another"
    switches = ("attention_bias", "mlp_bias")
    for kind in ("llama-plain", "mistral", "qwen2", "qwen3"):
        plain = {key: value for key, value in MODELS[kind].items() if key not in switches}
        for name, switch in (("no-switch", {}), *((s.replace("_", "-"), {s: True}) for s in switches)):
            config = plain | dict.fromkeys(switch and switches, False) | switch
            answer = {"projections": list(model.biases(config))}
            area.add(f"{name}-of-{kind}", "config.biases", "MDL-002", text, {"config": config}, answer)
    unknown = {"config": SMALL | {"model_type": "gpt2"}}
    area.add("refuse-type", "config.biases", "MDL-002", "a family that nobody defines", unknown, refused="MDL-002")
    return area


def configs() -> Area:
    """Return cases of configs, described or refused (MDL-002 to MDL-007, MDL-009 to MDL-012)."""
    area = Area("config")
    more = {
        "mistral-open": SMALL | {"model_type": "mistral", "sliding_window": None},
        "qwen2-from-1": SMALL
        | {
            "model_type": "qwen2",
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
        },
        "qwen2-types-alone": SMALL | {"model_type": "qwen2", "sliding_window": 2, "layer_types": _SLIDES},
        "qwen2-off": SMALL
        | {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 4, "max_window_layers": 0},
        "llama-window": SMALL | {"sliding_window": 4},
        "qwen2-types-off": SMALL
        | {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 2, "layer_types": _SLIDES},
    }
    for name, config in (MODELS | more | _ROPE_TWICE).items():
        text = "targets out of order, a window on the wrong layer, a default not applied"
        clauses = "MDL-003 MDL-004 MDL-007" if name not in _ROPE_TWICE else "MDL-009 MDL-010 MDL-011"
        area.add(name, "config.describe", clauses, text, {"config": config}, model.described(config))
    bad: dict[str, tuple[Config, str]] = {
        "unknown-type": ({"model_type": "gpt2"}, "MDL-002"),
        "no-type": ({"model_type": None}, "MDL-002"),
        "no-hidden-size": ({"hidden_size": None}, "MDL-006"),
        "no-vocab": ({"vocab_size": None}, "MDL-006"),
        "no-eps": ({"rms_norm_eps": None}, "MDL-006"),
        "activation": ({"hidden_act": "gelu"}, "MDL-006"),
        "dropout": ({"attention_dropout": 0.1}, "MDL-006"),
        "rope-type": ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "MDL-006 MDL-004"),
        "rope-factor": ({"rope_scaling": {"rope_type": "linear"}}, "MDL-006 MDL-004"),
        "llama3-low": ({"rope_parameters": _LLAMA3 | {"low_freq_factor": None}}, "MDL-006 MDL-004"),
        "heads": ({"num_attention_heads": 3}, "MDL-006 MDL-004"),
        "groups": ({"num_attention_heads": 4, "num_key_value_heads": 3}, "MDL-006"),
        "odd-head": ({"head_dim": 3}, "MDL-006"),
        "zero-layers": ({"num_hidden_layers": 0}, "MDL-006"),
        "layer-types": (
            {"model_type": "qwen2", "layer_types": ["full_attention"], "sliding_window": 2},
            "MDL-006",
        ),
    }
    for name, (change, clause) in (bad | _BAD_ROPE).items():
        inputs = {"config": {k: v for k, v in (SMALL | change).items() if v is not None or k not in change}}
        text = "a config that the family does not define is run all the same"
        area.add(f"refuse-{name}", "config.describe", clause, text, inputs, refused=clause)
    return area


AREAS = (models, configs, biased)
