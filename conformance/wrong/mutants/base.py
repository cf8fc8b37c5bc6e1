"""`Mutant` and helpers that make mutants of the right engine."""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from conformance.engine.flaws import REFUSALS
from conformance.engine.port import EnginePort
from conformance.engine.sums import reduced

__all__ = [
    "ENGINE",
    "REFUSALS",
    "Change",
    "Mutant",
    "Operation",
    "Rows",
    "Values",
    "changed",
    "edited",
    "edits",
    "flipped",
    "forgotten",
    "ids",
    "mutant",
    "mutants",
    "reset",
    "right",
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
        clauses: the clauses it breaks; a case of each of them must refuse it.
        call: the wrong operation.
        only_refusals: it differs from the engine only on inputs that the engine refuses.
        dtype: the 16-bit dtype in which it is wrong; empty for float64 and float32.
        refuses_good: it may refuse good input, and such a refusal counts as a kill.
        shown_by: the seeded property whose examples refuse it, if the mistake shows only on inputs that are too large
            for a frozen case; empty if cases refuse it.
    """

    op: str
    flaw: str
    clauses: tuple[str, ...]
    call: Operation
    only_refusals: bool = False
    dtype: str = ""
    refuses_good: bool = False
    shown_by: str = ""

    @property
    def name(self) -> str:
        """The name in tables and reports."""
        return f"{self.op}: {self.flaw}"

    def port(self) -> EnginePort:
        """Return the engine with this mistake."""
        engine = REDUCED if self.dtype else ENGINE
        return engine.with_ops(self.name, **{self.op.replace(".", "__"): self.call})


Change = Callable[[Values, Values], Values]
Call = Operation | Change | Values
"""The wrong operation, a change of outputs as in `after`, or functions of inputs by name as in `changed`."""


def mutant(clauses: str, op: str, call: Call, flaw: str) -> Mutant:
    """Return the record of a wrong operation; clauses are separated by spaces."""
    if isinstance(call, dict):
        operation = changed(op, **call)
    else:
        required = [p for p in inspect.signature(call).parameters.values() if p.default is p.empty]
        operation = after(op, cast("Any", call)) if len(required) == 2 else cast("Operation", call)
    return Mutant(op, flaw, tuple(clauses.split()), operation)


def right(op: str) -> Operation:
    """Return the engine's own operation."""
    return ENGINE.ops[op]


def ids(values: Any) -> NDArray[np.int64]:
    """Return integers as an int64 array, as operations return them."""
    return np.array(list(values), dtype=np.int64)


def changed(op: str, **inputs: Callable[[Values], Any]) -> Operation:
    """Return the operation with some inputs replaced by functions of all inputs."""
    return lambda a: right(op)(a | {name: f(a) for name, f in inputs.items()})


def after(op: str, change: Change) -> Operation:
    """Return the operation with some outputs replaced; `change` maps outputs and inputs to the new outputs."""

    def f(a: Values) -> Values:
        out = right(op)(a)
        return out | change(out, a)

    return f


def flipped(op: str, name: str) -> Operation:
    """Return the operation with one output transposed and reshaped to its old shape."""
    return after(op, lambda out, _: {name: np.ascontiguousarray(out[name].T).reshape(out[name].shape)})


def _not_checked(op: str, clause: str) -> Mutant:
    """Return a mutant that answers inputs which a clause refuses."""

    def f(a: Values) -> Values:
        try:
            return right(op)(a)
        except REFUSALS as error:
            if error.clause != clause:
                raise
        # any answer will do, because the mistake is to answer at all
        return {}

    return Mutant(op, f"{clause} not checked", (clause,), f, only_refusals=True)


def forgotten(op: str, clause: str, refused_by: str = "", **conditions: Callable[[Values], bool]) -> list[Mutant]:
    """Return for each condition of a clause a mutant that does not check it.

    The mutant answers if the inputs break its condition and no other, so a case must break that one alone.

    conditions  text of the condition with _ for spaces -> function that returns whether the inputs break it
    refused_by  the clauses under which the engine may refuse; `clause` if empty
    """

    def without(name: str) -> Operation:
        def f(a: Values) -> Values:
            try:
                return right(op)(a)
            except REFUSALS as error:
                broken = [other for other, breaks in conditions.items() if breaks(a)]
                if error.clause not in (refused_by or clause).split() or broken != [name]:
                    raise
            # any answer will do, because the mistake is to answer at all
            return {}

        return f

    names = {name: f"{clause} without a look at {name.replace('_', ' ')}" for name in conditions}
    return [Mutant(op, flaw, (clause,), without(name), only_refusals=True) for name, flaw in names.items()]


def edited(clauses: str, op: str, function: Any, old: str, new: str, flaw: str, shown_by: str = "") -> Mutant:
    """Return a mutant that runs an operation with one function of the engine edited.

    The edited function may refuse good input, which counts as a kill.

    old       text that occurs exactly once in the source of the function
    new       the text that replaces it
    shown_by  as in `Mutant`
    """
    # edit the innermost function, because the wrapper of a decorator would go on calling the right one
    inner = inspect.unwrap(function)

    def call(a: Values) -> Values:
        original, inner.__code__ = inner.__code__, rewritten(inner, old, new)
        try:
            return right(op)(a)
        finally:
            inner.__code__ = original

    return Mutant(op, flaw, tuple(clauses.split()), call, refuses_good=True, shown_by=shown_by)


Rows = tuple[tuple[str, str, Any, str, str, str], ...]
"""Rows of operation, clauses, function, text of its source, replacement and flaw, for `edited`."""


def edits(op: str, clauses: str, function: Any, *rows: tuple[str, str, str], shown_by: str = "") -> list[Mutant]:
    """Return a mutant for each row of (old, new, flaw) of one function, as in `edited`."""
    return [edited(clauses, op, function, old, new, flaw, shown_by) for old, new, flaw in rows]


def mutants(op: str, *rows: tuple[Any, ...], unchecked: str = "", shown_by: str = "") -> list[Mutant]:
    """Return the mutants of one operation.

    rows       (clauses, call, flaw) as in `mutant`, or (clauses, function, old, new, flaw) as in `edited`
    unchecked  clauses of each of which a mutant answers the inputs that it refuses
    shown_by   as in `Mutant`; for rows of `edited`
    """
    made = [mutant(r[0], op, *r[1:]) for r in rows if len(r) == 3]
    for clauses, function, old, new, flaw in (r for r in rows if len(r) > 3):
        made.append(edited(clauses, op, function, old, new, flaw, shown_by))
    return made + [_not_checked(op, clause) for clause in unchecked.split()]


@cache
def rewritten(function: FunctionType, old: str, new: str) -> CodeType:
    """Return the code of a function with one piece of its source replaced.

    Raises:
        LookupError: the piece does not occur exactly once.
    """
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:
        msg = f"{function.__qualname__} has {old!r} {source.count(old)} times; write the mutant anew"
        raise LookupError(msg)
    names = dict(function.__globals__)
    exec(compile(source.replace(old, new), inspect.getfile(function), "exec"), names)  # noqa: S102  our own source
    compiled = names[function.__name__]
    # a static method has its code in __func__
    code: CodeType = inspect.unwrap(getattr(compiled, "__func__", compiled)).__code__
    return code


def reset(clauses: str, op: str, module: ModuleType, flaw: str, **values: Any) -> Mutant:
    """Return a mutant that runs an operation with constants of a module set to other values."""

    def call(a: Values) -> Values:
        originals = {name: getattr(module, name) for name in values}
        vars(module).update(values)
        try:
            return right(op)(a)
        finally:
            vars(module).update(originals)

    return Mutant(op, flaw, tuple(clauses.split()), call, refuses_good=True)
