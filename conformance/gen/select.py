"""Cases of chapters 2 and 7: topologies, changes, selections and draws."""

import math

import numpy as np

from conformance.gen.numbers import Area, Numbers, ids, reals
from conformance.oracle import select, select_rng

_TOP = 2**64 - 1


def chance() -> Area:
    """Return cases of draws (RNG-001, RNG-002)."""
    area = Area("rng", "Python integers")
    for name, words, purpose in (
        ("key-0-1", (0, 1), "the example of RNG-002: a mixing constant, a shift, the + 1 of the counter"),
        ("key-2-words", (12345, 2), "the words taken in another order"),
        ("key-3-words", (7, 1, 13), "the third word ignored"),
        ("top-seed", (_TOP, 4), "signed arithmetic on seeds of 2^63 and above"),
    ):
        numbers = [0, 1, 2, 3, 1000, 2**33]
        key = select_rng.key(*words)
        draws = np.array([select_rng.draw(key, i) for i in numbers], dtype=np.uint64)
        inputs = {"words": np.array(words, dtype=np.uint64), "numbers": ids(numbers)}
        area.add(name, "rng.draws", "RNG-001 RNG-002", purpose, inputs, {"draws": draws})
    return area


def selection() -> Area:
    """Return cases of the largest and the smallest scores (SEL-001 to SEL-005)."""
    area = Area("select", "sorted tuples")

    def both(
        name: str, purpose: str, scores: list[float], k: int, clauses: str = "", at: list[int] | None = None
    ) -> None:
        labels = at or list(range(len(scores)))
        inputs = {"scores": reals(scores), "ids": ids(labels), "k": k}
        for op, choose, clause in (
            ("largest", select.largest, "SEL-001"),
            ("smallest", select.smallest, "SEL-002"),
        ):
            chosen = {"chosen": ids(choose(scores, labels, k))}
            named = f"{clause} SEL-003 {clauses} NUM-001"
            area.add(f"{op}-{name}", f"select.{op}", named, purpose, inputs, chosen)

    both("example", "the example of chapter 7", [1.0, 3.0, 3.0, 2.0], 2, at=[5, 7, 9, 11])
    for n in (17, 64, 300):
        scores = [float(x) for x in Numbers(1, n).integers(n, 0, 2)]
        both(f"three-levels-{n}", "an unstable sort, or ties to the higher id", scores, n // 2)
    both("one-level", "ties in library order where all scores are equal", [4.0] * 70, 33)
    both("zeros", "−0 ordered before +0", [0.0, -0.0, 0.0, -0.0] * 20, 31, "SEL-004")
    both("subnormal", "subnormal scores flushed to zero", [2.0**-140, 0.0, 2.0**-141, 0.0, 2.0**-149], 3)
    both("none", "k = 0", [1.0, 2.0], 0, "SEL-005")
    both("all", "k = n", [2.0, 1.0, 2.0], 3, "SEL-005")
    both("empty", "nothing to choose from", [], 0, "SEL-005")
    both("distinct", "the order of what is returned", [float(x) for x in Numbers(1, 9).real(97)], 41)
    for name, scores, k, clause in (
        ("nan", [1.0, math.nan, 2.0], 1, "SEL-004"),
        ("nan-not-chosen", [5.0, 4.0, math.nan], 3, "SEL-004"),
        ("infinite", [1.0, math.inf, 2.0], 1, "SEL-004"),
        ("nan-none", [1.0, math.nan, 2.0], 0, "SEL-004"),
        ("infinite-none", [1.0, -math.inf, 2.0], 0, "SEL-004"),
        ("too-many", [1.0, 2.0], 3, "SEL-005"),
        ("negative", [1.0, 2.0], -1, "SEL-005"),
    ):
        inputs = {"scores": reals(scores), "ids": ids(range(len(scores))), "k": k}
        for op in ("largest", "smallest"):
            purpose = "a score or count that cannot be ranked is answered"
            area.add(f"{op}-{name}", f"select.{op}", clause, purpose, inputs, refused=clause)
    return area


def topology() -> Area:
    """Return cases of topologies and of changes between them (TOP-001 to TOP-003, CHG-001, CHG-002)."""
    area = Area("topology")
    for name, shape, flat in (
        ("example", (2, 3), [0, 2, 4]),
        ("empty-rows", (5, 4), [5, 7, 16]),
        ("nothing", (3, 2), []),
        ("no-rows", (0, 4), []),
        ("full", (3, 3), list(range(9))),
        ("one-column", (6, 1), [1, 4]),
        ("scattered", (7, 5), Numbers(2, 1).subset(35, 13)),
    ):
        indptr, indices = select.rows_and_columns(shape, flat)
        size = {"out": shape[0], "in": shape[1]}
        inputs = size | {"indptr": ids(indptr), "indices": ids(indices)}
        purpose = "rows and columns exchanged, empty rows skipped"
        area.add(
            f"positions-{name}",
            "topology.positions",
            "TOP-001 TOP-002 TOP-003",
            purpose,
            inputs,
            {"positions": ids(flat)},
        )
        answer = {"indptr": ids(indptr), "indices": ids(indices)}
        area.add(
            f"of-{name}",
            "topology.of",
            "TOP-001 TOP-002 TOP-003",
            purpose,
            size | {"positions": ids(flat)},
            answer,
        )
    wide = 3 * 2**29
    columns = [0, 1, wide - 1]
    large = [r * wide + c for r, c in zip((0, 2, 3), columns, strict=True)]
    inputs = {"out": 4, "in": wide, "indptr": ids([0, 1, 1, 2, 3]), "indices": ids(columns)}
    area.add(
        "positions-large",
        "topology.positions",
        "TOP-003",
        "flat positions in 32 bits",
        inputs,
        {"positions": ids(large)},
    )
    for name, out, pointers, columns, clause in (
        ("short-pointers", 2, [0, 3], [0, 2, 1], "TOP-001"),
        ("first-pointer", 2, [1, 2, 3], [0, 2, 1], "TOP-001"),
        ("decreasing", 3, [0, 2, 1, 3], [0, 2, 1], "TOP-001"),
        ("last-pointer", 2, [0, 2, 2], [0, 2, 1], "TOP-001"),
        ("unsorted", 2, [0, 2, 3], [2, 0, 1], "TOP-002"),
        ("repeated", 2, [0, 2, 3], [2, 2, 1], "TOP-002"),
        ("column-high", 2, [0, 2, 3], [0, 3, 1], "TOP-002"),
        ("column-negative", 2, [0, 2, 3], [-1, 2, 1], "TOP-002"),
    ):
        inputs = {"out": out, "in": 3, "indptr": ids(pointers), "indices": ids(columns)}
        area.add(
            f"refuse-{name}",
            "topology.positions",
            clause,
            "a broken topology is taken",
            inputs,
            refused=clause,
        )
    for name, flat in (("unsorted", [2, 1]), ("repeated", [1, 1]), ("high", [0, 6]), ("negative", [-1, 2])):
        inputs = {"out": 2, "in": 3, "positions": ids(flat)}
        area.add(
            f"refuse-of-{name}",
            "topology.of",
            "TOP-003",
            "bad flat positions are taken",
            inputs,
            refused="TOP-003",
        )
    _changes(area)
    return area


def _changes(area: Area) -> None:
    moves = {
        "example": ((2, 3), [0, 2, 4], [2, 3, 4]),
        "all-new": ((2, 4), [0, 1], [5, 6, 7]),
        "all-gone": ((2, 4), [0, 1], []),
        "from-nothing": ((2, 4), [], [3, 4]),
        "same": ((2, 4), [0, 6], [0, 6]),
        "scattered": ((9, 11), Numbers(2, 2).subset(99, 40), Numbers(2, 3).subset(99, 44)),
    }
    for name, (shape, old, new) in moves.items():
        inputs = {"out": shape[0], "in": shape[1], "old": ids(old), "new": ids(new)}
        purpose = "a slot taken from the wrong place"
        area.add(
            f"source-{name}",
            "change.source",
            "CHG-001",
            purpose,
            inputs,
            {"source": ids(select.source(old, new))},
        )
        values = [float(x) for x in Numbers(2, 4).real(len(old))]
        if values:
            values[0] = -0.0
        for fill in (0.0, -1.5):
            moved = {"values": reals(select.realign(values, old, new, fill))}
            more = inputs | {"values": reals(values), "fill": fill}
            text = "a moved value changed (−0 too), a new slot not filled"
            area.add(
                f"realign-{name}-{'zero' if fill == 0 else 'fill'}",
                "change.realign",
                "CHG-002",
                text,
                more,
                moved,
            )


AREAS = (
    chance,
    selection,
    topology,
)
