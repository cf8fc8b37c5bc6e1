"""Mutants of readers of adapters and patches: positions sorted without their values, other scales or sums."""

import numpy as np

from conformance.engine.parts import changes, lora, shira, spiel, trl_delta
from conformance.wrong.mutants.base import Mutant, Values, edits, mutants, reset

OP = "convert.adapter"


def unsorted_values(out: Values, a: Values) -> Values:
    """Sort the values by their bits, so that they belong to other positions."""
    tensors = dict(out["tensors"])
    for name, t in tensors.items():
        order = {"F32": np.uint32, "BF16": np.uint16, "F16": np.uint16}[t["dtype"]]
        tensors[name] = t | {"bits": np.sort(t["bits"].view(order)).view(np.uint8)}
    return {"tensors": tensors}


def always_added(out: Values, a: Values) -> Values:
    return {"how": "add"}


def nothing_left_out(out: Values, a: Values) -> Values:
    return {"left_out": dict.fromkeys(out["left_out"], 0)}


def plain_zeros(out: Values, a: Values) -> Values:
    """Replace bytes 0x80 by 0, which turns amounts of −0.0 into +0.0."""
    tensors = {
        name: t | {"bits": np.where(t["bits"] == 0x80, 0, t["bits"]).astype(np.uint8)}
        for name, t in out["tensors"].items()
    }
    return {"tensors": tensors}


_FIRST = "product = left[:, :1] * factors.right[0]"

MUTANTS: list[Mutant] = [
    *mutants(OP,
        ("FMT-151", unsorted_values, "values not sorted with their positions"),
        ("FMT-151", always_added, "new bits taken for amounts"),
        ("FMT-151", plain_zeros, "an amount of −0.0 that loses its sign"),
        ("FMT-151", changes.sorted_support, "if twice.size:", "if False:", "a position that comes twice"),
        ("FMT-151", changes.sorted_support, "lowest < 0 or ", "", "a position below 0"),
        ("FMT-151", changes.float_base, "not in FLOATS", "in ()", "amounts added to integers"),
        ("FMT-151", spiel._check_sizes, "if announced is None:", "if True:", "counts of the configuration"),
        ("FMT-152", nothing_left_out, "what is left out not counted"),
        ("FMT-152", lora._blocks, _FIRST, f"{_FIRST} * factors.scale", "a scale taken twice for a term"),
        ("FMT-152", lora._blocks, "product.astype(np.float32)", "np.trunc(product).astype(np.float32)", "cut"),
        ("FMT-151", trl_delta._from_gaps, "gaps.astype(np.int64) + 1", "(gaps + 1).astype(np.int64)",
         "a gap of 65,535 that wraps to 0"),
        ("FMT-152", lora._check_sizes, "if first.shape[0] != rank or", "if False and", "a rank that is another"),
        unchecked="FMT-151 FMT-152"),
    *edits(OP, "FMT-152", lora._factors,
        ("math.sqrt(rank) if", "rank if", "no root of the rank"),
        ("alpha / (", "1 / (", "no alpha"),
        ("transposed = embedding or", "transposed =", "an embedding not turned"),
        ('adapter.config.get("fan_in_fan_out") is True', "False", "fan_in_fan_out")),
    *edits(OP, "FMT-152", lora._setting,
        ("for pattern in patterns:", "for pattern in ():", "patterns not looked at"),
        ("for pattern in patterns:", "for pattern in reversed(patterns):", "the last pattern that matches"),
        (r"(.*\.)?", "(.*)", "a pattern that ends a name within a part of its path")),
    reset("FMT-151", OP, spiel, "options not looked at", check_options=lambda *_: None),
    reset("FMT-157", OP, shira, "filling that is read", PADDED="none"),
    reset("FMT-151", OP, shira, "filling left out without its mark", PADDED="random"),
    reset("FMT-152", OP, lora, "options not looked at in LoRA", check_options=lambda *_: None),
]  # fmt: skip
