"""Cases of whole runs of a tiny model, with seeds for which rounding cannot change a selection."""

from typing import Any

import numpy as np

from conformance.gen import tiny
from conformance.gen.model import tensors_of
from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.oracle import prune, train, train_text
from conformance.oracle.model import Config, targets

_CONFIG: Config = {
    "model_type": "llama",
    "vocab_size": 13,
    "hidden_size": 8,
    "intermediate_size": 10,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
}
SETTINGS: dict[str, Any] = {
    "preset": "seft",
    "start": "random",
    "steps": 12,
    "rows": 4,
    "micro_batches": 1,
    "length": 8,
    "density": 0.15,
    "evolve_every": 3,
    "drop_fraction": 0.6,
    "gradient_window": 1,
    "lr": 2.0**-6,
    "warmup": 0,
    "schedule": "constant",
    "max_norm": 1.0,
    "weight_decay": 0.0,
}
GAP = 2e-4
"""Smallest relative gap between chosen and other scores in a run; rounding in binary32 moves a score by some 1e-6."""


def _world(n: Numbers) -> tuple[dict[str, Array], dict[str, list[int]], list[int]]:
    """Return tensors, stored positions of each target, and a text in which a token narrows down the next one."""
    tensors = tensors_of(_CONFIG, n)
    stored = {}
    for name in targets(_CONFIG):
        stored[name] = prune.magnitude(tensors[name], 0.5)
        mask = np.zeros(tensors[name].size)
        mask[stored[name]] = 1.0
        tensors[name] = tensors[name] * mask.reshape(tensors[name].shape)
    text = [1]
    for step in n.integers(299, 0, 3):
        text.append((3 * text[-1] + 1 + int(step) // 3) % 13)
    return tensors, stored, text


def _certified(settings: dict[str, Any], first: int) -> tuple[int, train.Run, tuple[Any, ...]]:
    """Return the first seed from `first` whose run depends on no gap below GAP, its run and its world."""
    for seed in range(first, first + 200):
        world = _world(Numbers(60, seed))
        run = train.run(_CONFIG, *world, settings | {"seed": seed})
        if run.gap >= GAP:
            return seed, run, world
    msg = "no seed with a gap large enough"
    raise AssertionError(msg)


def runs() -> Area:
    """Return cases of whole runs, which use TRN, EVT, DLT and GRD together."""
    area = Area("train", "binary64 run")
    base = (
        "TRN-001 TRN-003 DLT-001 DLT-002 DLT-004 DLT-005 EVT-001 EVT-002 EVT-003 EVT-004 OPT-001 OPT-003"
        " OPT-004 SCH-001 SCH-002 SCH-003 SCH-004 ADPT-004 GROW-003 DROP-002 NUM-001"
    )
    for name, change, clauses, purpose in (
        ("seft", {}, base, "the parts of an event in another order, a stale or clipped gradient"),
        ("sensitivity", {"preset": "sensitivity"}, "EVT-011 ADPT-002", "pruned by the squares of tokens"),
        (
            "window",
            {"gradient_window": 3, "micro_batches": 2, "steps": 9},
            "TRN-005 GRD-004 TRN-002 EVT-002",
            "the window a step off, a sum of |g|, a mean of means",
        ),
        (
            "active-only",
            {"preset": "active-only", "schedule": "cosine", "warmup": 2, "weight_decay": 0.5},
            "GROW-001 SCH-004 OPT-001",
            "growth outside the base; a schedule counted from 0",
        ),
        (
            "no-adapt",
            {"preset": "no-adapt", "max_norm": 0.0625, "schedule": "linear"},
            "EVT-004 OPT-004 SCH-004",
            "the last pass left out, or with the gradient of old weights",
        ),
        (
            "start-gradient",
            {"start": "gradient"},
            "DLT-004 SEL-001",
            "first slots by another gradient than that of the first step's data, or outside the base",
        ),
        (
            "static",
            {"preset": "static", "max_norm": 0.0, "steps": 5},
            "OPT-004 DLT-004",
            "events in a preset without them",
        ),
    ):
        settings = SETTINGS | change
        seed, run, world = _certified(settings, 0)
        area.add(name, "train.run", clauses, purpose, described(settings | {"seed": seed}, world), run_answer(run))
    tensors, stored, text = tiny.world(Numbers(60, 0), tiny.CONFIG)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * 2.0**68
    # the preset asks for no squares of gradients, because those overflow in binary32
    settings = SETTINGS | {"seed": 0, "steps": 3, "evolve_every": 2, "preset": "sensitivity"}
    run = train.run(tiny.CONFIG, tensors, stored, text, settings)
    purpose = "squares of finite gradients that overflow in binary32: the norm is binary64"
    inputs = described(settings, (tensors, stored, text), tiny.CONFIG)
    area.add("large-gradient", "train.run", "OPT-004 TRN-007", purpose, inputs, run_answer(run))
    tensors, stored, text = _world(Numbers(60, 0))
    tensors["model.norm.weight"] = np.full(8, 2.0**127)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * 2.0**100
    inputs = described(SETTINGS | {"seed": 0}, (tensors, stored, text))
    purpose = "a run that goes on with a loss that is not finite"
    area.add("refuse-overflow", "train.run", "TRN-007", purpose, inputs, refused="TRN-007", dtypes=("float32",))
    world = tiny.world(Numbers(60, 0), tiny.CONFIG)
    spoilt: tuple[tuple[str, dict[str, Any], str, str], ...] = (
        ("values", {"lr": 1e39, "steps": 1}, "TRN-007", "an infinite φ taken for a state after the last step"),
        ("eps", {"eps": 1e-50}, "TRN-008", "an eps that is 0 in the compute dtype"),
    )
    for name, extreme, clause, purpose in spoilt:
        inputs = described(SETTINGS | {"seed": 0} | extreme, world, tiny.CONFIG)
        area.add(f"refuse-{name}", "train.run", clause, purpose, inputs, refused=clause, dtypes=("float32",))
    _hidden_overflows(area)
    for name, bad, clause in (
        ("window-0", {"gradient_window": 0}, "TRN-005"),
        ("window-4", {"gradient_window": 4}, "TRN-005"),
        ("length", {"length": 301}, "TRN-003"),
        ("seed", {"seed": -1}, "RNG-002"),
        ("steps", {"steps": 0}, "TRN-008"),
        ("rows", {"rows": 0}, "TRN-008"),
        ("lr", {"lr": -0.5}, "TRN-008"),
    ):
        # the model is the smallest, because the refusal does not depend on it
        small = tiny.world(Numbers(60, 0), tiny.SMALLEST)
        inputs = described(SETTINGS | {"seed": 0} | bad, small, tiny.SMALLEST)
        area.add(f"refuse-{name}", "train.run", clause, "a setting outside its range", inputs, refused=clause)
    _unreadable(area)
    return area


def _hidden_overflows(area: Area) -> None:
    """Add runs in which a number overflows in binary32 and the result would be finite again (TRN-019)."""
    world = tiny.world(Numbers(60, 0), tiny.CONFIG)
    tensors, stored, text = world
    large = dict(tensors) | {"lm_head.weight": tensors["lm_head.weight"] * 2.0**84}
    far = dict(tensors) | {"model.embed_tokens.weight": tensors["model.embed_tokens.weight"] * 2.0**80}
    short = SETTINGS | {"seed": 0, "steps": 3, "evolve_every": 3}
    allowed = "TRN-007 LYR-015 LYR-016"
    for name, tensors, change, purpose in (
        ("rate", world[0], {"lr": 2.0**34, "max_norm": 0.0}, "a loss of ln V behind a RMSNorm that gives 0"),
        ("start", far, {"start": "gradient"}, "initial positions by a gradient of 0 behind a RMSNorm that gives 0"),
        ("square", large, {"max_norm": 0.0}, "v = inf, with which a step is 0"),
    ):
        inputs = described(short | change, (tensors, stored, text), tiny.CONFIG)
        linked = "TRN-007" if name == "square" else "TRN-007 TRN-019 LYR-015"
        area.add(f"refuse-{name}", "train.run", linked, purpose, inputs, refused=allowed, dtypes=("float32",))


def _unreadable(area: Area) -> None:
    """Add runs on windows or tokens that the model cannot read."""
    config = tiny.SMALLEST | {"max_position_embeddings": SETTINGS["length"] - 1}
    inputs = described(SETTINGS | {"seed": 0, "density": 0.5}, tiny.world(Numbers(60, 0), config), config)
    purpose = "windows one token longer than the model has positions"
    area.add("refuse-positions", "train.run", "TRN-017", purpose, inputs, refused="TRN-017")
    tensors, stored, text = tiny.world(Numbers(60, 0), tiny.SMALLEST)
    text[-1] = tiny.SMALLEST["vocab_size"]
    settings = SETTINGS | {"seed": 0, "density": 0.5, "steps": 1, "rows": 1, "evolve_every": 1}
    starts = train_text.window_starts(0, 2, 0, 1, len(text), settings["length"])
    assert starts[0] + settings["length"] < len(text), "the window holds the token that no window is to hold"
    inputs = described(settings, (tensors, stored, text), tiny.SMALLEST)
    purpose = "a text of another tokenizer, told by a token that no window holds"
    area.add("refuse-vocabulary", "train.run", "TRN-018", purpose, inputs, refused="TRN-018 LYR-001")


def described(settings: dict[str, Any], world: tuple[Any, ...], config: Config = _CONFIG) -> dict[str, Any]:
    """Return the inputs of a run."""
    tensors, stored, text = world
    stored = {name: ids(positions) for name, positions in stored.items()}
    return {"config": config, "tensors": tensors, "stored": stored, "text": ids(text), "settings": settings}


def run_answer(run: train.Run) -> dict[str, Any]:
    """Return the outputs of a run."""
    return {
        "losses": reals(run.losses),
        "budgets": ids(run.budgets),
        "delta_budgets": ids(run.delta_budgets),
        "slots": [[ids(eta) for eta, _ in event] for event in run.events],
        "bases": [[ids(b) for _, b in event] for event in run.events],
        "support": [ids(w) for w in run.final],
        "weights": [reals(w.values()) for w in run.final],
    }


AREAS = (runs,)
