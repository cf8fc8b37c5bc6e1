"""The operations on gradients, windows, runs, training states, dtypes, warnings and ranks (chapters 6, 10 and 13)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.engine.model import weights_of_case
from conformance.engine.values import GROWN_FROM, Values, ints, read_topology, work_folder, zeros_at
from formats.container import DTYPES
from seft_ref.arrays.library import array_namespace, device, from_numpy, int64_like, to_numpy
from seft_ref.arrays.ranks import rows_of
from seft_ref.files.dtypes import compute_dtype, in_file_dtype
from seft_ref.files.model import Model
from seft_ref.files.state import Origin
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix.bases import AnyBase
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.of_step import Accumulated, Sampled
from seft_ref.matrix.target import Target, place
from seft_ref.matrix.window import AnyWindow, FirstStepWindow, Window, opened
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import Weights, with_matrices
from seft_ref.runs.finetune import finetune
from seft_ref.runs.loops import Matrix, RunState
from seft_ref.text.batch import Batch
from seft_ref.text.tokens import calibration_starts, evaluation_starts, training_starts
from seft_ref.topology.csr import flat, from_flat
from seft_ref.train.diagnose import warnings_of
from seft_ref.train.loop import StepRecord, TrainState, step_batches, train_step
from seft_ref.train.settings import TrainSettings, settings_of
from seft_ref.update.delta import Base, Delta
from seft_ref.update.evidence import finite_norm
from seft_ref.update.optimizers import OPTIMIZERS
from seft_ref.update.rules import Rule
from seft_ref.update.select import largest


def _whole(a: Values) -> Values:
    shape = (a["dy"].shape[1], a["x"].shape[1])
    return {"gradient": Accumulated(shape).plus(WeightGradient(a["dy"], a["x"])).whole()}


def _at(a: Values) -> Values:
    return {"values": a["kernels"].sample(a["dy"], a["x"], read_topology(a, "positions"))}


def _candidates(a: Values) -> Values:
    shape = (a["out"], a["in"])
    rule = Rule(grow_scope=GROWN_FROM[a["scope"]], moments="seeded")  # type: ignore[arg-type]
    total = Accumulated(shape)
    for dy, x in zip(a["dy"], a["x"], strict=True):
        total = total.plus(WeightGradient(dy, x))
    # the steps are added up first, so the window has one matrix and a count of steps
    window = Window(shape, settled_steps=a["steps"], gradient=total.whole())
    like = a["dy"][0]
    bases = Base(read_topology(a, "base"), zeros_at(a["base"], like))
    delta = Delta(read_topology(a, "delta"), zeros_at(a["delta"], like), {})
    (facts,) = evidence([View(window, bases, delta)], rule, int64_like([a["n"]], like))
    chosen = largest(facts.candidate_scores, min(a["n"], facts.candidates.shape[0]))
    xp = array_namespace(chosen)
    gradients = facts.candidate_gradient if facts.candidate_gradient is not None else zeros_at(chosen, like)
    # adding +0.0 turns −0.0 into +0.0, because the values are compared bit for bit
    return {"candidates": xp.take(facts.candidates, chosen), "values": xp.take(gradients, chosen) + 0.0}


def _window(a: Values) -> Values:
    kinds = frozenset({"gradient", "absolute", "square", "inputs"})
    shape = (a["out"], a["in"])
    window = Window(shape, kinds)
    for number, (dys, xs) in enumerate(zip(a["dy"], a["x"], strict=True)):
        if number:
            window = window.settled()
        for dy, x in zip(dys, xs, strict=True):
            window = window.plus(WeightGradient(dy, x))
    block = window.rows(0, a["out"])
    return {n: getattr(block, n) for n in ("gradient", "absolute", "square")} | {"inputs": window.inputs()}


def _tokens(a: Values) -> Values:
    window = Window((a["out"], a["in"]), frozenset({"tokens"}), support=lambda: read_topology(a, "support"))
    for number, (dys, xs) in enumerate(zip(a["dy"], a["x"], strict=True)):
        if number:
            window = window.settled()
        for dy, x in zip(dys, xs, strict=True):
            window = window.plus(WeightGradient(dy, x))
    return {"tokens": window.of_tokens()}


def _first_step(a: Values) -> Values:
    shape = (a["out"], a["in"])
    like = a["gradients"][0]
    if a["n"] > a["out"] * a["in"]:
        largest(array_namespace(like).reshape(like, (-1,)), a["n"])
    xp = array_namespace(like)
    zeros = xp.zeros((0,), dtype=like.dtype, device=device(like))
    empty = from_flat(shape, from_numpy(ints([]), like))
    base, rule = Base(empty, zeros), Rule(candidates="first-step", moments="seeded")
    window = FirstStepWindow(a["n"], opened(base, empty, rule.asks()))
    for gradient in a["gradients"]:
        of_step: Accumulated | Sampled = Accumulated(shape, (), gradient)
        if (kept_at := window.window.kept_at) is not None:
            of_step = Sampled(kept_at, 0, values=xp.take(xp.reshape(gradient, (-1,)), flat(kept_at())))
        window = replace(window, window=replace(window.window, latest=of_step)).settled()
    (info,) = evidence([View(window, base, Delta(empty, zeros, {}))], rule, None)
    return {"candidates": info.candidates, "gradient": info.candidate_gradient, "square": info.candidate_square}


_OPTIMIZERS_OWN = ("beta1", "beta2", "eps", "momentum", "weight_decay")
_NAMES = {"start": "initial_positions", "warmup": "warmup_steps", "schedule": "lr_schedule"}


def settings_of_case(case_settings: Values) -> TrainSettings:
    """Return the engine's settings of a run: those of the case, and the choices of its rule."""
    settings = {
        _NAMES.get(key, key): value for key, value in case_settings.items() if key not in ("rule", "rows", "preset")
    }
    settings |= {key: _choice(key, value) for key, value in (case_settings.get("rule") or {}).items()}
    if settings.get("pattern") is not None:
        settings["pattern"] = tuple(int(n) for n in settings["pattern"])
    has = OPTIMIZERS[settings.get("optimizer", "adamw")].__dataclass_fields__
    settings = {key: value for key, value in settings.items() if key not in _OPTIMIZERS_OWN or key in has}
    return settings_of(
        case_settings.get("preset") or "seft", batch=case_settings["rows"] // case_settings["micro_batches"], **settings
    )


def _choice(name: str, value: Any) -> Any:
    """Return a choice in the engine's type, because the kit writes true and false as 1 and 0."""
    return bool(value) if name in ("evolves", "regrow", "event_replaces_step") else value


def _model(a: Values) -> Model:
    """Return the model of a case; if the case has `stored`, each target has a base with those positions."""
    config = ModelConfig.from_json(a["config"])
    bases: dict[str, AnyBase] = {}
    for matrix in config.targets() if "stored" in a else ():
        positions = a["stored"][matrix.name]
        values = array_namespace(positions).take(a["tensors"][matrix.name].reshape(-1), positions)
        bases[matrix.name] = Base(from_flat(matrix.shape, positions), values)
    return Model(config, weights_of_case(config, a["tensors"], a["kernels"]), bases)


def _run(a: Values) -> Values:
    return run_of(a, _model(a))


def run_of(a: Values, model: Model, **options: Any) -> Values:
    """Return the outputs of `train.run` for a loaded model; `options` are those of `finetune`."""
    targets: list[Matrix] = []
    losses, slots, stored = [], [], []

    def note(state: RunState, record: StepRecord, seconds: float) -> None:
        assert isinstance(state, TrainState)
        losses.append(record.loss)
        if record.event is not None:
            slots.append([flat(target.delta.topology) for target in state.targets.values()])
            stored.append([flat(target.base.topology) for target in state.targets.values()])

    done = finetune(
        model,
        None,
        [int(t) for t in a["text"]],
        settings_of_case(a["settings"]),
        on_start=lambda started: targets.extend(started.state.targets.values()),
        on_step=note,
        kernels=a["kernels"],
        **options,
    )
    assert done.final is not None
    final = list(done.final.values())
    return {
        "losses": np.array(losses, dtype=final[0][1].dtype),
        "budgets": np.array([target.budget for target in targets]),
        "delta_budgets": np.array([target.delta_budget for target in targets]),
        "slots": slots,
        "bases": stored,
        "support": [flat(topology) for topology, _ in final],
        "weights": [weights for _, weights in final],
    }


def _train_step(a: Values) -> Values:
    settings, text = settings_of_case(a["settings"]), [int(t) for t in a["text"]]
    return _one_step(a, lambda weights: step_batches(settings, text, a["step"], weights))


def _train_batches(a: Values) -> Values:
    batches = [Batch(one["tokens"], one["labels"], one.get("mask")) for one in a["batches"]]
    return _one_step(a, lambda weights: batches)


def _one_step(a: Values, batches_for: Callable[[Weights], Sequence[Batch]]) -> Values:
    settings = settings_of_case(a["settings"])
    config = ModelConfig.from_json(a["config"])
    weights = weights_of_case(config, a["tensors"], a["kernels"])
    targets: dict[str, Target] = {}
    packed = {}
    for matrix, part in zip(config.targets(), a["parts"], strict=True):
        base = Base(from_flat(matrix.shape, part["base"]), part["base_values"])
        xp = array_namespace(part["age"])
        kept = {"first_moment": part["m"], "second_moment": part["v"], "age": xp.astype(part["age"], xp.int32)}
        delta = Delta(from_flat(matrix.shape, part["delta"]), part["delta_values"], kept)
        nothing = part["delta"][:0]
        placed, packed[matrix.name], places, under = place(base, delta, a["kernels"])
        targets[matrix.name] = Target(placed, delta, part["budget"], part["delta_budget"], places, under, nothing)
    windows = {
        matrix.name: _open_window(targets[matrix.name], part, settings.rule)
        for matrix, part in zip(config.targets(), a["parts"], strict=True)
        if "window" in part
    }
    state = TrainState(a["step"] - 1, targets, with_matrices(weights, packed), windows)
    batches = batches_for(state.weights)
    after, record = train_step(state, batches, settings, config, a["kernels"])
    moved = list(after.targets.values())
    return {
        "loss": record.loss,
        "base": [flat(t.base.topology) for t in moved],
        "base_values": [t.base.values for t in moved],
        "delta": [flat(t.delta.topology) for t in moved],
        "delta_values": [t.delta.values for t in moved],
        "m": [t.delta.kept["first_moment"] for t in moved],
        "v": [t.delta.kept["second_moment"] for t in moved],
        "age": [array_namespace(t.delta.values).astype(t.delta.kept["age"], np.int64) for t in moved],
    }


def _open_window(target: Target, part: Values, rule: Rule) -> AnyWindow:
    """Return the window of a part with its sums over the earlier steps."""
    empty = opened(target.base, target.delta.topology, rule.asks(), on_support=rule.only_on_support)
    total = part["window"]
    if empty.kept_at is not None:
        xp = array_namespace(total)
        total = xp.take(xp.reshape(total, (-1,)), flat(empty.kept_at()))
    sums = {"gradient": total, "tokens": part.get("window_tokens")}
    return replace(empty, settled_steps=part["window_steps"], **{name: sums[name] for name in empty.asked})


def _dtype(a: Values) -> Values:
    return {"dtype": compute_dtype("a tensor", DTYPES[a["stored"]], a.get("asked")).name}


def _final(a: Values) -> Values:
    bits = in_file_dtype("a tensor", to_numpy(a["values"]), DTYPES[a["dtype"]])
    return {"bits": np.frombuffer(bits.tobytes(), dtype=np.uint8)}


def _warnings(a: Values) -> Values:
    events = [int(step) for step in a["events"]]
    support = dict(zip(events, (int(n) for n in a["support"]), strict=True))
    warnings = warnings_of([float(x) for x in a["losses"]], events, support, a["budget"], a.get("stored"))
    return {"steps": np.array([one.step for one in warnings], dtype=np.int64), "names": [one.name for one in warnings]}


class _Rank:
    """One of several ranks, with the two attributes that `rows_of` reads."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def _rows(a: Values) -> Values:
    parts = [rows_of(a["rows"], _Rank(r, a["ranks"])) for r in range(a["ranks"])]  # type: ignore[arg-type]
    return {"first": np.array([part.start for part in parts] + [parts[-1].stop], dtype=np.int64)}


def _origin(a: Values) -> Origin:
    return Origin(a["origin"]["model"], a["origin"]["text"])


def write(a: Values) -> Values:
    """Return the state of a run after a step, as the bytes of a file."""
    with work_folder() as folder:
        finetune(
            _model(a),
            None,
            [int(t) for t in a["text"]],
            settings_of_case(a["settings"]),
            stop_after=a["stop"],
            state_file=folder / "state",
            origin=_origin(a),
            kernels=a["kernels"],
        )
        return {"raw": np.frombuffer((folder / "state").read_bytes(), dtype=np.uint8)}


def resume(a: Values) -> Values:
    """Return losses, events and final weights of a run that goes on from a state to its end."""
    losses, slots, stored, starts = [], [], [], []

    def note(state: RunState, record: StepRecord, seconds: float) -> None:
        assert isinstance(state, TrainState)
        losses.append(record.loss)
        if record.matrices is not None:
            slots.append([flat(target.delta.topology) for target in state.targets.values()])
            stored.append([flat(target.base.topology) for target in state.targets.values()])
            starts.append(np.array([record.matrices[name].start for name in state.targets]))

    with work_folder() as folder:
        (folder / "state").write_bytes(a["raw"].tobytes())
        done = finetune(
            _model(a),
            None,
            [int(t) for t in a["text"]],
            settings_of_case(a["settings"]),
            resume=True,
            state_file=folder / "state",
            origin=_origin(a),
            on_step=note,
            kernels=a["kernels"],
        )
    assert done.final is not None
    final = list(done.final.values())
    return {
        "losses": np.array(losses, dtype=a["tensors"]["model.norm.weight"].dtype),
        "slots": slots,
        "bases": stored,
        "starts": starts,
        "support": [flat(topology) for topology, _ in final],
        "weights": [weights for _, weights in final],
    }


OPERATIONS: dict[str, Any] = {
    "gradient.whole": _whole,
    "gradient.at": _at,
    "gradient.candidates": _candidates,
    "text.training": lambda a: {
        "starts": ints(training_starts(a["tokens"], a["length"], a["seed"], a["step"], a["rows"]))
    },
    "text.calibration": lambda a: {"starts": ints(calibration_starts(a["tokens"], a["length"], a["seed"], a["n"]))},
    "text.evaluation": lambda a: {"starts": ints(evaluation_starts(a["tokens"], a["length"], a["windows"]))},
    "gradient.norm": lambda a: {"norm": finite_norm(array_namespace(a["gradient"]).reshape(a["gradient"], (-1,)))},
    "window.evidence": _window,
    "window.tokens": _tokens,
    "window.candidates": _first_step,
    "train.step": _train_step,
    "train.batches": _train_batches,
    "train.run": _run,
    "checkpoint.dtype": _dtype,
    "checkpoint.final": _final,
    "run.warnings": _warnings,
    "ranks.rows": _rows,
    "state.write": write,
    "state.resume": resume,
}
