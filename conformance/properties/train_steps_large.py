"""Properties of steps and runs over long rows, and on matrices of more rows and columns than a tile has."""

from typing import Any

import numpy as np

from conformance.gen import tiny
from conformance.gen.numbers import Array, Numbers, ids
from conformance.gen.train import GAP, run_answer
from conformance.gen.train_batches import given
from conformance.gen.train_held import run_held
from conformance.gen.train_states import Run, after, in_binary32, settings_for, told, written
from conformance.gen.train_states import answered as answered_rest
from conformance.gen.train_states import asked as asked_to_resume
from conformance.gen.train_steps import SETTINGS, World, answered, asked, rounded
from conformance.oracle import train, train_around, train_batches, train_state, update_choices
from conformance.oracle.event import Part
from conformance.oracle.model import Config, targets
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND, beyond
from conformance.properties.model_large import LONG, WIDE, uneven_labels, wide_config, wide_tensors
from conformance.properties.train_runs import LEAST, weakest
from conformance.properties.trial import Trial, property_of

_TRIED = 20
"""The most states that are drawn to get one whose event rounding cannot change."""
_ROWS = "rows of more than 256 tokens"
_UNEVEN = "more than 512 tokens, whose labels count unevenly"


def _text(d: Draw, config: Config) -> list[int]:
    """Return a text of 2,000 tokens."""
    return list(Many(d).integers(2000, 0, config["vocab_size"] - 1).tolist())


def _long_world(d: Draw) -> World:
    """Return tensors, stored positions and a text for rows of hundreds of tokens."""
    tensors, stored, _ = tiny.world(Numbers(209, d.integer(0, 2**40)), LONG)
    return tensors, stored, _text(d, LONG)


def _wide_world(d: Draw, config: Config) -> World:
    """Return tensors, stored positions and a text for wide matrices, of which a third is stored."""
    tensors, stored = wide_tensors(d, config), dict[str, list[int]]()
    for name in targets(config):
        w = tensors[name].reshape(-1)
        stored[name] = Many(d).subset(w.size, w.size // 3).tolist()
        mask = np.zeros(w.size)
        mask[stored[name]] = 1.0
        tensors[name] = (w * mask).reshape(tensors[name].shape)
    return tensors, stored, _text(d, config)


def _parts(config: Config, world: World, settings: dict[str, Any]) -> list[Part]:
    """Return targets with moments, because a first step of AdamW shows only the sign of a gradient."""
    parts = [rounded(part) for part in train.Trainer(config, *world, settings).parts]
    for part in parts:
        part.kept["m"].update(dict.fromkeys(part.phi, 0.125))
        part.kept["v"].update(dict.fromkeys(part.phi, 0.0625))
        part.kept["age"].update(dict.fromkeys(part.phi, 1))
    return parts


@property_of(
    "train.batches-large",
    "TRN-001 TRN-002 LYR-008 LYR-011 LYR-012",
    "batches",
    "train.batches",
    sees=(_ROWS, _UNEVEN),
    seeded=1,
)
def _batches(d: Draw, t: Trial) -> None:
    """The loss of a step over long rows is the mean over all labels that count, wherever these lie."""
    settings, world, length = (
        SETTINGS | {"start": "magnitude", "seed": d.integer(0, 99)},
        _long_world(d),
        beyond(d, 256),
    )
    of: list[dict[str, Array]] = []
    for rows in (3, 1):
        many = Many(d)
        tokens = many.integers(rows * length, 0, LONG["vocab_size"] - 1).reshape(rows, length)
        labels, mask = uneven_labels(many, tokens), np.ones(tokens.shape, dtype=np.bool_)
        mask[0, : d.integer(1, 5)] = False
        labels[~mask] = -100
        of.append({"tokens": tokens, "labels": labels, "mask": mask})
        t.saw(_UNEVEN, tokens.size > 512)
    t.saw(_ROWS, length > 256)
    parts = _parts(LONG, world, settings)
    loss, after, _ = train_batches.one_step(LONG, world[0], parts, of, settings, 1)
    t.case("train.batches", given(world, parts, settings, 1, of) | {"config": LONG}, answered(loss, after))


@property_of(
    "train.step-large",
    "TRN-001 TRN-003 EVT-001 OPT-001 DLT-003",
    "train",
    "train.step",
    sees=(_ROWS, "an event", WIDE),
    seeded=1,
)
def _steps(d: Draw, t: Trial) -> None:
    """A step over long rows, with an event, and a step on wide matrices equal the kit's own."""
    settings = SETTINGS | {"start": "random", "seed": d.integer(0, 99), "rows": 2, "micro_batches": 1}
    config = wide_config(d)
    # the squares of tokens, which the rule seft asks for, would take the kit seconds
    wide = settings | {"length": beyond(d, 64), "density": 0.125, "preset": "sensitivity"}
    world = _wide_world(d, config)
    parts = _parts(config, world, wide)
    own = train.one_step(config, world[0], parts, world[2], wide, 1)
    t.saw(WIDE)
    t.case("train.step", asked(config, world, parts, wide, 1), answered(own.loss, own.parts))
    for _ in range(_TRIED):
        long, world = settings | {"length": beyond(d, 256)}, _long_world(d)
        parts = _parts(LONG, world, long)
        own = train.one_step(LONG, world[0], parts, world[2], long, 2)
        if own.gap >= GAP:
            t.saw(_ROWS)
            t.saw("an event", own.outcomes)
            t.case("train.step", asked(LONG, world, parts, long, 2), answered(own.loss, own.parts))
            break


@property_of(
    "train.run-large",
    "TRN-001 TRN-003 EVT-001 EVT-004",
    "train",
    "train.run",
    sees=("rows of more than 128 tokens", "events"),
    seeded=1,
)
def _run(d: Draw, t: Trial) -> None:
    """A run over long rows has the losses and events of the kit's own run, and ends with its weights."""
    for _ in range(_TRIED):
        settings = SETTINGS | {"start": "gradient", "seed": d.integer(0, 2**40), "rows": 2, "micro_batches": 2}
        settings |= {"length": beyond(d, 128), "steps": 3, "lr": 2.0**-12, "density": 0.5, "drop_fraction": 1.0}
        tensors, stored, text = _long_world(d)
        run = train.run(LONG, tensors, stored, text, settings)
        if weakest(run) > LEAST and run.gap >= GAP and run.events:
            t.saw("rows of more than 128 tokens", settings["length"] > 128)
            t.saw("events", run.moves["grown"])
            inputs = {"config": LONG, "tensors": tensors, "text": ids(text), "settings": settings}
            inputs["stored"] = {name: ids(at) for name, at in stored.items()}
            t.case("train.run", inputs, run_answer(run))
            break


@property_of(
    "state.large",
    "TRN-004 CKP-006 CKP-007",
    "state",
    "state.write state.resume",
    sees=(WIDE,),
    seeded=1,
)
def _states(d: Draw, t: Trial) -> None:
    """The state of a run on wide matrices is written with every slot, and a run goes on from it."""
    config = wide_config(d)
    one = Run("wide", {"evolves": 0}, {"optimizer": "sgd", "steps": 3}, 1, "", "", config)
    settings, world = settings_for(one) | {"seed": d.integer(0, 99)}, _wide_world(d, config)
    saved = train_state.go_on(train_state.begin(config, *world, settings), 0, [], one.stop).saved
    t.saw(WIDE)
    t.case("state.write", written(world, config, settings, one.stop), {"raw": told(saved, config, settings)})
    narrowed = in_binary32(saved)
    _, (rest, final) = after(one, world, settings, narrowed)
    inputs = asked_to_resume(world, config, settings, narrowed)
    t.case("state.resume", inputs, answered_rest(rest, final), dtypes=("float32",))


@property_of(
    "train.held-large", "CKP-008 TRN-001", "held", "train.held", sees=("more than 512 tokens", "codes"), seeded=1
)
def _held(d: Draw, t: Trial) -> None:
    """A run over many rows on targets that are held as codes ends like the kit's own run on their weights."""
    for _ in range(_TRIED):
        settings = SETTINGS | {"rule": dict(update_choices.RULE), "start": "random", "seed": d.integer(0, 2**40)}
        settings |= {"rows": beyond(d, 32), "micro_batches": 1, "length": 16, "steps": 1, "lr": 2.0**-12}
        settings |= {"preset": "seft", "initial_scope": "active", "budget_by": "numel", "optimizer": "adamw"}
        tensors, stored, _ = tiny.world(Numbers(210, d.integer(0, 2**40)), tiny.CONFIG)
        run, inputs, _ = run_held(settings, (tensors, stored, _text(d, tiny.CONFIG)), "int8", exact=0)
        if weakest(run) > LEAST and run.gap >= GAP:
            t.saw("more than 512 tokens", settings["rows"] * settings["length"] > 512)
            t.saw("codes")
            # CKP-008: such a run computes in float32
            t.case("train.held", inputs, run_answer(run), dtypes=("float32",))
            break


@property_of("checkpoint.final-large", "CKP-004", "checkpoints", "checkpoint.final", sees=(BEYOND,), seeded=1)
def _final(d: Draw, t: Trial) -> None:
    """Many final weights are each rounded once to nearest in the dtype of the file."""
    many, kinds, n = Many(d), 997, 65_536 + d.integer(1, 300)
    # multiples of 2⁻²⁰ below 8, many of which no 16-bit type holds; they repeat, because the kit rounds exact fractions
    values = many.lattice((kinds,), 2**23 - 1) / 2**20
    t.saw(BEYOND, n > 65_536)
    for dtype in ("F16", "BF16", "F32"):
        bits = np.frombuffer(train_around.final(values.tolist(), dtype), dtype=np.uint8).reshape(kinds, -1)
        expected = {"bits": np.resize(bits, (n, bits.shape[1])).reshape(-1)}
        t.case("checkpoint.final", {"values": np.resize(values, n), "dtype": dtype}, expected)
