"""Properties of adapters (chapter 11)."""

from typing import Any

import numpy as np

from conformance.answers import answer
from conformance.answers.answer import ids, reals
from conformance.oracle import prune
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
        t.case("adapter.initial", inputs | {"out": rows + 1})
        return
    t.saw(kind)
    t.case("adapter.initial", inputs)


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
    at = prune.pattern(abs(w) * norms, *pattern) if pattern else prune.wanda(w, norms, sparsity)
    inputs: dict[str, Any] = {"out": shape[0], "in": shape[1], "a": a, "b": b, "alpha": float(2 * rank)}
    inputs |= {"square_sums": reals(x * x for x in norms), "sparsity": sparsity}
    inputs |= {"pattern": ids(pattern)} if pattern else {}
    t.saw("a pattern" if pattern else "rows")
    short = len(at) > 1 and d.flag(6)
    t.saw("a support of another size", short)
    inputs |= {"positions": ids(at[short:]), "values": w.reshape(-1)[at[short:]]}
    expected = answer("adapter.lora_star", inputs).outputs
    t.saw("a support that changes", expected and expected["kept"].tolist() != at)
    t.case("adapter.lora_star", inputs)


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
    name = "c" if kind == "spp" else "b"
    inputs: dict[str, Any] = {
        "out": shape[0],
        "in": shape[1],
        "positions": ids(at),
        "values": reals(w.values()),
        "bias": bias,
    }
    inputs |= {"a": a, name: other, "alpha": s * bands, "x": x, "dy": dy} | ({"rank": bands} if kind == "spp" else {})
    t.case(f"adapter.{kind}", inputs)
