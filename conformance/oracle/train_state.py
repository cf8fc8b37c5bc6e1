"""Training states: their tensors, attributes and files (CKP-006, CKP-007)."""

import math
import struct
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from conformance.oracle import files, update_choices
from conformance.oracle.event import Part
from conformance.oracle.event_evidence import asked_by
from conformance.oracle.train_passage import Saved, Sums
from conformance.oracle.train_settings import delta_budgets, hyper_of, kept_of, rule_of

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

SELDOM = {"event_batches": 1, "start_batches": 1, "slot_warmup": 0}
"""Settings that a state has only if they differ from these."""


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
        **{key: settings[key] for key, usual in SELDOM.items() if settings.get(key, usual) != usual},
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
