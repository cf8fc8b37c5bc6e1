"""Properties of kernels, gradients and optimizers (chapters 3, 6 and 9)."""

import math
from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.cases.compare import tau
from conformance.gen.numbers import Array, ids, reals
from conformance.oracle import kernels, select, train_window, update_optimizers
from conformance.oracle.kernels import Sums
from conformance.oracle.update_optimizers import KEEPS, Hyper, Slots
from conformance.properties.draws import Draw, Shape
from conformance.properties.states import ties
from conformance.properties.trial import Trial, property_of

__all__ = ["gauges"]

_STORED = ("an empty row", "an empty column", "a stored zero", "nothing stored", "no tokens")


def _bound(sums: Sums, *, exact: bool) -> Bound:
    """Return the bound of sums of different lengths: τ(0) is what `terms` gives, the rest goes into the gauge."""
    part = np.array([tau(int(k)) / tau(0) for k in sums.terms.reshape(-1)]).reshape(sums.terms.shape)
    return Bound(sums.gauge * part * (not exact), 0)


def _matrix(d: Draw, t: Trial, *, exact: bool) -> tuple[Shape, list[int], Array, Array, Array]:
    """Return shape, positions, values, x and dy of a product."""
    shape = d.shape(none=True)
    at, _ = d.mask(shape)
    tokens = d.choice((1, 2, 3, 5, 0))
    numbers = d.lattice if exact else d.real
    values, x, dy = numbers((len(at),)), numbers((tokens, shape[1])), numbers((tokens, shape[0]))
    t.saw("an empty row", at and len({p // shape[1] for p in at}) < shape[0])
    t.saw("an empty column", at and len({p % shape[1] for p in at}) < shape[1])
    t.saw("a stored zero", not values.all())
    t.saw("nothing stored", not at)
    t.saw("no tokens", tokens == 0)
    return shape, at, values, x, dy


def _given(shape: Shape, at: list[int], values: Array, x: Array, dy: Array) -> dict[str, Any]:
    return {"out": shape[0], "in": shape[1], "positions": ids(at), "values": values, "x": x, "dy": dy}


@property_of(
    "kernel.sparse",
    "KRN-001 KRN-002 KRN-003 KRN-004 KRN-005 KRN-006 KRN-007",
    "core",
    "kernel.sparse",
    sees=_STORED,
    reduced=True,
)
def _sparse(d: Draw, t: Trial) -> None:
    """Products are sums over the stored positions, exact on integers and within their bounds elsewhere."""
    exact = not d.flag()
    shape, at, values, x, dy = _matrix(d, t, exact=exact)
    w = {divmod(p, shape[1]): float(v) for p, v in zip(at, values, strict=True)}
    found = {
        "y": kernels.matmul(w, shape, x),
        "dx": kernels.matmul_transposed(w, shape, dy),
        "dvalues": kernels.sample(w, dy, x),
    }
    bounds = {k: _bound(s, exact=exact) for k, s in found.items()}
    answer = {k: s.value for k, s in found.items()} | {"shape": ids(shape)}
    t.case("kernel.sparse", _given(shape, at, values, x, dy), answer, bounds=bounds)


@property_of(
    "kernel.rows-moved",
    "KRN-001 KRN-002 KRN-007",
    "core",
    "kernel.sparse",
    sees=("rows in another order", "an empty row"),
)
def _rows_moved(d: Draw, t: Trial) -> None:
    """Rows of W in another order give the columns of y in that order, and the same dx."""
    shape, at, values, x, dy = _matrix(d, t, exact=True)
    order = d.order(shape[0])
    t.saw("rows in another order", at and order != sorted(order))
    to = {old: new for new, old in enumerate(order)}
    held = sorted((to[p // shape[1]] * shape[1] + p % shape[1], float(v)) for p, v in zip(at, values, strict=True))
    other = _given(shape, [p for p, _ in held], reals(v for _, v in held), x, np.ascontiguousarray(dy[:, order]))
    first = _given(shape, at, values, x, dy)
    t.related("rows of a product moved", ("kernel.sparse", first), ("kernel.sparse", other | {"order": ids(order)}))


@property_of(
    "kernel.padded",
    "KRN-001 KRN-003 KRN-005 KRN-007",
    "core",
    "kernel.sparse",
    sees=("a stored zero", "several weights"),
)
def _padded(d: Draw, t: Trial) -> None:
    """A column more, without weights and with zeros in x, changes nothing."""
    shape, at, values, x, dy = _matrix(d, t, exact=True)
    t.saw("several weights", len(at) > 3)
    cols = shape[1]
    wide = [p // cols * (cols + 1) + p % cols for p in at]
    more = np.concatenate([x, np.zeros((len(x), 1))], axis=1)
    first = ("kernel.sparse", _given(shape, at, values, x, dy))
    t.related("padded", first, ("kernel.sparse", _given((shape[0], cols + 1), wide, values, more, dy)))


@property_of("kernel.scaled", "KRN-002 KRN-003 KRN-007", "core", "kernel.sparse", sees=("several weights",))
def _scaled(d: Draw, t: Trial) -> None:
    """Scaling the loss by a power of two scales both gradients exactly."""
    shape, at, values, x, dy = _matrix(d, t, exact=True)
    t.saw("several weights", len(at) > 3 and dy.any())
    given = _given(shape, at, values, x, dy)
    t.related("scaled", ("kernel.sparse", given), ("kernel.sparse", given | {"dy": dy * 2.0 ** d.choice((1, 5, 9))}))


@property_of(
    "kernel.store",
    "KRN-012 KRN-011 KRN-004",
    "core",
    "kernel.store",
    sees=("slots out of order", "an impossible slot"),
    reduced=True,
)
def _store(d: Draw, t: Trial) -> None:
    """Values stored at slots are where they belong, and no other changes."""
    shape = d.shape()
    at, _ = d.mask(shape)
    values = d.lattice((len(at),))
    slots = d.some(d.order(len(at)), d.integer(0, len(at)))
    new = d.lattice((len(slots),))
    given = {"out": shape[0], "in": shape[1], "positions": ids(at), "values": values, "x": np.eye(shape[1])}
    if slots and d.flag(5):
        slots[0] = d.choice((-1, len(at)))
        t.saw("an impossible slot")
        t.case("kernel.store", given | {"slots": ids(slots), "new": new}, refused=["KRN-012"])
        return
    t.saw("slots out of order", slots != sorted(slots))
    dense = np.zeros(shape[0] * shape[1])
    dense[at] = values
    dense[[at[s] for s in slots]] = new
    answer = {"y": dense.reshape(shape).T.copy()}
    t.case("kernel.store", given | {"slots": ids(slots), "new": new}, answer)


@property_of(
    "kernel.store-dense",
    "KRN-012 KRN-011",
    "kernels",
    "kernel.store_dense",
    sees=("slots out of order", "an impossible slot"),
    reduced=True,
)
def _store_dense(d: Draw, t: Trial) -> None:
    """Values stored at slots of a whole matrix are at their positions, and no other entry changes."""
    shape = d.shape()
    at, _ = d.mask(shape)
    slots = d.some(d.order(len(at)), d.integer(0, len(at)))
    weight, new = d.lattice(shape), d.lattice((len(slots),))
    given: dict[str, Any] = {"out": shape[0], "in": shape[1], "weight": weight, "positions": ids(at), "new": new}
    given |= {"x": np.eye(shape[1])}
    if slots and d.flag(5):
        slots[0] = d.choice((-1, len(at)))
        t.saw("an impossible slot")
        t.case("kernel.store_dense", given | {"slots": ids(slots)}, refused=["KRN-012"])
        return
    t.saw("slots out of order", slots != sorted(slots))
    dense = weight.reshape(-1).copy()
    dense[[at[s] for s in slots]] = new
    t.case("kernel.store_dense", given | {"slots": ids(slots)}, {"y": dense.reshape(shape).T.copy()})


@property_of(
    "kernel.dense", "KRN-001 KRN-002 KRN-006 KRN-007 KRN-014", "kernels", "kernel.dense kernel.exceeding",
    sees=("an entry equal to least", "no tokens"), reduced=True,
)  # fmt: skip
def _dense(d: Draw, t: Trial) -> None:
    """Products with a whole matrix, and the entries that exceed a number."""
    shape, tokens = d.shape(), d.choice((1, 2, 3, 0))
    weight, x, dy = d.lattice(shape), d.lattice((tokens, shape[1])), d.lattice((tokens, shape[0]))
    answer: dict[str, Any] = {
        "y": np.einsum("ni,oi->no", x, weight),
        "dx": np.einsum("no,oi->ni", dy, weight),
        "shape": ids(shape),
    }
    bounds = {n: Bound(np.zeros_like(answer[n]), 0) for n in ("y", "dx")}
    t.saw("no tokens", tokens == 0)
    t.case("kernel.dense", {"weight": weight, "x": x, "dy": dy}, answer, bounds=bounds)
    values, least = reals(d.with_specials(d.levels(d.length(), 3, 1.0))), d.choice((0.0, 1.0, 2.0))
    t.saw("an entry equal to least", np.any(np.abs(values) == least))
    found = [i for i, v in enumerate(values) if abs(v) > least]
    t.case("kernel.exceeding", {"values": values, "least": least}, {"indices": ids(found)})


def _factors(d: Draw) -> tuple[Shape, Array, Array, bool]:
    shape, tokens = d.shape(8), d.choice((1, 2, 3, 8, 17, 0))
    exact = not d.flag()
    numbers = d.lattice if exact else d.real
    return shape, numbers((tokens, shape[0])), numbers((tokens, shape[1])), exact


@property_of(
    "gradient.whole",
    "GRD-001 GRD-002 NUM-002 NUM-003",
    "core",
    "gradient.whole gradient.at",
    sees=("no tokens", "a position"),
    reduced=True,
)
def _gradient(d: Draw, t: Trial) -> None:
    """The gradient is dyᵀ x everywhere, and the same where it is asked for at positions."""
    shape, dy, x, exact = _factors(d)
    whole = np.array([[np.sum(dy[:, o] * x[:, i]) for i in range(shape[1])] for o in range(shape[0])])
    gauge = np.zeros(shape) if exact else np.abs(dy).T @ np.abs(x)
    t.saw("no tokens", not len(x))
    given: dict[str, Any] = {"dy": dy, "x": x}
    t.case("gradient.whole", given, {"gradient": whole}, bounds={"gradient": Bound(gauge, len(x))})
    at, _ = d.mask(shape)
    t.saw("a position", at)
    bounds = {"values": Bound(gauge.reshape(-1)[at], len(x))}
    given |= {"out": shape[0], "in": shape[1], "positions": ids(at)}
    t.case("gradient.at", given, {"values": whole.reshape(-1)[at]}, bounds=bounds)


@property_of("gradient.split", "GRD-001 TRN-002 NUM-002", "core", "gradient.whole", sees=("two parts", "an empty part"))
def _split(d: Draw, t: Trial) -> None:
    """The gradient of all tokens is the sum of those of two parts, up to rounding."""
    shape, tokens = d.shape(8), d.choice((2, 3, 8, 17, 33))
    dy, x = d.real((tokens, shape[0])), d.real((tokens, shape[1]))
    cut = d.integer(0, tokens)
    t.saw("two parts", 0 < cut < tokens)
    t.saw("an empty part", cut in (0, tokens))
    parts = [{"dy": dy[a:b], "x": x[a:b]} for a, b in ((0, tokens), (0, cut), (cut, tokens))]
    t.related("adds up", *(("gradient.whole", part) for part in parts))


@property_of("gradient.scaled", "GRD-001 NUM-003", "core", "gradient.whole", sees=("several tokens",))
def _gradient_scaled(d: Draw, t: Trial) -> None:
    """Scaling the loss by a power of two scales the gradient exactly."""
    shape, tokens = d.shape(8), d.choice((1, 2, 8, 17))
    dy, x = d.lattice((tokens, shape[0])), d.lattice((tokens, shape[1]))
    t.saw("several tokens", tokens > 1 and dy.any() and x.any())
    more = dy * 2.0 ** d.choice((1, 4, 10))
    t.related("scaled", ("gradient.whole", {"dy": dy, "x": x}), ("gradient.whole", {"dy": more, "x": x}))


@property_of(
    "gradient.candidates",
    "GRD-003 GRD-004 GROW-001 GROW-002 SEL-001",
    "core",
    "gradient.candidates",
    sees=("a tie at the boundary", "several steps", "steps that cancel"),
)
def _candidates(d: Draw, t: Trial) -> None:
    """Candidates are the largest |ḡ| of the whole gradient, the absolute value taken after the mean."""
    shape, steps = d.shape(8), d.choice((1, 2, 4))
    size = shape[0] * shape[1]
    dys = [d.lattice((2, shape[0]), 2) for _ in range(steps)]
    xs = [d.lattice((2, shape[1]), 2) for _ in range(steps)]
    if steps == 2 and d.flag():
        dys[1], xs[1] = -dys[0], xs[0].copy()
        xs[1][:, :1] += 1
    total = np.zeros(shape)
    for dy, x in zip(dys, xs, strict=True):
        total += np.einsum("no,ni->oi", dy, x)
    mean = total.reshape(-1) / steps
    base, eta, scope = d.subset(size), d.subset(size, 3), d.choice(("all", "active"))
    open_to = [p for p in range(size) if p not in eta and (scope == "all" or p in base)]
    n = d.integer(0, len(open_to) + 1)
    chosen = select.largest([abs(float(mean[p])) for p in open_to], open_to, min(n, len(open_to)))
    t.saw("a tie at the boundary", ties([-abs(float(mean[p])) for p in open_to], n))
    t.saw("several steps", steps > 1)
    t.saw("steps that cancel", steps == 2 and not mean.all() and dys[0].any() and xs[0].any())
    given = {"out": shape[0], "in": shape[1], "dy": dys, "x": xs, "steps": steps}
    given |= {"base": ids(base), "delta": ids(eta), "n": n, "scope": scope}
    t.case("gradient.candidates", given, {"candidates": ids(chosen), "values": reals(mean[chosen] + 0.0)})


@property_of(
    "gradient.norm",
    "TRN-009 EVT-005 NUM-004",
    "rules",
    "gradient.norm",
    sees=("a square that overflows", "squares that underflow", "an entry that is not finite", "zeros"),
)
def _norm(d: Draw, t: Trial) -> None:
    """The norm of a gradient is the root of the sum of squares, where squares overflow or underflow too."""
    shape = d.shape()
    kind = d.choice(("plain", "a square that overflows", "squares that underflow", "zeros"))
    scale = {"a square that overflows": 2.0**80, "squares that underflow": 2.0**-100, "zeros": 0.0}.get(kind, 1.0)
    gradient = d.real(shape) * scale
    given: dict[str, Any] = {"out": shape[0], "in": shape[1], "gradient": gradient}
    t.saw(kind)
    if d.flag(6):
        gradient.reshape(-1)[d.integer(0, gradient.size - 1)] = d.choice((math.nan, math.inf, -math.inf))
        t.saw("an entry that is not finite")
        t.case("gradient.norm", given, refused=["EVT-005"])
        return
    t.case("gradient.norm", given, {"norm": math.hypot(*(float(g) for g in gradient.reshape(-1)))})


@property_of(
    "window.evidence",
    "GRD-004 GRD-005 GRD-006",
    "rules",
    "window.evidence",
    sees=("several steps", "several micro-batches"),
    reduced=True,
)
def _evidence(d: Draw, t: Trial) -> None:
    """Evidence is of whole steps: means of g, |g| and g · g, and the mean square of the inputs."""
    shape, steps = d.shape(5), d.choice((1, 2, 4))
    dys: list[list[Array]] = []
    xs: list[list[Array]] = []
    for _ in range(steps):
        # micro-batches of one step: 1, 2 or 4 tokens in all, so that means over tokens are exact
        parts = d.choice(((1,), (2,), (1, 1), (4,), (1, 3), (2, 2)))
        rows = sum(parts)
        parts = parts if not dys or rows == sum(len(x) for x in xs[0]) else (sum(len(x) for x in xs[0]),)
        dys.append([d.lattice((n, shape[0]), 3) for n in parts])
        xs.append([d.lattice((n, shape[1]), 3) for n in parts])
    t.saw("several steps", steps > 1)
    t.saw("several micro-batches", any(len(x) > 1 for x in xs))
    floats = [
        [(train_window.floats(a), train_window.floats(b)) for a, b in zip(*step, strict=True)]
        for step in zip(dys, xs, strict=True)
    ]
    seen = train_window.evidence([train_window.of_batches(*shape, step) for step in floats])
    answer = {n: reals(v).reshape(shape) for n, v in seen.items()}
    answer["inputs"] = reals(train_window.inputs(shape[1], [rows for step in floats for _, rows in step]))
    t.case("window.evidence", {"out": shape[0], "in": shape[1], "dy": dys, "x": xs}, answer)


@property_of(
    "optimizer.step",
    "OPT-001 OPT-006 OPT-007 OPT-008 NUM-002",
    "rules",
    "optimizer.step",
    sees=("adamw", "spiel-adamw", "sgd", "sm3", "two slots of a row"),
)
def _optimizer(d: Draw, t: Trial) -> None:
    """A step of every optimizer is its written formula at every slot."""
    kind, shape = d.choice(("adamw", "spiel-adamw", "sgd", "sm3")), d.shape(8)
    at, _ = d.mask(shape)
    n = len(at)
    hyper = d.choice((Hyper(), Hyper(0.5, 0.75, 0.125, 0.25, 0.5), Hyper(weight_decay=0.25, momentum=0.0)))
    lr = 2.0 ** -d.integer(1, 9)
    columns = {"m": d.levels(n, 4), "v": [abs(x) for x in d.levels(n, 4)], "u": d.levels(n, 4)}
    age = d.integers(n, 0, 50)
    held = {k: dict(zip(at, x, strict=True)) for k, x in (columns | {"age": age}).items()}
    phi, g = dict(zip(at, d.levels(n, 4), strict=True)), dict(zip(at, d.levels(n, 4), strict=True))
    rows, cols = ([abs(x) for x in d.levels(k, 4)] for k in shape)
    t.saw(kind)
    t.saw("two slots of a row", len({p // shape[1] for p in at}) < n)
    own = {k: held[k] for k in KEEPS[kind]}
    before = Slots(phi, own, rows, cols) if kind == "sm3" else Slots(phi, own)
    new = update_optimizers.step(kind, shape[1], before, g, lr, hyper)
    given: dict[str, Any] = {"kind": kind, "out": shape[0], "in": shape[1], "positions": ids(at)}
    given |= {"values": reals(phi.values()), "gradient": reals(g.values()), "lr": lr}
    given |= {k: (ids if k == "age" else reals)(x.values()) for k, x in own.items()}
    given |= {k: getattr(hyper, k) for k in ("beta1", "beta2", "eps", "weight_decay", "momentum")}
    answer: dict[str, Any] = dict.fromkeys(("m", "v", "u", "age", "rows", "columns"))
    answer |= {k: (ids if k == "age" else reals)(new.kept[k].values()) for k in KEEPS[kind]}
    answer["values"] = reals(new.phi.values())
    if kind == "sm3":
        given |= {"rows": reals(rows), "columns": reals(cols)}
        answer |= {"rows": reals(new.rows), "columns": reals(new.columns)}
    t.case("optimizer.step", given, answer, bounds=gauges(kind, given, answer, hyper))


def gauges(kind: str, given: dict[str, Any], new: dict[str, Any], h: Hyper) -> dict[str, Bound]:
    """Return what is added up in each output."""
    g, phi, lr = abs(given["gradient"]), abs(given["values"]), given["lr"]
    if kind == "sgd":
        u = h.momentum * abs(given["u"]) + g
        return {"u": Bound(u, 2), "values": Bound(phi + lr * u, 4)}
    if kind == "sm3":
        row, column = given["positions"] // given["in"], given["positions"] % given["in"]
        nu = np.minimum(given["rows"][row], given["columns"][column]) + g * g
        moved = lr * g / np.sqrt(nu + h.eps)
        return {"rows": Bound(new["rows"], 2), "columns": Bound(new["columns"], 2), "values": Bound(phi + moved, 4)}
    age = new["age"].astype(float)
    m = h.beta1 * abs(given["m"]) + (1 - h.beta1) * g
    c1, c2 = 1 - h.beta1**age, np.sqrt(1 - h.beta2**age)
    below = np.sqrt(new["v"]) / c2 + (h.eps / c2 if kind == "spiel-adamw" else h.eps)
    return {"m": Bound(m, 2), "v": Bound(new["v"], 2), "values": Bound(phi + lr / c1 * m / below, 4)}
