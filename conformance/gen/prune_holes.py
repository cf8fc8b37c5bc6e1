"""Cases of pruning that the other cases lack: counts rounded down in each block, a pruner that keeps fewer."""

from typing import Any

import numpy as np

from conformance.gen import prune_sparsegpt
from conformance.gen.numbers import Area, Numbers, ids


def pruned() -> Area:
    """Return cases of blocks whose counts are rounded down, and of a pruner that keeps fewer (PRN-011, ADP-005)."""
    area = Area("hole-prune", "an inverse a column")
    n = Numbers(132, 1)
    for name, shape, sparsity, block in (
        ("short", (3, 11), 0.4, 4),
        ("one", (1, 10), 0.3, 3),
    ):
        inputs: dict[str, Any] = {"weights": n.real(shape), "inputs": n.real((30, shape[1])), "sparsity": sparsity}
        lost = [int(sparsity * shape[0] * min(block, shape[1] - c) + 2**-20) for c in range(0, shape[1], block)]
        assert sum(lost) < int(sparsity * np.prod(shape)), "the blocks lose as many as the whole would"
        purpose = "what rounding leaves in one block removed in the next"
        prune_sparsegpt.add(area, f"blocks-{name}", "PRN-011 PRN-001", purpose, inputs | {"block": block})
    _fewer(area, n)
    return area


def _fewer(area: Area, n: Numbers) -> None:
    """Add a pruner that keeps fewer weights than the base stores (ADP-005)."""
    at = [p for p in range(32) if p % 8 < 4 or p == 31]
    inputs: dict[str, Any] = {"out": 4, "in": 8, "positions": ids(at), "values": n.lattice(17) + 20.0}
    inputs |= {"a": n.lattice((2, 8), 2), "b": n.lattice((4, 2), 2), "alpha": 4.0, "square_sums": np.ones(8)}
    inputs |= {"sparsity": 0.5, "pattern": None}
    purpose = "a support that shrinks by a weight, and nobody is told"
    area.add("refuse-fewer", "adapter.lora_star", "ADP-005", purpose, inputs, refused="ADP-005")


AREAS = (pruned,)
