"""Properties of configs, whole models, runs, pruned models and texts (chapters 5, 10, 11 and 17).

Every example is a model that nobody has seen. An answer that rounding could turn is not asked for: the oracle answers
for models that differ in their sixth digit too, and an example counts only if all of these answers are the same.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from conformance.gen import model as models
from conformance.gen import tiny
from conformance.gen.numbers import Array, Numbers, ids
from conformance.gen.train import run_answer
from conformance.gen.train_steps import SETTINGS
from conformance.oracle import generate, model, prune, train, train_text
from conformance.oracle.model import Config, Decoder
from conformance.properties.draws import Draw, Many
from conformance.properties.trial import Trial, property_of

__all__: list[str] = []

Tensors = dict[str, Array]
_OFF = 1e-6
"""By what part of itself each weight of a neighbouring model differs; a rounding of binary32 is 6e-8."""
_NEAR = 3e-5
"""How far the answers for neighbouring models may be apart, as a part of their largest value (NUM-004: 1e-4)."""
_TRIED = 20
"""How many models are drawn until one has an answer that rounding cannot turn."""


def _config(d: Draw, kind: str) -> Config:
    """Return a config of a kind of model, small and of new sizes."""
    heads = d.choice((2, 4))
    more: Config = {
        "vocab_size": d.integer(5, 9),
        "hidden_size": heads * 2 * d.integer(1, 2),
        "intermediate_size": d.integer(3, 6),
        "num_attention_heads": heads,
        "num_key_value_heads": d.choice((1, 2, heads)),
        "rms_norm_eps": 2.0 ** -d.integer(8, 17),
        "rope_theta": float(d.integer(20, 2000)),
    }
    config = models.MODELS[kind] | more
    if kind == "qwen3":
        # a context shorter than the text, so that dynamic frequencies change
        config |= {"head_dim": 2 * d.integer(2, 4), "max_position_embeddings": d.integer(3, 8)}
    if config.get("sliding_window"):
        config |= {"sliding_window": d.integer(2, 4)}
    return config


def _tensors(d: Draw, config: Config) -> Tensors:
    return models.tensors_of(config, Numbers(200, d.integer(0, 2**40)))


def _neighbours(d: Draw, tensors: Tensors, off: float) -> Iterator[Tensors]:
    """Return models whose weights differ from these by a part of themselves."""
    for _ in range(3):
        many = Many(d)
        yield {name: x * (1 + off * many.integers(x.size, -1, 1).reshape(x.shape)) for name, x in tensors.items()}


def _apart(a: Any, b: Any) -> float:
    """Return how far two answers are apart as a part of the largest value; infinity where a choice differs."""
    if isinstance(a, dict):
        return max((_apart(a[name], b[name]) for name in a), default=0.0)
    if isinstance(a, list):
        return max((_apart(*pair) for pair in zip(a, b, strict=True)), default=0.0) if len(a) == len(b) else math.inf
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.dtype.kind != "f":
        return 0.0 if np.array_equal(x, y) else math.inf
    top = float(np.max(np.abs(x), initial=0.0))
    return float(np.max(np.abs(x - y), initial=0.0)) / top if top else float(np.any(y)) * math.inf


def _sure(
    d: Draw, tensors: Tensors, ask: Callable[[Tensors], dict[str, Any]], off: float = _OFF
) -> dict[str, Any] | None:
    """Return the oracle's answer for a model; None where rounding could turn it."""
    answer = ask(tensors)
    return None if any(_apart(answer, ask(other)) > _NEAR for other in _neighbours(d, tensors, off)) else answer


def _ask(t: Trial, op: str, draw: Callable[[], tuple[dict[str, Any], dict[str, Any] | None]], saw: str) -> None:
    """Ask for the first example that is drawn with an answer."""
    for _ in range(_TRIED):
        given, answer = draw()
        if answer is not None:
            t.saw(saw)
            t.case(op, given, answer)
            return


_KINDS = tuple(models.MODELS)


@property_of(
    "model.step",
    "MDL-001 MDL-003 MDL-004 MDL-005 GRD-001 TRN-001 TRN-002 LYR-005",
    "layers",
    "model.step",
    sees=_KINDS,
    seeded=1,
)
def _step(d: Draw, t: Trial) -> None:
    """Loss, logits and gradients of a model of each kind are those of the written formulas."""
    for kind in _KINDS:

        def draw(kind: str = kind) -> tuple[dict[str, Any], dict[str, Any] | None]:
            config = _config(d, kind)
            tensors, rows, length = _tensors(d, config), d.integer(1, 3), d.integer(3, 6)
            tokens = ids(d.integers(rows * length, 0, config["vocab_size"] - 1)).reshape(rows, length)
            labels = np.where(ids(d.integers(rows * length, 0, 3)).reshape(rows, length) == 3, -100, tokens)
            labels[0, 1] = tokens[0, 1]
            mask = np.ones((rows, length), dtype=bool)
            mask[-1, length - d.integer(0, 1) :] = False
            given = {"config": config, "tensors": tensors, "tokens": tokens, "labels": labels}
            given |= {"mask": None if mask.all() else mask, "rows_at_once": d.integer(1, rows)}

            def answer(held: Tensors) -> dict[str, Any]:
                found = Decoder(config, held).loss_and_gradients(tokens, labels, mask)
                return dict(zip(("loss", "logits", "gradients"), found, strict=True))

            return given, _sure(d, tensors, answer)

        _ask(t, "model.step", draw, kind)


@property_of("generate.read", "GEN-001 MDL-001 LYR-004 LYR-008", "generate", "generate.read", sees=_KINDS, seeded=1)
def _read(d: Draw, t: Trial) -> None:
    """Logits behind several readings are those of a whole forward over all tokens before them."""
    for kind in _KINDS:

        def draw(kind: str = kind) -> tuple[dict[str, Any], dict[str, Any] | None]:
            config = _config(d, kind) | {"max_position_embeddings": 16}
            tensors, parts = _tensors(d, config), [d.integer(1, 3) for _ in range(d.integer(2, 3))]
            size = (d.integer(1, 2), sum(parts))
            tokens = ids(d.integers(math.prod(size), 0, config["vocab_size"] - 1)).reshape(size)
            given = {"config": config, "tensors": tensors, "tokens": tokens, "parts": parts}
            return given, _sure(
                d, tensors, lambda held: {"logits": generate.logits_behind(config, held, tokens, parts)}
            )

        _ask(t, "generate.read", draw, kind)


@property_of(
    "generate.text",
    "GEN-003 GEN-004 GEN-005 GEN-007",
    "generate",
    "generate.text",
    sees=("a greedy text", "a drawn text"),
    seeded=1,
)
def _text(d: Draw, t: Trial) -> None:
    """A text is one pick after another, up to a stop token, a number of tokens or the last position."""
    for saw in ("a greedy text", "a drawn text"):

        def draw(saw: str = saw) -> tuple[dict[str, Any], dict[str, Any] | None]:
            config = tiny.CONFIG | {"model_type": "mistral", "sliding_window": d.integer(2, 5)}
            config |= {"max_position_embeddings": d.integer(8, 12)}
            tensors = models.tensors_of(config, Numbers(201, d.integer(0, 2**40)), 0.8)
            given: dict[str, Any] = {"config": config, "tensors": tensors, "seed": d.integer(0, 2**40)}
            given |= {"prompt": d.integers(d.integer(1, 5), 0, 4), "stops": d.subset(5, 4)}
            given |= {"temperature": 0.0 if saw == "a greedy text" else d.choice((1.0, 0.5, 3.0))}
            given |= {"max_tokens": d.integer(2, 6)} if d.flag() else {}
            given |= {"top_k": d.integer(2, 4)} if d.flag() else {}
            given |= {"top_p": d.choice((0.5, 0.75, 0.9))} if d.flag() else {}
            how = (given["prompt"], given["stops"], given.get("max_tokens"))
            tokens, gap = generate.text(config, tensors, *how, given)
            return given, {"tokens": ids(tokens)} if gap >= 1e-3 else None

        _ask(t, "generate.text", draw, saw)


@property_of(
    "evaluate.perplexity", "EVL-001 NUM-004", "train", "evaluate.perplexity", sees=("several windows",), seeded=2
)
def _perplexity(d: Draw, t: Trial) -> None:
    """Perplexity is e to the power of the mean loss over the targets of all windows."""

    def draw() -> tuple[dict[str, Any], dict[str, Any] | None]:
        config = _config(d, d.choice(_KINDS)) | {"max_position_embeddings": 16}
        tensors, length, windows = _tensors(d, config), d.integer(3, 7), d.integer(2, 4)
        text = ids(d.integers(length + d.integer(2, 30), 0, config["vocab_size"] - 1))
        rows = np.stack([text[a : a + length] for a in train_text.evaluation_starts(len(text), length, windows)])
        given = {"config": config, "tensors": tensors, "text": text, "length": length, "windows": windows}

        def answer(held: Tensors) -> dict[str, Any]:
            loss, _ = Decoder(config, held).loss(rows, rows)
            return {"perplexity": float(np.exp(loss.value)), "targets": windows * (length - 1)}

        return given, _sure(d, tensors, answer)

    _ask(t, "evaluate.perplexity", draw, "several windows")


_LEAST = 3e-4
"""Least first moment of a slot in proportion to the largest: below it AdamW would divide rounding by rounding."""


def _weakest(found: train.Run) -> float:
    """Return the smallest first moment of a slot that a gradient has moved, in proportion to the largest."""
    sizes = [abs(x) for part in found.states for p, x in part.kept["m"].items() if part.kept["age"][p]]
    return min(sizes) / max(sizes) if any(sizes) else 0.0


_RUNS = ("seft", "active-only", "no-adapt", "magnitude")


@property_of(
    "train.run",
    "TRN-001 TRN-003 DLT-001 DLT-002 DLT-004 EVT-001 EVT-004 EVT-011 SCH-003 NUM-004",
    "train",
    "train.run",
    sees=("a run", "events"),
    seeded=2,
)
def _run(d: Draw, t: Trial) -> None:
    """A short run loses, drops, grows and prunes what the kit's own run does, and ends with its weights."""

    def draw() -> tuple[dict[str, Any], dict[str, Any] | None]:
        steps, rows = d.integer(3, 5), d.integer(1, 2)
        settings = SETTINGS | {
            "preset": d.choice(_RUNS),
            "start": d.choice(("random", "gradient", "magnitude")),
            "seed": d.integer(0, 2**40),
            "steps": steps,
            "rows": rows,
            "micro_batches": d.integer(1, rows),
            "length": d.integer(3, 6),
            "density": d.integer(1, 3) / 8,
            "evolve_every": 2,
            "gradient_window": d.integer(1, 2),
            "drop_fraction": d.integer(2, 6) / 8,
            "schedule": d.choice(("constant", "linear", "cosine")),
            "max_norm": d.choice((1.0, 0.0)),
            # AdamW divides a small gradient by itself, and shows its rounding as a part of lr
            "lr": 2.0**-12,
        }
        world = tiny.world(Numbers(202, d.integer(0, 2**40)), tiny.CONFIG)
        tensors, stored, text = world
        given = {"config": tiny.CONFIG, "tensors": tensors, "text": ids(text), "settings": settings}
        given["stored"] = {name: ids(at) for name, at in stored.items()}
        found = train.run(tiny.CONFIG, tensors, stored, text, settings)
        answer = None
        if _weakest(found) > _LEAST:
            answer = _sure(
                d, tensors, lambda held: run_answer(train.run(tiny.CONFIG, held, stored, text, settings)), 10 * _OFF
            )
        t.saw("events", answer is not None and answer["slots"])
        return given, answer

    _ask(t, "train.run", draw, "a run")


def _pruned(d: Draw, t: Trial, op: str, how: Callable[[float], prune.Prune], outputs: tuple[str, ...]) -> None:
    def draw() -> tuple[dict[str, Any], dict[str, Any] | None]:
        config = _config(d, d.choice(_KINDS)) | {"max_position_embeddings": 16}
        tensors, sparsity = _tensors(d, config), d.choice((0.5, 0.25, 0.7))
        size = (d.integer(2, 4), d.integer(4, 8))
        tokens = ids(d.integers(math.prod(size), 0, config["vocab_size"] - 1)).reshape(size)

        def answer(held: Tensors) -> dict[str, Any]:
            kept, weights, _ = prune.model(config, held, tokens, how(sparsity))
            told = {"kept": {name: ids(at) for name, at in kept.items()}, "weights": weights}
            return {name: told[name] for name in outputs}

        given = {"config": config, "tensors": tensors, "tokens": tokens, "sparsity": sparsity}
        return given, _sure(d, tensors, answer)

    _ask(t, op, draw, "a pruned model")


@property_of("prune.model", "PRN-003 PRN-005", "prune", "prune.model", sees=("a pruned model",), seeded=2)
def _wanda(d: Draw, t: Trial) -> None:
    """Each block is pruned by what enters it behind blocks that are pruned already."""
    _pruned(d, t, "prune.model", prune.by_wanda, ("kept",))


@property_of(
    "prune.model-sparsegpt",
    "PRN-005 PRN-009 PRN-010 PRN-011",
    "prune",
    "prune.model_sparsegpt",
    sees=("a pruned model",),
    seeded=2,
)
def _sparsegpt(d: Draw, t: Trial) -> None:
    """SparseGPT prunes a model block by block, and its new weights are those of an inverse a column."""

    def how(sparsity: float) -> prune.Prune:
        return lambda w, x: prune.sparsegpt(w, x, sparsity)

    _pruned(d, t, "prune.model_sparsegpt", how, ("kept", "weights"))


_BROKEN: tuple[tuple[str, Any, str], ...] = (
    ("model_type", "gpt2", "MDL-002"),
    ("model_type", None, "MDL-002"),
    ("hidden_size", None, "MDL-006"),
    ("vocab_size", None, "MDL-006"),
    ("rms_norm_eps", None, "MDL-006"),
    ("hidden_act", "gelu", "MDL-006"),
    ("attention_dropout", 0.25, "MDL-006"),
    ("head_dim", 3, "MDL-006"),
    ("num_hidden_layers", 0, "MDL-006"),
    ("rope_parameters", {"rope_type": "yarn", "factor": 2.0}, "MDL-006 MDL-004"),
)
"""What no family defines: a key, its value (None takes it away), and the clauses that may be named."""


@property_of(
    "config.describe",
    "MDL-002 MDL-003 MDL-004 MDL-006 MDL-007",
    "layers",
    "config.describe",
    sees=(*_KINDS, "windows by layer", "refused"),
)
def _describe(d: Draw, t: Trial) -> None:
    """Targets, windows, head width and key heads of a config are those of the tables of chapter 5."""
    kind, layers = d.choice(_KINDS), d.integer(1, 4)
    config = _config(d, kind) | {"num_hidden_layers": layers}
    config |= {"attention_bias": d.flag(), "mlp_bias": d.flag()}
    if config["model_type"] in ("qwen2", "qwen3"):
        config |= {"use_sliding_window": d.flag(), "max_window_layers": d.integer(0, layers)}
        types = [d.choice(("full_attention", "sliding_attention")) for _ in range(layers)]
        config |= {"layer_types": types if d.flag() else None}
        t.saw("windows by layer", len(set(types)) > 1 and config["layer_types"])
    if d.flag(5):
        key, value, clauses = d.choice(_BROKEN)
        t.saw("refused")
        bad = {name: x for name, x in (config | {key: value}).items() if name != key or x is not None}
        t.case("config.describe", {"config": bad}, refused=clauses.split())
        return
    t.saw(kind)
    t.case("config.describe", {"config": config}, model.described(config))
