"""Properties of optimizers (chapter 9)."""

from typing import Any

from conformance.answers.answer import ids, reals
from conformance.oracle.update_optimizers import KEEPS, Hyper
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
    phi, g = d.levels(n, 4), d.levels(n, 4)
    rows, cols = ([abs(x) for x in d.levels(k, 4)] for k in shape)
    t.saw(kind)
    t.saw("two slots of a row", len({p // shape[1] for p in at}) < n)
    inputs: dict[str, Any] = {"kind": kind, "out": shape[0], "in": shape[1], "positions": ids(at)}
    inputs |= {"values": reals(phi), "gradient": reals(g), "lr": lr}
    inputs |= {name: ids(age) if name == "age" else reals(columns[name]) for name in KEEPS[kind]}
    inputs |= {name: getattr(hyper, name) for name in ("beta1", "beta2", "eps", "weight_decay", "momentum")}
    inputs |= {"rows": reals(rows), "columns": reals(cols)} if kind == "sm3" else {}
    t.case("optimizer.step", inputs)
