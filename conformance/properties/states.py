"""Random states of a matrix, and cases of events and AdamW steps on them."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from conformance.answers.answer import ids, reals
from conformance.oracle import select, update
from conformance.oracle.update import State
from conformance.properties.draws import Array, Draw, Shape
from conformance.properties.trial import Trial

__all__ = [
    "Event",
    "adamw_case",
    "asked",
    "draw_event",
    "draw_state",
    "evolve_case",
    "given_state",
    "matrix_of",
    "ties",
]


def matrix_of(shape: Shape, base: dict[int, float], phi: dict[int, float]) -> dict[str, Any]:
    """Return base and delta as inputs of an operation."""
    return {
        "out": shape[0],
        "in": shape[1],
        "base": ids(base),
        "base_values": reals(base.values()),
        "delta": ids(phi),
        "delta_values": reals(phi.values()),
    }


def given_state(shape: Shape, state: State) -> dict[str, Any]:
    """Return a state as inputs of an operation."""
    inputs = matrix_of(shape, state.base, state.phi)
    return inputs | {"m": reals(state.m.values()), "v": reals(state.v.values()), "age": ids(state.age.values())}


@dataclass(frozen=True)
class Event:
    """The inputs of an event besides the state.

    Attributes:
        gradient: (out, in).
        n_drop: how many slots are dropped.
        delta_budget: d_φ.
        budget: K.
        scope: `all` or `active`.
        adapts: whether the event prunes.
    """

    gradient: Array
    n_drop: int
    delta_budget: int
    budget: int
    scope: str = "all"
    adapts: bool = True

    @property
    def how(self) -> dict[str, Any]:
        """All inputs but the gradient, under the names that the operation gives them."""
        names = ("n_drop", "delta_budget", "budget", "scope", "adapts")
        return {n: getattr(self, n) for n in names}


def draw_state(d: Draw, shape: Shape, base: list[int] | None = None, *, inside: bool = False) -> State:
    """Return a random state with few different values.

    base    the stored positions, random if None
    inside  whether every slot is on the base
    """
    size = shape[0] * shape[1]
    at = d.mask(shape)[0] if base is None else base
    open_to = at if inside else list(range(size))
    eta = [open_to[i] for i in d.subset(len(open_to), 3)]
    n, top = len(eta), d.integer(0, 3)
    b = dict(zip(at, d.with_specials(d.levels(len(at), top, 0.5)), strict=True))
    phi = dict(zip(eta, d.with_specials(d.levels(n, top, 0.25)), strict=True))
    m = dict(zip(eta, d.levels(n, 3), strict=True))
    v = dict(zip(eta, map(abs, d.levels(n, 3)), strict=True))
    return State(size, b, phi, m, v, dict(zip(eta, d.integers(n, 0, 9), strict=True)))


def draw_event(d: Draw, shape: Shape, state: State, *, scope: str | None = None) -> Event:
    """Return a random event for a state, often with a budget that makes it prune."""
    slots, support = len(state.phi), len(state.base.keys() | state.phi.keys())
    gradient = reals(d.levels(shape[0] * shape[1], d.integer(0, 3))).reshape(shape)
    delta_budget = slots + d.choice((0, 0, 1, 3))
    return Event(
        gradient,
        d.integer(0, slots),
        delta_budget,
        # d_φ is at most K (DLT-002)
        max(delta_budget, support + d.choice((0, -1, 1, -4, 2))),
        scope or d.choice(("all", "active")),
        not d.flag(4),
    )


def asked(shape: Shape, state: State, event: Event) -> dict[str, Any]:
    """Return a state and an event as inputs of `update.evolve`."""
    return given_state(shape, state) | event.how | {"gradient": event.gradient, "adapts": int(event.adapts)}


def ties(values: list[float], n: int) -> bool:
    """Return whether the largest of the n smallest values equals the next value."""
    order = sorted(values)
    return 0 < n < len(order) and order[n - 1] == order[n]


def evolve_case(t: Trial, shape: Shape, state: State, event: Event) -> dict[str, Any] | None:
    """Ask for an event, compare it with the oracle's, and return the answer."""
    rounded = select.binary32 if t.dtype == "float32" else select.binary64
    flat = [float(x) for x in event.gradient.reshape(-1)]
    _, moves = update.evolve(state, flat, rounded=rounded, **event.how)
    _saw(t, shape, state, moves, event)
    inputs = asked(shape, state, event)
    answer = t.case("update.evolve", inputs, dtypes=(t.dtype,))
    if answer is not None:
        t.holds("keeps to the rule", "update.evolve", inputs, answer)
    return answer


def _saw(t: Trial, shape: Shape, state: State, moves: dict[str, list[int]], event: Event) -> None:
    out, into = set(moves["dropped"]), set(moves["grown"])
    rows = Counter(p // shape[1] for p in state.base)
    t.saw("a tie at the drop", ties([abs(x) for x in state.phi.values()], event.n_drop))
    t.saw("a regrown pair", out & into)
    t.saw("a pruned position", moves["pruned"])
    t.saw("a reactivated position", into - state.base.keys() - state.phi.keys())
    t.saw("a slot pruned", set(moves["pruned"]) & (state.phi.keys() - out))
    t.saw("an empty row", len(rows) < shape[0] and state.base)
    t.saw("a refill", len(into) > len(out))


def adamw_case(
    t: Trial, state: State, gradient: list[float], lr: float, hyper: dict[str, Any]
) -> dict[str, Any] | None:
    """Ask for a step of AdamW at every slot, compare it with the oracle's, and return the answer."""
    slots = {"values": state.phi, "m": state.m, "v": state.v}
    inputs = {name: reals(of.values()) for name, of in slots.items()} | {"age": ids(state.age.values())}
    return t.case("adamw.step", inputs | {"gradient": reals(gradient), "lr": lr} | hyper, dtypes=(t.dtype,))
