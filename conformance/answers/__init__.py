"""What SPEC.md says an operation gives: from its inputs, as the protocol has them, to its outputs or its refusal.

    answer("select.largest", {"scores": reals([1, 3]), "ids": ids([5, 7]), "k": 1}).outputs      {"chosen": [7]}

A file an area, and in it one function an operation, which calls the plain Python of `conformance.oracle`. Properties
ask `answer` for what they expect, a check recomputes every frozen answer by it, and `AnswersPort` lets the judge ask it
as it asks any port. Start in `select.py`.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np

from conformance.answers.answer import ANSWERS, Answer, Inputs, Refusal
from conformance.oracle import second_reader, update_scores
from conformance.oracle.select import binary64
from conformance.oracle.select_pools import RefusedError
from conformance.protocol.port import Refused, Unsupported

__all__ = ["Answer", "AnswersPort", "answer", "offered"]

_ROUNDED = {"float64": binary64, "float32": update_scores.binary32}
_OF_NO_AREA = ("answer", "freeze")
for _module in iter_modules(__path__):
    if _module.name not in _OF_NO_AREA:
        import_module(f"{__name__}.{_module.name}")


def offered() -> frozenset[str]:
    """Return the operations that have an answer."""
    return frozenset(ANSWERS)


def answer(op: str, inputs: dict[str, Any], dtype: str = "float64") -> Answer:
    """Return the outputs and bounds of an operation, or the clauses by which its inputs are refused.

    Args:
        op: the operation.
        inputs: values by name, float arrays in binary64.
        dtype: ``float32`` where the answer depends on how single operations are rounded.

    Raises:
        KeyError: the operation has no answer yet.
    """
    try:
        made = ANSWERS[op](Inputs(inputs, _ROUNDED[dtype]))
    except Refusal as refusal:
        return Answer(refused=refusal.clauses)
    except second_reader.Refused as refused:
        return Answer(refused=list(dict.fromkeys(refused.clauses.split())))
    except RefusedError as refused:
        return Answer(refused=str(refused).split(":")[0].split())
    return made if isinstance(made, Answer) else Answer(made)


class AnswersPort:
    """The answers as a port, which the judge must find conformant."""

    name = "conformance.answers"

    def describe(self) -> dict[str, Any]:
        """Return name, operations and flags of the port (PRT-004)."""
        port = {"name": self.name, "language": "Python"}
        return {
            "port": port,
            "ops": {op: ["exact64", "fp32"] for op in sorted(ANSWERS)},
            "flags": {"deterministic": True},
        }

    def call(self, op: str, inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
        """Return the outputs of an operation, float arrays in `dtype`; see `conformance.protocol.port.Port`."""
        if op not in ANSWERS:
            raise Unsupported(op)
        made = answer(op, {name: _cast(value, "float64") for name, value in inputs.items()}, dtype)
        if made.refused:
            raise Refused(made.refused[0])
        return {name: _cast(value, dtype) for name, value in (made.written or made.outputs).items()}


def _cast(value: Any, dtype: str) -> Any:
    """Return a value of the protocol with its arrays of floats in a dtype."""
    if isinstance(value, dict):
        return {name: _cast(entry, dtype) for name, entry in value.items()}
    if isinstance(value, list):
        return [_cast(entry, dtype) for entry in value]
    return value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
