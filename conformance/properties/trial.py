"""`Property`, a statement about operations, and `Trial`, which tries one example of it on a port."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from conformance.answers import Answer, answer
from conformance.cases.case import Bound, Case
from conformance.cases.ops import OPS
from conformance.judge.harness import Failure, Result, Variant, run
from conformance.judge.judgement import asked_in
from conformance.properties.draws import Draw
from conformance.properties.relations import RELATIONS, given_to_port

__all__ = ["Enough", "Found", "Made", "NotOffered", "Property", "Seen", "Trial", "ask_all", "property_of"]
FINITE = ("preset.rule",)
"""Operations with finitely many answers. Frozen cases have them all, so new inputs are inputs to refuse."""
RELATION = "relation: "
"""Prefix of the oracle of a case whose answer is compared with answers of other cases."""


class Found(Exception):
    """Raised when an example fails."""


class Enough(BaseException):
    """Raised when the time is over; a BaseException, because hypothesis catches every Exception."""


class NotOffered(BaseException):
    """Raised if a port does not offer an operation; a BaseException, because hypothesis catches every Exception."""


@dataclass(frozen=True, slots=True)
class Property:
    """A statement about operations that holds for all inputs.

    Attributes:
        name: ``area.name``.
        clauses: ids of SPEC.md that it tests.
        profile: the profile it belongs to.
        ops: the operations it asks.
        sees: features that its examples must have had, because it shows nothing without them.
        text: the statement, in one line.
        body: makes an example from a draw and tries it.
        reduced: it can be asked in 16-bit types too.
        tells: features that its result counts.
        cost: an example takes as long as this many of another property, so it has this many times fewer.
        seeded: how many examples a run draws from its seed alone, because each is too long to be shrunk; 0 for
            examples that hypothesis draws. The body of a seeded property looks neither at answers nor at the dtype,
            because an example is made once and asked of every variant.
    """

    name: str
    clauses: tuple[str, ...]
    profile: str
    ops: tuple[str, ...]
    sees: tuple[str, ...]
    text: str
    body: "Callable[[Draw, Trial], None]"
    reduced: bool = False
    tells: tuple[str, ...] = ()
    cost: int = 1
    seeded: int = 0

    @property
    def scalar(self) -> bool:
        """Whether all its operations are on numbers and have no arrays."""
        return all(OPS[op].kind == "scalar" for op in self.ops)

    def fits(self, variant: Variant) -> bool:
        """Return whether the property can be asked of a variant of a port."""
        return self.part(variant).ops == self.ops

    def part(self, variant: Variant) -> "Property":
        """Return the property with those of its operations that can be asked of a variant; a trial asks no others."""
        if not self.reduced and variant.dtype in ("bfloat16", "float16"):
            return replace(self, ops=())
        offers = self.ops if variant.offers is None else variant.offers
        return replace(self, ops=tuple(op for op in self.ops if OPS[op].kind in variant.kinds and op in offers))


@dataclass(frozen=True, slots=True)
class Seen:
    """A failing example.

    Attributes:
        cases: the case that failed, or those that a relation compares.
        failure: what was wrong.
        answers: the answers of the port to the cases, as far as it answered.
    """

    cases: tuple[Case, ...]
    failure: Failure
    answers: tuple[Any, ...] = ()


class _Lasting:
    """A port that keeps its last answer and hides `restarts`, so that it may be lost often while shrinking."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self.last: Any = None

    def __getattr__(self, name: str) -> Any:
        if name == "restarts":
            raise AttributeError(name)
        return getattr(self._port, name)

    def call(self, op: str, inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
        """Ask the port, keep the answer as `last` and return it."""
        self.last = None
        self.last = self._port.call(op, inputs, dtype)
        outputs: dict[str, Any] = self.last
        return outputs


@dataclass(slots=True)
class Trial:
    """The interface between the body of a property and a port: bodies ask cases and count features here.

    Attributes:
        prop: the property.
        variant: the port, called in one way.
        until: the monotonic time at which the time is over.
        saw_: feature of examples -> how many had it.
        failing: the last example that failed.
        log: the cases of every call, None if nobody wants them.
        new: the example is drawn from the seed of the run, so nobody can know its inputs before.
        asked_new: operations that answered such inputs, each as `asked_in` spells it.
    """

    prop: Property
    variant: Variant
    until: float
    saw_: Counter[str] = field(default_factory=Counter)
    failing: Seen | None = None
    log: list[Case] | None = None
    new: bool = False
    asked_new: set[str] = field(default_factory=set)

    @property
    def dtype(self) -> str:
        """The float dtype of the arrays of this port."""
        return self.variant.dtype

    def saw(self, what: str, when: object = 1) -> None:
        """Count that an example had a feature, if `when` is true."""
        if when:
            self.saw_[what] += 1

    def case(
        self,
        op: str,
        inputs: dict[str, Any],
        expected: dict[str, Any] | None = None,
        *,
        refused: Sequence[str] = (),
        bounds: dict[str, Bound] | None = None,
        dtypes: tuple[str, ...] | None = None,
    ) -> dict[str, Any] | None:
        """Ask a case; return the port's answer, or None for a refusal or if the port is not asked.

        expected, refused, bounds  None and nothing for those of `conformance.answers`
        dtypes                     those in which the answer is the same; one, if it depends on how operations round

        Raises:
            Found: the port answers something else.
        """
        if expected is None and not refused:
            made = answer(op, inputs, dtypes[0] if dtypes else "float64")
        else:
            made = Answer(expected or {}, bounds or {}, refused)
        case = Case(
            f"property.{self.prop.name}",
            op,
            self.prop.clauses,
            self.prop.text,
            inputs,
            dict(made.outputs),
            tuple(made.refused),
            dict(made.bounds),
            dtypes=dtypes or ("float64", "float32"),
        )
        return self.ask(case)

    def ask(self, case: Case) -> dict[str, Any] | None:
        """Ask a case; return the answer, None for a refusal or if the port is not asked.

        Raises:
            Found: the port answers something else.
        """
        port = self._port()
        result = self._run(case, port)
        if result.failures:
            self._fail(Seen((case,), result.failures[0], (port.last,)))
        return port.last if result.ran and not case.refused else None

    def related(self, relation: str, *pairs: tuple[str, dict[str, Any]]) -> list[dict[str, Any]] | None:
        """Ask (operation, inputs) pairs, compare the answers by a relation, and return the answers.

        Raises:
            Found: the relation does not hold, or the port does not answer.
        """
        cases = tuple(
            Case(
                f"property.{self.prop.name}", op, self.prop.clauses, self.prop.text, inputs, oracle=RELATION + relation
            )
            for op, inputs in pairs
        )
        self._in_time()
        if self.log is not None:
            self.log += cases
        failure, answers = ask_all(cases, replace(self.variant, port=self._port()))
        if failure is not None:
            self._fail(Seen(cases, failure, tuple(answers)))
        for case in cases[: len(answers)]:
            self._note(case)
        return answers

    def holds(self, relation: str, op: str, inputs: dict[str, Any], answer: dict[str, Any]) -> None:
        """Check a relation on an answer that the port has given already.

        Raises:
            Found: the relation does not hold.
        """
        case = Case(
            f"property.{self.prop.name}", op, self.prop.clauses, self.prop.text, inputs, oracle=RELATION + relation
        )
        text = _told_by(relation, [case], [answer], self.variant)
        if text:
            self._fail(Seen((case,), Failure(self.variant.name, relation, text), (answer,)))

    def _run(self, case: Case, port: Any) -> Result:
        self._in_time()
        if case.op not in self.prop.ops:
            return Result(case)
        if self.log is not None:
            self.log.append(case)
        (result,) = run([case], [replace(self.variant, port=port)])
        if not result.ran and not result.failures and "does not offer" in result.skipped:
            raise NotOffered(case.op)
        if result.ran and not result.failures:
            self._note(case)
        return result

    def _note(self, case: Case) -> None:
        """Record that an operation answered new inputs; refusals do not count, but for those of FINITE."""
        if self.new and (not case.refused or case.op in FINITE):
            self.asked_new.add(asked_in(case.op, self.variant.class_name))

    def _port(self) -> Any:
        return _Lasting(self.variant.port)

    def _in_time(self) -> None:
        if time.monotonic() > self.until:
            raise Enough

    def _fail(self, failing: Seen) -> None:
        self.failing = failing
        raise Found(failing.failure.detail)


@dataclass(slots=True)
class Made(Trial):
    """A trial that collects the cases of an example instead of asking them.

    Attributes:
        cases: the cases in the order in which they are to be asked.
    """

    cases: list[Case] = field(default_factory=list)

    def _run(self, case: Case, port: Any) -> Result:
        self.cases.append(case)
        return Result(case)


def ask_all(cases: Sequence[Case], variant: Variant) -> tuple[Failure | None, list[dict[str, Any]]]:
    """Ask the cases that a relation compares; return the failure (None if there is none) and the answers."""
    answers: list[dict[str, Any]] = []
    port = variant.port if isinstance(variant.port, _Lasting) else _Lasting(variant.port)
    for case in cases:
        sent = given_to_port(case)
        # the comparison with None fails at the first output, so that only failures without an output count
        (result,) = run([replace(sent, expected=dict.fromkeys(OPS[case.op].outputs))], [replace(variant, port=port)])
        if "does not offer" in result.skipped and not result.ran:
            raise NotOffered(case.op)
        fault = next((f for f in result.failures if not f.output), None)
        if fault is not None:
            return fault, answers
        if port.last is None:
            return None, answers
        answers.append(port.last)
    relation = cases[0].oracle.removeprefix(RELATION)
    text = _told_by(relation, cases, answers, variant)
    return (Failure(variant.name, relation, text) if text else None), answers


def _told_by(relation: str, cases: Sequence[Case], answers: Sequence[dict[str, Any]], variant: Variant) -> str:
    """Return the fault that a relation finds, or an empty text; answers of a wrong form are a fault too."""
    try:
        return RELATIONS[relation](cases, answers, variant.dtype_of(cases[0]))
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        return f"the answers cannot be compared: {type(error).__name__}: {error}"


REGISTER: dict[str, Property] = {}


def property_of(
    name: str,
    clauses: str,
    profile: str,
    ops: str,
    *,
    sees: Sequence[str] = (),
    reduced: bool = False,
    tells: Sequence[str] = (),
    cost: int = 1,
    seeded: int = 0,
) -> Callable[[Callable[[Draw, Trial], None]], Callable[[Draw, Trial], None]]:
    """Return a decorator that enters a body in REGISTER as a property; the docstring of the body is its text."""

    def enter(body: Callable[[Draw, Trial], None]) -> Callable[[Draw, Trial], None]:
        text = (body.__doc__ or "").strip().rstrip(".")
        REGISTER[name] = Property(
            name,
            tuple(clauses.split()),
            profile,
            tuple(ops.split()),
            tuple(sees),
            text,
            body,
            reduced,
            tuple(tells),
            cost,
            seeded,
        )
        return body

    return enter
