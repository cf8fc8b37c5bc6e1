"""Mutants that refuse arrays without entries (PRT-019)."""

import numpy as np

from conformance.wrong.mutants.base import REFUSALS, Mutant, Operation, Values, right


def without_entries(op: str, *names: str) -> Operation:
    """Return the operation with a refusal if one of these inputs has no entries."""

    def call(a: Values) -> Values:
        if any(np.asarray(a[name]).size == 0 for name in names):
            raise REFUSALS[0]("KRN-009", "an array has no entries")
        return right(op)(a)

    return call


MUTANTS: list[Mutant] = [
    Mutant(op, "arrays without entries refused", ("PRT-019",), without_entries(op, *names), refuses_good=True)
    for op, *names in (
        ("gradient.at", "dy", "x"),
        ("gradient.candidates", "dy", "x"),
        ("layer.attention", "q"),
        ("prune.sparsegpt", "weights"),
    )
]
