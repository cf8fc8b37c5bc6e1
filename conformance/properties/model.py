"""Properties of configs, whole models and perplexity (chapters 5 and 11)."""

from typing import Any

import numpy as np

from conformance.answers.answer import ids
from conformance.properties.draws import Draw
from conformance.properties.models import KINDS, ask_surely, drawn_config, drawn_tensors
from conformance.properties.trial import Trial, property_of


@property_of(
    "model.step",
    "MDL-001 MDL-003 MDL-004 MDL-005 GRD-001 TRN-001 TRN-002 LYR-005",
    "layers",
    "model.step",
    sees=KINDS,
    seeded=1,
)
def _step(d: Draw, t: Trial) -> None:
    """Loss, logits and gradients of a model of each kind are those of the written formulas."""
    for kind in KINDS:

        def draw(kind: str = kind) -> dict[str, Any]:
            config = drawn_config(d, kind)
            tensors, rows, length = drawn_tensors(d, config), d.integer(1, 3), d.integer(3, 6)
            tokens = ids(d.integers(rows * length, 0, config["vocab_size"] - 1)).reshape(rows, length)
            labels = np.where(ids(d.integers(rows * length, 0, 3)).reshape(rows, length) == 3, -100, tokens)
            labels[0, 1] = tokens[0, 1]
            mask = np.ones((rows, length), dtype=bool)
            mask[-1, length - d.integer(0, 1) :] = False
            inputs = {"config": config, "tensors": tensors, "tokens": tokens, "labels": labels}
            return inputs | {"mask": None if mask.all() else mask, "rows_at_once": d.integer(1, rows)}

        ask_surely(t, d, "model.step", draw, kind)


@property_of(
    "evaluate.perplexity", "EVL-001 NUM-004", "train", "evaluate.perplexity", sees=("several windows",), seeded=2
)
def _perplexity(d: Draw, t: Trial) -> None:
    """Perplexity is e to the power of the mean loss over the targets of all windows."""

    def draw() -> dict[str, Any]:
        config = drawn_config(d, d.choice(KINDS)) | {"max_position_embeddings": 16}
        tensors, length, windows = drawn_tensors(d, config), d.integer(3, 7), d.integer(2, 4)
        text = ids(d.integers(length + d.integer(2, 30), 0, config["vocab_size"] - 1))
        return {"config": config, "tensors": tensors, "text": text, "length": length, "windows": windows}

    ask_surely(t, d, "evaluate.perplexity", draw, "several windows")


_BROKEN: tuple[tuple[str, Any], ...] = (
    ("model_type", "gpt2"),
    ("model_type", None),
    ("hidden_size", None),
    ("vocab_size", None),
    ("rms_norm_eps", None),
    ("hidden_act", "gelu"),
    ("attention_dropout", 0.25),
    ("head_dim", 3),
    ("num_hidden_layers", 0),
    ("rope_parameters", {"rope_type": "yarn", "factor": 2.0}),
)
"""Settings that no family defines: a key and its value (None removes it)."""


@property_of("config.biases", "MDL-002", "checkpoints", "config.biases", sees=KINDS)
def _biases(d: Draw, t: Trial) -> None:
    """The projections with a bias are those of the family, whatever the switches of other families say."""
    kind = d.choice(KINDS)
    config = drawn_config(d, kind) | {"attention_bias": d.flag(), "mlp_bias": d.flag()}
    t.saw(kind)
    t.case("config.biases", {"config": config})


@property_of(
    "config.describe",
    "MDL-002 MDL-003 MDL-004 MDL-006 MDL-007",
    "layers",
    "config.describe",
    sees=(*KINDS, "windows by layer", "refused"),
)
def _describe(d: Draw, t: Trial) -> None:
    """Targets, windows, head width and key heads of a config are those of the tables of chapter 5."""
    kind, layers = d.choice(KINDS), d.integer(1, 4)
    config = drawn_config(d, kind) | {"num_hidden_layers": layers}
    if config["model_type"] in ("qwen2", "qwen3"):
        config |= {"use_sliding_window": d.flag(), "max_window_layers": d.integer(0, layers)}
        types = [d.choice(("full_attention", "sliding_attention")) for _ in range(layers)]
        config |= {"layer_types": types if d.flag() else None}
        t.saw("windows by layer", len(set(types)) > 1 and config["layer_types"])
    t.saw(kind)
    if d.flag(5):
        key, value = d.choice(_BROKEN)
        t.saw("refused")
        config = {name: x for name, x in (config | {key: value}).items() if name != key or x is not None}
    t.case("config.describe", {"config": config})
