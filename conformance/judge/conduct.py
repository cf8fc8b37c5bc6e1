"""Checks that a port declines what it does not offer, answers alike in another process, and ends when it is asked to.

Each check is a result of the profile `protocol`, which every claim includes (PRT-010).
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from conformance.cases.case import Case
from conformance.cases.profiles import CLASSES, classes_offered, is_scalar, offered_in
from conformance.judge.harness import Variant, can_ask, prepared_inputs
from conformance.judge.judgement import PROTOCOL, PropertyResult
from conformance.protocol.child import Child, PortFault, StartError
from conformance.protocol.hello import Hello
from conformance.protocol.port import Refused, Unsupported

__all__ = ["CHECKS", "declining", "ending", "repeating", "variants_of"]

CHECKS = ("protocol.unsupported", "protocol.other-process", "protocol.stop", "protocol.end-of-input")
"""Every check by name."""
_TOLD = 3
"""`declining` stops after this many wrong answers."""


def variants_of(child: Child, hello: Hello, classes: Sequence[str]) -> list[Variant]:
    """Return a port in each numeric class of its hello, or of `classes` if any are named."""
    offered = classes_offered(hello.ops)
    out = [
        Variant(child, dtype, offers=offered_in(name, hello.ops), deterministic=hello.deterministic, zstd=hello.zstd)
        for name, dtype in CLASSES.items()
        if name in offered and (not classes or name in classes)
    ]
    # a port that offers nothing is asked too, because it must decline each call (PRT-007)
    return out or [Variant(child, "float64", offers=frozenset())]


def declining(children: Sequence[Child], cases: Iterable[Case]) -> PropertyResult:
    """Check that every form of a port answers unsupported to operations that its hello does not offer (PRT-007)."""
    result = PropertyResult("protocol.unsupported", ("PRT-007",), PROTOCOL)
    begun = time.monotonic()
    wrong: list[str] = []
    smallest = _smallest(cases)
    for child in children:
        try:
            pairs = _not_offered(child, smallest)
        except StartError as error:  # the last call has ended it
            wrong.append(f"{child.name}: {error}")
            continue
        for op, name in pairs:
            if len(wrong) == _TOLD:
                break
            result.examples += 1
            fault = _declines(child, smallest[op, name], name)
            wrong += [f"{child.name}, {op} in {name}, which its hello does not offer: {fault}"] if fault else []
    if wrong:
        rest = "; what else it does not offer was not asked" if len(wrong) == _TOLD else ""
        result.failure = f"it is to answer unsupported (PRT-007). {'; '.join(wrong)}{rest}"
    result.seconds = time.monotonic() - begun
    return result


def _not_offered(child: Child, smallest: dict[tuple[str, str], Case]) -> list[tuple[str, str]]:
    """Return the pairs of operation and class that have a case but are not in the hello."""
    ops = child.hello().ops
    # a port that offers nothing has no class of its own, so it is asked in the first class of the kit
    offered = {name: offered_in(name, ops) for name in classes_offered(ops) or list(CLASSES)[:1]}
    first = next(name for name in CLASSES if name in offered)
    pairs = [(op, name) for op, name in smallest if name in offered and (name == first or not is_scalar(op))]
    return [(op, name) for op, name in pairs if op not in offered[name]]


def _declines(child: Child, case: Case, name: str) -> str:
    """Return an error text if a port does not decline a case, else an empty text."""
    dtype = "float64" if is_scalar(case.op) else CLASSES[name]
    try:
        with np.errstate(over="ignore"):
            child.call(case.op, prepared_inputs(case, dtype), dtype)
    except Unsupported:
        return ""
    except Refused as refusal:
        return f"it refuses by {refusal.clause}"
    except (PortFault, StartError) as fault:
        return str(fault)
    return "it answers"


def _smallest(cases: Iterable[Case]) -> dict[tuple[str, str], Case]:
    """Return for each operation, and each class in which it can be asked, the case with the smallest inputs."""
    best: dict[tuple[str, str], tuple[int, Case]] = {}
    for case in cases:
        if case.refused:
            continue
        size = _bytes(case.inputs)
        for name in CLASSES:
            key = case.op, name
            if (key not in best or size < best[key][0]) and can_ask(case, CLASSES[name]):
                best[key] = size, case
    return {key: case for key, (_, case) in best.items()}


def _bytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list) else 8


def repeating(children: Sequence[Child], cases: Iterable[Case]) -> PropertyResult:
    """Check that a deterministic port that trains gives the same bytes in another process (TRN-006, PRT-013)."""
    result = PropertyResult("protocol.other-process", ("TRN-006", "PRT-013"), PROTOCOL)
    begun = time.monotonic()
    runs = (case for case in cases if case.op == "train.run" and {"float64", "float32"} <= set(case.dtypes))
    run = min((case for case in runs if not case.refused), key=lambda case: _bytes(case.inputs))
    for child in children:
        answers = []
        try:
            hello = child.hello()
            named = hello.ops.get(run.op, ())
            dtypes = [dtype for name, dtype in CLASSES.items() if name in named and dtype in run.dtypes]
            if not hello.deterministic or not dtypes:
                continue
            for _ in range(2):
                child.call(run.op, prepared_inputs(run, dtypes[0]), dtypes[0])
                answers.append(child.raw_answer())
                child.end(by_stop=True)
        except (Refused, Unsupported, PortFault, StartError):
            continue  # the run itself is judged by its case
        result.examples += 1
        if answers[0] != answers[1] and not result.failure:
            result.failure = f"{child.name}: {run.id} got other bytes in another process (TRN-006)"
    result.seconds = time.monotonic() - begun
    return result


def ending(children: Sequence[Child], *, by_stop: bool) -> PropertyResult:
    """End every form of a port, by `stop` or by the end of its input, and check how it ends (PRT-008)."""
    result = PropertyResult("protocol.stop" if by_stop else "protocol.end-of-input", ("PRT-008",), PROTOCOL)
    begun = time.monotonic()
    for child in children:
        result.examples += 1
        fault = child.end(by_stop=by_stop)
        if fault and not result.failure:
            result.failure = f"{child.name}: {fault}"
    result.seconds = time.monotonic() - begun
    return result
