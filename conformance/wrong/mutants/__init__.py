"""Mutants: our engine with one operation replaced by a plausible mistake.

The kit must refuse each of them by a case of the clause that it breaks. A file is named after its area: select, update,
event, kernels, layers, model, train, prune, quantise, adapters, generate, files or tasks. A table has
`# fmt: skip`, so that a row takes one or two lines. Null ports are in `nulls`. Start with `base.py`.
"""

from importlib import import_module
from itertools import chain
from pkgutil import iter_modules

from conformance.wrong.mutants.base import Mutant

__all__ = ["CONTROLS", "MUTANTS", "Mutant"]
_MODULES = [import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__)]
MUTANTS: tuple[Mutant, ...] = tuple(chain.from_iterable(getattr(module, "MUTANTS", ()) for module in _MODULES))
"""Every mutant; their names are unique."""

CONTROLS: tuple[Mutant, ...] = tuple(chain.from_iterable(getattr(module, "CONTROLS", ()) for module in _MODULES))
"""Operations rewritten for mutants, without a flaw, which no case may refuse."""
