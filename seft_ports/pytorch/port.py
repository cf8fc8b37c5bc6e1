"""The adapter between this port and the conformance kit; the only file here that imports `conformance`.

    seft verify --port "python -m conformance.protocol.serve seft_ports.pytorch.port:Port"

Products and events go through `SeftLinear` and its autograd function, the same code that trains.
"""

import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from conformance import Refused, Unsupported
from formats import __version__
from seft_ports.pytorch import decide, delta, kernels, port_rules, run, schedule, select, slot_step
from seft_ports.pytorch.counter import counter_key, draws
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.linear import SeftLinear
from seft_ports.pytorch.settings import Settings

__all__ = ["Port", "Runs"]

Given = dict[str, Any]
Answer = dict[str, Any]

_DTYPES = {"float64": "exact64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_REDUCED = ("kernel.sparse", "kernel.store", "gradient.whole", "gradient.at")
_ODD = {"int64": torch.int64}
_SENSITIVITY = Settings(preset="sensitivity")
_GROWN_FROM: dict[str, Any] = {"all": "anywhere", "active": "active"}


class Port:
    """Answer the operations of the profiles `core` and `rules`."""

    name = "seft_ports.pytorch"

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def operations(self) -> dict[str, Callable[[Given], Answer]]:
        """Return the operations that are offered, by name."""
        return dict(_OPERATIONS)

    def classes(self, op: str) -> list[str]:
        """Return the numeric classes in which an operation is offered."""
        return list(_DTYPES.values()) if op in _REDUCED else ["exact64", "fp32"]

    def describe(self) -> dict[str, Any]:
        """Return name, version, operations and flags of the port (PRT-004)."""
        language = f"Python {platform.python_version()}"
        port = {"name": self.name, "version": __version__, "language": language, "torch": torch.__version__}
        ops = {op: self.classes(op) for op in self.operations()}
        return {"port": port, "ops": ops, "flags": {"deterministic": True, "files": True}}

    def call(self, op: str, inputs: Given, dtype: str) -> Answer:
        """Return the outputs of an operation; see `conformance.protocol.port.Port`."""
        operation = self.operations().get(op)
        if operation is None or _DTYPES[dtype] not in self.classes(op):
            raise Unsupported(op)
        try:
            tensors = {name: _there(value) for name, value in inputs.items()}
            _check_positions(tensors)
            out = operation(tensors)
        except SeftError as error:
            raise Refused(error.clause, str(error)) from error
        return {name: _back(value) for name, value in out.items()}


class Runs(Port):
    """Answer the operations of the profile `train`, too.

    It runs in float32 only. transformers computes norms, softmax and rotations in float32 whatever the dtype of the
    model, so a run in float64 would miss the tolerances of chapter 14.
    """

    name = "seft_ports.pytorch with transformers"

    def operations(self) -> dict[str, Callable[[Given], Answer]]:
        """Return the operations that are offered, by name."""
        return {**_OPERATIONS, **_WITH_TRANSFORMERS}

    def classes(self, op: str) -> list[str]:
        """Return the numeric classes in which an operation is offered."""
        return ["fp32"] if op in _WITH_TRANSFORMERS else super().classes(op)


def _there(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint64:
            return torch.from_numpy(value.view(np.int64))
        if value.dtype == np.dtype(ml_dtypes.bfloat16):
            return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {name: _there(one) for name, one in value.items()}
    return [_there(one) for one in value] if isinstance(value, list) else value


def _back(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().contiguous()
        return (
            value.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if value.dtype == torch.bfloat16 else value.numpy()
        )
    if isinstance(value, dict):
        return {name: _back(one) for name, one in value.items()}
    return [_back(one) for one in value] if isinstance(value, list) else value


def _shape(g: Given) -> tuple[int, int]:
    return g["out"], g["in"]


def _numel(g: Given) -> int:
    return g["out"] * g["in"]


def _at(g: Given, positions: Tensor) -> Tensor:
    """Return booleans of the whole flat matrix, true at these positions."""
    mask = torch.zeros(_numel(g), dtype=torch.bool)
    mask[positions] = True
    return mask


def _layer(g: Given, base: Tensor, base_values: Tensor, delta: Tensor, delta_values: Tensor, slots: int) -> SeftLinear:
    """Return a layer with this base and delta, and room for `slots` slots."""
    weight = torch.zeros(_numel(g), dtype=base_values.dtype)
    weight[base] = base_values
    layer = SeftLinear(weight.view(_shape(g)), _at(g, base).view(_shape(g)), max(slots, len(delta)))
    layer.place(delta)
    layer.values.data[: layer.slots] = delta_values.to(layer.values.dtype)
    layer.refresh()
    return layer


def _draws(g: Given) -> Answer:
    key = counter_key(*(int(word) & (2**64 - 1) for word in g["words"]))
    return {"draws": draws(key, g["numbers"]).numpy().view(np.uint64)}


def _select(choose: Callable[[Tensor, int], Tensor]) -> Callable[[Given], Answer]:
    def operation(g: Given) -> Answer:
        ids, order = torch.sort(g["ids"])
        return {"chosen": ids[choose(g["scores"][order], g["k"])]}

    return operation


def _positions(g: Given) -> Answer:
    (out, width), indptr, indices = _shape(g), g["indptr"], g["indices"]
    steps = indptr.diff()
    # TOP-001
    if indptr.shape != (out + 1,) or indptr[0] != 0 or indptr[-1] != len(indices) or bool((steps < 0).any()):
        raise SeftError("TOP-001", f"row pointers {indptr.tolist()} for {len(indices)} columns of {out} rows")
    flat = torch.repeat_interleave(torch.arange(out), steps) * width + indices
    # TOP-002
    if bool(((indices < 0) | (indices >= width)).any()) or bool((flat.diff() <= 0).any()):
        raise SeftError("TOP-002", "the columns of a row are not strictly increasing in 0 ... in - 1")
    return {"positions": flat}


def _check_positions(g: Given) -> None:
    """Refuse flat positions that are those of no topology (TOP-003)."""
    if not {"out", "in"} <= g.keys():
        return
    for name in ("positions", "base", "delta", "old", "new"):
        flat = g.get(name)
        # floats are the values of `kernel.store`, whose input has the name `new` too
        if not isinstance(flat, Tensor) or flat.is_floating_point() or not flat.numel():
            continue
        # TOP-003
        if bool((flat.diff() <= 0).any()) or not 0 <= int(flat[0]) <= int(flat[-1]) < _numel(g):
            raise SeftError("TOP-003", f"{name} are not strictly increasing in 0 ... out * in - 1")


def _topology(g: Given) -> Answer:
    (out, width), flat = _shape(g), g["positions"]
    if g["pattern"] is not None:
        most, group = g["pattern"].tolist()
        groups = flat // group
        # TOP-005
        if width % group or bool((groups[most:] == groups[: max(len(groups) - most, 0)]).any()):
            raise SeftError("TOP-005", f"rows of {width} have no groups of {most}:{group}, or one stores more")
    return {"indptr": torch.searchsorted(flat, torch.arange(out + 1) * width), "indices": flat % max(width, 1)}


def _effective(g: Given) -> Answer:
    layer = _layer(g, g["base"], g["base_values"], g["delta"], g["delta_values"], len(g["delta"]))
    return _support(layer)


def _support(layer: SeftLinear) -> Answer:
    support = torch.nonzero(layer.support().view(-1)).flatten()
    return {"support": support, "weights": layer.weight.view(-1)[support]}


def _sparse(g: Given) -> Answer:
    for name, kind in (g["odd"] or {}).items():
        other = torch.float32 if g[name].dtype == torch.float64 else torch.float64
        g[name] = g[name].to(_ODD.get(kind, other))
    values, positions = g["values"], g["positions"]
    kernels.check(g["x"], g["dy"], _shape(g), values.dtype)
    if values.shape != positions.shape:
        # KRN-009
        raise SeftError("KRN-009", f"{tuple(values.shape)} values for {len(positions)} positions")
    layer = _layer(g, positions, torch.zeros_like(values), positions, values, len(positions))
    x = g["x"].requires_grad_()
    y = layer(x)
    dx, dvalues = torch.autograd.grad(y, (x, layer.values), g["dy"])
    return {"y": y, "dx": dx, "dvalues": dvalues.to(values.dtype), "shape": torch.tensor(layer.shape)}


def _store(g: Given) -> Answer:
    values = kernels.store(g["values"], g["slots"], g["new"])
    weight = torch.zeros(_numel(g), dtype=values.dtype)
    weight[g["positions"]] = values
    return {"y": kernels.matmul(g["x"], weight.view(_shape(g)))}


def _candidates(g: Given) -> Answer:
    # GRD-004
    total = sum(kernels.whole(dy, x) for dy, x in zip(g["dy"], g["x"], strict=True))
    mean = (total / g["steps"]).flatten()
    open_to = ~_at(g, g["delta"])
    candidates = torch.nonzero(open_to & _at(g, g["base"]) if g["scope"] == "active" else open_to).flatten()
    candidates = candidates[select.largest(mean[candidates].abs(), min(g["n"], len(candidates)))]
    return {"candidates": candidates, "values": mean[candidates]}


def _first_step(g: Given) -> Answer:
    n, first = g["n"], g["gradients"][0]
    layer = SeftLinear(torch.zeros_like(first), torch.zeros_like(first, dtype=torch.bool), n)
    layer.watch(["gradient", "square"], keeps="first-step")
    for gradient in g["gradients"]:
        # dyᵀ x is the gradient of the step if dy is the identity
        layer.see(torch.eye(len(gradient), dtype=gradient.dtype), gradient)
        layer.settle()
    at, evidence = layer.candidates, layer.evidence(len(g["gradients"]))
    return {"candidates": at} | {name: one.flatten()[at] for name, one in evidence.items()}


def _part(g: Given, evidence: Answer, most: int, **changed: Any) -> decide.Part:
    """Return the matrix of a case, as its layer gives it to an event."""
    none, no_values = g["base"][:0], evidence["gradient"].flatten()[:0]
    case = {"base_values": evidence["gradient"].new_zeros(len(g["base"])), "delta": none, "delta_values": no_values} | g
    layer = _layer(g, g["base"], case["base_values"], case["delta"], case["delta_values"], most)
    return replace(layer.part(evidence), most=torch.tensor([most]), **changed)


def _grow(g: Given) -> Answer:
    values = g["gradient"].new_zeros(len(g["delta"]))
    # d_φ is chosen so that n positions grow: n_drop + (d_φ − |η|) = n
    most = g["n"] - len(g["dropped"]) + len(g["delta"])
    part = _part(g | {"delta_values": values}, {"gradient": g["gradient"]}, most)
    rule = Settings(preset="sensitivity", grow_scope=_GROWN_FROM[g["scope"]])
    decide.check_part(part, on_support=g["scope"] == "active")
    return {"grown": decide.grow([part], rule, [g["dropped"]], torch.tensor([len(g["dropped"])]))[0]}


def _drop(g: Given) -> Answer:
    # a drop uses the slots only, and the matrix may be too large for memory
    values, at = g["delta_values"], g["delta"]
    part = decide.Part(_shape(g), values, at, values, at, values, {}, at, at)
    return {"dropped": decide.drop([part], _SENSITIVITY, torch.tensor([g["n"]]))[0]}


def _adapt(g: Given) -> Answer:
    part = _part(g, {"gradient": g["gradient"]}, len(g["delta"]), budgets=torch.tensor([g["budget"]]))
    return {"pruned": decide.decide_last([part], _SENSITIVITY)[0].pruned}


def _evolve(g: Given) -> Answer:
    layer = _layer(g, g["base"], g["base_values"], g["delta"], g["delta_values"], g["delta_budget"])
    layer.budgets, layer.delta_budget = torch.tensor([g["budget"]]), g["delta_budget"]
    state = {name: torch.zeros(layer.values.shape, dtype=g[name].dtype) for name in ("m", "v", "age")}
    for name, array in state.items():
        array[: layer.slots] = g[name]
    rule = Settings(preset="sensitivity", grow_scope=_GROWN_FROM[g["scope"]], adapts="always" if g["adapts"] else "end")
    part = layer.part({"gradient": g["gradient"]})
    layer.apply_decision(decide.decide([part], rule, torch.tensor([g["n_drop"]]))[0], state)
    n, base = layer.slots, layer.mask.view(-1)
    values = layer.weight.view(-1).clone()
    values[layer.positions[:n]] = layer.held[:n]
    return {
        "base": torch.nonzero(base).flatten(),
        "base_values": values[base],
        "delta": layer.positions[:n],
        "delta_values": layer.values[:n],
        **{name: array[:n] for name, array in state.items()},
        **_support(layer),
    }


def _adamw(g: Given) -> Answer:
    names = {"m": "first_moment", "v": "second_moment", "age": "age"}
    values, state = g["values"].clone(), {long: g[short].clone() for short, long in names.items()}
    # OPT-003
    numbers = {name: g[name] for name in ("beta1", "beta2", "eps", "weight_decay") if g[name] is not None}
    place = slot_step.Place(state["age"], state["age"])
    slot_step.STEPS["adamw"](values, state, g["gradient"], slot_step.Hyper(g["lr"], **numbers), place)
    return {"values": values} | {short: state[long] for short, long in names.items()}


_OPERATIONS: dict[str, Callable[[Given], Answer]] = {
    "rng.draws": _draws,
    "select.largest": _select(select.largest),
    "select.smallest": _select(select.smallest),
    "topology.positions": _positions,
    "topology.of": _topology,
    "change.source": lambda g: {"source": delta.source(g["old"], g["new"])},
    "change.realign": lambda g: {"values": delta.realign(g["values"], delta.source(g["old"], g["new"]), g["fill"])},
    "count.budget": lambda g: {"n": delta.budget(g["density"], _shape(g), g["stored"])},
    "count.drop": lambda g: {
        "n": schedule.drop_count(schedule.drop_fraction_at(g["step"], g["steps"], g["drop_fraction"]), g["slots"])
    },
    "schedule.fraction": lambda g: {"value": schedule.drop_fraction_at(g["step"], g["steps"], g["drop_fraction"])},
    "schedule.events": lambda g: {
        "at": torch.tensor(list(schedule.event_steps(g["steps"], g["evolve_every"])), dtype=torch.int64)
    },
    "schedule.learning_rate": lambda g: {
        "value": schedule.learning_rate(g["kind"], g["lr"], g["step"], g["steps"], g["warmup"])
    },
    "delta.effective": _effective,
    "delta.initial_random": lambda g: {"positions": delta.initial_random(g["base"], g["n"], g["seed"], g["matrix"])},
    "kernel.sparse": _sparse,
    "kernel.store": _store,
    "gradient.whole": lambda g: {"gradient": kernels.whole(g["dy"], g["x"]).to(g["x"].dtype)},
    "gradient.at": lambda g: {"values": kernels.sample(g["dy"], g["x"], g["positions"]).to(g["x"].dtype)},
    "gradient.candidates": _candidates,
    "window.candidates": _first_step,
    "update.drop": _drop,
    "update.grow": _grow,
    "update.adapt": _adapt,
    "update.evolve": _evolve,
    "adamw.step": _adamw,
    "adamw.clip": lambda g: {"factor": slot_step.clip_factor(g["norm"], g["max_norm"])},
    "text.training": lambda g: {
        "starts": torch.tensor(
            run.training_starts(*(g[name] for name in ("tokens", "length", "seed", "step", "rows"))), dtype=torch.int64
        )
    },
    "text.evaluation": lambda g: {
        "starts": torch.tensor(
            run.evaluation_starts(*(g[name] for name in ("tokens", "length", "windows"))), dtype=torch.int64
        )
    },
} | port_rules.OPERATIONS

_WITH_TRANSFORMERS: dict[str, Callable[[Given], Answer]] = {
    "train.run": run.train_run,
    "train.step": run.train_step,
    "evaluate.perplexity": run.perplexity,
}
