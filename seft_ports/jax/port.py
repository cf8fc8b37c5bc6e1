"""The adapter between this port and the conformance kit; the only file here that imports it.

python -m conformance.protocol.serve seft_ports.jax.port:Port

It pads vectors to capacities that are powers of two, so that many cases share a compiled function.
"""

import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

jax.config.update("jax_enable_x64", val=True)  # type: ignore[no-untyped-call]

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import Array  # noqa: E402

from conformance import Refused, Unsupported  # noqa: E402
from formats import __version__  # noqa: E402
from seft_ports.jax import counter, errors, event, optimizer, schedule, select, sparse, topology  # noqa: E402
from seft_ports.jax.topology import NOWHERE  # noqa: E402

__all__ = ["OPERATIONS", "Port"]

Inputs = dict[str, Any]
Outputs = dict[str, Any]


class Port:
    """SEFT in JAX, on the CPU.

    Attributes:
        name: the name in reports.
        ops: the operations by name; a test replaces one to check that the kit notices.
    """

    def __init__(self) -> None:
        self.name = "seft_ports.jax"
        self.ops: dict[str, Callable[[Inputs], Outputs]] = dict(OPERATIONS)

    def call(self, op: str, inputs: Inputs, dtype: str) -> Outputs:
        """Return the outputs of an operation; see `conformance.protocol.port.Port`."""
        if op not in self.ops or dtype not in ("float64", "float32"):
            raise Unsupported(op)
        try:
            return {name: _numpy(value) for name, value in self.ops[op](inputs).items()}
        except errors.Refusal as refusal:
            raise Refused(refusal.clause, str(refusal)) from refusal

    def describe(self) -> dict[str, Any]:
        """Return name, version, operations and flags of the port (PRT-004)."""
        language = f"Python {platform.python_version()}"
        port = {"name": self.name, "version": __version__, "language": language, "jax": jax.__version__}
        return {
            "port": port,
            "ops": {op: ["exact64", "fp32"] for op in self.ops},
            # ftz is true, because XLA flushes subnormal numbers to zero; README.md says where that shows
            "flags": {"deterministic": True, "ftz": True},
        }


def _numpy(value: Any) -> Any:
    return (
        np.asarray(value)
        if isinstance(value, Array) and value.ndim
        else (value.item() if isinstance(value, Array | np.generic) else value)
    )


def _capacity(n: int) -> int:
    return max(64, 1 << (n - 1).bit_length()) if n else 64


def _pad(x: Any, fill: Any = 0) -> Array:
    x = np.asarray(x)
    out = np.full(_capacity(len(x)), fill, x.dtype)
    out[: len(x)] = x
    return jnp.asarray(out)


def _head(x: Array, n: int) -> Any:
    """Return the first n entries as a NumPy array, because JAX would compile a slice for each length."""
    return np.asarray(x)[:n]


_positions_wrong = jax.jit(topology.positions_wrong)


def _checked(i: Inputs, name: str) -> Any:
    """Return flat positions of a matrix, refused by TOP-003 if they are those of no topology."""
    x = np.asarray(i[name], np.int64)
    if _positions_wrong(_pad(x, NOWHERE), i["out"], i["in"]):
        raise errors.Refusal("TOP-003", f"{name} are to increase strictly, from 0 to out · in − 1")
    return x


def _positions(i: Inputs, name: str) -> Array:
    return _pad(_checked(i, name), NOWHERE)


def _cut(positions: Any) -> Any:
    """Return the positions, sorted, without the tail of NOWHERE."""
    positions = np.sort(np.asarray(positions))
    return positions[positions != NOWHERE]


def _base(i: Inputs) -> event.Base:
    return event.Base(_positions(i, "base"), _pad(i["base_values"]))


def _gradient(i: Inputs) -> Array:
    return _pad(i["gradient"].reshape(-1))


# chapter 7


def _draws(i: Inputs) -> Outputs:
    return {"draws": counter.draws(counter.counter_key(*i["words"]), jnp.asarray(i["numbers"]))}


_trouble = jax.jit(select.trouble)


def _selected(choose: Any, i: Inputs) -> Outputs:
    scores, ids = _pad(i["scores"]), _pad(np.asarray(i["ids"], np.int64), NOWHERE)
    errors.refuse(_trouble(scores, i["k"], ids != NOWHERE))
    return {"chosen": _cut(np.asarray(ids)[np.asarray(choose(scores, ids, i["k"], ids != NOWHERE))])}


# chapter 2


_csr = jax.jit(topology.csr, static_argnums=1)
_source, _realign = jax.jit(topology.source), jax.jit(topology.realign)


@jax.jit
def _from_csr(indptr: Array, indices: Array, columns: int, slots: int) -> tuple[Array, Array, Array]:
    wrong = topology.pointers_wrong(indptr, slots), topology.columns_wrong(indptr, indices, columns)
    return *wrong, topology.from_csr(indptr, indices, columns)


def _flat(i: Inputs) -> Outputs:
    n = len(i["indices"])
    if i["indptr"].shape != (i["out"] + 1,):
        raise errors.Refusal("TOP-001", f"there are {len(i['indptr'])} row pointers for {i['out']} rows")
    indptr, indices = _pad(i["indptr"], i["indptr"][-1]), _pad(i["indices"])
    pointers_wrong, columns_wrong, positions = _from_csr(indptr, indices, i["in"], n)
    if pointers_wrong:
        raise errors.Refusal("TOP-001", "row pointers start at 0, never decrease and end at the number of slots")
    if columns_wrong:
        raise errors.Refusal("TOP-002", "the columns of a row are to increase strictly, from 0 to in − 1")
    return {"positions": _head(positions, n)}


def _pointers(i: Inputs) -> Outputs:
    positions, n = _positions(i, "positions"), len(i["positions"])
    if i["pattern"] is not None:
        most, width = (int(number) for number in i["pattern"])
        groups = np.asarray(i["positions"]) // width
        if i["in"] % width or (groups[most:] == groups[: max(n - most, 0)]).any():
            raise errors.Refusal("TOP-005", f"M is to divide the rows, and a group of {width} to store at most {most}")
    indptr, indices = _csr(positions, _capacity(i["out"]), i["in"])
    return {"indptr": _head(indptr, i["out"] + 1), "indices": _head(indices, n)}


def _changed(i: Inputs) -> Outputs:
    return {"source": _head(_source(_positions(i, "old"), _positions(i, "new")), len(i["new"]))}


def _realigned(i: Inputs) -> Outputs:
    # NumPy casts the fill, because XLA would flush a subnormal number in a cast
    fill = i["values"].dtype.type(i["fill"])
    moved = _realign(_pad(i["values"]), _source(_positions(i, "old"), _positions(i, "new")), fill)
    return {"values": _head(moved, len(i["new"]))}


# chapter 8


_delta_budget, _drop_count_at = jax.jit(schedule.delta_budget), jax.jit(schedule.drop_count)
_drop_fraction_at, _is_event = jax.jit(schedule.drop_fraction_at), jax.jit(schedule.is_event)
_learning_rate_at = jax.jit(schedule.learning_rate_at, static_argnames="kind")


def _budget(i: Inputs) -> Outputs:
    return {"n": _delta_budget(i["density"], i["out"], i["in"], i["stored"])}


def _drop_count(i: Inputs) -> Outputs:
    return {"n": _drop_count_at(i["step"], i["steps"], i["drop_fraction"], i["slots"])}


def _fraction(i: Inputs) -> Outputs:
    return {"value": _drop_fraction_at(i["step"], i["steps"], i["drop_fraction"])}


def _events(i: Inputs) -> Outputs:
    steps = np.arange(1, i["steps"] + 1)
    follows = _is_event(_pad(steps), i["steps"], i["evolve_every"])
    return {"at": steps[_head(follows, len(steps))]}


def _rate(i: Inputs) -> Outputs:
    return {"value": _learning_rate_at(i["step"], i["steps"], i["warmup"], i["lr"], kind=i["kind"])}


_effective, _initial = jax.jit(event.effective), jax.jit(event.initial_random)
_drop, _grow, _adapt = jax.jit(event.drop), jax.jit(event.grow), jax.jit(event.adapt)
_evolve, _evidence_trouble = jax.jit(event.evolve), jax.jit(event.evidence_trouble)


def _weights(i: Inputs) -> Outputs:
    weight = _effective(_base(i), _positions(i, "delta"), _pad(i["delta_values"]))
    n = len(_cut(weight.positions))
    return {"support": _head(weight.positions, n), "weights": _head(weight.values, n)}


def _initial_positions(i: Inputs) -> Outputs:
    base = _positions(i, "base")
    errors.refuse(errors.FINE if 0 <= i["n"] <= len(i["base"]) else errors.TOO_MANY)
    chosen = _initial(base, i["n"], counter.seed_word(i["seed"]), i["matrix"])
    return {"positions": np.asarray(base)[np.asarray(chosen)]}


def _dropped(i: Inputs) -> Outputs:
    positions, values = _positions(i, "delta"), _pad(i["delta_values"])
    errors.refuse(_trouble(values, i["n"], positions != NOWHERE))
    return {"dropped": np.asarray(positions)[np.asarray(_drop(positions, values, i["n"]))]}


def _grown(i: Inputs) -> Outputs:
    base, delta, active = _positions(i, "base"), _positions(i, "delta"), i["scope"] == "active"
    errors.refuse(_evidence_trouble(_gradient(i), base, delta, active))
    kept_positions = _pad(np.setdiff1d(i["delta"], i["dropped"]), NOWHERE)
    options = {"active": active, "size": i["gradient"].size}
    return {"grown": _cut(_grow(_gradient(i), base, kept_positions, i["n"], **options))}


def _pruned(i: Inputs) -> Outputs:
    weight = _effective(_base(i), _positions(i, "delta"), _pad(i["delta_values"]))
    pruned = _adapt(weight, _gradient(i), i["budget"])
    errors.refuse(pruned.trouble)
    return {"pruned": _cut(pruned.positions)}


def _evolved(i: Inputs) -> Outputs:
    # the arrays have room for all d_φ slots, because growth may add to a delta that has fewer
    room = max(0, i["delta_budget"] - len(i["delta"]))
    longer = (np.concatenate([i[n], np.zeros(room, i[n].dtype)]) for n in ("delta_values", "m", "v", "age"))
    arrays = [_pad(x) for x in longer]
    positions = _pad(np.concatenate([_checked(i, "delta"), np.full(room, NOWHERE)]), NOWHERE)
    done = _evolve(
        _base(i),
        event.Delta(positions, *arrays),
        _gradient(i),
        i["n_drop"],
        i["delta_budget"],
        i["budget"],
        active=i["scope"] == "active",
        adapts=bool(i["adapts"]),
        size=i["gradient"].size,
    )
    errors.refuse(done.trouble)
    weight = _effective(done.base, done.delta.positions, done.delta.values)
    stored, slots, support = (len(_cut(x.positions)) for x in (done.base, done.delta, weight))
    return {
        "base": _head(done.base.positions, stored),
        "base_values": _head(done.base.values, stored),
        "delta": _head(done.delta.positions, slots),
        "delta_values": _head(done.delta.values, slots),
        "m": _head(done.delta.m, slots),
        "v": _head(done.delta.v, slots),
        "age": _head(done.delta.age, slots),
        "support": _head(weight.positions, support),
        "weights": _head(weight.values, support),
    }


# chapter 9


_adamw_step, _clip_factor = jax.jit(optimizer.adamw), jax.jit(optimizer.clip_factor)


def _adamw(i: Inputs) -> Outputs:
    delta = event.Delta(jnp.arange(len(i["age"])), *(jnp.asarray(i[name]) for name in ("values", "m", "v", "age")))
    options = {n: i[n] for n in ("beta1", "beta2", "eps", "weight_decay") if i[n] is not None}
    after = _adamw_step(delta, jnp.asarray(i["gradient"]), i["lr"], **options)
    return {"values": after.values, "m": after.m, "v": after.v, "age": after.age}


def _clip(i: Inputs) -> Outputs:
    return {"factor": _clip_factor(i["norm"], i["max_norm"])}


# chapters 3 and 6


def _floats(i: Inputs, *names: str) -> list[Array]:
    """Return these inputs as arrays; `odd` names those that must get a wrong dtype."""
    arrays = []
    for name in names:
        x, odd = i[name], (i.get("odd") or {}).get(name)
        if odd == "other":
            x = x.astype(np.float64 if x.dtype == np.float32 else np.float32)
        arrays.append(jnp.asarray(x if odd in (None, "other") else x.astype(odd)))
    return arrays


@partial(jax.jit, static_argnums=4)
def _products(x: Array, dy: Array, positions: Array, values: Array, shape: tuple[int, int]) -> tuple[Array, ...]:
    y = sparse.matmul(x, positions, values, shape)
    dx = sparse.matmul_transposed(dy, positions, values, shape)
    return y, dx, sparse.gradient_at(dy, x, positions)


def _kernel(i: Inputs) -> Outputs:
    x, dy, values = _floats(i, "x", "dy", "values")
    shape = i["out"], i["in"]
    y, dx, dvalues = _products(x, dy, jnp.asarray(_checked(i, "positions")), values, shape)
    return {"y": y, "dx": dx, "dvalues": dvalues, "shape": np.array(shape)}


def _stored(i: Inputs) -> Outputs:
    slots, n = i["slots"], len(i["positions"])
    if np.any((slots < 0) | (slots >= n)):
        raise errors.Refusal("KRN-012", f"slots lie in 0 … {n - 1}")
    values = sparse.store(jnp.asarray(i["values"]), jnp.asarray(slots), jnp.asarray(i["new"]))
    return {"y": sparse.matmul(jnp.asarray(i["x"]), jnp.asarray(_checked(i, "positions")), values, (i["out"], i["in"]))}


def _whole(i: Inputs) -> Outputs:
    return {"gradient": sparse.gradient_whole(jnp.asarray(i["dy"]), jnp.asarray(i["x"]))}


_gradient_at = jax.jit(sparse.gradient_at)


def _at(i: Inputs) -> Outputs:
    n = len(i["positions"])
    values = _gradient_at(jnp.asarray(i["dy"]), jnp.asarray(i["x"]), _positions(i, "positions"))
    return {"values": _head(values, n)}


_candidates = jax.jit(sparse.candidates, static_argnames=("n", "at_once"))


def _growth_candidates(i: Inputs) -> Outputs:
    positions, values = _candidates(
        [jnp.asarray(part) for part in i["dy"]],
        [jnp.asarray(part) for part in i["x"]],
        i["steps"],
        _positions(i, "base"),
        _positions(i, "delta"),
        i["n"],
        active=i["scope"] == "active",
        # every block is sorted together with the n best so far, so it holds at least as many entries
        at_once=max(7, -(-i["n"] // max(i["in"], 1))),
    )
    n = len(_cut(positions))
    return {"candidates": _head(positions, n), "values": _head(values, n)}


OPERATIONS: dict[str, Callable[[Inputs], Outputs]] = {
    "rng.draws": _draws,
    "select.largest": partial(_selected, jax.jit(select.largest)),
    "select.smallest": partial(_selected, jax.jit(select.smallest)),
    "topology.positions": _flat,
    "topology.of": _pointers,
    "change.source": _changed,
    "change.realign": _realigned,
    "count.budget": _budget,
    "count.drop": _drop_count,
    "schedule.fraction": _fraction,
    "schedule.events": _events,
    "schedule.learning_rate": _rate,
    "delta.effective": _weights,
    "delta.initial_random": _initial_positions,
    "update.drop": _dropped,
    "update.grow": _grown,
    "update.adapt": _pruned,
    "update.evolve": _evolved,
    "adamw.step": _adamw,
    "adamw.clip": _clip,
    "kernel.sparse": _kernel,
    "kernel.store": _stored,
    "gradient.whole": _whole,
    "gradient.at": _at,
    "gradient.candidates": _growth_candidates,
}
"""The operations of the profile `core`, by name."""
