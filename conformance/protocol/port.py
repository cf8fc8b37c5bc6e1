"""The interface of a port, a program under test: it answers operations by name, with values as inputs and outputs.

A port is any object with `name` and `call`. The arrays it gets are its own copies, in the float dtype of the call.
"""

import re
from typing import Any, Protocol

__all__ = ["Port", "Refused", "Unsupported", "clause_of"]

_PART = re.compile(r"^([A-Z]{3,4}-\d{3})\.\d+$")


class Refused(Exception):
    """The program refuses the inputs and names the clause they break; the number of a part is left off (PRT-006.2)."""

    def __init__(self, clause: str, message: str = "") -> None:
        super().__init__(f"{clause}: {message}")
        self.clause = clause_of(clause)


def clause_of(name: str) -> str:
    """Return the id of the clause that a part belongs to: FMT-098 for FMT-098.2, and other names unchanged."""
    return _PART.sub(r"\1", name)


class Unsupported(Exception):
    """The program does not offer the operation."""


class Port(Protocol):
    """A program under test."""

    @property
    def name(self) -> str:
        """The name of the port in reports."""
        ...

    def call(self, op: str, inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
        """Return the outputs of an operation of OPS.

        Absent inputs are None; float arrays have `dtype`, integers are int64 or uint64.

        Raises:
            Refused: the inputs break a clause.
            Unsupported: the operation is not offered.
        """
        ...
