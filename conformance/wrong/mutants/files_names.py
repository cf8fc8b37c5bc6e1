"""Mutants of the check of file names (FMT-112), and of the expansion of tensors to dense arrays (FMT-098)."""

import numpy as np

from conformance.wrong.mutants.base import Mutant, Values, mutants
from conformance.wrong.mutants.train_around import names


def mask_of_bits(out: Values, a: Values) -> Values:
    """Expand a mask to 255 in place of 1."""
    bits = out["bits"]
    return {"bits": np.where(bits == 1, 255, bits).astype(np.uint8)} if bits.max(initial=0) == 1 else {}


MUTANTS: list[Mutant] = [
    *mutants("file.name",
        ("FMT-112", names(lambda name: name == "model.safetensors"), "one name alone"),
        ("FMT-112",
         names(lambda n: n.startswith(("model", "adapter_model", "pytorch_model")) and n.endswith(".safetensors")),
         "by how a name begins and ends"),
        unchecked="FMT-112"),
    *mutants("file.expand",
        ("FMT-098", {"limit": lambda a: 2 * (a.get("limit") or 2**35)}, "twice the limit"),
        ("FMT-098", mask_of_bits, "a mask of 255"),
        unchecked="FMT-098"),
]  # fmt: skip
