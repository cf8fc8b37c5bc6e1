"""Properties that compare events with each other, or take events and steps in any order (chapters 8 and 9)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.answers.answer import ids, reals
from conformance.oracle import update
from conformance.oracle.update import State
from conformance.properties.draws import Draw, Shape
from conformance.properties.invariants import state_of
from conformance.properties.states import (
    Event,
    adamw_case,
    asked,
    draw_event,
    draw_state,
    evolve_case,
)
from conformance.properties.trial import Trial, property_of


def _ask(
    t: Trial, relation: str, shapes: Sequence[Shape], states: Sequence[State], events: Sequence[Event], **more: Any
) -> None:
    """Ask for several events and compare the answers by a relation."""
    several = zip(shapes, states, events, strict=True)
    t.related(relation, *(("update.evolve", asked(*one) | more) for one in several))


@property_of(
    "update.scaled",
    "GROW-002 ADPT-002 EVT-001",
    "core",
    "update.evolve",
    sees=("a pruned position", "a grown position"),
)
def _scaled(d: Draw, t: Trial) -> None:
    """Scaling the loss by a power of two leaves every set unchanged."""
    shape = d.shape()
    state = _without_specials(draw_state(d, shape))
    event = draw_event(d, shape, state)
    factor = 2.0 ** d.choice((1, -1, 5, -9, 20))
    _, moves = update.evolve(state, [float(x) for x in event.gradient.reshape(-1)], **event.how)
    t.saw("a pruned position", moves["pruned"])
    t.saw("a grown position", set(moves["grown"]) - state.phi.keys())
    _ask(t, "same", [shape, shape], [state, state], [event, replace(event, gradient=event.gradient * factor)])


def _without_specials(state: State) -> State:
    """Return a state without tiny weights, because their products with a scaled gradient may underflow."""

    def plain(values: dict[int, float]) -> dict[int, float]:
        return {p: 0.0 if abs(x) < 2.0**-100 else x for p, x in values.items()}

    return replace(state, base=plain(state.base), phi=plain(state.phi))


@property_of(
    "update.rows-moved",
    "DROP-001 GROW-002 ADPT-002 SEL-001 SEL-002",
    "core",
    "update.evolve",
    sees=("rows in another order", "a pruned position"),
)
def _rows_moved(d: Draw, t: Trial) -> None:
    """If no scores are equal, moving the rows of a matrix moves the rows of the answer in the same way."""
    shape = d.shape(5)
    size = shape[0] * shape[1]
    state = draw_state(d, shape)
    # gradients are distinct odd numbers and base weights are 1, so that no two scores are equal
    odd = [2 * i + 1 for i in d.order(size)]
    off = [p for p in state.phi if p not in state.base]
    phi = {p: 2.0 + off.index(p) / 64 if p in off else odd[p] / 4096 for p in state.phi}
    state = replace(state, base={p: 1.0 - phi.get(p, 0.0) for p in state.base}, phi=phi)
    event = replace(draw_event(d, shape, state), gradient=reals(odd).reshape(shape))
    flat = [float(x) for x in odd]
    w = update.effective(state.base, state.phi)
    if len({flat[p] * w[p] for p in w}) < len(w):
        return
    _, moves = update.evolve(state, flat, **event.how)
    order = d.order(shape[0])
    t.saw("rows in another order", order != sorted(order) and w)
    t.saw("a pruned position", moves["pruned"])
    to = {old * shape[1] + c: new * shape[1] + c for new, old in enumerate(order) for c in range(shape[1])}

    def moved(values: dict[int, Any]) -> dict[int, Any]:
        return dict(sorted((to[p], x) for p, x in values.items()))

    other = State(size, *(moved(x) for x in (state.base, state.phi, state.m, state.v, state.age)))
    turned = replace(event, gradient=event.gradient[order])
    _ask(t, "rows moved", [shape, shape], [state, other], [event, turned], order=ids(order))


@property_of(
    "update.padded",
    "GROW-001 GROW-002 ADPT-002",
    "core",
    "update.evolve",
    sees=("a pruned position", "a grown position"),
)
def _padded(d: Draw, t: Trial) -> None:
    """One more column, without weights and gradient, changes nothing."""
    shape = d.shape()
    state = draw_state(d, shape)
    event = draw_event(d, shape, state)
    # no gradient is 0, because the new column has zeros and must not tie
    gradient = np.where(event.gradient == 0, 0.5, event.gradient)
    open_to = state.size - len(state.phi)
    n_grow = event.n_drop + event.delta_budget - len(state.phi)
    if n_grow > open_to:
        event = replace(event, n_drop=0, delta_budget=len(state.phi))
    event = replace(event, gradient=gradient)
    _, moves = update.evolve(state, [float(x) for x in gradient.reshape(-1)], **event.how)
    t.saw("a pruned position", moves["pruned"])
    t.saw("a grown position", set(moves["grown"]) - state.phi.keys())
    wide = (shape[0], shape[1] + 1)

    def moved(values: dict[int, Any]) -> dict[int, Any]:
        return {p // shape[1] * wide[1] + p % shape[1]: x for p, x in values.items()}

    other = State(wide[0] * wide[1], *(moved(x) for x in (state.base, state.phi, state.m, state.v, state.age)))
    more = replace(event, gradient=np.concatenate([gradient, np.zeros((shape[0], 1))], axis=1))
    _ask(t, "padded", [shape, wide], [state, other], [event, more])


@property_of("update.cancelled", "GROW-003 EVT-006", "core", "update.evolve", sees=("a cancelled pair",))
def _cancelled(d: Draw, t: Trial) -> None:
    """A slot that is dropped and grown in one event keeps its value, moments and age."""
    shape = d.shape()
    state = draw_state(d, shape)
    gradient = reals(d.levels(state.size, 2)).reshape(shape)
    for p in state.phi:
        gradient.reshape(-1)[p] = d.choice((4.0, -4.0))
    n = d.integer(0, len(state.phi))
    t.saw("a cancelled pair", n > 0)
    event = Event(gradient, n, len(state.phi), len(state.base.keys() | state.phi.keys()))
    _ask(t, "unchanged", [shape], [state], [event])


@property_of(
    "update.nothing-dropped", "EVT-006 SCH-002 OPT-001", "core", "update.evolve adamw.step", sees=("a slot that moved",)
)
def _nothing_dropped(d: Draw, t: Trial) -> None:
    """With drop fraction 0 and full budgets an event changes nothing: steps are those of AdamW under a mask."""
    shape = d.shape()
    state = draw_state(d, shape)
    gradient = d.levels(len(state.phi), 3)
    answer = adamw_case(t, state, gradient, 0.125, {})
    if answer is None:
        return
    state = stepped(state, answer)
    t.saw("a slot that moved", any(gradient))
    gradients = reals(d.levels(state.size, 3)).reshape(shape)
    event = Event(gradients, 0, len(state.phi), len(state.base.keys() | state.phi.keys()))
    _ask(t, "unchanged", [shape], [state], [event])


def stepped(state: State, answer: dict[str, Any]) -> State:
    """Return the state after a port's answer to a step of AdamW."""
    columns = [
        dict(zip(state.phi, (x.item() for x in np.asarray(answer[n])), strict=True))
        for n in ("values", "m", "v", "age")
    ]
    phi, m, v, age = columns
    return State(state.size, state.base, phi, m, v, age)


@property_of(
    "update.machine",
    "EVT-001 EVT-003 EVT-006 ADPT-004 GROW-003 DLT-005 OPT-001 CHG-002",
    "core",
    "update.evolve adamw.step",
    sees=("two events", "a step after an event", "a regrown pair", "a pruned position"),
)
def _machine(d: Draw, t: Trial) -> None:
    """Steps and events in any order follow the rule and keep its invariants, each from the state before it."""
    shape = d.shape(8)
    at, _ = d.mask(shape)
    state = draw_state(d, shape, at, inside=True)
    budget, events = len(at), 0
    slots = min(len(state.phi) + d.choice((0, 2)), budget)
    for _ in range(d.integer(1, 6)):
        if d.flag():
            event = draw_event(d, shape, state)
            event = replace(event, budget=budget, delta_budget=slots, n_drop=min(event.n_drop, len(state.phi)))
            answer = evolve_case(t, shape, state, event)
            if answer is None:
                return
            state, events = state_of(state.size, answer), events + 1
            t.saw("two events", events > 1)
            continue
        t.saw("a step after an event", events and state.phi)
        hyper = d.choice(({}, {"weight_decay": 0.25}, {"beta1": 0.5, "beta2": 0.75, "eps": 0.125}))
        answer = adamw_case(t, state, d.levels(len(state.phi), 3), 0.0625, hyper)
        if answer is None:
            return
        state = stepped(state, answer)
