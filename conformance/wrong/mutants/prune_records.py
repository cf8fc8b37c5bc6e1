"""Mutants of reading a pruner's record (PRN-008)."""

from conformance.wrong.mutants.base import (
    Mutant,
    Values,
    after,
    mutant,
    unchecked,
)


def no_pattern(out: Values, a: Values) -> Values:
    return {"pattern": None}


MUTANTS: list[Mutant] = [
    mutant("PRN-008", "prune.record", after("prune.record", no_pattern), "a pattern passed over"),
    *unchecked("prune.record", "PRN-008"),
]
