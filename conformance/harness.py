"""Runs cases against a port and collects, case by case, what failed."""

import math
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conformance.cases import Case
from conformance.compare import compare
from conformance.ops import OPS
from conformance.port import Port, Refused, Unsupported

__all__ = ["Failure", "Result", "Variant", "run"]


@dataclass(frozen=True, slots=True)
class Variant:
    """A port in one way of being called.

    Attributes:
        port: what is called.
        dtype: float dtype of its arrays.
        kinds: kinds of operations that this way is meant for.
    """

    port: Port
    dtype: str
    kinds: tuple[str, ...] = ("scalar", "rule", "layer", "whole")

    @property
    def name(self) -> str:
        """What failures call it."""
        return f"{self.port.name} {self.dtype}"

    def takes(self, case: Case) -> bool:
        """Tell whether the case is meant for this variant."""
        kind = OPS[case.op].kind
        return kind in self.kinds and (kind == "scalar" or self.dtype in case.dtypes)


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in one variant: the output, what was found, and how far outside the bound."""

    variant: str
    output: str
    detail: str
    ratio: float = math.inf


@dataclass(slots=True)
class Result:
    """The outcome of a case over all variants; `skipped` says why if none took it.

    Attributes:
        ratio: the largest part of a bound that any output used.
    """

    case: Case
    failures: list[Failure] = field(default_factory=list)
    ran: int = 0
    ratio: float = 0.0
    skipped: str = ""

    @property
    def status(self) -> str:
        """Return passed, failed or skipped."""
        if self.failures:
            return "failed"
        return "passed" if self.ran else "skipped"


def run(
    cases: Iterable[Case], variants: Sequence[Variant], progress: Callable[[Case], None] = lambda case: None
) -> list[Result]:
    """Return one result a case."""
    results = []
    for case in cases:
        progress(case)
        result = Result(case)
        scalar = OPS[case.op].kind == "scalar"
        meant = [v for v in variants if v.takes(case)]
        for variant in meant[:1] if scalar else meant:
            _judge(result, variant)
        if not result.ran and not result.failures:
            result.skipped = result.skipped or "no way of calling the port is meant for this case"
        results.append(result)
    return results


def _judge(result: Result, variant: Variant) -> None:
    case, failures = result.case, result.failures
    given = {name: _prepared(case.inputs.get(name), variant.dtype) for name in _names(case.op)}
    before = {name: _prepared(case.inputs.get(name), variant.dtype) for name in _names(case.op)}
    try:
        with np.errstate(all="ignore"):
            got = variant.port.call(case.op, given, variant.dtype)
    except Refused as refusal:
        result.ran += 1
        if refusal.clause not in case.refused:
            wanted = f"a refusal by {' or '.join(case.refused)}" if case.refused else "an answer"
            failures.append(Failure(variant.name, "", f"expected {wanted}, got the refusal {refusal}"))
    except Unsupported:
        result.skipped = f"{variant.port.name} does not offer {case.op}"
        return
    except Exception:  # noqa: BLE001  whatever a port raises is a finding about the port
        trace = traceback.format_exc(limit=-3).strip()
        failures.append(Failure(variant.name, "", f"it raised\n{trace}"))
        return
    else:
        result.ran += 1
        if case.refused:
            failures.append(
                Failure(variant.name, "", f"expected a refusal by {' or '.join(case.refused)}, got an answer")
            )
        else:
            _compare_outputs(result, variant, got)
    changed = [name for name in before if not _same(before[name], given[name])]
    if changed:
        failures.append(Failure(variant.name, "", f"it wrote to its input {changed[0]}"))


def _compare_outputs(result: Result, variant: Variant, got: Any) -> None:
    case = result.case
    outputs = OPS[case.op].outputs
    if not isinstance(got, dict) or set(got) != set(outputs):
        have = sorted(got) if isinstance(got, dict) else type(got).__name__
        result.failures.append(Failure(variant.name, "", f"expected outputs {sorted(outputs)}, got {have}"))
        return
    for name, how in outputs.items():
        verdict = compare(
            got[name],
            case.expected[name],
            how,
            variant.dtype,
            case.bounds.get(name),
            keep_zeros=name in case.zeros,
        )
        if verdict.passed:
            result.ratio = max(result.ratio, verdict.ratio)
        else:
            result.failures.append(Failure(variant.name, name, verdict.detail, verdict.ratio))


def _names(op: str) -> list[str]:
    return [name.rstrip("?") for name in OPS[op].inputs]


def _prepared(value: Any, dtype: str) -> Any:
    """Return a copy of a value with float arrays in dtype."""
    if isinstance(value, np.ndarray):
        return value.astype(dtype) if value.dtype.kind == "f" else value.copy()
    if isinstance(value, dict):
        return {k: _prepared(v, dtype) for k, v in value.items()}
    if isinstance(value, list):
        return [_prepared(v, dtype) for v in value]
    return value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b) or (a != a and b != b)
