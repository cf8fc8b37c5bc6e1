"""Properties of sizes beyond every boundary of an index type: rules, kernels, layers, pruning, adapters, generation."""

import math
from typing import Any

import numpy as np

from conformance.gen.event import BETAS, Made, answered, given_part
from conformance.gen.event_ratios import ratios_of
from conformance.gen.numbers import Array, ids, reals
from conformance.oracle import (
    adapters,
    generate,
    layers,
    prune,
    select_pools,
    train_window,
    update_choices,
    update_counts,
    update_optimizers,
)
from conformance.oracle.event import Evidence, Outcome, Part, event
from conformance.oracle.tape import Var, gradients
from conformance.oracle.update_scores import DROP, chance
from conformance.properties.computing import gauges
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND, exact, lengths, shapes, tiled
from conformance.properties.trial import Trial, property_of

__all__: list[str] = []


@property_of(
    "select.pools-large", "SEL-001 SEL-002 SEL-007 SEL-008", "rules", "select.pools", sees=(BEYOND, "many pools"),
    seeded=1,
)  # fmt: skip
def _pools(d: Draw, t: Trial) -> None:
    """Many scores in few pools, or in many, are chosen as by sorted tuples."""
    for n_pools in (3, 70_000):
        n, many = 66_000 + d.integer(0, 99), Many(d)
        scores = np.ldexp(1.0, many.integers(n, -9, 9)) * (2.0 * many.integers(n, 0, 1) - 1.0)
        pool = many.integers(n, 0, n_pools - 1).tolist()
        counts = np.bincount(pool, minlength=n_pools) // 2
        scored = list(zip(pool, range(n), scores.tolist(), strict=True))
        found = select_pools.select(scored, dict(enumerate(counts.tolist())), largest=True)
        near = select_pools.nearest([b for _, b in found.boundaries])
        t.saw(BEYOND, n > 65_536)
        t.saw("many pools", n_pools > 65_536)
        told = (near[0], near[1], select_pools.gap(near)) if near else ()
        answer = dict(zip(("inside", "outside", "gap"), (reals([x]) for x in told), strict=True))
        given = {"scores": scores, "ids": np.arange(n), "pools": ids(pool), "counts": counts, "largest": 1}
        t.case("select.pools", given, answer | {"chosen": ids(found.chosen)})


@property_of(
    "score.large",
    "DROP-003 GROW-004 ADPT-005 RNG-003",
    "rules",
    "score.drop score.grow score.adapt",
    sees=(BEYOND, "a position above 2³²"),
    seeded=1,
)
def _scores(d: Draw, t: Trial) -> None:
    """Scores of many slots, candidates and weights are the written formulas; products of integers are exact."""
    shape, many = (257 + d.integer(0, 9), 257), Many(d)
    size = shape[0] * shape[1]
    t.saw(BEYOND, size > 65_536)
    phi, origin, g = (many.lattice((size,), 99) for _ in range(3))
    at = np.arange(size)
    given: dict[str, Any] = {"criterion": "change", "positions": at, "values": phi, "origin": origin}
    t.case("score.drop", given, {"scores": abs(phi - origin)})
    where: dict[str, Any] = {"out": shape[0], "in": shape[1], "positions": at}
    rows, cols = abs(many.lattice((shape[0],), 99)), abs(many.lattice((shape[1],), 99))
    given = where | {"criterion": "moments", "row_moments": rows, "column_moments": cols}
    t.case("score.grow", given, {"scores": np.outer(rows, cols).reshape(-1)})
    given = where | {"criterion": "sensitivity", "weight": phi, "gradient": g}
    t.case("score.adapt", given, {"scores": abs(phi * g)})
    far = many.subset(2**40, 300)
    t.saw("a position above 2³²", far[-1] > 2**32)
    words = {"seed": d.integer(0, 2**40), "matrix": d.integer(0, 99), "step": d.integer(0, 9)}
    found = [chance(words["seed"], words["matrix"], words["step"], DROP, p) for p in far.tolist()]
    given = words | {"criterion": "random", "positions": far, "values": phi[:300]}
    # draws are binary64 whatever the dtype
    t.case("score.drop", given, {"scores": reals(found)}, dtypes=("float64",))


@property_of(
    "window.evidence-large", "GRD-001 GRD-004 GRD-005 GRD-006", "rules", "window.evidence", sees=(BEYOND,),
    reduced=True, seeded=1,
)  # fmt: skip
def _evidence(d: Draw, t: Trial) -> None:
    """The evidence of a large matrix is exact on integers."""
    shape, many = shapes(d)[3], Many(d)
    dys, xs = ([[many.lattice((2, n), 3)] for _ in range(2)] for n in shape)
    steps = [dy[0].T @ x[0] for dy, x in zip(dys, xs, strict=True)]
    answer: dict[str, Any] = {"gradient": sum(steps) / 2, "absolute": sum(map(abs, steps)) / 2}
    answer |= {"square": sum(g * g for g in steps) / 2, "inputs": sum(np.sum(x[0] ** 2, axis=0) for x in xs) / 4}
    t.saw(BEYOND, shape[0] * shape[1] > 65_536)
    t.case("window.evidence", {"out": shape[0], "in": shape[1], "dy": dys, "x": xs}, answer)


@property_of(
    "window.large",
    "GRD-004 GRD-005 GRD-007 TRN-009 DLT-004",
    "rules",
    "window.candidates gradient.norm delta.initial",
    sees=(BEYOND,),
    seeded=1,
)
def _window(d: Draw, t: Trial) -> None:
    """Candidates, the norm and first slots of a large matrix are exact on integers."""
    shape, many = shapes(d)[3], Many(d)
    size, where = shape[0] * shape[1], {"out": shape[0], "in": shape[1]}
    steps = [many.lattice(shape, 18) for _ in range(2)]
    t.saw(BEYOND, size > 65_536)
    n = d.integer(size // 4, size // 2)
    flat = [g.reshape(-1) for g in steps]
    at = train_window.candidates(flat[0].tolist(), n)
    told = {
        "candidates": ids(at),
        "gradient": (flat[0] + flat[1])[at] / 2,
        "square": (flat[0] ** 2 + flat[1] ** 2)[at] / 2,
    }
    t.case("window.candidates", where | {"gradients": steps, "n": n}, told)
    t.case("gradient.norm", where | {"gradient": steps[0]}, {"norm": math.sqrt(float(flat[0] @ flat[0]))})
    base = many.subset(size, size - size // 200)
    values = many.lattice((len(base),), 99)
    held = dict(zip(base.tolist(), values.tolist(), strict=True))
    given = where | {"base": base, "base_values": values, "seed": 1, "matrix": 2, "gradient": steps[1], "n": n}
    for by in ("gradient", "magnitude"):
        eta = update_counts.initial(by, list(held), n, seed=1, matrix=2, gradient=flat[1].tolist(), base=held)
        t.case("delta.initial", given | {"by": by, "scope": "active"}, {"positions": ids(eta)})


@property_of(
    "optimizer.large", "OPT-001 OPT-006 OPT-007", "rules", "optimizer.step", sees=(BEYOND, "rows of SM3"), seeded=1
)
def _optimizer(d: Draw, t: Trial) -> None:
    """A step of many slots is the written formula at every one of them, by every optimizer."""
    shape, kinds, lr = (300 + d.integer(0, 9), 257), 257, 2.0 ** -d.integer(1, 9)
    n, h = shape[0] * shape[1], update_optimizers.Hyper()
    t.saw(BEYOND, n > 65_536)
    for kind, keeps in update_optimizers.KEEPS.items():
        many = Many(d)
        phi, g, m, v = (many.lattice((kinds,), 9) / 8 for _ in range(4))
        columns = {"m": m, "v": abs(v), "u": m, "age": many.integers(kinds, 0, 50)}
        held = {name: dict(enumerate(columns[name].tolist())) for name in keeps}
        before = update_optimizers.Slots(dict(enumerate(phi.tolist())), held)
        more: dict[str, Any] = {}
        answer: dict[str, Any] = dict.fromkeys(("m", "v", "u", "age", "rows", "columns"))
        if kind == "sm3":
            # every row has the same slots and the same r, so that what one row shows holds for all
            r, c = float(d.integer(1, 9)), abs(many.lattice((kinds,), 9))
            before = update_optimizers.Slots(before.phi, held, [r], c.tolist())
            more = {"rows": np.full(shape[0], r), "columns": c}
        after = update_optimizers.step(kind, shape[1], before, dict(enumerate(g.tolist())), lr, h)
        if kind == "sm3":
            answer |= {"rows": np.full(shape[0], after.rows[0]), "columns": reals(after.columns)}
            t.saw("rows of SM3")
        for name in keeps:
            answer[name] = tiled((ids if name == "age" else reals)(after.kept[name].values()), n)
        answer["values"] = tiled(reals(after.phi.values()), n)
        given = {"kind": kind, "out": shape[0], "in": shape[1], "positions": np.arange(n), "lr": lr}
        given |= {name: tiled(columns[name], n) for name in keeps} | more
        given |= {"values": tiled(phi, n), "gradient": tiled(g, n)}
        given |= {name: getattr(h, name) for name in ("beta1", "beta2", "eps", "weight_decay", "momentum")}
        t.case("optimizer.step", given, answer, bounds=gauges(kind, given, answer, h))


@property_of(
    "update.event-large", "EVT-001 EVT-006 GROW-003 SEL-007 TRN-009", "rules", "update.event", sees=(BEYOND,), seeded=1
)
def _event(d: Draw, t: Trial) -> None:
    """An event of a matrix with many slots, by any criteria, is drop, grow, adapt on dictionaries."""
    given, _, found = _large_event(d, t)
    t.case("update.event", given, answered(found))


@property_of("event.ratios-large", "TRN-009", "runs", "event.ratios", sees=(BEYOND,), seeded=1)
def _ratios(d: Draw, t: Trial) -> None:
    """The ratios of an event of a matrix with many slots are those of its counts."""
    given, pair, found = _large_event(d, t)
    t.case("event.ratios", given, ratios_of([pair], given["rule"], found))


def _large_event(d: Draw, t: Trial) -> tuple[dict[str, Any], Made, list[Outcome]]:
    """Return the inputs of an event, its matrix, and what comes of it."""
    shape, many = shapes(d)[d.integer(1, 3)], Many(d)
    size = shape[0] * shape[1]
    t.saw(BEYOND, size > 65_536)
    chosen = update_choices.RULE | BETAS | {"scope": d.choice(("matrix", "model"))}
    chosen |= {"adapt": d.choice(("sensitivity", "magnitude")), "grow": d.choice(("gradient", "absolute"))}
    base, eta = many.subset(size, size // 2).tolist(), many.subset(size, size // 3).tolist()

    def column(at: list[int], top: int) -> dict[int, Any]:
        return dict(zip(at, (many.lattice((len(at),), top) / 8).tolist(), strict=True))

    kept = {"m": column(eta, 9), "v": {p: abs(x) for p, x in column(eta, 9).items()}}
    kept["age"] = dict(zip(eta, many.integers(len(eta), 0, 9).tolist(), strict=True))
    part = Part(
        shape, 3, column(base, 40), column(eta, 40), kept, [len({*base, *eta}) - 99], [len(eta) + 7], "adamw",
        lost=frozenset(),
    )  # fmt: skip
    flat = [(many.lattice((size,), 99) / 8).tolist() for _ in range(2)]
    ones = [[1.0] * n for n in (shape[1], *shape)]
    seen = Evidence(flat[0], [abs(x) for x in flat[1]], [x * x for x in flat[0]], ones[0], ones[1], ones[2])
    seed, step = d.integer(0, 99), d.integer(1, 99)
    given: dict[str, Any] = {"parts": [given_part(part, seen)], "rule": chosen, "fraction": 0.5}
    given |= {"seed": seed, "step": step}
    return given, (part, seen), event([part], [seen], chosen, 0.5, seed=seed, step=step)


@property_of(
    "kernel.dense-large",
    "KRN-001 KRN-002 KRN-007 KRN-012 KRN-014",
    "kernels",
    "kernel.dense kernel.store_dense kernel.exceeding",
    sees=(BEYOND,),
    reduced=True,
    seeded=1,
)
def _dense(d: Draw, t: Trial) -> None:
    """Products with a large matrix, what is stored in it and what exceeds a number, are exact on integers."""
    for shape in shapes(d):
        many, tokens = Many(d), d.integer(1, 2)
        weight, x, dy = many.lattice(shape, 4), many.lattice((tokens, shape[1]), 4), many.lattice((tokens, shape[0]), 4)
        t.saw(BEYOND, weight.size > 65_536)
        answer: dict[str, Any] = {"y": x @ weight.T, "dx": dy @ weight, "shape": ids(shape)}
        t.case("kernel.dense", {"weight": weight, "x": x, "dy": dy}, answer, bounds=exact(answer, "y", "dx"))
        at = many.subset(weight.size, weight.size // 2)
        slots = many.subset(len(at), len(at) // 3)[::-1].copy()
        new, after = many.lattice((len(slots),), 4), weight.reshape(-1).copy()
        after[at[slots]] = new
        given = {"out": shape[0], "in": shape[1], "weight": weight, "positions": at, "slots": slots, "new": new, "x": x}
        t.case("kernel.store_dense", given, {"y": x @ after.reshape(shape).T})
    for n in lengths(d):
        values = Many(d).lattice((n,), 8)
        answer = {"indices": np.flatnonzero(abs(values) > 6.0)}
        t.case("kernel.exceeding", {"values": values, "least": 6.0}, answer)


def _layer(t: Trial, op: str, y: Var, dy: Array, held: dict[str, Var], given: dict[str, Any]) -> None:
    """Ask for a layer, each output judged by its largest number."""
    found = dict(zip(held, gradients(y, dy, list(held.values())), strict=True))
    t.case(op, given | {"dy": dy}, {"y": y.value} | {f"d{name}": g for name, g in found.items()})


@property_of(
    "layer.large",
    "LYR-001 LYR-002 LYR-003 LYR-010 LYR-011",
    "layers",
    "layer.embedding layer.linear layer.rmsnorm layer.swiglu layer.cross_entropy",
    sees=(BEYOND, "a token above 65,536"),
    seeded=1,
)
def _layers(d: Draw, t: Trial) -> None:
    """Layers of large vocabularies, widths and batches are the written formulas."""
    many, n = Many(d), 65_600 + d.integer(0, 99)
    t.saw(BEYOND, n > 65_536)
    tokens = np.concatenate([many.subset(n - 1, 300), [n - 1, 0, n - 1]])
    t.saw("a token above 65,536", int(tokens.max()) > 65_536)
    weight, dy = many.lattice((n, 2), 8), many.lattice((len(tokens), 2), 8)
    dweight = np.zeros((n, 2))
    np.add.at(dweight, tokens, dy)
    given: dict[str, Any] = {"weight": weight, "dy": dy, "tokens": tokens}
    answer: dict[str, Any] = {"y": weight[tokens], "dweight": dweight}
    t.case("layer.embedding", given, answer, bounds=exact(answer, "dweight"))
    w, x, dy = many.lattice((257, 259), 4), many.lattice((3, 259), 4), many.lattice((3, 257), 4)
    answer = {"y": x @ w.T, "dx": dy @ w, "dweight": dy.T @ x, "dbias": None}
    given = {"x": x, "weight": w, "dy": dy}
    t.case("layer.linear", given, answer, bounds=exact(answer, "y", "dx", "dweight"))
    x, weight = many.lattice((2, n), 99) / 32, many.lattice((n,), 9) / 8
    held = {"x": Var(x), "weight": Var(weight)}
    y = layers.rmsnorm(held["x"], held["weight"], 2.0**-10)
    _layer(t, "layer.rmsnorm", y, many.lattice((2, n), 9) / 8, held, {"x": x, "weight": weight, "eps": 2.0**-10})
    gate, up = many.lattice((n,), 99) / 32, many.lattice((n,), 9) / 8
    held = {"gate": Var(gate), "up": Var(up)}
    y = layers.swiglu(held["gate"], held["up"])
    _layer(t, "layer.swiglu", y, many.lattice((n,), 9) / 8, held, {"gate": gate, "up": up})
    logits, targets = many.lattice((2, n), 99) / 32, ids([n - 1, d.integer(0, n - 1)])
    held = {"logits": Var(logits)}
    loss = layers.cross_entropy(held["logits"], targets, 2)
    (dlogits,) = gradients(loss, 1.0, list(held.values()))
    answer = {"loss": float(loss.value.real), "dlogits": dlogits}
    t.case("layer.cross_entropy", {"logits": logits, "targets": targets, "count": 2, "dloss": 1.0}, answer)


@property_of(
    "prune.large",
    "PRN-001 PRN-002 PRN-003 PRN-010 PRN-011 SEL-002",
    "prune",
    "prune.magnitude prune.wanda prune.sparsegpt",
    sees=(BEYOND,),
    seeded=1,
)
def _prune(d: Draw, t: Trial) -> None:
    """Large matrices are pruned as by sorted tuples, whatever the ties."""
    for shape in shapes(d)[1:]:
        many, sparsity = Many(d), d.integer(20, 80) / 100
        w, norms = many.lattice(shape, 50), many.integers(shape[1], 0, 3).astype(np.float64)
        t.saw(BEYOND, w.size > 65_536)
        kept = {"kept": ids(prune.magnitude(w, sparsity))}
        t.case("prune.magnitude", {"weights": w, "sparsity": sparsity}, kept)
        given = {"weights": w, "square_sums": norms**2, "sparsity": sparsity}
        t.case("prune.wanda", given, {"kept": ids(prune.wanda(w, norms.tolist(), sparsity))})
    # H is diagonal, so that ties are exact
    w, inputs = Many(d).lattice((11_000, 6), 9), np.eye(6)
    removed, weights, _ = prune.sparsegpt(w, inputs, 0.5, block=4)
    given = {"weights": w, "inputs": inputs, "sparsity": 0.5, "block": 4}
    t.case("prune.sparsegpt", given, {"kept": ids(removed), "weights": weights})


@property_of("prune.pattern-large", "PRN-004", "nm", "prune.pattern", sees=(BEYOND,), seeded=1)
def _pattern(d: Draw, t: Trial) -> None:
    """N of every M columns of a large matrix are kept, ties at the lower one."""
    for shape in ((1, 65_600), (16_400, 4), (257, 260)):
        scores = abs(Many(d).lattice(shape, 5))
        t.saw(BEYOND, scores.size > 65_536)
        t.case("prune.pattern", {"scores": scores, "n": 2, "m": 4}, {"kept": ids(prune.pattern(scores, 2, 4))})


@property_of(
    "adapter.large",
    "ADP-001 ADP-002 ADP-004 ADP-005 ADP-006 ADP-007 ADP-008",
    "adapters",
    "adapter.initial adapter.lora adapter.spp adapter.sparsepeft adapter.lora_star",
    sees=(BEYOND,),
    seeded=1,
)
def _adapters(d: Draw, t: Trial) -> None:
    """Factors beside a large frozen weight: outputs, gradients, merge and start, exact on integers."""
    shape, many = (258, 257 + d.integer(0, 3)), Many(d)
    size = shape[0] * shape[1]
    at = many.subset(size, size - size // 200)
    w = np.zeros(size)
    w[at] = many.lattice((len(at),), 2)
    w, stored = w.reshape(shape), np.isin(np.arange(size), at).reshape(shape)
    t.saw(BEYOND, len(at) > 65_536)
    a, x, dy = many.lattice((2, shape[1]), 2), many.lattice((2, shape[1]), 2), many.lattice((2, shape[0]), 2)
    b, c = many.lattice((shape[0], 2), 2), many.lattice((shape[0],), 2)
    g, banded = dy.T @ x, np.repeat(a, shape[0] // 2, axis=0)
    given: dict[str, Any] = {"out": shape[0], "in": shape[1], "positions": at, "values": w.reshape(-1)[at]}
    given |= {"a": a, "x": x, "dy": dy, "alpha": 2.0}
    for kind in ("lora", "spp", "sparsepeft"):
        seen = g * stored if kind == "sparsepeft" else g
        if kind == "spp":
            change, name, other = banded * c[:, None] * w, "c", c
            da = (g * c[:, None] * w).reshape(2, -1, shape[1]).sum(axis=1)
            dother = np.sum(g * banded * w, axis=1)
        else:
            change, name, other = b @ a * (stored if kind == "sparsepeft" else 1.0), "b", b
            da, dother = b.T @ seen, seen @ a.T
        full = w + change
        merged = full.reshape(-1) if kind == "lora" else full.reshape(-1)[at]
        answer = {"y": x @ full.T, "dx": dy @ full, "da": da, f"d{name}": dother, "merged": merged}
        answer["parameters"] = a.size + other.size
        t.case(f"adapter.{kind}", given | {name: other} | ({"rank": 2} if kind == "spp" else {}), answer)
    norms, dense = [float(n) for n in many.integers(shape[1], 1, 3)], many.lattice(shape, 20)
    start = prune.wanda(dense, norms, 0.25)
    held = np.zeros(size)
    held[start] = dense.reshape(-1)[start]
    full = held.reshape(shape) + b @ a
    again = prune.wanda(full, norms, 0.25)
    told = {"out": shape[0], "in": shape[1], "positions": ids(start), "values": held[start], "a": a, "b": b}
    told |= {"alpha": 2.0, "square_sums": reals(n * n for n in norms), "sparsity": 0.25}
    t.case("adapter.lora_star", told, {"kept": ids(again), "values": full.reshape(-1)[again] + 0.0})
    wide, seed, matrix = 65_600 + d.integer(0, 99), d.integer(0, 2**40), d.integer(0, 99)
    told = {"kind": "lora", "out": 3, "in": wide, "rows": 1, "seed": seed, "matrix": matrix, "like": np.zeros(0)}
    factor = adapters.start(1, wide, seed, matrix)
    t.case("adapter.initial", told, {"a": factor, "other": np.zeros((3, 1)), "parameters": wide + 3})


@property_of("generate.pick-large", "GEN-003 GEN-004 GEN-005", "generate", "generate.pick", sees=(BEYOND,), seeded=2)
def _pick(d: Draw, t: Trial) -> None:
    """The token that a loop over sorted ids picks, of more than 65,536."""
    n, many = 65_600 + d.integer(0, 999), Many(d)
    logits, seed = many.lattice((n,), 200) / 64, d.integer(0, 2**40)
    t.saw(BEYOND, n > 65_536)
    ties: tuple[tuple[float, int | None, float | None], ...] = ((0.0, None, None), (1.0, None, None), (0.5, None, 0.9),
                                                                (1.0, 40_000, None))  # fmt: skip
    for temperature, top_k, top_p in ties:
        number = d.integer(0, 2**33)
        picked, sure = generate.picked(logits.tolist(), temperature, top_k, top_p, seed, number)
        if not sure:
            continue
        given: dict[str, Any] = {"logits": logits, "temperature": temperature, "seed": seed, "numbers": [number]}
        given |= {"top_k": top_k} if top_k else {}
        given |= {"top_p": top_p} if top_p else {}
        t.case("generate.pick", given, {"picked": ids([picked])})
