"""Properties of sizes beyond every boundary of an index type: adapters."""

from typing import Any

import numpy as np

from conformance.gen.numbers import ids, reals
from conformance.oracle import (
    adapters,
    prune,
)
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND
from conformance.properties.trial import Trial, property_of


@property_of(
    "adapter.large",
    "ADP-001 ADP-002 ADP-004 ADP-005 ADP-006 ADP-007 ADP-008",
    "adapters",
    "adapter.initial adapter.lora adapter.spp adapter.sparsepeft adapter.lora_star",
    sees=(BEYOND,),
    seeded=1,
)
def _adapters(d: Draw, t: Trial) -> None:
    """Outputs, gradients, merge and start of factors beside a large frozen weight are exact on integers."""
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
    inputs: dict[str, Any] = {"out": shape[0], "in": shape[1], "positions": at, "values": w.reshape(-1)[at]}
    inputs |= {"a": a, "x": x, "dy": dy, "alpha": 2.0}
    for kind in ("lora", "spp", "sparsepeft"):
        masked = g * stored if kind == "sparsepeft" else g
        if kind == "spp":
            change, name, other = banded * c[:, None] * w, "c", c
            da = (g * c[:, None] * w).reshape(2, -1, shape[1]).sum(axis=1)
            dother = np.sum(g * banded * w, axis=1)
        else:
            change, name, other = b @ a * (stored if kind == "sparsepeft" else 1.0), "b", b
            da, dother = b.T @ masked, masked @ a.T
        full = w + change
        merged = full.reshape(-1) if kind == "lora" else full.reshape(-1)[at]
        answer: dict[str, Any] = {"y": x @ full.T, "dx": dy @ full, "da": da, f"d{name}": dother, "merged": merged}
        answer["parameters"] = a.size + other.size
        t.case(f"adapter.{kind}", inputs | {name: other} | ({"rank": 2} if kind == "spp" else {}), answer)
    norms, dense = [float(n) for n in many.integers(shape[1], 1, 3)], many.lattice(shape, 20)
    start = prune.wanda(dense, norms, 0.25)
    weights = np.zeros(size)
    weights[start] = dense.reshape(-1)[start]
    full = weights.reshape(shape) + b @ a
    again = prune.wanda(full, norms, 0.25)
    case_inputs = {"out": shape[0], "in": shape[1], "positions": ids(start), "values": weights[start], "a": a, "b": b}
    case_inputs |= {"alpha": 2.0, "square_sums": reals(n * n for n in norms), "sparsity": 0.25}
    t.case("adapter.lora_star", case_inputs, {"kept": ids(again), "values": full.reshape(-1)[again] + 0.0})
    wide, seed, matrix = 65_600 + d.integer(0, 99), d.integer(0, 2**40), d.integer(0, 99)
    case_inputs = {"kind": "lora", "out": 3, "in": wide, "rows": 1, "seed": seed, "matrix": matrix, "like": np.zeros(0)}
    factor = adapters.start(1, wide, seed, matrix)
    t.case("adapter.initial", case_inputs, {"a": factor, "other": np.zeros((3, 1)), "parameters": wide + 3})
