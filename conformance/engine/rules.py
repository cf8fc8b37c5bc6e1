"""Rules and layers of the engine, operation by operation."""

from typing import Any

import numpy as np

from formats.container import DTYPES
from seft_ref.arrays.counter import STREAM_POSITIONS, choose, counter_key, draws
from seft_ref.arrays.library import Array, array_namespace, device, to_halves, to_numpy
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import Accumulated, Window
from seft_ref.prune.keep import keep_n_of_m
from seft_ref.prune.magnitude import magnitude_mask
from seft_ref.prune.sparsegpt import BLOCK, DAMPING, hessian_of, sparsegpt
from seft_ref.prune.wanda import wanda_mask
from seft_ref.text.tokens import calibration_starts, evaluation_starts, training_starts
from seft_ref.topology.change import change, realign
from seft_ref.topology.csr import Topology, check, find, flat, from_flat, full
from seft_ref.topology.groups import in_groups
from seft_ref.update.criteria import Chance
from seft_ref.update.delta import Base, Delta, budget_by_numel, effective
from seft_ref.update.drop import drop
from seft_ref.update.evolve import Part, evolve, final_adapt
from seft_ref.update.grow import grow
from seft_ref.update.optimizers import AdamW, clip_factor
from seft_ref.update.rules import Rule
from seft_ref.update.schedule import drop_fraction_at, learning_rate_at, n_drop
from seft_ref.update.select import largest, selection

Values = dict[str, Any]
_HALVES = {"float16": DTYPES["F16"], "bfloat16": DTYPES["BF16"]}
_SCOPES = {"all": "anywhere", "active": "active"}


def _topology(a: Values, name: str) -> Topology:
    return from_flat((a["out"], a["in"]), a[name])


def _ints(values: Any) -> np.ndarray[Any, Any]:
    return np.array(list(values), dtype=np.int64)


def _chosen(select: Any) -> Any:
    def op(a: Values) -> Values:
        return {"chosen": array_namespace(a["ids"]).take(a["ids"], select(a["scores"], a["k"]))}

    return op


def _positions(a: Values) -> Values:
    xp = array_namespace(a["indptr"])
    topology = Topology((a["out"], a["in"]), a["indptr"], xp.astype(a["indices"], xp.int32))
    check(topology)
    return {"positions": flat(topology)}


def _topology_of(a: Values) -> Values:
    topology = _topology(a, "positions")
    if a["pattern"] is not None:
        n_keep, width = to_numpy(a["pattern"]).tolist()
        topology = in_groups(topology, (n_keep, width))
    return {"indptr": topology.indptr, "indices": topology.indices}


def _source(a: Values) -> Values:
    return {"source": change(_topology(a, "old"), _topology(a, "new")).source}


def _realign(a: Values) -> Values:
    return {"values": realign(a["values"], change(_topology(a, "old"), _topology(a, "new")), a["fill"])}


def _budget(a: Values) -> Values:
    whole = Topology((a["out"], a["in"]), _ints([0]), np.broadcast_to(np.int32(0), (a["stored"],)))
    return {"n": budget_by_numel(a["density"], whole)}


def _state(a: Values) -> tuple[Base, Delta]:
    xp = array_namespace(a["base_values"])
    zeros = xp.zeros_like(a["delta_values"])
    age = a.get("age")
    if age is None:
        age = xp.zeros(zeros.shape, dtype=xp.int32, device=device(zeros))
    delta = Delta(
        _topology(a, "delta"),
        a["delta_values"],
        {
            "first_moment": a.get("m", zeros),
            "second_moment": a.get("v", zeros),
            "age": xp.astype(age, xp.int32),
        },
    )
    return Base(_topology(a, "base"), a["base_values"]), delta


def _effective(a: Values) -> Values:
    support, weights = effective(*_state(a))
    return {"support": flat(support), "weights": weights}


def _initial_random(a: Values) -> Values:
    key = counter_key(a["seed"], STREAM_POSITIONS, a["matrix"])
    return {"positions": choose(key, to_numpy(a["base"]), a["n"])}


def _drop(a: Values) -> Values:
    delta = Delta(_topology(a, "delta"), a["delta_values"], {})
    base = Base(_topology(a | {"base": a["delta"][:0]}, "base"), a["delta_values"][:0])
    (seen,) = evidence([View(None, base, delta)], Rule(adapts="end"), None)
    (dropped,), _ = drop([Part(base, delta, seen, 0, delta.topology.nnz)], a["n"], Rule(), Chance(0, 0))
    return {"dropped": dropped}


def _whole_window(a: Values) -> Window:
    """Return a window of a whole gradient, as a step leaves it: the event looks at it row block by row block."""
    return Window((a["out"], a["in"]), settled_steps=1, gradient=a["gradient"])


def _grow(a: Values) -> Values:
    rule = Rule(grow_scope=_SCOPES[a["scope"]], adapts="end")  # type: ignore[arg-type]
    base = Base(_topology(a, "base"), _zeros(a["base"], a["gradient"]))
    delta = Delta(_topology(a, "delta"), _zeros(a["delta"], a["gradient"]), {})
    (seen,) = evidence([View(_whole_window(a), base, delta)], rule, a["n"])
    n_drop = int(a["dropped"].shape[0])
    # so that n grow: n_drop + (d_φ − |η|) is n
    part = Part(base, delta, seen, base.topology.nnz, a["n"] - n_drop + delta.topology.nnz)
    (grown,), _ = grow([part], [a["dropped"]], n_drop, rule)
    return {"grown": grown}


def _adapt(a: Values) -> Values:
    base, delta = _state(a)
    (seen,) = evidence([View(_whole_window(a), base, delta)], Rule(), None)
    (event,) = final_adapt([Part(base, delta, seen, a["budget"], delta.topology.nnz)])
    return {"pruned": event.pruned}


def _evolve(a: Values) -> Values:
    base, delta = _state(a)
    n = max(a["n_drop"] + a["delta_budget"] - delta.topology.nnz, 0)
    rule = Rule(grow_scope=_SCOPES[a["scope"]], adapts="always" if a["adapts"] else "end")  # type: ignore[arg-type]
    (seen,) = evidence([View(_whole_window(a), base, delta)], rule, n)
    (event,) = evolve([Part(base, delta, seen, a["budget"], a["delta_budget"])], n_drop=a["n_drop"], rule=rule)
    return after(event.base, event.delta)


def after(base: Base, delta: Delta) -> Values:
    """Return the outputs of an event."""
    support, weights = effective(base, delta)
    return {
        "base": flat(base.topology),
        "base_values": base.values,
        "delta": flat(delta.topology),
        "delta_values": delta.values,
        "m": delta.kept["first_moment"],
        "v": delta.kept["second_moment"],
        "age": delta.kept["age"],
        "support": flat(support),
        "weights": weights,
    }


def _adamw(a: Values) -> Values:
    xp = array_namespace(a["values"])
    n = a["values"].shape[0]
    slots = full((1, n), a["values"])
    kept = {"first_moment": a["m"], "second_moment": a["v"], "age": xp.astype(a["age"], xp.int32)}
    delta = Delta(slots, a["values"], kept)
    hyper = {k: a[k] for k in ("beta1", "beta2", "eps", "weight_decay") if a[k] is not None}
    new = AdamW(**hyper).step(delta, a["gradient"], a["lr"])
    named = {"m": "first_moment", "v": "second_moment", "age": "age"}
    return {"values": new.values} | {short: new.kept[name] for short, name in named.items()}


def _odd(a: Values, *names: str) -> list[Any]:
    """Return inputs, some of them in a dtype that does not fit the others."""
    out = []
    for name in names:
        x, kind = a[name], (a["odd"] or {}).get(name)
        xp = array_namespace(x)
        if kind == "other":
            x = xp.astype(x, xp.float32 if x.dtype == xp.float64 else xp.float64)
        elif kind is not None:
            x = xp.astype(x, getattr(xp, kind))
        out.append(x)
    return out


def _sparse(a: Values) -> Values:
    kernels, topology = a["kernels"], _topology(a, "positions")
    values, x, dy = _odd(a, "values", "x", "dy")
    packed = _held(a, topology, values) if _is_held(a, values) else kernels.pack(topology, values)
    return {
        "y": kernels.matmul(x, packed),
        "dx": kernels.matmul_transposed(dy, packed),
        "dvalues": kernels.sample(dy, x, topology),
        "shape": _ints(packed.shape),
    }


def _is_held(a: Values, values: Array) -> bool:
    """Tell whether a matrix is to be held in 16 bits: such a matrix is multiplied in float32 only (KRN-015)."""
    return a["held"] is not None and values.dtype == array_namespace(values).float32


def _held(a: Values, topology: Topology, values: Array) -> Any:
    """Return a matrix in 16 bits, but for the values of its live slots."""
    kernels, live = a["kernels"], a["live"]
    compact = kernels.compact(topology, to_halves(values, _HALVES[a["held"]]))
    if live is None:
        return kernels.compact(*kernels.unpack(compact))
    compact = kernels.clear(compact, kernels.locate(compact, topology, live))
    xp = array_namespace(values)
    part = from_flat(topology.shape, xp.take(flat(topology), live))
    return kernels.split(compact, kernels.pack(part, xp.take(values, live)))


def _dense(a: Values) -> Values:
    kernels = a["kernels"]
    weight, x, dy = _odd(a, "weight", "x", "dy")
    packed = kernels.pack_dense(weight)
    return {
        "y": kernels.matmul(x, packed),
        "dx": kernels.matmul_transposed(dy, packed),
        "shape": _ints(packed.shape),
    }


def _store(a: Values) -> Values:
    kernels, topology = a["kernels"], _topology(a, "positions")
    if not _is_held(a, a["values"]):
        packed, slots = kernels.pack(topology, a["values"]), a["slots"]
    else:
        packed, slots = _held(a, topology, a["values"]), find(a["live"], a["slots"])[0]
        topology = from_flat(topology.shape, array_namespace(slots).take(flat(topology), a["live"]))
    packed = kernels.store(packed, kernels.locate(packed, topology, slots), a["new"])
    return {"y": kernels.matmul(a["x"], packed)}


def _store_dense(a: Values) -> Values:
    kernels, topology = a["kernels"], _topology(a, "positions")
    # the matrix may be stored into where it lies: the kernel gets a copy
    packed = kernels.pack_dense(array_namespace(a["weight"]).asarray(a["weight"], copy=True))
    packed = kernels.store(packed, kernels.locate(packed, topology, a["slots"]), a["new"])
    return {"y": kernels.matmul(a["x"], packed)}


def _exceeding(a: Values) -> Values:
    return {"indices": a["kernels"].exceeding(a["values"], a["least"])}


def _whole(a: Values) -> Values:
    shape = (a["dy"].shape[1], a["x"].shape[1])
    return {"gradient": Accumulated(shape).plus(WeightGradient(a["dy"], a["x"])).whole()}


def _at(a: Values) -> Values:
    return {"values": a["kernels"].sample(a["dy"], a["x"], _topology(a, "positions"))}


def _candidates(a: Values) -> Values:
    shape = (a["out"], a["in"])
    rule = Rule(grow_scope=_SCOPES[a["scope"]], moments="seeded")  # type: ignore[arg-type]
    total = Accumulated(shape)
    for dy, x in zip(a["dy"], a["x"], strict=True):
        total = total.plus(WeightGradient(dy, x))
    # the sum of all steps as one matrix
    window = Window(shape, settled_steps=a["steps"], gradient=total.whole())
    like = a["dy"][0]
    bases = Base(_topology(a, "base"), _zeros(a["base"], like))
    delta = Delta(_topology(a, "delta"), _zeros(a["delta"], like), {})
    (seen,) = evidence([View(window, bases, delta)], rule, a["n"])
    chosen = largest(seen.candidate_scores, min(a["n"], seen.candidates.shape[0]))
    xp = array_namespace(chosen)
    found = seen.candidate_gradient if seen.candidate_gradient is not None else _zeros(chosen, like)
    # candidates are kept with their numbers; +0 makes either zero one
    return {"candidates": xp.take(seen.candidates, chosen), "values": xp.take(found, chosen) + 0.0}


def _zeros(positions: Array, like: Array) -> Array:
    return array_namespace(like).zeros(positions.shape, dtype=like.dtype, device=device(like))


def _kept(mask: Array) -> Values:
    xp = array_namespace(mask)
    return {"kept": xp.nonzero(xp.reshape(mask, (-1,)))[0]}


def _sparsegpt(a: Values) -> Values:
    pattern = None if a["n"] is None else (a["n"], a["m"])
    damping = DAMPING if a["damping"] is None else a["damping"]
    block = BLOCK if a["block"] is None else a["block"]
    hessian = hessian_of(a["inputs"])
    mask, weight = sparsegpt(a["weights"], hessian, a["sparsity"], pattern, damping=damping, block=block)
    return _kept(mask) | {"weights": weight}


OPERATIONS: dict[str, Any] = {
    "rng.draws": lambda a: {"draws": draws(counter_key(*map(int, a["words"])), a["numbers"])},
    "select.largest": _chosen(largest),
    "select.smallest": _chosen(lambda scores, k: selection(scores, k).indices),
    "topology.positions": _positions,
    "topology.of": _topology_of,
    "change.source": _source,
    "change.realign": _realign,
    "count.budget": _budget,
    "count.drop": lambda a: {"n": n_drop(drop_fraction_at(a["step"], a["steps"], a["drop_fraction"]), a["slots"])},
    "schedule.fraction": lambda a: {"value": drop_fraction_at(a["step"], a["steps"], a["drop_fraction"])},
    "schedule.learning_rate": lambda a: {
        "value": learning_rate_at(a["step"], a["steps"], a["lr"], a["warmup"], a["kind"])
    },
    "delta.effective": _effective,
    "delta.initial_random": _initial_random,
    "update.drop": _drop,
    "update.grow": _grow,
    "update.adapt": _adapt,
    "update.evolve": _evolve,
    "adamw.step": _adamw,
    "adamw.clip": lambda a: {"factor": clip_factor(a["norm"] ** 2, a["max_norm"])},
    "kernel.sparse": _sparse,
    "kernel.dense": _dense,
    "kernel.store": _store,
    "kernel.store_dense": _store_dense,
    "kernel.exceeding": _exceeding,
    "gradient.whole": _whole,
    "gradient.at": _at,
    "gradient.candidates": _candidates,
    "text.training": lambda a: {
        "starts": _ints(training_starts(a["tokens"], a["length"], a["seed"], a["step"], a["rows"]))
    },
    "text.calibration": lambda a: {"starts": _ints(calibration_starts(a["tokens"], a["length"], a["seed"], a["n"]))},
    "text.evaluation": lambda a: {"starts": _ints(evaluation_starts(a["tokens"], a["length"], a["windows"]))},
    "prune.magnitude": lambda a: _kept(magnitude_mask(a["weights"], a["sparsity"])),
    "prune.wanda": lambda a: _kept(wanda_mask(a["weights"], a["square_sums"], a["sparsity"])),
    "prune.sparsegpt": _sparsegpt,
    "prune.pattern": lambda a: _kept(keep_n_of_m(a["scores"], a["n"], a["m"])),
}
