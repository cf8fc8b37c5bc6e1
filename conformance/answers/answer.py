"""The record `Answer`, the table of the functions that give one, and what they share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.cases.case import Bound
from conformance.oracle.select import Round, binary64

__all__ = ["ANSWERS", "Answer", "Inputs", "Refusal", "answers", "ids", "reals", "refuse"]


class Inputs(dict[str, Any]):
    """The inputs of a call by name; those that it leaves out are None.

    Attributes:
        rounded: rounds a number once to the dtype of the call.
    """

    def __init__(self, values: Mapping[str, Any], rounded: Round = binary64) -> None:
        super().__init__(values)
        self.rounded = rounded

    def __missing__(self, name: str) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation gives.

    Attributes:
        outputs: values by name; empty for a refusal.
        bounds: gauges of the outputs that are compared by gauge.
        refused: the clauses that the inputs break, of which a port names one; empty for an answer.
        written: outputs as a port could write them, where a case only describes them.
    """

    outputs: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    refused: Sequence[str] = ()
    written: Mapping[str, Any] = field(default_factory=dict)


class Refusal(Exception):
    """The inputs break these clauses."""

    def __init__(self, *clauses: str) -> None:
        super().__init__(" ".join(clauses))
        self.clauses = clauses


Made = Mapping[str, Any] | Answer
ANSWERS: dict[str, Callable[[Inputs], Made]] = {}


def answers(op: str) -> Callable[[Callable[[Inputs], Made]], Callable[[Inputs], Made]]:
    """Return a decorator that enters a function into `ANSWERS`."""

    def enter(function: Callable[[Inputs], Made]) -> Callable[[Inputs], Made]:
        ANSWERS[op] = function
        return function

    return enter


def refuse(**broken: bool) -> None:
    """Raise a Refusal with the clauses that are broken: ``refuse(SEL_004=..., SEL_005=...)``.

    Inputs that break several clauses may be refused by any of them.
    """
    clauses = [name.replace("_", "-") for name, is_broken in broken.items() if is_broken]
    if clauses:
        raise Refusal(*clauses)


def ids(values: Any) -> NDArray[Any]:
    """Return integers as an int64 array."""
    return np.array(list(values), dtype=np.int64)


def reals(values: Any) -> NDArray[Any]:
    """Return numbers as a float64 array."""
    return np.array(list(values), dtype=np.float64)
