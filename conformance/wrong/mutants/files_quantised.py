"""Mutants of a pruned model that becomes a quantised model (QNT-009)."""

from conformance.engine.parts import quantise_files
from conformance.wrong.mutants.base import Mutant, Rows, edits, unchecked

MODEL = "quantise.model"
_WRITE = quantise_files.StoredModel.write

_ROWS: Rows = (
    (MODEL, "QNT-009", _WRITE, "(SCALE,) if grid.symmetric else (SCALE, ZERO)", "(SCALE,)", "zero points left out"),
    (MODEL, "QNT-009", _WRITE, "{**source.attributes, ATTRIBUTE:", "{ATTRIBUTE:", "attributes of the model lost"),
    (MODEL, "QNT-009", _WRITE, '"rounding": rounding', '"rounding": "unknown"', "a rounding that nobody knows"),
    (MODEL, "QNT-009", _WRITE, '"grid": str(grid)', '"grid": str(grid).partition(":")[0]', "a grid without its groups"),
    (MODEL, "QNT-009", _WRITE, "for part in parts} for name in matrices", "for part in parts} for name in ()",
     "scales that no role names"),
)  # fmt: skip
"""Operation, clauses, function, text of its source, replacement, and flaw."""

MUTANTS: list[Mutant] = [*edits(_ROWS), *unchecked(MODEL, "QNT-009")]
