"""Properties of `select.*` on more scores than a narrow index can count, and with ids beyond 32 bits."""

import math

import numpy as np

from conformance.answers.answer import ids
from conformance.oracle import select
from conformance.properties.draws import Draw, Many
from conformance.properties.large import (
    BEYOND,
    FAR,
    FARTHER,
    far_at,
    lengths,
    most_of,
    sees_beyond,
    shapes,
    sides,
)
from conformance.properties.trial import Trial, property_of


@property_of(
    "select.large",
    "SEL-001 SEL-002 SEL-003",
    "core",
    "select.largest select.smallest",
    sees=(BEYOND, FARTHER),
    seeded=1,
)
def _select(d: Draw, t: Trial) -> None:
    """A selection from many scores, with many ties and ids beyond 32 bits, equals that of sorted tuples."""
    for n in lengths(d):
        many = Many(d)
        scores = many.lattice((n,), 300) / 8
        labels = many.subset(2**34, n)
        sees_beyond(t, (1, n), labels)
        for name in ("largest", "smallest"):
            t.case(f"select.{name}", {"scores": scores, "ids": labels, "k": d.integer(n // 3, n)})


@property_of(
    "topology.large",
    "TOP-001 TOP-002 TOP-003",
    "core",
    "topology.of topology.positions",
    sees=(BEYOND, FAR, FARTHER, "more than 65,536 rows", "more than 65,536 columns"),
    seeded=1,
)
def _topology(d: Draw, t: Trial) -> None:
    """Row pointers and columns match flat positions where rows, columns, slots or positions are many."""
    # these widths lie around the limits of 8-bit and 16-bit indices
    boundaries = [(2, width) for width in (255, 256, 257, 65_535, 65_536)]
    for shape in boundaries + shapes(d) + far_at(d):
        at = most_of(Many(d), shape)
        sees_beyond(t, shape, at)
        indptr, columns = select.rows_and_columns(shape, at)
        t.case("topology.of", sides(shape) | {"positions": ids(at)})
        t.case("topology.positions", sides(shape) | {"indptr": ids(indptr), "indices": ids(columns)})


@property_of(
    "change.large",
    "CHG-001 CHG-002",
    "core",
    "change.source change.realign",
    sees=(BEYOND, FAR, FARTHER),
    seeded=1,
)
def _change(d: Draw, t: Trial) -> None:
    """Many slots, and slots at far positions, keep their values when they move."""
    for shape in shapes(d)[2:] + far_at(d):
        many = Many(d)
        old = most_of(many, shape)
        # some old positions stay (each second, third, fourth or fifth), and some positions are new
        new = sorted({*most_of(many, shape), *old[:: d.integer(2, 5)]})
        values = many.lattice((len(old),), 10**6) / 64
        sees_beyond(t, shape, old)
        inputs = sides(shape) | {"old": ids(old), "new": ids(new)}
        t.case("change.source", inputs)
        t.case("change.realign", inputs | {"values": values, "fill": -1.5})


@property_of(
    "rng.large", "RNG-001 RNG-002 SCH-003 DLT-002", "core", "rng.draws schedule.events count.budget",
    sees=("more than 65,536 numbers", "a matrix of more than 2³² entries"), seeded=1,
)  # fmt: skip
def _numbers(d: Draw, t: Trial) -> None:
    """Many draws, far draws, events of long runs and slots of large matrices equal those of Python's integers."""
    words, n = [d.integer(0, 2**63) for _ in range(3)], 65_536 + d.integer(1, 99)
    numbers = [*range(n), 2**31, 2**32 + 1, 2**40 + d.integer(0, 9)]
    t.saw("more than 65,536 numbers", n > 65_536)
    t.case("rng.draws", {"words": np.array(words, dtype=np.uint64), "numbers": ids(numbers)})
    steps, every = 65_540 + d.integer(0, 99), d.integer(1, 2)
    t.case("schedule.events", {"steps": steps, "evolve_every": every})
    rows, cols, density = 65_537 + d.integer(0, 999), 65_537 + d.integer(0, 999), d.integer(1, 63) / 64
    t.saw("a matrix of more than 2³² entries", math.prod((rows, cols)) > 2**32)
    stored = d.choice((rows * cols, 2**31 + d.integer(0, 9)))
    inputs = {"density": density, "out": rows, "in": cols, "stored": stored}
    t.case("count.budget", inputs)


@property_of(
    "select.pools-large", "SEL-001 SEL-002 SEL-007 SEL-008", "rules", "select.pools", sees=(BEYOND, "many pools"),
    seeded=1,
)  # fmt: skip
def _pools(d: Draw, t: Trial) -> None:
    """Many scores in few pools, or in many, are chosen as by sorted tuples."""
    for n_pools in (3, 70_000):
        n, many = 66_000 + d.integer(0, 99), Many(d)
        scores = np.ldexp(1.0, many.integers(n, -9, 9)) * (2.0 * many.integers(n, 0, 1) - 1.0)
        pool = many.integers(n, 0, n_pools - 1).tolist()
        counts = np.bincount(pool, minlength=n_pools) // 2
        t.saw(BEYOND, n > 65_536)
        t.saw("many pools", n_pools > 65_536)
        inputs = {"scores": scores, "ids": np.arange(n), "pools": ids(pool), "counts": counts, "largest": 1}
        t.case("select.pools", inputs)
