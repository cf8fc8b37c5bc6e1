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
from conformance.oracle.train_state import KEPT, SELDOM, Held, attributes, contents, settings_of

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
    stated, own = content.attributes, settings_of(settings)
    try:
        theirs = dict.fromkeys(SELDOM) | json.loads(stated["settings"])
        same = {name: theirs[name] for name in own} | {"preset": ""} == own | {"preset": ""}
        same &= all(theirs[name] in (None, own.get(name)) for name in SELDOM) and content.kind == "training-state"
        if not same or any(stated[name] != value for name, value in (*origin.items(), ("dtype", dtype))):
            msg = "CKP-006: a state of another run"
            raise RefusedError(msg)
        tensors = {name: _held(tensor) for name, tensor in content.tensors.items()}
        saved = _saved(tensors, stated, names, settings)
        whole = _alike(contents(saved, names, settings, dtype), tensors) and _is_possible(saved, tensors, settings)
        whole &= stated == attributes(saved, names, settings, origin) | {n: stated[n] for n in ("dtype", "settings")}
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


def _saved(
    tensors: Mapping[str, Held], stated: Mapping[str, Any], names: Sequence[str], settings: dict[str, Any]
) -> Saved:
    """Return the state of tensors; whether they have the right lengths and types is not looked at."""
    rule, parts, sums = rule_of(settings), list[Part](), list[Sums]()
    first = not any(end <= stated["step"] for end in due(settings))
    for i, name in enumerate(names):
        base, delta = (tensors[f"{name}.{key}"].by_position() for key in ("base", "delta"))
        shape, lost = tensors[f"{name}.base"].shape, frozenset(tensors.get(f"{name}.lost", _NONE).by_position())
        state = {key: tensors[f"{name}.delta.{KEPT[key]}"].values for key in kept_of(settings)}
        kept = {key: dict(zip(delta, values, strict=False)) for key, values in state.items()}
        slots = (
            tensors[f"{name}.row_delta_budget"].values if rule["scope"] == "row" else [stated["delta_budgets"][name]]
        )
        budget = per_pool(rule["scope"], shape, settings.get("pattern"), base.keys() | lost)
        optimizer = settings.get("optimizer", "adamw")
        parts.append(Part((shape[0], shape[1]), i, base, delta, kept, budget, slots, optimizer, first, lost))
        if name in stated["windows"]:
            sums.append(_sums(tensors, f"{name}.window.", shape, stated["windows"][name]))
    of_sm3 = ([f"{name}.delta.{axis}" for name in names] for axis in ("rows", "columns"))
    rows, columns = ([tensors.get(name, _NONE).values for name in axis] for axis in of_sm3)
    return Saved(stated["step"], parts, rows, columns, sums)


_NONE = Held("NONE", (0,), [])


def _sums(tensors: Mapping[str, Held], prefix: str, shape: tuple[int, ...], window: Mapping[str, int]) -> Sums:
    def flat(key: str) -> list[float]:
        by_position = tensors.get(f"{prefix}{key}", _NONE).by_position()
        return [by_position.get(p, 0.0) for p in range(math.prod(shape))]

    inputs = tensors[f"{prefix}input_squares"].values if f"{prefix}input_squares" in tensors else [0.0] * shape[1]
    first = tensors.get(f"{prefix}candidates")
    chosen = None if first is None else frozenset(first.by_position())
    gradient, absolute, square, tokens = map(flat, ("gradient", "absolute", "square", "tokens"))
    # no rows are counted where no Σ x² is asked for, and 1 divides nothing then
    steps, rows = window["steps"], window.get("inputs") or 1
    tokens = tokens if f"{prefix}tokens" in tensors else []
    return Sums(steps, rows, gradient, absolute, square, inputs, chosen, tokens)


def _alike(one: Mapping[str, Held], other: Mapping[str, Held]) -> bool:
    """Return whether two states have the same tensors; positions of a whole matrix may be left out."""

    def spelt(t: Held) -> Held:
        return replace(t, at=None if t.at is None or len(t.at) == math.prod(t.shape) else t.at)

    return {name: spelt(t) for name, t in one.items()} == {name: spelt(t) for name, t in other.items()}


def _is_possible(saved: Saved, tensors: Mapping[str, Held], settings: dict[str, Any]) -> bool:
    """Return whether the numbers are finite, no age is beyond the step, and windows hold their steps (CKP-007.9)."""
    ages = [age for part in saved.parts for age in part.kept.get("age", {}).values()]
    further = settings.get("event_batches", 1) - 1 if rule_of(settings)["moments"] == "seeded" else 0
    window = steps_of_window(settings, saved.step)
    return (
        all(math.isfinite(x) for t in tensors.values() for x in t.values)
        and all(0 <= age <= saved.step + further for age in ages)
        and [one.steps for one in saved.sums] == [window] * len(saved.parts if window else [])
    )
