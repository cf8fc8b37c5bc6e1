"""Properties of steps and runs over long rows, and on matrices of more rows and columns than a tile has."""

import numpy as np

from conformance.answers import answer
from conformance.answers.train import run_of, step_of
from conformance.answers.train_state import saved_after
from conformance.oracle import update_choices
from conformance.oracle.model import Config, targets
from conformance.properties.draws import Array, Draw, Many
from conformance.properties.large import BEYOND, beyond
from conformance.properties.model_large import LONG, WIDE, uneven_labels, wide_config, wide_tensors
from conformance.properties.models import TINY
from conformance.properties.train_drawn import (
    GAP,
    LEAST,
    SETTINGS,
    World,
    asked,
    drawn_world,
    masked,
    moving,
    started,
    weakest,
)
from conformance.properties.train_held import held_as
from conformance.properties.train_states import in_binary32, resuming, settings_of_run, written
from conformance.properties.trial import Trial, property_of

_TRIED = 20
"""The most states that are drawn to get one whose event rounding cannot change."""
_ROWS = "rows of more than 256 tokens"
_UNEVEN = "more than 512 tokens, whose labels count unevenly"


def _text(d: Draw, config: Config) -> Array:
    """Return a text of 2,000 tokens."""
    return Many(d).integers(2000, 0, config["vocab_size"] - 1)


def _long_world(d: Draw) -> World:
    """Return tensors, stored positions and a text for rows of hundreds of tokens."""
    return drawn_world(d, LONG) | {"text": _text(d, LONG)}


def _wide_world(d: Draw, config: Config) -> World:
    """Return tensors, stored positions and a text for wide matrices, of which a third is stored."""
    tensors = wide_tensors(d, config)
    stored = {name: Many(d).subset(tensors[name].size, tensors[name].size // 3) for name in targets(config)}
    return {"config": config, "tensors": masked(tensors, stored), "stored": stored, "text": _text(d, config)}


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
    inputs = asked(world, moving(started(world, settings)), settings, 1) | {"batches": of}
    del inputs["text"]
    t.case("train.batches", inputs)


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
    t.saw(WIDE)
    t.case("train.step", asked(world, moving(started(world, wide)), wide, 1))
    for _ in range(_TRIED):
        long, world = settings | {"length": beyond(d, 256)}, _long_world(d)
        inputs = asked(world, moving(started(world, long)), long, 2)
        _, own = step_of(inputs)
        if own.gap >= GAP:
            t.saw(_ROWS)
            t.saw("an event", own.outcomes)
            t.case("train.step", inputs)
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
        inputs = _long_world(d) | {"settings": settings}
        run = run_of(inputs)
        if weakest(run) > LEAST and run.trainer.gap >= GAP and run.passage.events:
            t.saw("rows of more than 128 tokens", settings["length"] > 128)
            t.saw("events", run.passage.moves["grown"])
            t.case("train.run", inputs)
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
    settings = settings_of_run({"evolves": 0}, {"optimizer": "sgd", "steps": 3, "seed": d.integer(0, 99)})
    world = _wide_world(d, wide_config(d))
    inputs = written(world, settings, 1)
    t.saw(WIDE)
    t.case("state.write", inputs)
    t.case("state.resume", resuming(world, settings, in_binary32(saved_after(inputs)[1])), dtypes=("float32",))


@property_of(
    "train.held-large", "CKP-008 TRN-001", "held", "train.held", sees=("more than 512 tokens", "codes"), seeded=1
)
def _held(d: Draw, t: Trial) -> None:
    """A run over many rows on targets that are held as codes ends like the kit's own run on their weights."""
    for _ in range(_TRIED):
        settings = SETTINGS | {"rule": dict(update_choices.RULE), "start": "random", "seed": d.integer(0, 2**40)}
        settings |= {"rows": beyond(d, 32), "micro_batches": 1, "length": 16, "steps": 1, "lr": 2.0**-12}
        settings |= {"preset": "seft", "initial_scope": "active", "budget_by": "numel", "optimizer": "adamw"}
        inputs = held_as("int8", drawn_world(d, TINY) | {"text": _text(d, TINY)}) | {"settings": settings}
        run = run_of(inputs)
        if weakest(run) > LEAST and run.trainer.gap >= GAP:
            t.saw("more than 512 tokens", settings["rows"] * settings["length"] > 512)
            t.saw("codes")
            # CKP-008: such a run computes in float32
            t.case("train.held", inputs, dtypes=("float32",))
            break


@property_of("checkpoint.final-large", "CKP-004", "checkpoints", "checkpoint.final", sees=(BEYOND,), seeded=1)
def _final(d: Draw, t: Trial) -> None:
    """Many final weights are each rounded once to nearest in the dtype of the file."""
    many, kinds, n = Many(d), 997, 65_536 + d.integer(1, 300)
    # multiples of 2⁻²⁰ below 8, many of which no 16-bit type holds; they repeat, because the kit rounds exact fractions
    values = many.lattice((kinds,), 2**23 - 1) / 2**20
    t.saw(BEYOND, n > 65_536)
    for dtype in ("F16", "BF16", "F32"):
        inputs = {"values": values, "dtype": dtype}
        bits = answer("checkpoint.final", inputs).outputs["bits"].reshape(kinds, -1)
        expected = {"bits": np.resize(bits, (n, bits.shape[1])).reshape(-1)}
        t.case("checkpoint.final", inputs | {"values": np.resize(values, n)}, expected)
