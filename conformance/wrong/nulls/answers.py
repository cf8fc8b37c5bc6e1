"""Null ports that keep to the protocol and give wrong answers."""

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
"""Operation -> vector files that have the cases of null ports."""


def key(op: str, inputs: Values, dtype: str) -> str:
    """Return a digest of a call: operation, inputs and dtype."""
    encoded = {name: encode(value) for name, value in inputs.items() if value is not None}
    return hashlib.sha256(json.dumps([op, dtype, encoded], sort_keys=True).encode()).hexdigest()


class Table:
    """A port that knows only the frozen cases, by a digest of operation and inputs."""

    name = "table"
    ops: tuple[str, ...] = tuple(OPS)

    def __init__(self) -> None:
        self._known: dict[str, tuple[Values, tuple[str, ...]]] = {}
        self._loaded: set[str] = set()

    def describe(self) -> Values:
        """Return the description of the port: it offers everything."""
        port = {"name": self.name, "language": "Python"}
        return {"port": port, "ops": {op: ["exact64", "fp32"] for op in self.ops}, "flags": {"deterministic": True}}

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the answer of the frozen case, or raise its refusal."""
        # files are loaded on demand, because most null ports are started often and asked little
        for name in set(_FILES[op]) - self._loaded:
            self._loaded.add(name)
            for case in load(VECTORS / f"{name}.json"):
                for each in case.dtypes:
                    answers = {name: cast(value, each) for name, value in case.expected.items()}
                    self._known[key(case.op, prepared_inputs(case, each), each)] = (answers, case.refused)
        answer, refused = self._known[key(op, inputs, dtype)]
        if refused:
            raise Refused(refused[0])
        return dict(answer)


def cast(value: Any, dtype: str) -> Any:
    """Return a value with arrays of floats cast to a dtype."""
    return value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


class Right(Table):
    """A port without a fault, which also answers `kernel.exceeding` for numbers that no frozen case has."""

    name = "right"

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the right answer."""
        if op == "kernel.exceeding" and inputs["values"].ndim == 1:
            below = np.abs(inputs["values"]) <= inputs["least"]
            return {"indices": np.flatnonzero(~below).astype(np.int64)}
        return super().call(op, inputs, dtype)


Answer = Callable[[Table, str, Values, str], Values]


class Null(Table):
    """A port that computes the right answer and gives another one."""

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
    """Return an answer in which every output of the right answer is changed; refusals stay."""

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
    values = [value for value in inputs.values() if value is not None]
    return {name: values[i % len(values)] for i, name in enumerate(OPS[op].outputs)}


class Unsteady(Right):
    """A port whose floats differ in the last bit from one answer to the next, within their bounds (PRT-013)."""

    def __init__(self, name: str, *, says_so: bool) -> None:
        super().__init__()
        self.name, self._says_so, self._calls = name, says_so, 0

    def describe(self) -> Values:
        """Return the description of the port, with or without the flag `deterministic`."""
        return super().describe() | {"flags": {} if self._says_so else {"deterministic": True}}

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the right answer, with other bits in every second one."""
        self._calls += 1
        change = _next_up if self._calls % 2 and op == "kernel.dense" else _kept
        return {name: change(value) for name, value in super().call(op, inputs, dtype).items()}


class Forgetful(Right):
    """A port that is right only the first time, and says that it is not deterministic to avoid a second call."""

    name = "second-answer-wrong"

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def describe(self) -> Values:
        """Return the description of the port: it is not deterministic."""
        return super().describe() | {"flags": {"deterministic": False}}

    def call(self, op: str, inputs: Values, dtype: str) -> Values:
        """Return the right answer to a new call, and a wrong one to a repeated call."""
        call = key(op, inputs, dtype)
        change = _zeros if call in self._seen else _kept
        self._seen.add(call)
        return {name: change(value) for name, value in super().call(op, inputs, dtype).items()}


class WithoutZstd(Right):
    """A port that refuses some or all files as one without zstd does, and may say that it has no zstd."""

    def __init__(self, name: str, *, says_so: bool, refuses: Callable[[bytes], bool], detail: str = "no zstd") -> None:
        super().__init__()
        self.name, self._says_so, self._refuses, self._detail = name, says_so, refuses, detail

    def describe(self) -> Values:
        """Return the description of the port, with or without the flag `zstd` as false."""
        description = super().describe()
        return description | {"flags": description["flags"] | ({"zstd": False} if self._says_so else {})}

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
    """Return the next larger floats, but keep integers, because sums of integers are exact (KRN-007)."""
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
"""Null ports by name, and the right ports of `expected.CONFORMANT`, which the kit must accept."""


def port_of(mode: str) -> Table:
    """Return a new port of a mode."""
    return MODES[mode]()
