"""Mutants of a pruned model that becomes a quantised model (QNT-009)."""

from conformance.engine.parts import quantise_files
from conformance.wrong.mutants.base import Mutant, edits, mutants

MODEL = "quantise.model"
_WRITE = quantise_files.StoredModel.write

"""Operation, clauses, function, text of its source, replacement, and flaw."""

MUTANTS: list[Mutant] = [
    *mutants(MODEL, unchecked="QNT-009"),
    *edits(MODEL, "QNT-009", _WRITE,
        ("(SCALE,) if grid.symmetric else (SCALE, ZERO)", "(SCALE,)", "zero points left out"),
        ("{**source.attributes, ATTRIBUTE:", "{ATTRIBUTE:", "attributes of the model lost"),
        ('"rounding": rounding', '"rounding": "unknown"', "a rounding that nobody knows"),
        ('"grid": str(grid)', '"grid": str(grid).partition(":")[0]', "a grid without its groups"),
        ("for part in parts} for name in matrices", "for part in parts} for name in ()",
         "scales that no role names")),
]  # fmt: skip
