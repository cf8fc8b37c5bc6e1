"""One step of the slots of a matrix, by every optimizer (chapter 9: OPT)."""

from typing import Any

import numpy as np

from conformance.answers.answer import Answer, Inputs, answers, ids, reals
from conformance.cases.case import Bound
from conformance.oracle import update_adamw, update_optimizers
from conformance.oracle.update_optimizers import KEEPS, Hyper, Slots

__all__: list[str] = []


@answers("adamw.clip")
def _clip(a: Inputs) -> Answer:
    factor = update_adamw.clip_factor([a["norm"]], a["max_norm"])
    return Answer({"factor": factor}, {"factor": Bound(np.asarray(factor), 2)})


@answers("adamw.step")
def _adamw(a: Inputs) -> Answer:
    numbers = {name: a[name] for name in ("beta1", "beta2", "eps", "weight_decay") if a[name] is not None}
    settings, lr = update_adamw.Settings(**numbers), a["lr"]
    slots = zip(*(a[name].tolist() for name in ("values", "m", "v", "age", "gradient")), strict=True)
    new = [update_adamw.step(phi, m, v, age, g, lr, settings) for phi, m, v, age, g in slots]
    values, m, v = (reals(slot[i] for slot in new) for i in range(3))
    age = ids(slot[3] for slot in new)
    # a bound is made of the sizes of the terms that an output sums
    gauge = np.abs(settings.beta1 * a["m"]) + np.abs((1 - settings.beta1) * a["gradient"])
    c1, c2 = 1 - settings.beta1 ** age.astype(float), np.sqrt(1 - settings.beta2 ** age.astype(float))
    moved = lr / c1 * gauge / (np.sqrt(v) / c2 + settings.eps)
    bounds = {"m": Bound(gauge, 2), "v": Bound(np.abs(v), 2), "values": Bound(np.abs(a["values"]) + moved, 2)}
    return Answer({"values": values, "m": m, "v": v, "age": age}, bounds)


@answers("optimizer.step")
def _step(a: Inputs) -> Answer:
    kind, at = a["kind"], a["positions"].tolist()
    names = ("beta1", "beta2", "eps", "weight_decay", "momentum", "slot_warmup")
    hyper = Hyper(**{name: a[name] for name in names if a[name] is not None})

    def by_position(name: str) -> dict[int, Any]:
        return dict(zip(at, a[name].tolist(), strict=True))

    slots = Slots(by_position("values"), {name: by_position(name) for name in KEEPS[kind]})
    if kind == "sm3":
        slots = Slots(slots.phi, {}, a["rows"].tolist(), a["columns"].tolist())
    new = update_optimizers.step(kind, a["in"], slots, by_position("gradient"), a["lr"], hyper)
    outputs: dict[str, Any] = dict.fromkeys(("m", "v", "u", "age", "rows", "columns"))
    outputs |= {name: (ids if name == "age" else reals)(new.kept[name].values()) for name in KEEPS[kind]}
    outputs["values"] = reals(new.phi.values())
    if kind == "sm3":
        outputs |= {"rows": reals(new.rows), "columns": reals(new.columns)}
    return Answer(outputs, _bounds(a, kind, outputs, hyper))


def _bounds(a: Inputs, kind: str, outputs: dict[str, Any], hyper: Hyper) -> dict[str, Bound]:
    """Return a bound for each output from the sizes of the terms that it sums."""
    g, phi, lr = abs(a["gradient"]), abs(a["values"]), a["lr"]
    if kind == "sgd":
        u = hyper.momentum * abs(a["u"]) + g
        return {"u": Bound(u, 2), "values": Bound(phi + lr * u, 4)}
    if kind == "sm3":
        rows, columns = outputs["rows"], outputs["columns"]
        before = [min(a["rows"][p // a["in"]], a["columns"][p % a["in"]]) for p in a["positions"]]
        moved = lr * g / np.sqrt(reals(before) + g * g + hyper.eps)
        return {"rows": Bound(rows, 2), "columns": Bound(columns, 2), "values": Bound(phi + moved, 4)}
    age, v = outputs["age"].astype(float), outputs["v"]
    m = hyper.beta1 * abs(a["m"]) + (1 - hyper.beta1) * g
    c1, c2 = 1 - hyper.beta1**age, np.sqrt(1 - hyper.beta2**age)
    below = np.sqrt(v) / c2 + (hyper.eps / c2 if kind == "spiel-adamw" else hyper.eps)
    return {"m": Bound(m, 2), "v": Bound(v, 2), "values": Bound(phi + lr / c1 * m / below, 4)}
