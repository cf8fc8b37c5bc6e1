"""Properties of optimizers (chapter 9)."""

from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.numbers import ids, reals
from conformance.oracle import update_optimizers
from conformance.oracle.update_optimizers import KEEPS, Hyper, Slots
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of


@property_of(
    "optimizer.step",
    "OPT-001 OPT-006 OPT-007 OPT-008 NUM-002",
    "rules",
    "optimizer.step",
    sees=("adamw", "spiel-adamw", "sgd", "sm3", "two slots of a row"),
)
def _optimizer(d: Draw, t: Trial) -> None:
    """A step of every optimizer follows its written formula at every slot."""
    kind, shape = d.choice(("adamw", "spiel-adamw", "sgd", "sm3")), d.shape(8)
    at, _ = d.mask(shape)
    n = len(at)
    hyper = d.choice((Hyper(), Hyper(0.5, 0.75, 0.125, 0.25, 0.5), Hyper(weight_decay=0.25, momentum=0.0)))
    lr = 2.0 ** -d.integer(1, 9)
    columns = {"m": d.levels(n, 4), "v": [abs(x) for x in d.levels(n, 4)], "u": d.levels(n, 4)}
    age = d.integers(n, 0, 50)
    by_position = {k: dict(zip(at, x, strict=True)) for k, x in (columns | {"age": age}).items()}
    phi, g = dict(zip(at, d.levels(n, 4), strict=True)), dict(zip(at, d.levels(n, 4), strict=True))
    rows, cols = ([abs(x) for x in d.levels(k, 4)] for k in shape)
    t.saw(kind)
    t.saw("two slots of a row", len({p // shape[1] for p in at}) < n)
    own = {k: by_position[k] for k in KEEPS[kind]}
    before = Slots(phi, own, rows, cols) if kind == "sm3" else Slots(phi, own)
    new = update_optimizers.step(kind, shape[1], before, g, lr, hyper)
    inputs: dict[str, Any] = {"kind": kind, "out": shape[0], "in": shape[1], "positions": ids(at)}
    inputs |= {"values": reals(phi.values()), "gradient": reals(g.values()), "lr": lr}
    inputs |= {k: (ids if k == "age" else reals)(x.values()) for k, x in own.items()}
    inputs |= {k: getattr(hyper, k) for k in ("beta1", "beta2", "eps", "weight_decay", "momentum")}
    answer: dict[str, Any] = dict.fromkeys(("m", "v", "u", "age", "rows", "columns"))
    answer |= {k: (ids if k == "age" else reals)(new.kept[k].values()) for k in KEEPS[kind]}
    answer["values"] = reals(new.phi.values())
    if kind == "sm3":
        inputs |= {"rows": reals(rows), "columns": reals(cols)}
        answer |= {"rows": reals(new.rows), "columns": reals(new.columns)}
    t.case("optimizer.step", inputs, answer, bounds=gauges(kind, inputs, answer, hyper))


def gauges(kind: str, inputs: dict[str, Any], new: dict[str, Any], h: Hyper) -> dict[str, Bound]:
    """Return a bound for each output from the sizes of the terms that it sums."""
    g, phi, lr = abs(inputs["gradient"]), abs(inputs["values"]), inputs["lr"]
    if kind == "sgd":
        u = h.momentum * abs(inputs["u"]) + g
        return {"u": Bound(u, 2), "values": Bound(phi + lr * u, 4)}
    if kind == "sm3":
        row, column = inputs["positions"] // inputs["in"], inputs["positions"] % inputs["in"]
        nu = np.minimum(inputs["rows"][row], inputs["columns"][column]) + g * g
        moved = lr * g / np.sqrt(nu + h.eps)
        return {"rows": Bound(new["rows"], 2), "columns": Bound(new["columns"], 2), "values": Bound(phi + moved, 4)}
    age = new["age"].astype(float)
    m = h.beta1 * abs(inputs["m"]) + (1 - h.beta1) * g
    c1, c2 = 1 - h.beta1**age, np.sqrt(1 - h.beta2**age)
    below = np.sqrt(new["v"]) / c2 + (h.eps / c2 if kind == "spiel-adamw" else h.eps)
    return {"m": Bound(m, 2), "v": Bound(new["v"], 2), "values": Bound(phi + lr / c1 * m / below, 4)}
