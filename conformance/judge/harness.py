"""Runs cases against a port and returns one result for each case.

    results = run(cases, [Variant(port, "float32")])

A port is called in this process, or is a child process that speaks the protocol (`conformance.protocol.child`).
"""

import math
import random
import re
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conformance.cases.case import Case
from conformance.cases.compare import holds
from conformance.cases.inputs import prepared_inputs, same_values
from conformance.cases.ops import OPS
from conformance.cases.profiles import CLASSES, in_order, needs_zstd
from conformance.judge.compare_files import judged
from conformance.judge.slack import bound_of
from conformance.judge.stop import Stop
from conformance.protocol.child import PortFault, StartError
from conformance.protocol.port import Port, Refused, Unsupported

__all__ = [
    "Failure",
    "Result",
    "Variant",
    "can_ask",
    "classes_of",
    "failing_operations",
    "prepared_inputs",
    "run",
]

MAX_RESTARTS = 20
"""A port that was lost this many times is asked no further cases."""
_PROBED = 0.05
"""Share of the cases that are asked twice, in addition to one case of each operation."""
_REDUCED = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Variant:
    """A port and the float dtype in which it is called.

    Attributes:
        port: the port.
        dtype: float dtype of its arrays.
        kinds: kinds of operations that are asked in this dtype.
        offers: the operations that its hello offers in this dtype; None if it has no hello.
        deterministic: whether it promises the same bytes for the same call.
        zstd: whether it reads compressed files; if not, it must refuse them.
    """

    port: Port
    dtype: str
    kinds: tuple[str, ...] = ("scalar", "rule", "layer", "whole")
    offers: frozenset[str] | None = None
    deterministic: bool = False
    zstd: bool = True

    @property
    def name(self) -> str:
        """The name in failures: that of the port, then the dtype."""
        return f"{self.port.name} {self.dtype}"

    @property
    def class_name(self) -> str:
        """The numeric class that has its dtype."""
        return next(name for name, dtype in CLASSES.items() if dtype == self.dtype)

    def dtype_of(self, case: Case) -> str:
        """Return the dtype that the case is asked in: always float64 for scalar operations (PRT-015)."""
        return "float64" if OPS[case.op].kind == "scalar" else self.dtype

    def takes(self, case: Case) -> bool:
        """Return whether the case can be asked of this variant."""
        return OPS[case.op].kind in self.kinds and can_ask(case, self.dtype)


def can_ask(case: Case, dtype: str) -> bool:
    """Return whether a case can be asked in a dtype."""
    kind = OPS[case.op].kind
    if dtype in _REDUCED:
        return kind == "layer" and holds(case, dtype)
    return kind == "scalar" or dtype in case.dtypes


def classes_of(case: Case, classes: Sequence[str]) -> tuple[str, ...]:
    """Return those of `classes` in which a case is asked; at most one for scalar operations (PRT-015)."""
    fit = tuple(name for name in classes if can_ask(case, CLASSES[name]))
    return fit[:1] if OPS[case.op].kind == "scalar" else fit


@dataclass(frozen=True, slots=True)
class Failure:
    """One fault of a port in one variant.

    Attributes:
        output: name of the wrong output; empty if the fault is of another kind.
        ratio: error over bound of the worst entry.
        status: fail (a wrong answer), error, crash, timeout or protocol.
        got: the wrong output, if there is one.
    """

    variant: str
    output: str
    detail: str
    ratio: float = math.inf
    status: str = "fail"
    got: Any = None

    @property
    def in_class(self) -> str:
        """The numeric class of the call, from the last word of `variant`, which is the dtype."""
        dtype = self.variant.rpartition(" ")[2]
        return next((name for name, one in CLASSES.items() if one == dtype), "")


@dataclass(slots=True)
class Result:
    """The outcome of a case over all variants; `skipped` says why if none took it.

    Attributes:
        ratio: the largest fraction of its bound that any output used.
        reason: unsupported, blocked or notrun if the case did not run in every dtype; else empty.
        waived: the issues that an expected-failure manifest names for its failures; else empty.
        seconds: how long its calls took.
    """

    case: Case
    failures: list[Failure] = field(default_factory=list)
    ran: int = 0
    ratio: float = 0.0
    skipped: str = ""
    reason: str = ""
    waived: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The id of the case."""
        return self.case.id

    @property
    def status(self) -> str:
        """Return passed, failed or skipped."""
        if self.failures and not self.waived:
            return "failed"
        return "passed" if self.outcome == "pass" else "skipped"

    @property
    def outcome(self) -> str:
        """Return pass, fail, error, crash, timeout, protocol, unsupported, blocked, notrun or waived."""
        if self.waived:
            return "waived"
        if self.failures:
            return max((f.status for f in self.failures), key=_GRAVITY.index)
        return self.reason or ("pass" if self.ran else "unsupported")


Answered = set[tuple[str, str]]
"""Pairs of an operation and the name of a variant that answered it although its hello does not offer it (PRT-007)."""
_CLAUSE = re.compile(r"[A-Z]{3,4}-\d{3}(\.\d+)?")
_GRAVITY = ("fail", "error", "protocol", "timeout", "crash")


def run(
    cases: Iterable[Case],
    variants: Sequence[Variant],
    progress: Callable[[Case], None] = lambda case: None,
    order: random.Random | None = None,
    lanes: Sequence[Sequence[Variant]] = (),
    most: int = 0,
) -> list[Result]:
    """Return one result per case, in the order of the cases.

    order  random numbers that shuffle the cases and pick those asked twice; None to do neither
    lanes  the same variants in other processes, which are asked in parallel
    most   number of failed cases after which the run stops; 0 to run all
    """
    by_op: dict[str, list[Result]] = {}
    results = [Result(case) for case in cases]
    for result in results:
        by_op.setdefault(result.case.op, []).append(result)
    bad: set[str] = set()
    answered: Answered = set()
    for group in in_order(by_op):
        members = [result for op in group for result in by_op[op]]
        again: set[str] = set()
        if order is not None:
            order.shuffle(members)
            again = {result.case.id for result in members if order.random() < _PROBED}
            # one case of each operation, if possible one that expects an answer: later entries of the dict win
            again |= set({r.case.op: r.case.id for r in sorted(members, key=lambda r: not r.case.refused)}.values())
        stop = Stop(most, sum(bool(r.failures) for r in results))
        _judge_group(members, [variants, *lanes], bad, answered, stop, again, progress)
        bad |= failing_operations(members)
    return results


def failing_operations(results: Iterable[Result]) -> set[str]:
    """Return the operations with a failed or blocked case, so that operations that build on them are blocked too."""
    return {r.case.op for r in results if r.failures or r.reason == "blocked"}


def _judge_group(
    results: Sequence[Result],
    lanes: Sequence[Sequence[Variant]],
    bad: set[str],
    answered: Answered,
    stop: Stop,
    again: set[str],
    progress: Callable[[Case], None],
) -> None:
    """Run cases of operations that do not rest on each other, divided among the lanes."""

    def work(number: int) -> None:
        for result in results[number :: len(lanes)]:
            if stop.reached:
                result.reason, result.skipped = "notrun", stop.reason
                continue
            progress(result.case)
            began = time.monotonic()
            _judge_case(result, lanes[number], bad, answered, again=result.case.id in again)
            result.seconds = time.monotonic() - began
            stop.failed += bool(result.failures)

    if len(lanes) == 1:
        work(0)
        return
    with ThreadPoolExecutor(len(lanes)) as pool:
        list(pool.map(work, range(len(lanes))))


def _judge_case(result: Result, variants: Sequence[Variant], bad: set[str], answered: Answered, *, again: bool) -> None:
    case = result.case
    blocking = [need for need in OPS[case.op].rests_on if need in bad]
    if blocking:
        # PRT-012: a case is blocked if an operation that its own rests on fails
        result.reason, result.skipped = "blocked", f"{case.op} rests on {blocking[0]}, which fails"
        return
    meant = [v for v in variants if v.takes(case)]
    meant = meant[:1] if OPS[case.op].kind == "scalar" else meant
    dtypes: set[str] = set()
    for variant in meant:
        if getattr(variant.port, "restarts", 0) >= MAX_RESTARTS:
            result.reason, result.skipped = "notrun", f"{variant.port.name} was lost {MAX_RESTARTS} times"
            continue
        if (case.op, variant.name) in answered:
            result.skipped = f"{variant.name} answers {case.op}, which its hello does not offer: told once"
            continue
        before = result.ran
        _judge(result, variant, again=again)
        if result.ran > before:
            dtypes.add(variant.dtype)
            if variant.offers is not None and case.op not in variant.offers:
                answered.add((case.op, variant.name))
    if not meant:
        result.skipped = "no way of calling the port is meant for this case"
    # some form of the port must answer in every dtype
    if not meant or {v.dtype for v in meant} - dtypes:
        result.reason = result.reason or "unsupported"


def _judge(result: Result, variant: Variant, *, again: bool) -> None:
    case, failures = result.case, result.failures
    dtype = variant.dtype_of(case)
    inputs, before = prepared_inputs(case, dtype), prepared_inputs(case, dtype)
    answer = _ask(variant, case, inputs)
    if isinstance(answer, Unsupported):
        if variant.offers is not None and case.op in variant.offers:
            # PRT-007: a port answers the operations that its hello offers
            text = f"its hello offers {case.op}, its answer does not"
            failures.append(Failure(variant.name, "", text, status="protocol"))
        result.skipped = result.skipped or f"{variant.port.name} does not offer {case.op}"
        return
    result.ran += 1
    if isinstance(answer, Failure):
        failures.append(answer)
        return
    if variant.offers is not None and case.op not in variant.offers:
        text = f"its hello does not offer {case.op}, but it answers"
        failures.append(Failure(variant.name, "", text, status="protocol"))
    else:
        _judge_answer(result, variant, answer)
    if again and not failures:
        _ask_again(result, variant)
    changed = [name for name in before if not same_values(before[name], inputs[name])]
    if changed:
        failures.append(Failure(variant.name, "", f"it wrote to its input {changed[0]}"))


def _ask(variant: Variant, case: Case, inputs: dict[str, Any]) -> Any:
    """Return the outputs, the exception `Refused` or `Unsupported`, or a `Failure` for any other exception."""
    try:
        with np.errstate(all="ignore"):
            return variant.port.call(case.op, inputs, variant.dtype_of(case))
    except (Refused, Unsupported) as answer:
        return answer
    except PortFault as fault:
        return Failure(variant.name, "", str(fault), status=fault.status)
    except StartError as error:
        return Failure(variant.name, "", str(error), status="crash")
    except Exception:  # noqa: BLE001  whatever a port raises is a finding about the port
        trace = traceback.format_exc(limit=-3).strip()
        return Failure(variant.name, "", f"it raised\n{trace}", status="error")


def _judge_answer(result: Result, variant: Variant, answer: Any) -> None:
    """Add failures to the result if the outputs or the refusal are wrong."""
    if isinstance(answer, Refused):
        _judge_refusal(result, variant, answer)
    elif clauses := _refused_by(result.case, variant):
        text = f"expected a refusal by {' or '.join(clauses)}, got an answer"
        result.failures.append(Failure(variant.name, "", text))
    else:
        _compare_outputs(result, variant, answer)


def _refused_by(case: Case, variant: Variant) -> tuple[str, ...]:
    """Return the clauses by which a port must refuse a case; empty if it must answer."""
    # PRT-006.3: a port without zstd refuses compressed files by FMT-043
    lacks = not variant.zstd and "FMT-043" not in case.refused and needs_zstd(case)
    return (*case.refused, "FMT-043") if lacks else case.refused


def _judge_refusal(result: Result, variant: Variant, refusal: Refused) -> None:
    """Check that the case expects this refusal (PRT-006), and that the port answers a ping after it (PRT-008)."""
    clauses = _refused_by(result.case, variant)
    if refusal.clause not in clauses:
        expected = f"a refusal by {' or '.join(clauses)}" if clauses else "an answer"
        strange = "" if _CLAUSE.fullmatch(refusal.clause) else ", whose code is no id of a clause (PRT-006)"
        result.failures.append(Failure(variant.name, "", f"expected {expected}, got the refusal {refusal}{strange}"))
    elif clauses != result.case.refused and refusal.clause == "FMT-043" and "zstd" not in str(refusal):
        text = f"expected a refusal by FMT-043 whose detail names zstd, got the refusal {refusal}"
        result.failures.append(Failure(variant.name, "", text))
    elif (fault := _no_longer_answers(variant.port)) is not None:
        result.failures.append(Failure(variant.name, "", f"after a refusal: {fault}", status=fault.status))


def _no_longer_answers(port: Any) -> PortFault | None:
    """Return the fault of a port that answers no ping after a refusal (PRT-008); None if it answers."""
    ping = getattr(port, "ping", None)
    if ping is None:
        return None
    try:
        ping()
    except PortFault as fault:
        return fault
    return None


def _ask_again(result: Result, variant: Variant) -> None:
    """Ask the case again: the answer must be right (PRT-009), with the same bytes if deterministic (PRT-013)."""
    raw = getattr(variant.port, "raw_answer", None)
    if raw is None:
        return
    first, second = raw(), Result(result.case)
    answer = _ask(variant, result.case, prepared_inputs(result.case, variant.dtype_of(result.case)))
    if isinstance(answer, Failure):
        second.failures.append(answer)
    elif variant.deterministic and raw() != first:
        text = "the same call got other bytes, although the port says that it is deterministic"
        second.failures.append(Failure(variant.name, "", text))
    elif isinstance(answer, Unsupported):
        second.failures.append(Failure(variant.name, "", "it does not offer what it just answered", status="protocol"))
    else:
        _judge_answer(second, variant, answer)
    result.failures += [replace(f, detail=f"asked again: {f.detail}") for f in second.failures]


def _compare_outputs(result: Result, variant: Variant, answer: Any) -> None:
    case = result.case
    outputs = OPS[case.op].outputs
    if not isinstance(answer, dict) or set(answer) != set(outputs):
        have = sorted(answer) if isinstance(answer, dict) else type(answer).__name__
        result.failures.append(Failure(variant.name, "", f"expected outputs {sorted(outputs)}, got {have}"))
        return
    for name, how in outputs.items():
        verdict = judged(
            answer[name],
            case.expected[name],
            how,
            variant.dtype_of(case),
            bound_of(case, name),
            keep_zeros=name in case.zeros,
        )
        if verdict.passed:
            result.ratio = max(result.ratio, verdict.ratio)
        else:
            result.failures.append(Failure(variant.name, name, verdict.detail, verdict.ratio, got=answer[name]))
