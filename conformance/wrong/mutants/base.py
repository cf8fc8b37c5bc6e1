"""What every file of wrong programs needs: the right engine, and the record of a wrong one."""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.engine.flaws import REFUSALS
from conformance.engine.port import EnginePort
from conformance.engine.sums import reduced

__all__ = [
    "ENGINE",
    "REFUSALS",
    "Mutant",
    "Operation",
    "Values",
    "changed",
    "edited",
    "flipped",
    "forgotten",
    "ids",
    "mutant",
    "reset",
    "right",
    "unchecked",
]

Values = dict[str, Any]
Operation = Callable[[Values], Values]
ENGINE = EnginePort()
REDUCED = reduced()


@dataclass(frozen=True, slots=True, eq=False)
class Mutant:
    """Our engine with one operation replaced by a plausible mistake.

    Attributes:
        op: the operation that is wrong.
        flaw: the mistake, in a few words.
        clauses: those it breaks; for each of them a linked case must refuse it.
        call: the wrong operation.
        only_refusals: it differs from the engine only where that refuses.
        dtype: the dtype of sixteen bits in which it is wrong; empty for float64 and float32.
        refuses_good: it refuses some good input, so that such a refusal says something about the case.
    """

    op: str
    flaw: str
    clauses: tuple[str, ...]
    call: Operation
    only_refusals: bool = False
    dtype: str = ""
    refuses_good: bool = False

    @property
    def name(self) -> str:
        """What tables and reports call it."""
        return f"{self.op}: {self.flaw}"

    def port(self) -> EnginePort:
        """Return the engine with this mistake."""
        engine = REDUCED if self.dtype else ENGINE
        return engine.with_ops(self.name, **{self.op.replace(".", "__"): self.call})


def mutant(clauses: str, op: str, call: Operation, flaw: str) -> Mutant:
    """Return the record of a wrong operation; clauses are separated by spaces."""
    return Mutant(op, flaw, tuple(clauses.split()), call)


def right(op: str) -> Operation:
    """Return the engine's own operation."""
    return ENGINE.ops[op]


def ids(values: Any) -> NDArray[np.int64]:
    """Return integers as an operation hands them out."""
    return np.array(list(values), dtype=np.int64)


def changed(op: str, **inputs: Callable[[Values], Any]) -> Operation:
    """Return the operation with some inputs replaced by functions of all inputs."""
    return lambda a: right(op)(a | {name: f(a) for name, f in inputs.items()})


def after(op: str, change: Callable[[Values, Values], Values]) -> Operation:
    """Return the operation with some outputs replaced: change gets the outputs and the inputs."""

    def f(a: Values) -> Values:
        out = right(op)(a)
        return out | change(out, a)

    return f


def flipped(op: str, name: str) -> Operation:
    """Return the operation with one output transposed and brought back to its shape."""
    return after(op, lambda out, _: {name: np.ascontiguousarray(out[name].T).reshape(out[name].shape)})


def unchecked(op: str, *clauses: str) -> list[Mutant]:
    """Return for each clause the operation without the check: it answers where that clause refuses."""

    def without(clause: str) -> Operation:
        def f(a: Values) -> Values:
            try:
                return right(op)(a)
            except REFUSALS as error:
                if error.clause != clause:
                    raise
            # an answer of whatever content: it is wrong that there is one
            return {}

        return f

    return [Mutant(op, f"{clause} not checked", (clause,), without(clause), only_refusals=True) for clause in clauses]


def forgotten(op: str, clause: str, refused_by: str = "", **conditions: Callable[[Values], bool]) -> list[Mutant]:
    """Return for each condition of a clause the operation that does not look at it.

    It answers where its condition is the only one that the inputs break, so that a case has to break that one alone.

    conditions  by what they say, with _ for spaces: functions of the inputs that tell whether these break it
    refused_by  the clauses by which the engine may refuse; `clause` unless given
    """

    def without(name: str) -> Operation:
        def f(a: Values) -> Values:
            try:
                return right(op)(a)
            except REFUSALS as error:
                broken = [other for other, breaks in conditions.items() if breaks(a)]
                if error.clause not in (refused_by or clause).split() or broken != [name]:
                    raise
            # an answer of whatever content: it is wrong that there is one
            return {}

        return f

    names = {name: f"{clause} without a look at {name.replace('_', ' ')}" for name in conditions}
    return [Mutant(op, flaw, (clause,), without(name), only_refusals=True) for name, flaw in names.items()]


def edited(clauses: str, op: str, function: Any, old: str, new: str, flaw: str) -> Mutant:
    """Return the record of an operation under whose call one function of the engine is written otherwise.

    A wrong edit may refuse good input too, which counts as a kill: all other input is answered as ever.

    old  text that stands exactly once in the source of the function
    new  what stands there instead
    """
    # a decorator's own code would go on calling the right function
    inner = inspect.unwrap(function)

    def call(a: Values) -> Values:
        held, inner.__code__ = inner.__code__, rewritten(inner, old, new)
        try:
            return right(op)(a)
        finally:
            inner.__code__ = held

    return Mutant(op, flaw, tuple(clauses.split()), call, refuses_good=True)


Rows = tuple[tuple[str, str, Any, str, str, str], ...]
"""Operation, clauses, function, text of its source, what stands there instead, and the flaw."""


def edits(rows: Rows) -> list[Mutant]:
    """Return the mutants of a table, a row each."""
    return [edited(clauses, op, function, old, new, flaw) for op, clauses, function, old, new, flaw in rows]


@cache
def rewritten(function: FunctionType, old: str, new: str) -> CodeType:
    """Return the code of a function with one stretch of its source replaced.

    Raises:
        LookupError: the stretch does not stand there exactly once.
    """
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:
        msg = f"{function.__qualname__} has {old!r} {source.count(old)} times; write the mutant anew"
        raise LookupError(msg)
    names = dict(function.__globals__)
    exec(compile(source.replace(old, new), inspect.getfile(function), "exec"), names)  # noqa: S102  our own source
    found = names[function.__name__]
    code: CodeType = inspect.unwrap(getattr(found, "__func__", found)).__code__  # of a static method too
    return code


def reset(clauses: str, op: str, module: ModuleType, flaw: str, **values: Any) -> Mutant:
    """Return the record of an operation under whose call constants of a module have other values."""

    def call(a: Values) -> Values:
        held = {name: getattr(module, name) for name in values}
        vars(module).update(values)
        try:
            return right(op)(a)
        finally:
            vars(module).update(held)

    return Mutant(op, flaw, tuple(clauses.split()), call, refuses_good=True)
