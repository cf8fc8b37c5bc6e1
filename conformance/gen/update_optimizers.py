"""Cases of chapter 9: one step of a matrix by every optimizer."""

from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.oracle import update_optimizers
from conformance.oracle.update_optimizers import KEEPS, Hyper, Slots

_SHAPE = (4, 6)


def _bounds(kind: str, inputs: dict[str, Any], new: Slots, hyper: Hyper, lr: float) -> dict[str, Bound]:
    """Return a bound for each output from the sizes of the terms that it sums."""
    g, phi = abs(inputs["gradient"]), abs(inputs["values"])
    if kind == "sgd":
        u = hyper.momentum * abs(inputs["u"]) + g
        return {"u": Bound(u, 2), "values": Bound(phi + lr * u, 4)}
    if kind == "sm3":
        cols = inputs["in"]
        old = [min(inputs["rows"][p // cols], inputs["columns"][p % cols]) for p in inputs["positions"]]
        moved = lr * g / np.sqrt(reals(old) + g * g + hyper.eps)
        rows, columns = reals(new.rows), reals(new.columns)
        return {"rows": Bound(rows, 2), "columns": Bound(columns, 2), "values": Bound(phi + moved, 4)}
    age = reals(new.kept["age"].values())
    m, v = hyper.beta1 * abs(inputs["m"]) + (1 - hyper.beta1) * g, reals(new.kept["v"].values())
    c1, c2 = 1 - hyper.beta1**age, np.sqrt(1 - hyper.beta2**age)
    below = np.sqrt(v) / c2 + (hyper.eps / c2 if kind == "spiel-adamw" else hyper.eps)
    return {"m": Bound(m, 2), "v": Bound(v, 2), "values": Bound(phi + lr / c1 * m / below, 4)}


def add(
    area: Area, name: str, kind: str, clauses: str, purpose: str, slots: dict[str, Any], lr: float, hyper: Hyper
) -> None:
    """Add one step of an optimizer."""
    at = [int(p) for p in slots["positions"]]

    def held(values: Array) -> dict[int, Any]:
        return {p: x.item() for p, x in zip(at, values, strict=True)}

    before = Slots(held(slots["values"]), {n: held(slots[n]) for n in KEEPS[kind]})
    own = {n: slots[n] for n in KEEPS[kind]}
    if kind == "sm3":
        own |= {n: slots[n] for n in ("rows", "columns")}
        before = Slots(before.phi, {}, [float(x) for x in slots["rows"]], [float(x) for x in slots["columns"]])
    new = update_optimizers.step(kind, slots["in"], before, held(slots["gradient"]), lr, hyper)
    inputs = {"kind": kind} | {n: slots[n] for n in ("out", "in", "positions", "values", "gradient")} | own
    inputs |= {"lr": lr, "beta1": hyper.beta1, "beta2": hyper.beta2, "eps": hyper.eps}
    inputs |= {"weight_decay": hyper.weight_decay, "momentum": hyper.momentum}
    inputs |= {"slot_warmup": hyper.slot_warmup} if hyper.slot_warmup else {}
    answer: dict[str, Any] = dict.fromkeys(("m", "v", "u", "age", "rows", "columns"))
    answer |= {n: (ids if n == "age" else reals)(new.kept[n].values()) for n in KEEPS[kind]}
    answer |= {"values": reals(new.phi.values())}
    if kind == "sm3":
        answer |= {"rows": reals(new.rows), "columns": reals(new.columns)}
    bounds = _bounds(kind, inputs, new, hyper, lr)
    area.add(name, "optimizer.step", f"{clauses} NUM-002", purpose, inputs, answer, bounds=bounds)


def slots_of(n: Numbers, at: list[int], *, fresh: int = 0) -> dict[str, Any]:
    """Return slots of a matrix, the first `fresh` of them new."""
    k = len(at)
    slots: dict[str, Any] = {"out": _SHAPE[0], "in": _SHAPE[1], "positions": ids(at), "gradient": n.real(k, 0.5)}
    slots |= {"values": n.real(k, 0.01), "m": n.real(k, 0.1), "v": abs(n.real(k, 0.02)), "u": n.real(k)}
    slots |= {"age": ids([1, 2, 5, 40, 999, 3][i] for i in range(k))}
    slots |= {"rows": abs(n.real(_SHAPE[0])), "columns": abs(n.real(_SHAPE[1]))}
    for name in ("values", "m", "v", "u", "age"):
        slots[name][:fresh] = 0
    return slots


def steps() -> Area:
    """Return cases of one step of every optimizer (OPT-001, OPT-006 to OPT-008)."""
    area = Area("optimizer", "binary64 by the written formula")
    n = Numbers(77, 1)
    at = n.subset(24, 6)
    slots, none = slots_of(n, at, fresh=2), slots_of(n, [])
    big_eps = Hyper(0.5, 0.75, 0.125, 0.0)
    decay = Hyper(0.9, 0.999, 1e-8, 0.25)
    texts = {
        "adamw": ("OPT-001 OPT-003", "one step counter for all slots"),
        "spiel-adamw": ("OPT-006", "the correction of adamw, or one step counter for all slots"),
        "sgd": ("OPT-007 OPT-003", "Nesterov, or a gradient times 1 − μ"),
        "sm3": ("OPT-008", "accumulators of one slot seen by the next, a sum for a maximum, r and c exchanged"),
    }
    for kind, (clauses, purpose) in texts.items():
        add(area, f"{kind}-plain", kind, clauses, purpose, slots, 0.0625, Hyper())
        text = "decay of the old φ where the new one is meant, or the other way round, or through the gradient"
        if kind == "adamw":  # `update.optimizer` has a case of its decay
            continue
        add(area, f"{kind}-decay", kind, clauses, text, slots, 0.125, decay)
    text = "eps outside c₂: with a large eps the steps differ"
    add(area, "spiel-adamw-eps", "spiel-adamw", "OPT-006", text, slots, 0.0625, big_eps)
    old = slots | {"age": ids([15, 31, 127, 511, 2047, 4999])}
    text = "an age too many or too few, or a power in binary32"
    add(area, "spiel-adamw-powers", "spiel-adamw", "OPT-006 OPT-002 OPT-009", text, old, 0.0625, Hyper())
    scalars = Hyper(0.8, 0.95, 0.1, 0.3, 0.7)
    for kind, (clauses, _) in texts.items():
        text = "a scalar rounded to binary32 on its way to a dtype that is wider"
        add(area, f"{kind}-scalars", kind, f"OPT-002 {clauses.split()[0]}", text, slots, 0.07, scalars)
    text = "no slots: what belongs to rows and columns stays"
    add(area, "sm3-empty", "sm3", "OPT-008", text, none, 0.125, Hyper())
    add(area, "sgd-none", "sgd", "OPT-007", "μ 0 taken for the default", slots, 0.0625, Hyper(momentum=0.0))
    for rise, text in (
        (3, "the age of before the step, a rate that rises on, or a rate that rises for the decay too"),
        (1, "a rise of one step changes nothing"),
        (1000, "a rise by the step of the run, or one that ends early"),
    ):
        rising = Hyper(weight_decay=0.25, slot_warmup=rise)
        add(area, f"adamw-rise-{rise}", "adamw", "OPT-010 OPT-001", text, slots, 0.0625, rising)
    start = slots | {"rows": np.zeros(4), "columns": np.zeros(6)}
    text = "the first step is lr · sign(g), and each slot sees the accumulators from before it"
    add(area, "sm3-first", "sm3", "OPT-008", text, start, 0.0625, Hyper())
    still = slots | {"gradient": np.zeros(6), "rows": np.zeros(4), "columns": np.zeros(6)}
    add(area, "sm3-zero-gradient", "sm3", "OPT-008", "0 / 0 without eps", still, 0.0625, big_eps)
    return area


AREAS = (steps,)
