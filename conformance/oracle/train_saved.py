"""Training states read from files (CKP-006, CKP-007)."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.oracle import second_reader
from conformance.oracle.event import Part
from conformance.oracle.event_evidence import asked_by
from conformance.oracle.select_pools import RefusedError
from conformance.oracle.train_passage import Saved, Sums
from conformance.oracle.train_settings import due, kept_of, per_pool, rule_of, window_of
from conformance.oracle.train_state import KEPT, Held, attributes, contents, settings_of

__all__ = ["read", "steps_of_window"]

_TYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}


def steps_of_window(settings: dict[str, Any], step: int) -> int:
    """Return the number of steps that the open window has summed up after a step; 0 if none is open (TRN-005)."""
    return window_of(settings, step + 1)[0] if asked_by(rule_of(settings)) else 0


def read(raw: bytes, names: Sequence[str], settings: dict[str, Any], origin: dict[str, str], dtype: str) -> Saved:
    """Return the state in a file, for a run with these targets, settings, digests and compute dtype.

    Raises:
        RefusedError: CKP-006, the state is one of another run; CKP-007, it lacks something or has another form.
        second_reader.Refused: the file is broken.
    """
    content = second_reader.read(raw)
    told, own = content.attributes, settings_of(settings)
    try:
        theirs = json.loads(told["settings"])
        same = content.kind == "training-state" and all(theirs[name] == own[name] for name in own if name != "preset")
        if not same or any(told[name] != value for name, value in (*origin.items(), ("dtype", dtype))):
            msg = "CKP-006: a state of another run"
            raise RefusedError(msg)
        held = {name: _held(tensor) for name, tensor in content.tensors.items()}
        saved = _saved(held, told, names, settings)
        whole = _alike(contents(saved, names, settings, dtype), held) and _is_possible(saved, held, settings)
        whole &= told == attributes(saved, names, settings, origin) | {n: told[n] for n in ("dtype", "settings")}
    except (KeyError, IndexError) as error:
        msg = f"CKP-007: {error} is missing"
        raise RefusedError(msg) from error
    if not whole:
        msg = "CKP-007: a tensor or an attribute of another form"
        raise RefusedError(msg)
    return saved


def _held(t: second_reader.Tensor) -> Held:
    at = None if t.columns is None else np.repeat(np.arange(len(t.row_pointers) - 1), np.diff(t.row_pointers))
    positions = None if at is None else (at * t.shape[-1] + t.columns).tolist()
    values = np.frombuffer(t.bits, _TYPES[t.dtype]).tolist() if t.dtype in _TYPES else []
    return Held(t.dtype, t.shape, values, positions)


def _saved(held: Mapping[str, Held], told: Mapping[str, Any], names: Sequence[str], settings: dict[str, Any]) -> Saved:
    """Return the state of tensors; whether they have the right lengths and types is not looked at."""
    rule, parts, sums = rule_of(settings), list[Part](), list[Sums]()
    first = not any(end <= told["step"] for end in due(settings))
    for i, name in enumerate(names):
        base, delta = (held[f"{name}.{key}"].by_position() for key in ("base", "delta"))
        shape, lost = held[f"{name}.base"].shape, frozenset(held.get(f"{name}.lost", _NONE).by_position())
        state = {key: held[f"{name}.delta.{KEPT[key]}"].values for key in kept_of(settings)}
        kept = {key: dict(zip(delta, values, strict=False)) for key, values in state.items()}
        slots = held[f"{name}.row_delta_budget"].values if rule["scope"] == "row" else [told["delta_budgets"][name]]
        budget = per_pool(rule["scope"], shape, settings.get("pattern"), base.keys() | lost)
        optimizer = settings.get("optimizer", "adamw")
        parts.append(Part((shape[0], shape[1]), i, base, delta, kept, budget, slots, optimizer, first, lost))
        if name in told["windows"]:
            sums.append(_sums(held, f"{name}.window.", shape, told["windows"][name]))
    rows, columns = ([held.get(f"{name}.delta.{axis}", _NONE).values for name in names] for axis in ("rows", "columns"))
    return Saved(told["step"], parts, rows, columns, sums)


_NONE = Held("NONE", (0,), [])


def _sums(held: Mapping[str, Held], prefix: str, shape: tuple[int, ...], window: Mapping[str, int]) -> Sums:
    def flat(key: str) -> list[float]:
        by_position = held.get(f"{prefix}{key}", _NONE).by_position()
        return [by_position.get(p, 0.0) for p in range(math.prod(shape))]

    inputs = held[f"{prefix}input_squares"].values if f"{prefix}input_squares" in held else [0.0] * shape[1]
    chosen = frozenset(held[f"{prefix}candidates"].at or ()) if f"{prefix}candidates" in held else None
    gradient, absolute, square, tokens = map(flat, ("gradient", "absolute", "square", "tokens"))
    # no rows are counted where no Σ x² is asked for, and 1 divides nothing then
    steps, rows = window["steps"], window.get("inputs") or 1
    tokens = tokens if f"{prefix}tokens" in held else []
    return Sums(steps, rows, gradient, absolute, square, inputs, chosen, tokens)


def _alike(one: Mapping[str, Held], other: Mapping[str, Held]) -> bool:
    """Return whether two states have the same tensors; positions of a whole matrix may be left out."""

    def spelt(t: Held) -> Held:
        return replace(t, at=None if t.at is None or len(t.at) == math.prod(t.shape) else t.at)

    return {name: spelt(t) for name, t in one.items()} == {name: spelt(t) for name, t in other.items()}


def _is_possible(saved: Saved, held: Mapping[str, Held], settings: dict[str, Any]) -> bool:
    """Return whether the numbers are finite, no age is beyond the step, and windows hold their steps (CKP-007.9)."""
    ages = [age for part in saved.parts for age in part.kept.get("age", {}).values()]
    seen = settings.get("event_batches", 1) - 1 if rule_of(settings)["moments"] == "seeded" else 0
    window = steps_of_window(settings, saved.step)
    return (
        all(math.isfinite(x) for tensor in held.values() for x in tensor.values)
        and all(0 <= age <= saved.step + seen for age in ages)
        and [one.steps for one in saved.sums] == [window] * len(saved.parts if window else [])
    )
