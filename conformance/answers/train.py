"""Whole runs, and single steps from a state (chapter 10: TRN, CKP-008)."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.answers.answer import Inputs, Refusal, answers, ids, reals, refuse
from conformance.oracle import quantise, train, train_batches, train_passage, train_settings
from conformance.oracle.event import Part
from conformance.oracle.model import targets
from conformance.oracle.select import binary64
from conformance.oracle.train_held import OnGrid

__all__ = ["described", "part_of", "run_of", "step_of"]

HALVES = ("float16", "bfloat16")
"""The 16-bit forms in which targets may be held."""


def run_of(a: dict[str, Any], limit: float = train.Trainer.limit) -> train_passage.Run:
    """Return the run of the inputs of `train.run` or `train.held`, in whose compute dtype `limit` is the largest."""
    kind: type[train.Trainer] = OnGrid if a.get("exact") else train.Trainer
    more = {"limit": limit} | ({"coded": _coded(a)} if a.get("exact") else {})
    return train_passage.to_the_end(type(kind.__name__, (kind,), more)(**world_of(a)))


def world_of(a: dict[str, Any]) -> dict[str, Any]:
    """Return what a trainer begins with: config, tensors, stored positions, text and settings."""
    masks = {name: at.tolist() for name, at in a["stored"].items()}
    return {name: a[name] for name in ("config", "tensors", "settings")} | {"masks": masks, "text": a["text"].tolist()}


def _coded(a: dict[str, Any]) -> list[quantise.Coded]:
    """Return the codes of the targets that `train.held` holds (QNT-001)."""
    coded = []
    for name, at in a["stored"].items():
        matrix, _ = quantise.empty(a["held"], a["tensors"][name].shape)
        codes = dict(zip(at.tolist(), a["codes"][name].tolist(), strict=True))
        coded.append(replace(matrix, codes=codes, scales=a["scales"][name].tolist(), zeros=a["zeros"][name].tolist()))
    return coded


def refuse_run(a: Inputs) -> None:
    """Refuse settings, or a text that the model cannot read, before anything is computed (TRN-008)."""
    s = a["settings"]
    broken = train_settings.broken(s, a.rounded)
    if not broken:
        broken = train_settings.unreadable(a["config"], a["text"].tolist(), s["length"], "TRN-003")
    if broken:
        raise Refusal(*broken)


@answers("train.held")
def _held(a: Inputs) -> Any:
    refuse(CKP_008=a.rounded is binary64, QNT_011=bool(a["exact"]) and a["held"] in HALVES)
    return _run(a)


@answers("train.run")
def _run(a: Inputs) -> dict[str, Any]:
    refuse_run(a)
    run = run_of(a, float(np.finfo(np.float64 if a.rounded is binary64 else np.float32).max))
    return {
        "budgets": ids(run.trainer.budgets),
        "delta_budgets": ids(run.trainer.delta_budgets),
        **of_steps(run),
    }


def of_steps(run: train_passage.Run) -> dict[str, Any]:
    """Return what a run and a resumed run both give: losses, events and final weights."""
    return {
        "losses": reals(run.passage.losses),
        "slots": [[ids(eta) for eta, _ in event] for event in run.passage.events],
        "bases": [[ids(base) for _, base in event] for event in run.passage.events],
        "support": [ids(w) for w in run.final],
        "weights": [reals(w.values()) for w in run.final],
    }


def part_of(target: dict[str, Any], shape: tuple[int, ...], matrix: int, dtype: str = "float64") -> Part:
    """Return a target from the arrays of an input or answer, its floats rounded to the dtype."""

    def column(positions: str, values: str) -> dict[int, Any]:
        array = target[values] if values == "age" else target[values].astype(dtype)
        return dict(zip(target[positions].tolist(), array.tolist(), strict=True))

    kept = {name: column("delta", name) for name in ("m", "v", "age")}
    budgets = [int(target["budget"])], [int(target["delta_budget"])]
    base, phi = column("base", "base_values"), column("delta", "delta_values")
    return Part((shape[0], shape[1]), matrix, base, phi, kept, *budgets)


def described(part: Part) -> dict[str, Any]:
    """Return the state of a target in the form of inputs and outputs of operations; the inverse of `part_of`."""
    base, slots = sorted(part.base), sorted(part.phi)
    return {
        "base": ids(base),
        "base_values": reals(part.base[p] for p in base),
        "delta": ids(slots),
        "delta_values": reals(part.phi[p] for p in slots),
        **{name: reals(part.kept[name][p] for p in slots) for name in ("m", "v")},
        "age": ids(part.kept["age"][p] for p in slots),
        "budget": part.budget[0],
        "delta_budget": part.delta_budget[0],
    }


def _parts(a: dict[str, Any], dtype: str = "float64") -> list[Part]:
    pairs = enumerate(zip(targets(a["config"]), a["parts"], strict=True))
    return [part_of(one, a["tensors"][name].shape, i, dtype) for i, (name, one) in pairs]


def step_of(a: dict[str, Any], dtype: str = "float64") -> tuple[list[Part], train.OneStep]:
    """Return the targets of the inputs of `train.step`, rounded to the dtype, and the step from there."""
    parts, earlier, entries = _parts(a, dtype), None, a["parts"]
    if "window" in entries[0]:
        sums = [one["window"].astype(dtype).reshape(-1).tolist() for one in entries]
        tokens = [_everywhere(one, part, dtype) for one, part in zip(entries, parts, strict=True)]
        earlier = train.Earlier(sums, entries[0]["window_steps"], tokens)
    text = a["text"].tolist()
    return parts, train.one_step(a["config"], a["tensors"], parts, text, a["settings"], a["step"], earlier)


def _everywhere(target: dict[str, Any], part: Part, dtype: str) -> list[float]:
    """Return `window_tokens` as a number for each flat position, 0 off the support; empty if the input has none."""
    if "window_tokens" not in target:
        return []
    flat = np.zeros(math.prod(part.shape))
    flat[sorted(part.base.keys() | part.phi.keys())] = target["window_tokens"].astype(dtype)
    return flat.tolist()


def _after(loss: float, parts: list[Part]) -> dict[str, Any]:
    """Return the outputs of a step."""
    entries = [described(part) for part in parts]
    names = ("base", "base_values", "delta", "delta_values", "m", "v", "age")
    return {"loss": loss, **{name: [one[name] for one in entries] for name in names}}


@answers("train.step")
def _step(a: Inputs) -> dict[str, Any]:
    _, own = step_of(a)
    return _after(own.loss, own.parts)


@answers("train.batches")
def _batches(a: Inputs) -> dict[str, Any]:
    loss, parts, _ = batches_of(a)
    return _after(loss, parts)


def batches_of(a: dict[str, Any]) -> tuple[float, list[Part], float]:
    """Return loss, targets and the smallest gap of the step of the inputs of `train.batches`."""
    return train_batches.one_step(a["config"], a["tensors"], _parts(a), a["batches"], a["settings"], a["step"])
