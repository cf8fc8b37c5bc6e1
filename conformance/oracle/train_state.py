"""Training states: content, file, the run up to one, and the run resumed from one (TRN-004, CKP-006, CKP-007)."""

import math
import struct
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from conformance.oracle import files, train_window, update_choices
from conformance.oracle.event import Part
from conformance.oracle.event_evidence import Evidence, asked_by
from conformance.oracle.model import Config, targets
from conformance.oracle.tape import Array
from conformance.oracle.train import Step, Trainer, delta_budgets, due, hyper_of, kept_of, rule_of
from conformance.oracle.train_window import added

KEPT = {"m": "first_moment", "v": "second_moment", "age": "age", "u": "momentum", "origin": "origin"}
"""Names in a file of the state of a slot."""

_OWN = {
    "adamw": ("beta1", "beta2", "eps", "weight_decay"),
    "spiel-adamw": ("beta1", "beta2", "eps", "weight_decay"),
    "sgd": ("momentum", "weight_decay"),
    "sm3": ("eps", "weight_decay"),
}
"""The settings that only some optimizers have, by optimizer."""

_PLAIN = (
    "steps",
    "micro_batches",
    "length",
    "evolve_every",
    "drop_fraction",
    "gradient_window",
    "lr",
    "max_norm",
    "seed",
)

_SELDOM = {"event_batches": 1, "start_batches": 1, "slot_warmup": 0}
"""Settings that a state has only if they differ from these."""


@dataclass(frozen=True)
class Sums:
    """Sums over the steps of a window at one matrix (GRD-004 to GRD-007).

    Attributes:
        steps: number of steps.
        rows: number of rows that entered the matrix.
        gradient: Σ g, flat.
        absolute: Σ |g|, flat.
        square: Σ g², flat.
        inputs: Σ x², one per column.
        candidates: positions with the largest |g| of the first step; None if all positions are candidates.
        tokens: Σ dy² x², flat; empty if the rule does not ask for it (GRD-008).
    """

    steps: int
    rows: int
    gradient: list[float]
    absolute: list[float]
    square: list[float]
    inputs: list[float]
    candidates: frozenset[int] | None = None
    tokens: list[float] = field(default_factory=list)

    def plus(self, g: list[float], x: list[list[float]], tokens: list[float]) -> "Sums":
        """Return the sums after one more step with gradient g, input rows x, and `tokens` = Σ dy² x²."""
        return Sums(
            self.steps + 1,
            self.rows + len(x),
            [a + b for a, b in zip(self.gradient, g, strict=True)],
            [a + abs(b) for a, b in zip(self.absolute, g, strict=True)],
            [a + b * b for a, b in zip(self.square, g, strict=True)],
            [a + added(row[j] * row[j] for row in x) for j, a in enumerate(self.inputs)],
            self.candidates,
            [a + b for a, b in zip(self.tokens or [0.0] * len(tokens), tokens, strict=True)],
        )


@dataclass(frozen=True)
class Saved:
    """The state of a run after a step.

    Attributes:
        step: number of the step.
        parts: each target; `lost` has the positions that were stored at load and have left the base.
        rows: r of SM3, for each target.
        columns: c of SM3, for each target.
        sums: sums of the open window, for each target; empty if no window is open.
    """

    step: int
    parts: list[Part]
    rows: list[list[float]]
    columns: list[list[float]]
    sums: list[Sums]


@dataclass(frozen=True)
class Passage:
    """The results of some consecutive steps of a run.

    Attributes:
        losses: loss of each step.
        events: for each event and each target, the positions of η and of B after it.
        starts: for each event the count `start` of each target (TRN-009).
        moves: numbers of positions that were dropped, grown, cancelled and pruned.
        saved: the state after the last of the steps.
    """

    losses: list[float]
    events: list[list[tuple[list[int], list[int]]]]
    starts: list[list[int]]
    moves: dict[str, int]
    saved: Saved


def resumed(
    config: Config,
    tensors: dict[str, Array],
    text: list[int],
    settings: Any,
    saved: Saved,
    kind: type[Trainer] = Trainer,
) -> Trainer:
    """Return a trainer that continues a run from a saved state alone."""
    t = kind.__new__(kind)
    t.config, t.tensors, t.text, t.s = config, dict(tensors), text, settings
    t.rule, t.optimizer = rule_of(settings), settings.get("optimizer", "adamw")
    t.pattern = tuple(settings["pattern"]) if settings.get("pattern") else None
    t.names, t.shapes = targets(config), [part.shape for part in saved.parts]
    t.loaded = [part.base | dict.fromkeys(part.lost, 0.0) for part in saved.parts]
    t.parts, t.gap = list(saved.parts), float("inf")
    t.rows, t.columns = list(saved.rows), list(saved.columns)
    t.budgets = [len(loaded) for loaded in t.loaded]
    t.delta_budgets = delta_budgets(settings, t.shapes, t.budgets)
    return t


def go_on(t: Trainer, before: int, sums: Sequence[Sums], until: int) -> Passage:
    """Take the steps before + 1 to `until`, and return their losses, events and final state."""
    events_at, rule, window = due(t.s), t.rule, list(sums)
    losses: list[float] = []
    events: list[list[tuple[list[int], list[int]]]] = []
    starts: list[list[int]] = []
    moves = dict.fromkeys(("dropped", "grown", "cancelled", "pruned"), 0)
    for step in range(before + 1, until + 1):
        looked = t.look(step)
        losses.append(looked.loss)
        if asked_by(rule) and any(end - n < step <= end for end, n in events_at.items()):
            window = _with_step(t, window, looked)
        if not (step in events_at and rule["event_replaces_step"]):
            t.optimize(step, looked.gradients)
        if step in events_at:
            outcomes = t.event(step, _evidence(t, window))
            window = []
            for one in outcomes:
                for name in moves:
                    moves[name] += one.record[name]
            events.append([(sorted(part.phi), sorted(part.base)) for part in t.parts])
            starts.append([one.record["start"] for one in outcomes])
    parts = [
        replace(part, lost=frozenset(loaded.keys() - part.base.keys()))
        for part, loaded in zip(t.parts, t.loaded, strict=True)
    ]
    return Passage(losses, events, starts, moves, Saved(until, parts, list(t.rows), list(t.columns), window))


def _with_step(t: Trainer, sums: list[Sums], step: Step) -> list[Sums]:
    """Return the sums of a window after one more step; the first step opens it (GRD-007)."""
    if not sums:
        for i, shape in enumerate(t.shapes):
            zeros, chosen, g = [0.0] * (shape[0] * shape[1]), None, step.gradients[i]
            if t.rule["candidates"] == "first-step":
                chosen = frozenset(train_window.candidates(g, t.delta_budgets[i]))
                order = sorted((abs(x) for x in g), reverse=True)
                if 0 < len(chosen) < len(order):
                    t.meet([(order[len(chosen) - 1], order[len(chosen)])], drawn=False)
            sums.append(Sums(0, 0, zeros, zeros, zeros, [0.0] * shape[1], chosen))
    columns = zip(sums, step.gradients, step.inputs, strict=True)
    return [one.plus(g, x, t.tokens(i, step)) for i, (one, g, x) in enumerate(columns)]


def _evidence(t: Trainer, sums: list[Sums]) -> list[Evidence]:
    """Return for each target the means over its window (GRD-004 to GRD-006); zeros if there are no sums."""
    means = []
    for i, shape in enumerate(t.shapes):
        zeros = [0.0] * (shape[0] * shape[1])
        one = sums[i] if sums else Sums(1, 1, zeros, zeros, zeros, [0.0] * shape[1])
        means.append(
            Evidence(
                gradient=[x / one.steps for x in one.gradient],
                absolute=[x / one.steps for x in one.absolute],
                square=[x / one.steps for x in one.square],
                inputs=[x / one.rows for x in one.inputs],
                row_moments=t.rows[i],
                column_moments=t.columns[i],
                candidates=one.candidates,
                steps=one.steps,
                tokens=[x / one.steps for x in one.tokens],
            )
        )
    return means


@dataclass(frozen=True)
class Held:
    """The content of a tensor of a state.

    Attributes:
        dtype: F32 or F64 for values in the compute dtype, I32 or I64 for counts, NONE for a mask.
        shape: shape of the tensor.
        values: one per stored position; empty for a mask.
        at: the stored positions, flat; None for all.
    """

    dtype: str
    shape: tuple[int, ...]
    values: list[Any]
    at: list[int] | None = None

    def by_position(self) -> dict[int, Any]:
        """Return the values by stored position, 0 for each position of a mask."""
        at = range(math.prod(self.shape)) if self.at is None else self.at
        return dict(zip(at, self.values or [0] * len(at), strict=True))

    def stored(self) -> files.Tensor:
        """Return the tensor in the form that `files` writes."""
        kind = {"F32": "f", "F64": "d", "I32": "i", "I64": "q"}.get(self.dtype)
        bits = struct.pack(f"<{len(self.values)}{kind}", *self.values) if kind else b""
        support = None if self.at is None else tuple(divmod(p, self.shape[-1]) for p in self.at)
        return files.Tensor(self.dtype, self.shape, bits, support)


def contents(saved: Saved, names: Sequence[str], settings: dict[str, Any], dtype: str) -> dict[str, Held]:
    """Return the tensors of a state by name (CKP-007); dtype is float32 or float64."""
    out: dict[str, Held] = {}
    real, rule = {"float32": "F32", "float64": "F64"}[dtype], rule_of(settings)
    for i, (name, part) in enumerate(zip(names, saved.parts, strict=True)):
        base, eta = sorted(part.base), sorted(part.phi)
        out[f"{name}.base"] = Held(real, part.shape, [part.base[p] for p in base], base)
        out[f"{name}.delta"] = Held(real, part.shape, [part.phi[p] for p in eta], eta)
        for key in kept_of(settings):
            kind = "I32" if key == "age" else real
            out[f"{name}.delta.{KEPT[key]}"] = Held(kind, (len(eta),), [part.kept[key][p] for p in eta])
        if settings.get("optimizer") == "sm3":
            for key, entry in (("rows", saved.rows[i]), ("columns", saved.columns[i])):
                out[f"{name}.delta.{key}"] = Held(real, (len(entry),), entry)
        if part.lost:
            out[f"{name}.lost"] = Held("NONE", part.shape, [], sorted(part.lost))
        if rule["scope"] == "row":
            out[f"{name}.row_budget"] = Held("I64", part.shape[:1], part.budget)
            out[f"{name}.row_delta_budget"] = Held("I64", part.shape[:1], part.delta_budget)
        if saved.sums:
            out |= {f"{name}.window.{key}": entry for key, entry in _of_window(saved.sums[i], part, rule, real).items()}
    return out


def _of_window(sums: Sums, part: Part, rule: update_choices.Rule, real: str) -> dict[str, Held]:
    """Return the tensors of an open window, by the last part of their names (CKP-007)."""
    kinds, support = asked_by(rule), part.base.keys() | part.phi.keys()
    kept: Set[int] = frozenset(range(part.shape[0] * part.shape[1]))
    if rule["grow_scope"] == "active":
        kept = support
    out: dict[str, Held] = {}
    if sums.candidates is not None:
        kept = sums.candidates | support
        out["candidates"] = Held("NONE", part.shape, [], sorted(sums.candidates))
    for key in ("gradient", "absolute", "square", "tokens"):
        at = sorted(support if key == "tokens" else kept)
        if key in kinds:
            is_whole = key != "tokens" and sums.candidates is None and rule["grow_scope"] == "anywhere"
            values = [getattr(sums, key)[p] for p in at]
            out[key] = Held(real, part.shape, values) if is_whole else Held(real, part.shape, values, at)
    return out | ({"input_squares": Held(real, part.shape[1:], sums.inputs)} if "inputs" in kinds else {})


def attributes(saved: Saved, names: Sequence[str], settings: dict[str, Any], origin: dict[str, str]) -> dict[str, Any]:
    """Return the attributes of a state without `dtype` and `settings` (CKP-007)."""
    kinds = asked_by(rule_of(settings))
    windows: dict[str, dict[str, int]] = {}
    for name, sums in zip(names, saved.sums, strict=False):
        windows[name] = {"steps": sums.steps}
        if sums.candidates is None:
            windows[name]["inputs"] = sums.rows if "inputs" in kinds else 0
    budgets = [len(part.base.keys() | part.lost) for part in saved.parts]
    slots = delta_budgets(settings, [part.shape for part in saved.parts], budgets)
    return {
        "step": saved.step,
        "model": origin["model"],
        "text": origin["text"],
        "matrices": list(names),
        "budgets": dict(zip(names, budgets, strict=True)),
        "delta_budgets": dict(zip(names, slots, strict=True)),
        "windows": windows,
    }


def settings_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run under the names that a state has for them (CKP-007)."""
    optimizer = settings.get("optimizer", "adamw")
    flags = ("evolves", "regrow", "event_replaces_step")
    rule = {k: bool(v) if k in flags else v for k, v in rule_of(settings).items() if k in update_choices.RULE}
    return {
        **{key: settings[key] for key in _PLAIN},
        **{key: settings[key] for key, usual in _SELDOM.items() if settings.get(key, usual) != usual},
        **rule,
        **{key: getattr(hyper_of(settings), key) for key in _OWN[optimizer]},
        "batch": settings["rows"] // settings["micro_batches"],
        "budget_by": settings.get("budget_by", "numel"),
        "density": settings.get("density", 0.02),
        "initial_positions": settings["start"],
        "initial_scope": settings.get("initial_scope", "active"),
        "lr_schedule": settings["schedule"],
        "optimizer": optimizer,
        "pattern": settings.get("pattern"),
        "preset": settings.get("preset", "seft"),
        "rank": settings.get("rank", 0),
        "slots": settings.get("slots", 0),
        "warmup_steps": settings["warmup"],
    }


def settings_text(settings: dict[str, Any]) -> str:
    """Return the attribute `settings`: JSON text whose numbers read back as the same binary64."""
    return files.text(settings_of(settings))


def pieces(
    saved: Saved, names: Sequence[str], settings: dict[str, Any], origin: dict[str, str], dtype: str
) -> files.Pieces:
    """Return the pieces of the file of a state."""
    tensors = {name: one.stored() for name, one in contents(saved, names, settings, dtype).items()}
    described = attributes(saved, names, settings, origin)
    described |= {"dtype": dtype, "settings": settings_text(settings)}
    return files.pieces(tensors, kind="training-state", attributes=described)
