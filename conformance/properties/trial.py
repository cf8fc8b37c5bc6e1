"""A property, and one example of it tried on a port."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from conformance.cases.case import Bound, Case
from conformance.cases.ops import OPS
from conformance.judge.harness import Failure, Result, Variant, run
from conformance.judge.judgement import asked_in
from conformance.properties.draws import Draw
from conformance.properties.relations import RELATIONS, given_to_port

__all__ = ["Enough", "Found", "Made", "NotOffered", "Property", "Seen", "Trial", "ask_all", "property_of"]
FINITE = ("preset.rule",)
"""Operations with finitely many answers, each of which a frozen case asks for: new to them is what they must refuse."""
RELATION = "relation: "
"""What the oracle of a case says where the answers of several cases are compared with each other."""


class Found(Exception):
    """An example failed."""


class Enough(BaseException):
    """The time is over; hypothesis lets it pass."""


class NotOffered(BaseException):
    """The port does not offer an operation; hypothesis lets it pass."""


@dataclass(frozen=True, slots=True)
class Property:
    """A statement about operations that holds for all inputs.

    Attributes:
        name: ``area.name``.
        clauses: ids of SPEC.md that it shows.
        profile: the profile it belongs to.
        ops: the operations it asks.
        sees: what its examples must have had among them; without it, nothing is shown.
        text: what holds, in one line.
        body: makes an example of a draw and tries it.
        reduced: it can be asked in 16-bit types too.
        tells: what its result counts.
        cost: one of its examples is as long as so many of another property, and it has so many fewer.
        seeded: how many examples a run draws from its seed alone, because each is too long to be made smaller; 0 for
            examples that hypothesis draws. Its body neither looks at answers nor at the dtype: it makes an example once
            and every way of calling a port is asked the same.
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
        """Whether all its operations are about numbers alone."""
        return all(OPS[op].kind == "scalar" for op in self.ops)

    def fits(self, variant: Variant) -> bool:
        """Tell whether it can be asked of a port called in this way."""
        if not self.reduced and variant.dtype in ("bfloat16", "float16"):
            return False
        return all(
            OPS[op].kind in variant.kinds and (variant.offers is None or op in variant.offers) for op in self.ops
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """A failing example.

    Attributes:
        cases: what was asked; one, or those that a relation compares.
        failure: what was wrong with it.
        answers: what the port said to each, where it answered.
    """

    cases: tuple[Case, ...]
    failure: Failure
    answers: tuple[Any, ...] = ()


class _Lasting:
    """A port that may be lost any number of times while an example gets smaller; it keeps the last answer."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self.last: Any = None

    def __getattr__(self, name: str) -> Any:
        if name == "restarts":
            raise AttributeError(name)
        return getattr(self._port, name)

    def call(self, op: str, inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
        """Ask the port."""
        self.last = None
        self.last = self._port.call(op, inputs, dtype)
        found: dict[str, Any] = self.last
        return found


@dataclass(slots=True)
class Trial:
    """What the body of a property speaks to.

    Attributes:
        prop: the property.
        variant: the port, called in one way.
        until: when the time is over.
        saw_: what examples had among them, and how often.
        failing: the last example that failed.
        log: the inputs of every call, where somebody wants them.
        new: nobody can know the inputs of this example before the run, because its seed is among what they are drawn
            from.
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
        """Count that an example had something."""
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
        """Ask for what the oracle says; return the answer, None for a refusal or where the port is not asked.

        Raises:
            Found: it answers something else.
        """
        case = Case(
            f"property.{self.prop.name}",
            op,
            self.prop.clauses,
            self.prop.text,
            inputs,
            expected or {},
            tuple(refused),
            bounds or {},
            dtypes=dtypes or ("float64", "float32"),
        )
        return self.ask(case)

    def ask(self, case: Case) -> dict[str, Any] | None:
        """Ask a case; return the answer, None for a refusal or where the port is not asked.

        Raises:
            Found: it answers something else.
        """
        port = self._port()
        result = self._run(case, port)
        if result.failures:
            self._fail(Seen((case,), result.failures[0], (port.last,)))
        return port.last if result.ran and not case.refused else None

    def related(self, relation: str, *asked: tuple[str, dict[str, Any]]) -> list[dict[str, Any]] | None:
        """Ask several things whose answers are compared with each other; return the answers.

        Raises:
            Found: the relation does not hold, or the port does not answer.
        """
        cases = tuple(
            Case(
                f"property.{self.prop.name}", op, self.prop.clauses, self.prop.text, inputs, oracle=RELATION + relation
            )
            for op, inputs in asked
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
        """Look at an answer that came already.

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
        if self.log is not None:
            self.log.append(case)
        (result,) = run([case], [replace(self.variant, port=port)])
        if not result.ran and not result.failures and "does not offer" in result.skipped:
            raise NotOffered(case.op)
        if result.ran and not result.failures:
            self._note(case)
        return result

    def _note(self, case: Case) -> None:
        """Remember that an operation answered what nobody could know; a refusal needs no knowledge of the inputs."""
        if self.new and (not case.refused or case.op in FINITE):
            self.asked_new.add(asked_in(case.op, self.variant.class_name))

    def _port(self) -> Any:
        return _Lasting(self.variant.port)

    def _in_time(self) -> None:
        if time.monotonic() > self.until:
            raise Enough

    def _fail(self, seen: Seen) -> None:
        self.failing = seen
        raise Found(seen.failure.detail)


@dataclass(slots=True)
class Made(Trial):
    """An example that is made and not yet asked.

    Attributes:
        cases: what is to be asked, in its order.
    """

    cases: list[Case] = field(default_factory=list)

    def _run(self, case: Case, port: Any) -> Result:
        self.cases.append(case)
        return Result(case)


def ask_all(cases: Sequence[Case], variant: Variant) -> tuple[Failure | None, list[dict[str, Any]]]:
    """Return what is wrong with the answers to cases that a relation compares, and the answers."""
    answers: list[dict[str, Any]] = []
    port = variant.port if isinstance(variant.port, _Lasting) else _Lasting(variant.port)
    for case in cases:
        asked = given_to_port(case)
        # an answer that is compared with nothing fails at its first output, after it was got
        (result,) = run([replace(asked, expected=dict.fromkeys(OPS[case.op].outputs))], [replace(variant, port=port)])
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
    """Return what a relation says; answers of another form than they should have break it too."""
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
    """Enter a body as a property; its docstring says what holds."""

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
