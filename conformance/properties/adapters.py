"""Properties of adapters (chapter 11)."""

from typing import Any

import numpy as np

from conformance.gen.numbers import Array, ids, reals
from conformance.oracle import adapters, prune
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of


@property_of(
    "adapter.initial",
    "ADP-002 ADP-009 RNG-002",
    "adapters",
    "adapter.initial",
    sees=("lora", "spp", "sparsepeft", "bands with a remainder"),
    reduced=True,
)
def _initial(d: Draw, t: Trial) -> None:
    """Factor A starts with draws by row and column, the other factor with zeros."""
    kind, bands = d.choice(("lora", "spp", "sparsepeft")), d.integer(1, 4)
    rows, n_in = bands * d.integer(1, 5), d.integer(1, 17)
    inputs: dict[str, Any] = {"kind": kind, "out": rows, "in": n_in, "rows": bands, "like": np.zeros(0)}
    inputs |= {"seed": d.choice((0, 2**64 - 1, d.integer(0, 2**40))), "matrix": d.integer(0, 300)}
    if kind == "spp" and bands > 1 and d.flag(4):
        t.saw("bands with a remainder")
        t.case("adapter.initial", inputs | {"out": rows + 1}, refused=["ADP-009"])
        return
    t.saw(kind)
    other = np.zeros(rows if kind == "spp" else (rows, bands))
    a = adapters.start(bands, n_in, inputs["seed"], inputs["matrix"])
    t.case("adapter.initial", inputs, {"a": a, "other": other, "parameters": a.size + other.size})


@property_of(
    "adapter.lora-star",
    "ADP-004 ADP-005 PRN-003 PRN-004",
    "adapters",
    "adapter.lora_star",
    sees=("a pattern", "rows", "a support of another size", "a support that changes"),
    reduced=True,
)
def _star(d: Draw, t: Trial) -> None:
    """A merged matrix is pruned again by its own weights and the inputs of the base, to its size or its pattern."""
    pattern = d.choice((None, (2, 4), (1, 2)))
    shape = (d.integer(1, 6), 4 * d.integer(1, 3) if pattern else d.integer(2, 10))
    size, rank, sparsity = shape[0] * shape[1], d.integer(1, 3), d.choice((0.5, 0.25, 0.75))
    norms = [float(x) for x in d.integers(shape[1], 1, 3)]
    w = reals(d.levels(size, 6, 1.0)).reshape(shape)
    a, b = d.lattice((rank, shape[1]), 2), d.lattice((shape[0], rank), 1)

    def pruned(weight: Array) -> list[int]:
        return prune.pattern(abs(weight) * norms, *pattern) if pattern else prune.wanda(weight, norms, sparsity)

    at = pruned(w)
    inputs: dict[str, Any] = {"out": shape[0], "in": shape[1], "a": a, "b": b, "alpha": float(2 * rank)}
    inputs |= {"square_sums": reals(x * x for x in norms), "sparsity": sparsity}
    inputs |= {"pattern": ids(pattern)} if pattern else {}
    t.saw("a pattern" if pattern else "rows")
    short = len(at) > 1 and d.flag(6)
    t.saw("a support of another size", short)
    at, full = at[short:], at
    inputs |= {"positions": ids(at), "values": w.reshape(-1)[at]}
    if short and not pattern:
        t.case("adapter.lora_star", inputs, refused=["ADP-005"])
        return
    places = [(o, i) for o in range(shape[0]) for i in range(shape[1])]
    weights = {divmod(p, shape[1]): float(w.reshape(-1)[p]) for p in at}
    merged = reals(adapters.merged(weights, adapters.low_rank(a, b, 2.0, places)).values()).reshape(shape)
    again = pruned(merged)
    t.saw("a support that changes", again != full)
    t.case("adapter.lora_star", inputs, {"kept": ids(again), "values": merged.reshape(-1)[again] + 0.0})


@property_of(
    "adapter.pairs",
    "ADP-001 ADP-004 ADP-006 ADP-007 ADP-008 TOP-004",
    "adapters",
    "adapter.lora adapter.spp adapter.sparsepeft",
    sees=("lora", "spp", "sparsepeft", "a stored zero", "an empty row"),
)
def _adapters(d: Draw, t: Trial) -> None:
    """Outputs, gradients and merge of factors beside a frozen weight are exact on integers."""
    kind = d.choice(("lora", "spp", "sparsepeft"))
    bands = d.integer(1, 3)
    shape = (bands * d.integer(1, 2), d.integer(1, 6))
    at, _ = d.mask(shape)
    w = {divmod(p, shape[1]): float(v) for p, v in zip(at, d.lattice((len(at),), 2), strict=True)}
    a, s, tokens = d.lattice((bands, shape[1]), 2), d.choice((1.0, 0.5, 2.0)), d.integer(0, 3)
    other = d.lattice((shape[0],) if kind == "spp" else (shape[0], bands), 2)
    x, dy = d.lattice((tokens, shape[1]), 2), d.lattice((tokens, shape[0]), 2)
    bias = d.lattice((shape[0],), 2) if d.flag() else None
    t.saw(kind)
    t.saw("a stored zero", 0.0 in w.values())
    t.saw("an empty row", w and len({o for o, _ in w}) < shape[0])
    everywhere = [(o, i) for o in range(shape[0]) for i in range(shape[1])]
    places = everywhere if kind == "lora" else list(w)
    if kind == "spp":
        change = adapters.proportional(w, a, other, s)
        da, dother = adapters.proportional_gradients(dy, x, w, a, other, s)
    else:
        change = adapters.low_rank(a, other, s, places)
        da, dother = adapters.low_rank_gradients(dy, x, a, other, s, places)
    weight = adapters.merged(w, change)
    name = "c" if kind == "spp" else "b"
    answer: dict[str, Any] = {
        "y": adapters.forward(x, weight, shape[0], bias),
        "dx": adapters.backward(dy, weight, shape[1]),
        "da": da,
    }
    answer |= {f"d{name}": dother, "merged": reals(weight.values()), "parameters": a.size + other.size}
    inputs: dict[str, Any] = {
        "out": shape[0],
        "in": shape[1],
        "positions": ids(at),
        "values": reals(w.values()),
        "bias": bias,
    }
    inputs |= {"a": a, name: other, "alpha": s * bands, "x": x, "dy": dy} | ({"rank": bands} if kind == "spp" else {})
    t.case(f"adapter.{kind}", inputs, answer)
