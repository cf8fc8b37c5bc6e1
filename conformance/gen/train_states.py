"""Cases of training states: written after a step, and resumed to the end of the run (TRN-004, CKP-006, CKP-007)."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conformance.answers.files_content import raw_array
from conformance.gen import tiny
from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.gen.train import GAP
from conformance.gen.train_presets import SETTINGS as PRESET_SETTINGS
from conformance.gen.train_steps import rounded
from conformance.oracle import files, train_state, update_choices
from conformance.oracle.model import Config, targets

ORIGIN = {"model": files.digest(b"the model"), "text": files.digest(b"the text")}
"""The digests of model and text that a run is given."""

_SETTINGS = PRESET_SETTINGS | {"steps": 10, "rows": 3, "micro_batches": 1, "length": 5}
_SETTINGS |= {"density": 0.5, "drop_fraction": 1.0, "lr": 2.0**-4}

_TWO = tiny.CONFIG | {"num_hidden_layers": 2}
_LEAST = 1e-3
"""Least moment of a slot relative to the largest. Below it, rounding dominates a quotient of moments."""

World = tuple[dict[str, Array], dict[str, list[int]], list[int]]
Spoil = Callable[[train_state.Saved], train_state.Saved]


@dataclass(frozen=True)
class Run:
    """A run that is stopped after a step and resumed.

    Attributes:
        name: the name in its cases.
        change: choices that differ from the rule `seft`.
        more: settings that differ from `_SETTINGS`.
        stop: the step after which it is stopped.
        clauses: clauses that it shows besides those of a state.
        purpose: the mistake that it catches.
        config: the config of its model.
    """

    name: str
    change: dict[str, Any]
    more: dict[str, Any]
    stop: int
    clauses: str
    purpose: str
    config: Config = field(default_factory=lambda: tiny.CONFIG)


_SPIEL = {"initial_scope": "anywhere", "max_norm": 0.0, "evolve_every": 4, "gradient_window": 2, "steps": 10}

RUNS = (
    Run("adamw", {}, {"schedule": "linear", "warmup": 1}, 4, "OPT-001 SCH-004 EVT-002",
        "ages or moments that start anew, a schedule counted from the state", _TWO),
    Run("window", {}, {"gradient_window": 3}, 5, "TRN-005 GRD-004",
        "a window that opens anew, or whose sums are divided by the steps since the state"),
    Run("ended", {"adapts": "end"}, {"steps": 4, "evolve_every": 2}, 4, "EVT-004 EVT-008",
        "a step beyond the last, or no last pass"),
    Run("sgd-row", {"drop": "change", "scope": "row"}, {"optimizer": "sgd"}, 5, "OPT-007 DROP-003 EVT-009 DLT-001",
        "momentum or origins lost, budgets of the rows taken from what is left"),
    Run("sm3", update_choices.rule_of("spiel-ma"), _SPIEL | {"optimizer": "sm3"}, 3, "OPT-008 SCH-005 SCH-008",
        "accumulators that start anew, a first event that comes twice"),
    Run("candidates", update_choices.rule_of("spiel-ag"), _SPIEL | {"optimizer": "spiel-adamw"}, 5,
        "GRD-007 OPT-006 DLT-006", "candidates of another step than the first of the window"),
    Run("evidence", {"drop": "fisher", "grow": "absolute", "adapt": "curvature"},
        {"gradient_window": 3, "start": "magnitude", "weight_decay": 0.25}, 5, "GRD-005 GRD-006",
        "sums of |g|, of g² or of x² that are lost, or means in place of sums"),
    Run("tokens", {"adapt": "token-fisher"}, {"gradient_window": 3}, 5, "GRD-008 ADPT-005",
        "sums over tokens that are lost, or are not those of the support"),
    Run("active", {"grow_scope": "active", "grow": "absolute", "drop": "fisher"},
        {"gradient_window": 3, "density": 0.25}, 5, "GRD-009 GRD-005",
        "sums of positions that cannot grow, or sums that are lost"),
    Run("group", {"scope": "group"}, {"pattern": [2, 4], "budget_by": "count", "slots": 40}, 4, "EVT-009 GROW-007",
        "budgets of the groups taken from what is left of the base"),
)  # fmt: skip


def _slots(name: str) -> Spoil:
    """Return a spoiler that sets one entry of every slot's optimizer state, such as `m`, to 0."""

    def spoil(saved: train_state.Saved) -> train_state.Saved:
        parts = [
            replace(part, kept=part.kept | {name: dict.fromkeys(part.phi, 0)} if name in part.kept else part.kept)
            for part in saved.parts
        ]
        return replace(saved, parts=parts)

    return spoil


def _sums(name: str) -> Spoil:
    """Return a spoiler that sets one sum of the window, such as `gradient`, to 0."""

    def spoil(saved: train_state.Saved) -> train_state.Saved:
        sums = []
        for one in saved.sums:
            nothing: dict[str, Any] = {name: [0.0] * len(getattr(one, name))}
            sums.append(replace(one, **nothing))
        return replace(saved, sums=sums)

    return spoil


def _no_candidates(saved: train_state.Saved) -> train_state.Saved:
    """Make every position of each matrix a candidate."""
    every = [frozenset(range(part.shape[0] * part.shape[1])) for part in saved.parts]
    return replace(saved, sums=[replace(one, candidates=all_) for one, all_ in zip(saved.sums, every, strict=True)])


def _rows_of_what_is_left(saved: train_state.Saved) -> train_state.Saved:
    """Set the budget of each row to the number of weights left in the base."""
    parts = [
        replace(part, budget=[sum(p // part.shape[1] == r for p in part.base) for r in range(part.shape[0])])
        for part in saved.parts
    ]
    return replace(saved, parts=parts)


def _groups_of_what_is_left(saved: train_state.Saved) -> train_state.Saved:
    """Set the budget of each group to the number of weights left in the base, and forget the lost weights."""
    parts = [
        replace(part, budget=[sum(p // 4 == g for p in part.base) for g in range(len(part.budget))], lost=frozenset())
        for part in saved.parts
    ]
    return replace(saved, parts=parts)


WRONG: dict[str, tuple[Spoil, ...]] = {
    "adamw": (_slots("m"), _slots("v"), _slots("age")),
    "window": (lambda saved: replace(saved, sums=[]), _sums("gradient")),
    "sgd-row": (_slots("u"), _slots("origin"), _rows_of_what_is_left),
    "sm3": (
        lambda saved: replace(saved, rows=[[0.0] * len(r) for r in saved.rows]),
        lambda saved: replace(saved, columns=[[0.0] * len(c) for c in saved.columns]),
    ),
    "candidates": (
        lambda saved: replace(saved, sums=[]),
        _no_candidates,
        _sums("gradient"),
        _sums("square"),
        _slots("m"),
    ),
    "evidence": (_sums("absolute"), _sums("square"), _sums("inputs")),
    "tokens": (_sums("gradient"), _sums("tokens")),
    "active": (_sums("absolute"), _sums("square")),
    "group": (_groups_of_what_is_left,),
}
"""Name of a run -> ways to spoil its state, each of which must change the end of the run."""


def settings_for(one: Run) -> dict[str, Any]:
    """Return the settings of a run without its seed."""
    return _SETTINGS | one.more | {"rule": update_choices.RULE | one.change}


def in_binary32(saved: train_state.Saved) -> train_state.Saved:
    """Return a state rounded to binary32, so that runs in every dtype resume from the same numbers."""

    def held(values: list[float]) -> list[float]:
        return [float(np.float32(x)) for x in values]

    sums = [
        replace(
            one,
            gradient=held(one.gradient),
            absolute=held(one.absolute),
            square=held(one.square),
            inputs=held(one.inputs),
            tokens=held(one.tokens),
        )
        for one in saved.sums
    ]
    rows, columns = [held(x) for x in saved.rows], [held(x) for x in saved.columns]
    return train_state.Saved(saved.step, [rounded(part) for part in saved.parts], rows, columns, sums)


def world_of(one: Run, seed: int) -> World:
    """Return tensors, stored positions and text of a run."""
    return tiny.world(Numbers(63, seed), one.config, pattern="pattern" in one.more)


def without_targets(config: Config, tensors: dict[str, Array]) -> dict[str, Array]:
    """Return the tensors with zeros as targets, because a resumed run reads the targets from the state."""
    return tensors | {name: np.zeros_like(tensors[name]) for name in targets(config)}


def told(saved: train_state.Saved, config: Config, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the output `raw` of `state.write` that is expected for a state."""
    names = targets(config)
    contents = train_state.contents(saved, names, settings, "float64")
    tensors = {
        name: {
            "dtype": "float" if one.dtype == "F64" else one.dtype,
            "shape": ids(one.shape),
            "positions": None if one.at is None else ids(one.at),
            "values": (reals if one.dtype == "F64" else ids)(one.values),
        }
        for name, one in contents.items()
    }
    attributes = files.text(train_state.attributes(saved, names, settings, ORIGIN))
    return {"attributes": attributes, "settings": train_state.settings_of(settings), "tensors": tensors}


def written(world: World, config: Config, settings: dict[str, Any], stop: int) -> dict[str, Any]:
    """Return the inputs of `state.write`."""
    tensors, stored, text = world
    inputs = {"config": config, "tensors": tensors, "stored": {k: ids(v) for k, v in stored.items()}, "text": ids(text)}
    return inputs | {"settings": settings, "origin": ORIGIN, "stop": stop}


def asked(
    world: World, config: Config, settings: dict[str, Any], saved: train_state.Saved, dtype: str = "float32"
) -> dict[str, Any]:
    """Return the inputs of `state.resume`."""
    tensors, _, text = world
    raw = train_state.pieces(saved, targets(config), settings, ORIGIN, dtype).pack()
    inputs = {"config": config, "tensors": without_targets(config, tensors), "text": ids(text), "settings": settings}
    return inputs | {"origin": ORIGIN, "raw": raw_array(raw)}


def answered(passage: train_state.Passage, final: list[dict[int, float]]) -> dict[str, Any]:
    """Return the outputs of `state.resume`."""
    return {
        "losses": reals(passage.losses),
        "slots": [[ids(eta) for eta, _ in event] for event in passage.events],
        "bases": [[ids(base) for _, base in event] for event in passage.events],
        "starts": [ids(start) for start in passage.starts],
        "support": [ids(w) for w in final],
        "weights": [reals(w.values()) for w in final],
    }


Told = tuple[train_state.Passage, list[dict[int, float]]]


def after(one: Run, world: World, settings: dict[str, Any], saved: train_state.Saved) -> tuple[float, Told]:
    """Return the smallest gap after a state, and the rest of the run with the final weights."""
    trainer = train_state.resumed(one.config, world[0], world[2], settings, saved)
    rest = train_state.go_on(trainer, saved.step, saved.sums, settings["steps"])
    final = trainer.finish()
    return trainer.gap, (rest, final)


def _certified(one: Run) -> tuple[World, dict[str, Any], train_state.Saved, Told]:
    """Return world, settings, state and the rest of the run for the first seed that depends on no gap below GAP."""
    for seed in range(400):
        world, settings = world_of(one, seed), settings_for(one) | {"seed": seed}
        first = train_state.begin(one.config, *world, settings)
        saved = train_state.go_on(first, 0, [], one.stop).saved
        if first.gap < GAP or is_weak(saved):
            continue
        narrowed = in_binary32(saved)
        gap, rest = after(one, world, settings, narrowed)
        wrong = (after(one, world, settings, spoil(narrowed))[1] for spoil in WRONG.get(one.name, ()))
        if gap >= GAP and _prunes(one, saved, rest) and all(_differ(other, rest) for other in wrong):
            return world, settings, saved, rest
    msg = f"no seed for {one.name}"
    raise AssertionError(msg)


def _prunes(one: Run, saved: train_state.Saved, rest: Told) -> bool:
    """Return whether the last pass prunes, or steps follow the state."""
    kept = [len(part.base.keys() | part.phi.keys()) for part in saved.parts]
    return saved.step < settings_for(one)["steps"] or sum(map(len, rest[1])) < sum(kept)


def _differ(one: Told, two: Told) -> bool:
    """Return whether two runs end on different positions, or with weights that differ by more than rounding."""
    (_, first), (_, second) = one, two
    if [list(w) for w in first] != [list(w) for w in second]:
        return True
    far = [abs(x - w[p]) / max(map(abs, w.values())) for v, w in zip(first, second, strict=True) for p, x in v.items()]
    return max(far) > 2e-3


def is_weak(saved: train_state.Saved) -> bool:
    """Return whether a moment is noise beside those of its matrix, or a matrix's moments beside those of the others."""
    for name in ("m", "u"):
        matrices = [sizes for part in saved.parts if (sizes := [abs(x) for x in part.kept.get(name, {}).values() if x])]
        if any(min(sizes) < _LEAST * max(sizes) for sizes in matrices):
            return True
        # where a row repeats one token, the whole gradient of q_proj is 0 but for rounding
        largest = [max(sizes) for sizes in matrices]
        if largest and min(largest) < _LEAST**2 * max(largest):
            return True
    return False


def states() -> Area:
    """Return cases in which a state is written, and in which a run resumes from it (TRN-004, CKP-007)."""
    area = Area("state", "binary64 run")
    for one in RUNS:
        world, settings, saved, (rest, final) = _certified(one)
        clauses = f"CKP-007 CKP-006 TRN-004 EVT-003 {one.clauses}"
        inputs, answer = written(world, one.config, settings, saved.step), told(saved, one.config, settings)
        area.add(f"write-{one.name}", "state.write", f"{clauses} PRT-020", one.purpose, inputs, {"raw": answer})
        for dtype in ("float32", "float64") if one.name == "window" else ("float32",):
            inputs, answer = asked(world, one.config, settings, in_binary32(saved), dtype), answered(rest, final)
            name = f"resume-{one.name}" + ("" if dtype == "float32" else f"-{dtype}")
            area.add(name, "state.resume", clauses, one.purpose, inputs, answer, dtypes=(dtype,))
    _refusals(area)
    return area


_SMALL = Run("small", {"evolves": 0}, {"optimizer": "sgd", "steps": 3, "evolve_every": 3}, 2, "", "", tiny.SMALLEST)
"""A run whose state has few tensors."""

_AGED = replace(_SMALL, more=_SMALL.more | {"optimizer": "adamw"})


def _stopped(one: Run) -> tuple[World, dict[str, Any], train_state.Saved]:
    world, settings = world_of(one, 0), settings_for(one) | {"seed": 0}
    saved = train_state.go_on(train_state.begin(one.config, *world, settings), 0, [], one.stop).saved
    return world, settings, in_binary32(saved)


def _respelt(made: files.Pieces) -> files.Pieces:
    """Return a state whose settings have the same numbers in another spelling."""
    attributes = made.manifest["attributes"]
    settings: dict[str, Any] = json.loads(attributes["settings"])
    spelt = {key: json.dumps(value) for key, value in settings.items()}
    for key, value in settings.items():
        if isinstance(value, float):
            # 1.0 becomes 1, and 0.0625 becomes 62.5e-3
            spelt[key] = str(int(value)) if value.is_integer() else f"{value * 1e3!r}e-3"
    text = "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in spelt.items()) + "}"
    assert json.loads(text) == settings
    return replace(made, manifest=made.manifest | {"attributes": attributes | {"settings": text}})


def _refusals(area: Area) -> None:
    """Add states of another run (CKP-006), and states with something missing or in another form (CKP-007)."""
    world, settings, saved = _stopped(_SMALL)
    names, config = targets(_SMALL.config), _SMALL.config
    plain = asked(world, config, settings, saved)
    _, rest = after(_SMALL, world, settings, saved)
    made = train_state.pieces(saved, names, settings | {"preset": "literal"}, ORIGIN, "float32")
    area.add("resume-preset", "state.resume", "CKP-006", "the name of a preset compared",
             plain | {"raw": raw_array(made.pack())}, answered(*rest), dtypes=("float32",))  # fmt: skip

    spelt = _respelt(train_state.pieces(saved, names, settings, ORIGIN, "float32"))
    area.add("resume-spelling", "state.resume", "CKP-007 CKP-006", "numbers of settings compared as they are spelled",
             plain | {"raw": raw_array(spelt.pack())}, answered(*rest), dtypes=("float32",))  # fmt: skip

    def refuse(name: str, clause: str, purpose: str, **change: Any) -> None:
        area.add(f"refuse-{name}", "state.resume", clause.split()[0], purpose, plain | change, refused=clause,
                 dtypes=("float32",))  # fmt: skip

    other_rule = update_choices.RULE | {"evolves": 0, "regrow": 0}
    for name, change in (("rate", {"lr": 2.0**-5}), ("rule", {"rule": other_rule})):
        refuse(f"other-{name}", "CKP-006", "a run that goes on under other settings", settings=settings | change)
    refuse("other-text", "CKP-006", "a run that goes on with another text", origin=ORIGIN | {"text": ORIGIN["model"]})
    refuse("other-model", "CKP-006", "a run that goes on with another model", origin=ORIGIN | {"model": ORIGIN["text"]})
    wide = asked(world, config, settings, saved, "float64")["raw"]
    refuse("other-dtype", "CKP-006", "a state that is cast", raw=wide)
    kind = train_state.pieces(saved, names, settings, ORIGIN, "float32")
    kind.manifest["kind"] = "model"
    refuse("other-kind", "CKP-006", "a model taken for a state", raw=raw_array(kind.pack()))

    def spoilt(name: str, change: Callable[[dict[str, Any]], None], one: train_state.Saved = saved) -> None:
        tensors = train_state.contents(one, names, settings, "float32")
        whole = {"tensors": tensors, "attributes": train_state.attributes(one, names, settings, ORIGIN)}
        whole["attributes"] |= {"dtype": "float32", "settings": train_state.settings_text(settings)}
        change(whole)
        stored = {n: t.stored() for n, t in tensors.items()}
        made = files.pieces(stored, kind="training-state", attributes=whole["attributes"])
        refuse(name, "CKP-007", "a state that is damaged", raw=raw_array(made.pack()))

    last = f"{names[-1]}.delta"
    u, phi = train_state.contents(saved, names, settings, "float32")[f"{last}.momentum"], saved.parts[-1].phi
    spoilt("missing", lambda whole: whole["tensors"].pop(f"{last}.momentum"))
    longer = replace(u, shape=(len(u.values) + 1,), values=[*u.values, 0.0])
    spoilt("length", lambda whole: whole["tensors"].update({f"{last}.momentum": longer}))
    spoilt("type", lambda whole: whole["tensors"].update({f"{last}.momentum": replace(u, dtype="F64")}))
    infinite = replace(saved, parts=[*saved.parts[:-1], replace(saved.parts[-1], phi=dict.fromkeys(phi, float("inf")))])
    spoilt("infinite", lambda whole: None, infinite)
    spoilt("step", lambda whole: whole["attributes"].pop("step"))
    spoilt("twice", lambda whole: whole["attributes"].update(matrices=[*names[:-1], names[0]]))
    spoilt("budget", lambda whole: whole["attributes"]["budgets"].update({names[0]: len(saved.parts[0].base) + 1}))
    aged_world, aged_settings, aged = _stopped(_AGED)
    older = [replace(part, kept=part.kept | {"age": dict.fromkeys(part.phi, 3)}) for part in aged.parts]
    inputs = asked(aged_world, config, aged_settings, replace(aged, parts=older))
    area.add("refuse-age", "state.resume", "CKP-007", "an age beyond the step of the state", inputs, refused="CKP-007",
             dtypes=("float32",))  # fmt: skip
    damaged = plain["raw"].copy()
    damaged[-64] ^= 1
    refuse("flipped", "FMT-090 FMT-091", "a state that is not verified", raw=damaged)


AREAS = (states,)
