"""Programs that are wrong on purpose: our engine with one operation replaced by a plausible mistake.

The kit is worth something only if each of them is refused, and by a case of the clause that it breaks.
"""

from conformance.wrong.mutants import (
    adapters,
    around,
    batches,
    choosing,
    conditions,
    converting,
    converting_adapters,
    events,
    file_edits,
    files,
    folders,
    generating,
    hole_edits,
    kernels,
    layers,
    model_edits,
    models,
    optimizers,
    packing,
    pruning,
    rule_edits,
    rules,
    short_sums,
    states,
)
from conformance.wrong.mutants.base import Mutant

__all__ = ["CONTROLS", "MUTANTS", "Mutant"]

MUTANTS: tuple[Mutant, ...] = (
    *choosing.MUTANTS,
    *kernels.MUTANTS,
    *layers.MUTANTS,
    *models.MUTANTS,
    *events.MUTANTS,
    *rules.MUTANTS,
    *optimizers.MUTANTS,
    *pruning.MUTANTS,
    *adapters.MUTANTS,
    *generating.MUTANTS,
    *files.MUTANTS,
    *file_edits.MUTANTS,
    *rule_edits.MUTANTS,
    *model_edits.MUTANTS,
    *short_sums.MUTANTS,
    *states.MUTANTS,
    *around.MUTANTS,
    *batches.MUTANTS,
    *folders.MUTANTS,
    *packing.MUTANTS,
    *converting.MUTANTS,
    *converting_adapters.MUTANTS,
    *hole_edits.MUTANTS,
    *conditions.MUTANTS,
)
"""Every mutant; the name of each is its own."""

CONTROLS: tuple[Mutant, ...] = (
    *events.CONTROLS,
    *optimizers.CONTROLS,
    *adapters.CONTROLS,
    *generating.CONTROLS,
    *short_sums.CONTROLS,
)
"""Operations that were rewritten for mutants, here without a flaw: no case may refuse them."""
