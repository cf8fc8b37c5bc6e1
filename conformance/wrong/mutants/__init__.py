"""Programs that are wrong on purpose: our engine with one operation replaced by a plausible mistake.

The kit is worth something only if each of them is refused, and by a case of the clause that it breaks. A file is named
after its area (select, update, event, kernels, layers, model, train, prune, adapters, generate, files); AREA_edits
holds tables of single edits to the engine's source. Null ports are in `nulls`. Start with `base.py`.
"""

from importlib import import_module
from itertools import chain
from pkgutil import iter_modules

from conformance.wrong.mutants.base import Mutant

__all__ = ["CONTROLS", "MUTANTS", "Mutant"]
_MODULES = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
MUTANTS: tuple[Mutant, ...] = tuple(chain.from_iterable(getattr(module, "MUTANTS", ()) for module in _MODULES))
"""Every mutant; the name of each is its own."""

CONTROLS: tuple[Mutant, ...] = tuple(chain.from_iterable(getattr(module, "CONTROLS", ()) for module in _MODULES))
"""Operations that were rewritten for mutants, here without a flaw: no case may refuse them."""
