"""Properties of sizes beyond every boundary of an index type: event."""

from typing import Any

from conformance.answers.event import given_part
from conformance.oracle import (
    update_choices,
)
from conformance.oracle.event import Part
from conformance.oracle.event_evidence import Evidence
from conformance.properties.draws import Draw, Many
from conformance.properties.event import BETAS
from conformance.properties.large import BEYOND, shapes
from conformance.properties.trial import Trial, property_of


@property_of(
    "update.event-large", "EVT-001 EVT-006 GROW-003 SEL-007 TRN-009", "rules", "update.event", sees=(BEYOND,), seeded=1
)
def _event(d: Draw, t: Trial) -> None:
    """An event of a matrix with many slots equals drop, grow and adapt on dictionaries."""
    t.case("update.event", _large_event(d, t))


@property_of("event.ratios-large", "TRN-009", "runs", "event.ratios", sees=(BEYOND,), seeded=1)
def _ratios(d: Draw, t: Trial) -> None:
    """The ratios of an event of a matrix with many slots equal those of an event on dictionaries."""
    t.case("event.ratios", _large_event(d, t))


def _large_event(d: Draw, t: Trial) -> dict[str, Any]:
    """Return the inputs of an event."""
    shape, many = shapes(d)[d.integer(1, 3)], Many(d)
    size = shape[0] * shape[1]
    t.saw(BEYOND, size > 65_536)
    chosen = update_choices.RULE | BETAS | {"scope": d.choice(("matrix", "model"))}
    chosen |= {"adapt": d.choice(("sensitivity", "magnitude")), "grow": d.choice(("gradient", "absolute"))}
    base, eta = many.subset(size, size // 2).tolist(), many.subset(size, size // 3).tolist()

    def column(at: list[int], top: int) -> dict[int, Any]:
        return dict(zip(at, (many.lattice((len(at),), top) / 8).tolist(), strict=True))

    kept = {"m": column(eta, 9), "v": {p: abs(x) for p, x in column(eta, 9).items()}}
    kept["age"] = dict(zip(eta, many.integers(len(eta), 0, 9).tolist(), strict=True))
    part = Part(
        shape, 3, column(base, 40), column(eta, 40), kept, [len({*base, *eta}) - 99], [len(eta) + 7], "adamw",
        lost=frozenset(),
    )  # fmt: skip
    flat = [(many.lattice((size,), 99) / 8).tolist() for _ in range(2)]
    ones = [[1.0] * n for n in (shape[1], *shape)]
    evidence = Evidence(flat[0], [abs(x) for x in flat[1]], [x * x for x in flat[0]], ones[0], ones[1], ones[2])
    seed, step = d.integer(0, 99), d.integer(1, 99)
    inputs: dict[str, Any] = {"parts": [given_part(part, evidence)], "rule": chosen, "fraction": 0.5}
    return inputs | {"seed": seed, "step": step}
