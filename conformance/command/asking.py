"""Asks a port one case, and prints every line, the whole arrays, and the first difference."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from conformance.cases.case import Case
from conformance.cases.profiles import is_scalar
from conformance.judge.harness import Failure, Result, Variant, can_ask, run
from conformance.protocol.child import Child
from conformance.report import whole_text
from conformance.report.shown import first_index

__all__ = ["ask"]

LONGEST = 1 << 16
"""The most characters of a line that are shown."""
ARRAYS = 1 << 20
"""The most entries of an array that are shown."""

Say = Callable[[str], Any]


class _Kept:
    """A port that keeps its last answer in `last`."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.last: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._child, name)

    def call(self, op: str, inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
        """Ask the port, keep its outputs in `last`, and return them."""
        self.last = {}
        self.last = self._child.call(op, inputs, dtype)
        return self.last


def ask(case: Case, variants: Sequence[Variant], say: Say) -> Result:
    """Ask a port a case in each form and class; return the last failed result, or the last one if none failed.

    say  prints a line
    """
    say(f"{case.id} ({case.op}), meant to catch: {case.purpose}")
    last = Result(case)
    meant = [v for v in variants if can_ask(case, v.dtype)]
    for variant in meant[:1] if is_scalar(case.op) else meant:
        assert isinstance(variant.port, Child)
        port = _Kept(variant.port)
        variant.port.on_line = lambda arrow, raw: say(f"  {arrow} {_line(raw)}")
        say(f"{variant.name}:")
        (result,) = run([case], [replace(variant, port=port)])
        variant.port.on_line = lambda arrow, raw: None
        _tell(result, port.last, say)
        last = result if result.failures or not last.failures else last
    return last


def _tell(result: Result, answer: dict[str, Any], say: Say) -> None:
    case = result.case
    wrong = {failure.output: failure for failure in result.failures}
    if case.refused:
        say(f"  expected a refusal by {' or '.join(case.refused)}")
    for name, value in case.expected.items():
        say(f"  expected {name} = {whole_text(value, ARRAYS)}")
        if name in answer:
            say(f"  got      {name} = {whole_text(answer[name], ARRAYS)}")
        if name in wrong:
            say(f"  WRONG    {name}{_where(wrong[name])}: {wrong[name].detail}")
    for failure in result.failures:
        if failure.output not in case.expected:
            say(f"  WRONG    {failure.detail}")
    if not result.failures:
        say(f"  {result.skipped or 'right'}")


def _where(failure: Failure) -> str:
    index = first_index(failure)
    return f", first at {index}" if index else ""


def _line(raw: bytes) -> str:
    text = raw.decode("utf-8", "backslashreplace").rstrip("\n")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text)} characters)"
