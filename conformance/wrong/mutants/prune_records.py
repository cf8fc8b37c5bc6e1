"""Mutants of reading a pruner's record (PRN-008)."""

from conformance.engine.parts import prune_record
from conformance.wrong.mutants.base import Mutant, Values, mutants


def no_pattern(out: Values, a: Values) -> Values:
    return {"pattern": None}


MUTANTS: list[Mutant] = [
    *mutants("prune.record",
        ("PRN-008", no_pattern, "a pattern passed over"),
        ("PRN-008", prune_record.read_record, 'record.get("sparsity") is not None and pattern is not None',
         "False", "a sparsity beside a pattern"),
        unchecked="PRN-008"),
]  # fmt: skip
