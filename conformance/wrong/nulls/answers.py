"""Null ports whose lines are right and whose answers are not."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.cases.case import VECTORS, load
from conformance.cases.inputs import prepared_inputs
from conformance.cases.ops import OPS
from conformance.protocol.port import Refused, Unsupported
from conformance.protocol.values import encode

__all__ = ["MODES", "Table", "cast", "key", "port_of"]

Values = dict[str, Any]
_FILES = {
    **dict.fromkeys(("kernel.dense", "kernel.store_dense"), ("kernel",)),
    "kernel.exceeding": ("exceeding",),
    "file.read": ("file", "file-refused"),
}
"""The vector files of the operations that null ports are asked for."""


def key(op: str, inputs: Values, dtype: str) -> str:
    """Return a digest of what a port is asked."""
    given = {name: encode(value) for name, value in inputs.items() if value is not None}
    return hashlib.sha256(json.dumps([op, dtype, given], sort_keys=True).encode()).hexdigest()


class Table:
    """A port that is right only for cases it has seen: answers by a digest of operation and inputs."""

    name = "table"
    ops: tuple[str, ...] = tuple(OPS)

    def __init__(self) -> None:
        self._known: dict[str, tuple[Values, tuple[str, ...]]] = {}
        self._loaded: set[str] = set()

    def describe(self) -> Values:
        """Return what it says of itself: that it offers everything."""
        told = {"name": self.name, "language": "Python"}
        return {"port": told, "ops": {op: ["exact64", "fp32"] for op in self.ops}, "flags": {"deterministic": True}}

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return what the frozen vectors say."""
        # a file is loaded when it is asked for: most null ports are started often and asked little
        for name in set(_FILES[op]) - self._loaded:
            self._loaded.add(name)
            for case in load(VECTORS / f"{name}.json"):
                for each in case.dtypes:
                    known = {name: cast(value, each) for name, value in case.expected.items()}
                    self._known[key(case.op, prepared_inputs(case, each), each)] = (known, case.refused)
        answer, refused = self._known[key(op, inputs, dtype)]
        if refused:
            raise Refused(refused[0])
        return dict(answer)


def cast(value: Any, dtype: str) -> Any:
    """Return a value with floats in a dtype."""
    return value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


class Right(Table):
    """A port that is also right about `kernel.exceeding` of numbers it has not seen: nothing is wrong with it."""

    name = "right"

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the right answer."""
        if op == "kernel.exceeding" and inputs["values"].ndim == 1:
            below = np.abs(inputs["values"]) <= inputs["least"]
            return {"indices": np.flatnonzero(~below).astype(np.int64)}
        return super().call(op, inputs, dtype)


Answer = Callable[[Table, str, Values, str], Values]


class Null(Table):
    """A port that knows the right answer and gives another one."""

    def __init__(self, name: str, answer: Answer, ops: tuple[str, ...] = tuple(OPS)) -> None:
        super().__init__()
        self.name, self._answer, self.ops = name, answer, ops

    def right(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the right answer."""
        return super().call(op, inputs, dtype)

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the answer of this null port."""
        return self._answer(self, op, inputs, dtype)


def _each(change: Callable[[Any], Any]) -> Answer:
    """Every output of the right answer changed; refusals stay."""

    def answer(port: Table, op: str, inputs: Values, dtype: str) -> Values:
        assert isinstance(port, Null)
        return {name: change(value) for name, value in port.right(op, inputs, dtype).items()}

    return answer


def _raises(error: Exception) -> Answer:
    def answer(*_: Any) -> Values:
        raise error

    return answer


def _zeros(value: Any) -> Any:
    return np.zeros_like(value) if isinstance(value, np.ndarray) else 0


def _nan(value: Any) -> Any:
    return np.full(value.shape, np.nan, value.dtype if value.dtype.kind == "f" else np.float64)


def _other_dtype(value: Any) -> Any:
    return value.astype({"f4": np.float64, "f8": np.float32, "i8": np.float64}.get(value.dtype.str[1:], np.int64))


def _swapped(value: Any) -> Any:
    return value.byteswap()


def _accepts(port: Table, op: str, inputs: Values, dtype: str) -> Values:
    assert isinstance(port, Null)
    try:
        return port.right(op, inputs, dtype)
    except Refused:
        return {}


def _echo(port: Table, op: str, inputs: Values, dtype: str) -> Values:
    given = [value for value in inputs.values() if value is not None]
    return {name: given[i % len(given)] for i, name in enumerate(OPS[op].outputs)}


class Unsteady(Right):
    """A port whose floats differ in the last bit from one answer to the next, well inside their bounds (PRT-013)."""

    def __init__(self, name: str, *, says_so: bool) -> None:
        super().__init__()
        self.name, self._says_so, self._calls = name, says_so, 0

    def describe(self) -> Values:
        """Return what it says of itself: that it is deterministic, or nothing."""
        return super().describe() | {"flags": {} if self._says_so else {"deterministic": True}}

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the right answer, every second one with other bits."""
        self._calls += 1
        change = _next_up if self._calls % 2 and op == "kernel.dense" else _kept
        return {name: change(value) for name, value in super().call(op, inputs, dtype).items()}


class Forgetful(Right):
    """A port that is right the first time, and says that it is not deterministic so as not to be asked again."""

    name = "second-answer-wrong"

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def describe(self) -> Values:
        """Return what it says of itself: that its answers may differ."""
        return super().describe() | {"flags": {"deterministic": False}}

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the right answer, and a wrong one to the same call later."""
        call = key(op, inputs, dtype)
        change = _zeros if call in self._seen else _kept
        self._seen.add(call)
        return {name: change(value) for name, value in super().call(op, inputs, dtype).items()}


class WithoutZstd(Right):
    """A port that refuses compressed files, or all, as one without zstd does, and says that it lacks it, or not."""

    def __init__(self, name: str, *, says_so: bool, refuses: Callable[[bytes], bool], detail: str = "no zstd") -> None:
        super().__init__()
        self.name, self._says_so, self._refuses, self._detail = name, says_so, refuses, detail

    def describe(self) -> Values:
        """Return what it says of itself: that it has no zstd, or nothing of it."""
        told = super().describe()
        return told | {"flags": told["flags"] | ({"zstd": False} if self._says_so else {})}

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the right answer, or the refusal of FMT-043."""
        if op == "file.read" and self._refuses(inputs["raw"].tobytes()):
            raise Refused("FMT-043", self._detail)
        return super().call(op, inputs, dtype)


def _compressed(raw: bytes) -> bool:
    return b'\\"requires\\":[\\"zstd\\"]' in raw


def _kept(value: Any) -> Any:
    return value


def _next_up(value: Any) -> Any:
    """Return the next numbers above those that are no integers: sums of integers leave no room (KRN-007)."""
    if value.dtype.kind != "f":
        return value
    return np.where(value == np.rint(value), value, np.nextafter(value, value.dtype.type(np.inf)))


def _more(port: Table, op: str, inputs: Values, dtype: str) -> Values:
    assert isinstance(port, Null)
    return port.right(op, inputs, dtype) | {"more": 1}


def _hog(port: Table, op: str, inputs: Values, dtype: str) -> Values:
    assert isinstance(port, Null)
    if op == "file.read":
        bytearray(3 << 30)
    return port.right(op, inputs, dtype)


MODES: dict[str, Callable[[], Table]] = {
    "right": Right,
    "table": Table,
    "empty-outputs": lambda: Null("empty-outputs", lambda *_: {}),
    "empty-lists": lambda: Null("empty-lists", lambda _, op, *__: {name: [] for name in OPS[op].outputs}),
    "nulls": lambda: Null("nulls", lambda _, op, *__: dict.fromkeys(OPS[op].outputs)),
    "echo": lambda: Null("echo", _echo),
    "zeros": lambda: Null("zeros", _each(_zeros)),
    "nan": lambda: Null("nan", _each(_nan)),
    "unsupported-all": lambda: Null("unsupported-all", _raises(Unsupported("no"))),
    "declares-nothing": lambda: Null("declares-nothing", _raises(Unsupported("no")), ()),
    "offers-less": lambda: Null("offers-less", _each(lambda value: value), ()),
    "rejects-all": lambda: Null("rejects-all", _raises(Refused("SEL-004"))),
    "accepts-all": lambda: Null("accepts-all", _accepts),
    "error-all": lambda: Null("error-all", _raises(RuntimeError("not now"))),
    "wrong-dtype": lambda: Null("wrong-dtype", _each(_other_dtype)),
    "wrong-shape": lambda: Null("wrong-shape", _each(lambda value: value[None])),
    "wrong-endianness": lambda: Null("wrong-endianness", _each(_swapped)),
    "more-outputs": lambda: Null("more-outputs", _more),
    "memory-hog": lambda: Null("memory-hog", _hog),
    "unsteady": lambda: Unsteady("unsteady", says_so=False),
    "unsteady-and-says-so": lambda: Unsteady("unsteady-and-says-so", says_so=True),
    "second-answer-wrong": Forgetful,
    "no-zstd-and-says-so": lambda: WithoutZstd("no-zstd-and-says-so", says_so=True, refuses=_compressed),
    "no-zstd": lambda: WithoutZstd("no-zstd", says_so=False, refuses=_compressed),
    "no-zstd-unnamed": lambda: WithoutZstd("no-zstd-unnamed", says_so=True, refuses=_compressed, detail="not here"),
    "says-no-zstd-and-reads": lambda: WithoutZstd("reads", says_so=True, refuses=lambda _: False),
    "reads-no-file": lambda: WithoutZstd("reads-no-file", says_so=True, refuses=lambda _: True),
}
"""Null ports by name; those of `expected.CONFORMANT` are none, they show that the kit would say so."""


def port_of(mode: str) -> Table:
    """Return the port of a mode."""
    return MODES[mode]()
