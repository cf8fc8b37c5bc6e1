"""Properties of training: every step of a run is compared with the kit's own from the same state (chapter 10)."""

from typing import Any

from conformance.answers.train import part_of
from conformance.oracle import train_settings, update_choices
from conformance.properties.anchored import Own, own_step
from conformance.properties.draws import Draw
from conformance.properties.models import TINY
from conformance.properties.train_drawn import SETTINGS, asked, drawn_world, started, summed
from conformance.properties.trial import Trial, property_of

BLOCK = 7
"""Number of matrices in a block (MDL-007)."""

_PRESETS = ("no-adapt", "active-only", "seft", "unprotected", "magnitude")


def _settings(d: Draw, layers: int) -> dict[str, Any]:
    every, rows = d.integer(1, 6), d.integer(1, 2)
    steps = d.choice((6, 24, 24) if layers == 1 else (6, 8, 8))
    # some choices are random, because only draws depend on the index of a matrix (RNG-003)
    drawn = d.choice(("", "drop", "", "grow", "", "adapt"))
    settings = SETTINGS | {
        "preset": d.choice(_PRESETS),
        "start": d.choice(("random", "magnitude")),
        "seed": d.integer(0, 50),
        "steps": steps,
        "rows": rows,
        "micro_batches": d.integer(1, rows),
        "length": d.integer(3, 5),
        "density": d.integer(1, 4) / 8,
        "evolve_every": every,
        "gradient_window": d.integer(1, every),
        "drop_fraction": d.integer(1, 8) / 8,
        "lr": 2.0 ** -d.integer(4, 7),
        "warmup": d.choice((0, 3)),
        "schedule": d.choice(("constant", "linear", "cosine")),
        "max_norm": d.choice((1.0, 0.0625, 0.0)),
        "weight_decay": d.choice((0.0, 0.5)),
    }
    return settings | ({"rule": update_choices.rule_of(settings["preset"]) | {drawn: "random"}} if drawn else {})


_SEES = ("an event at the end of a long window", "tokens of a long window", "an event on one gradient",
         "several events", "clipping", "a regrown pair", "a new slot", "a pruned position",
         "a slot of an earlier event", "a draw of a second block", "an event of a preset")  # fmt: skip

_TELLS = ("steps", "events of matrices", "too close to decide", "decided otherwise")


@property_of(
    "train.anchored",
    "TRN-001 TRN-003 TRN-004 TRN-005 EVT-001 EVT-002 EVT-003 EVT-006 OPT-001 OPT-004 SCH-001 SCH-002 SCH-003 SCH-004"
    " DROP-001 GROW-001 GROW-002 GROW-003 ADPT-001 ADPT-002 ADPT-003 ADPT-004 DLT-003 DLT-005 GRD-004 GRD-008 RNG-003"
    " MDL-007",
    "train",
    "train.step",
    sees=_SEES,
    tells=_TELLS,
    cost=20,
)
def _anchored(d: Draw, t: Trial) -> None:
    """Every step of a run equals the kit's own step from the same state."""
    layers = d.integer(1, 2)
    settings, world = _settings(d, layers), drawn_world(d, TINY | {"num_hidden_layers": layers})
    parts, earlier, events = started(world, settings), None, 0
    for step in range(1, settings["steps"] + 1):
        before, ends = train_settings.window_of(settings, step)
        earlier = earlier if before else None
        inputs = asked(world, parts, settings, step, earlier if ends else None)
        answers = t.related("one step of training", ("train.step", inputs))
        if not answers:
            return
        own, events = own_step(inputs, t.dtype), events + ends
        targets = [{name: x[i] for name, x in answers[0].items() if name != "loss"} for i in range(len(parts))]
        _saw(t, own, targets, before, events)
        parts = [
            part_of(one | {"budget": p.budget[0], "delta_budget": p.delta_budget[0]}, p.shape, p.matrix, t.dtype)
            for one, p in zip(targets, parts, strict=True)
        ]
        earlier = summed(earlier, own.step) if settings["gradient_window"] > 1 else None


def _saw(t: Trial, own: Own, targets: list[dict[str, Any]], before: int, events: int) -> None:
    t.saw("steps")
    t.saw("several events", events > 1)
    t.saw("a draw of a second block", len(own.step.outcomes) > BLOCK and "rule" in own.settings)
    t.saw("an event of a preset", own.step.outcomes and "rule" not in own.settings)
    t.saw("clipping", own.settings["max_norm"] == 0.0625)
    t.saw("an event at the end of a long window", own.step.outcomes and before)
    pruned_by_tokens = own.rule["adapt"] == "token-fisher" and own.rule["adapts"] == "always"
    t.saw("tokens of a long window", own.step.outcomes and before and pruned_by_tokens)
    t.saw("an event on one gradient", own.step.outcomes and not before)
    for i, one in enumerate(own.step.outcomes):
        t.saw("events of matrices")
        t.saw("a regrown pair", one.cancelled)
        t.saw("a new slot", one.grown)
        t.saw("a pruned position", one.pruned)
        ages = own.step.moved[i].kept["age"].values()
        t.saw("a slot of an earlier event", len(set(ages)) > 1)
        after = own.step.parts[i]
        same = targets[i]["delta"].tolist() == list(after.phi) and targets[i]["base"].tolist() == sorted(after.base)
        t.saw("too close to decide", own.in_doubt(i))
        t.saw("decided otherwise", not same)
