"""Properties of sizes beyond every boundary of an index type: adapters."""

from typing import Any

import numpy as np

from conformance.answers.answer import ids, reals
from conformance.oracle import prune
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
    t.saw(BEYOND, len(at) > 65_536)
    inputs: dict[str, Any] = {"out": shape[0], "in": shape[1], "positions": at, "values": many.lattice((len(at),), 2)}
    inputs |= {"a": many.lattice((2, shape[1]), 2), "alpha": 2.0}
    beside = {"x": many.lattice((2, shape[1]), 2), "dy": many.lattice((2, shape[0]), 2)}
    low_rank, banded = {"b": many.lattice((shape[0], 2), 2)}, {"c": many.lattice((shape[0],), 2), "rank": 2}
    for kind in ("lora", "spp", "sparsepeft"):
        t.case(f"adapter.{kind}", inputs | beside | (banded if kind == "spp" else low_rank))
    norms, dense = [float(n) for n in many.integers(shape[1], 1, 3)], many.lattice(shape, 20)
    kept = prune.wanda(dense, norms, 0.25)
    inputs |= low_rank | {"positions": ids(kept), "values": dense.reshape(-1)[kept]}
    t.case("adapter.lora_star", inputs | {"square_sums": reals(n * n for n in norms), "sparsity": 0.25})
    inputs = {"kind": "lora", "out": 3, "in": 65_600 + d.integer(0, 99), "rows": 1, "like": np.zeros(0)}
    t.case("adapter.initial", inputs | {"seed": d.integer(0, 2**40), "matrix": d.integer(0, 99)})
