"""Mutants of reading a pruner's record (PRN-008)."""

from conformance.engine.parts import prune_record
from conformance.wrong.mutants.base import (
    Mutant,
    Values,
    after,
    edited,
    mutant,
    unchecked,
)


def no_pattern(out: Values, a: Values) -> Values:
    return {"pattern": None}


MUTANTS: list[Mutant] = [
    mutant("PRN-008", "prune.record", after("prune.record", no_pattern), "a pattern passed over"),
    *unchecked("prune.record", "PRN-008"),
    edited(
        "PRN-008",
        "prune.record",
        prune_record.read_record,
        'record.get("sparsity") is not None and pattern is not None',
        "False",
        "a sparsity beside a pattern",
    ),
]
