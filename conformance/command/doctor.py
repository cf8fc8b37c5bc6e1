"""A first check of a port: a handshake and a few calls that can be verified by hand, with every line shown."""

import json
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from conformance.cases.case import VECTORS, load
from conformance.cases.ops import OPS, PROFILES
from conformance.cases.profiles import CLASSES
from conformance.judge.harness import Variant, run
from conformance.protocol.child import Child, Hello, PortFault, StartError
from conformance.protocol.port import Refused, Unsupported

__all__ = ["CALLS", "examine"]

Say = Callable[[str], Any]


def _ids(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def _floats(*values: float) -> Any:
    return np.array(values, dtype=np.float64)


CALLS: tuple[tuple[str, dict[str, Any], dict[str, Any] | str], ...] = (
    ("select.largest", {"scores": _floats(1, 3, 3, 2), "ids": _ids(5, 7, 9, 11), "k": 2}, {"chosen": _ids(7, 9)}),
    ("select.largest", {"scores": _floats(1, float("nan")), "ids": _ids(0, 1), "k": 1}, "SEL-004"),
    ("count.drop", {"drop_fraction": 0.2, "step": 20, "steps": 80, "slots": 100}, {"n": 17}),
    ("topology.positions", {"out": 2, "in": 3, "indptr": _ids(0, 1, 2), "indices": _ids(2, 0)},
     {"positions": _ids(2, 3)}),
    ("update.drop", {"out": 1, "in": 4, "delta": _ids(0, 2, 3), "delta_values": _floats(0.5, -0.25, 0.25), "n": 2},
     {"dropped": _ids(2, 3)}),
    ("gradient.at", {"out": 1, "in": 2, "dy": _floats(1, 2).reshape(2, 1), "x": _floats(3, 0, 4, 5).reshape(2, 2),
                     "positions": _ids(0, 1)}, {"values": _floats(11, 10)}),
    ("adamw.step", {"values": _floats(1), "m": _floats(0), "v": _floats(0), "age": _ids(3), "gradient": _floats(0),
                    "lr": 0.5}, {"values": _floats(1), "m": _floats(0), "v": _floats(0), "age": _ids(4)}),
)  # fmt: skip
"""Operation, inputs, and the answer or the clause of the refusal."""
FILES = ("file.read-dense", "file-refused.short")
"""Frozen cases for a reader of files: a small one to read, and seven bytes to refuse."""


def examine(command: Sequence[str], say: Say, **limits: float) -> bool:
    """Print the answers of a port to a handshake and to `CALLS`; return True if nothing is wrong.

    say     prints a line
    limits  `timeout` and `start_timeout` of `Child`

    Raises:
        StartError: the port does not start, or sends no valid hello in time.
    """
    with Child(command, **limits) as child:
        child.on_line = lambda arrow, raw: say(f"  {arrow} {_cut(raw)}")
        say(f"starting {' '.join(command)}; it has {child.start_timeout:g} s to introduce itself")
        hello = child.hello()
        good = _introduce(hello, say)
        good &= _greets_again(child, say)
        tried = 0
        for op, inputs, expected in CALLS:
            if op in hello.ops:
                tried += 1
                good &= _tries(child, hello, op, inputs, expected, say)
        if "file.read" in hello.ops:
            tried += len(FILES)
            good &= _reads(child, say)
        missing = next((op for op in OPS if op not in hello.ops), None)
        if missing is not None:
            good &= _declines(child, missing, say)
        if child.said():
            say(f"its standard error:{child.said()}")
        if not tried:
            say("none of the operations that this command knows by heart is offered; offer select.largest first")
        say("ties, most refusals and other numbers are not tried here; judge an operation with --only NAME")
        say(f"{'all is well' if good else 'something is wrong'}: {tried} calls of {len(hello.ops)} operations tried")
    return good


def _introduce(hello: Hello, say: Say) -> bool:
    say(
        f"it is {hello.name}, {hello.port.get('language', 'language not told')}, and offers {len(hello.ops)} operations"
    )
    for profile, ops in PROFILES.items():
        offered = [op for op in ops if op in hello.ops]
        if offered:
            missing = [op for op in ops if op not in hello.ops]
            rest = f"; not {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}" if missing else ": all of it"
            say(f"  {profile}: {len(offered)} of {len(ops)}{rest}")
    good = True
    for op, classes in hello.ops.items():
        if op not in OPS:
            good = False
            say(f"  WRONG: it offers {no_operation(op)}")
        for name in set(classes) - set(CLASSES):
            good = False
            say(f"  WRONG: it offers {op} in the class {name}; known are {', '.join(CLASSES)}")
    return good


def no_operation(name: str) -> str:
    """Return the error text for an operation that the kit does not know, with a similar name."""
    near = get_close_matches(name, OPS, 2)
    return f"{name}, which is no operation; {f'near it is {near[0]}' if near else 'list --ops names them'}"


def _greets_again(child: Child, say: Say) -> bool:
    say("ping")
    try:
        child.ping()
    except PortFault as fault:
        say(f"  WRONG: {fault}")
        return False
    return True


def _tries(
    child: Child, hello: Hello, op: str, arguments: dict[str, Any], expected: dict[str, Any] | str, say: Say
) -> bool:
    dtype = "float32" if "fp32" in hello.ops[op] and OPS[op].kind != "scalar" else "float64"
    say(f"{op} ({OPS[op].profile}), {dtype}")
    inputs = _cast(arguments, dtype)
    expected = expected if isinstance(expected, str) else _cast(expected, dtype)
    try:
        answer = child.call(op, inputs, dtype)
    except Refused as refusal:
        if refusal.clause == expected:
            say(f"  right: it refuses by {expected}")
            return True
        say(f"  WRONG: it refuses by {refusal.clause}; expected {_told(expected)}")
        return False
    except Unsupported:
        say("  WRONG: its hello offers this operation, its answer does not")
        return False
    except (PortFault, StartError) as fault:
        say(f"  WRONG: {fault}")
        return False
    if (
        isinstance(expected, dict)
        and set(answer) == set(expected)
        and all(_equal(answer[k], expected[k]) for k in expected)
    ):
        say(f"  right: {_told(answer)}")
        return True
    kinds = ""
    if isinstance(expected, dict):
        for name in expected.keys() & answer.keys():
            actual, want = np.asarray(answer[name]), np.asarray(expected[name])
            if isinstance(answer[name], list) and want.shape:
                kinds += f"; {name} is a list of values, expected an array (PRT-003)"
            elif actual.dtype != want.dtype or actual.shape != want.shape:
                kinds += f"; {name} is {actual.dtype} {actual.shape}, expected {want.dtype} {want.shape}"
    say(f"  WRONG: got {_told(answer)}, expected {_told(expected)}{kinds}")
    return False


def _cast(values: dict[str, Any], dtype: str) -> dict[str, Any]:
    return {k: v.astype(dtype) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v for k, v in values.items()}


def _reads(child: Child, say: Say) -> bool:
    by_id = {case.id: case for name in ("file", "file-refused") for case in load(VECTORS / f"{name}.json")}
    good = True
    for case in (by_id[name] for name in FILES):
        say(f"{case.op}, {case.id}")
        (result,) = run([case], [Variant(child, "float64")])
        for failure in result.failures:
            say(f"  WRONG: {failure.output}{': ' if failure.output else ''}{failure.detail}")
        if not result.failures:
            say(f"  right: {f'it refuses by {case.refused[0]}' if case.refused else 'every tensor and digest'}")
        good &= not result.failures
    return good


def _declines(child: Child, op: str, say: Say) -> bool:
    say(f"{op}, which it does not offer")
    try:
        child.call(op, {}, "float64")
    except Unsupported:
        say("  right: it says so")
        return True
    except (Refused, PortFault, StartError) as error:
        say(f"  WRONG: it should answer unsupported (PRT-007): {error}")
        return False
    say("  WRONG: it answers")
    return False


def _equal(a: Any, b: Any) -> bool:
    x, y = np.asarray(a), np.asarray(b)
    return (
        isinstance(a, np.ndarray) == isinstance(b, np.ndarray)
        and x.shape == y.shape
        and (x.dtype == y.dtype or not x.shape)
        and bool(np.all(x == y))
    )


def _told(value: dict[str, Any] | str) -> str:
    if isinstance(value, str):
        return f"a refusal by {value}"
    return ", ".join(f"{name} = {np.asarray(one).tolist()}" for name, one in value.items())


def _cut(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").strip()
    try:
        json.loads(text)
    except ValueError:
        return f"(no JSON) {text[:200]!r}"
    return text if len(text) <= 400 else text[:397] + "..."
