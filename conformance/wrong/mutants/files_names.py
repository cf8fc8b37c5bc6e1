"""Mutants of the check of file names (FMT-112), and of the expansion of tensors to dense arrays (FMT-098)."""

import numpy as np

from conformance.wrong.mutants.base import (
    Mutant,
    Values,
    after,
    changed,
    mutant,
    unchecked,
)
from conformance.wrong.mutants.train_around import names


def mask_of_bits(out: Values, a: Values) -> Values:
    """Expand a mask to 255 in place of 1."""
    bits = out["bits"]
    return {"bits": np.where(bits == 1, 255, bits).astype(np.uint8)} if bits.max(initial=0) == 1 else {}


MUTANTS: list[Mutant] = [
    mutant("FMT-112", "file.name", names(lambda name: name == "model.safetensors"), "one name alone"),
    mutant(
        "FMT-112",
        "file.name",
        names(lambda n: n.startswith(("model", "adapter_model", "pytorch_model")) and n.endswith(".safetensors")),
        "by how a name begins and ends",
    ),
    *unchecked("file.name", "FMT-112"),
    mutant(
        "FMT-098",
        "file.expand",
        changed("file.expand", limit=lambda a: 2 * (a.get("limit") or 2**35)),
        "twice the limit",
    ),
    mutant("FMT-098", "file.expand", after("file.expand", mask_of_bits), "a mask of 255"),
    *unchecked("file.expand", "FMT-098"),
]
