"""Cases of steps on explicit rows: uncounted labels, padding, micro-batches of unequal sizes (TRN-001, TRN-002)."""

from typing import Any

import numpy as np

from conformance.gen import tiny
from conformance.gen.numbers import Area, Numbers
from conformance.gen.train import GAP
from conformance.gen.train_steps import SETTINGS, World, answered, asked, rounded
from conformance.oracle import train, train_batches, update_choices
from conformance.oracle.event import Part
from conformance.oracle.tape import Array
from conformance.oracle.train_batches import Batch

LENGTH = 6


def rows(n: Numbers, counts: list[tuple[int, int]], *, padded: bool) -> Batch:
    """Return a micro-batch with a row for each (counted labels, padding tokens) of `counts`.

    Padding comes first, and the last labels count.
    """
    tokens = n.integers((len(counts), LENGTH), 0, 4)
    labels, mask = tokens.copy(), np.ones(tokens.shape, dtype=np.bool_)
    for row, (counted, padding) in enumerate(counts):
        labels[row, : LENGTH - counted] = -100
        mask[row, :padding] = False
    return {"tokens": tokens, "labels": labels} | ({"mask": mask} if padded else {})


def given(world: World, parts: list[Part], settings: dict[str, Any], step: int, of: list[Batch]) -> dict[str, Any]:
    """Return the inputs of `train.batches`."""
    inputs = asked(tiny.CONFIG, world, parts, settings, step)
    del inputs["text"]
    return inputs | {"batches": of}


def steps() -> Area:
    """Return cases of one step on explicit rows (TRN-001, TRN-002, GRD-006)."""
    area = Area("batches", "binary64 step")
    for name, step, shape, padded, purpose in (
        ("labels", 1, [[(5, 0), (1, 0)]], False, "labels that do not count are learned, or count in the mean"),
        ("uneven", 1, [[(5, 0), (5, 0)], [(1, 0)]], False, "a mean over micro-batches of their means"),
        ("nothing-counted", 1, [[(3, 0)], [(0, 0)]], False, "a micro-batch without labels divided by 0, or counted"),
        ("padded", 1, [[(3, 2), (5, 0)], [(2, 4)]], True, "padding that is attended to, or counted"),
        ("event", 2, [[(4, 1), (2, 3)], [(5, 0)]], True, "an event that sees the gradient of the last micro-batch"),
    ):
        for seed in range(200):
            n, settings = Numbers(64, seed), SETTINGS | {"seed": seed, "start": "random"}
            world = tiny.world(n, tiny.CONFIG)
            settings |= {"rows": sum(map(len, shape)), "micro_batches": len(shape)}
            parts = [rounded(part) for part in train.Trainer(tiny.CONFIG, *world, settings).parts]
            parts = rounded_after(world, parts, settings) if step > 1 else parts
            of = [rows(n, counts, padded=padded) for counts in shape]
            loss, after, gap = train_batches.one_step(tiny.CONFIG, world[0], parts, of, settings, step)
            if gap >= GAP and not _weak(after):
                break
        else:
            msg = f"no seed for {name}"
            raise AssertionError(msg)
        clauses = "TRN-001 TRN-002 LYR-011" + (" LYR-008" if padded else "") + (" EVT-001 EVT-002" if step > 1 else "")
        area.add(
            name, "train.batches", clauses, purpose, given(world, parts, settings, step, of), answered(loss, after)
        )
    _inputs(area)
    return area


class _CountsPadding(train_batches.Given):
    """A wrong reading of GRD-006: the inputs of padding count."""

    def read(self, step: int) -> Array:
        return np.ones_like(super().read(step))


class _CountsPredictors(train_batches.Given):
    """A wrong reading of GRD-006: the inputs of padding that predicts a token count."""

    def read(self, step: int) -> Array:
        _, labels, mask = self.data(step)
        assert mask is not None
        predicts = np.zeros_like(mask)
        predicts[:, :-1] = labels[:, 1:] != -100
        return (mask | predicts).reshape(-1)


def _inputs(area: Area) -> None:
    """Add steps whose event reads the inputs of layers: of rows without labels, and not of padding (GRD-006)."""
    uncounted = "a micro-batch without labels skipped, and its rows missing in the mean square of the inputs"
    padding = "padding counted in the mean square of the inputs"
    without_labels = [[(5, 0)], [(0, 0), (0, 0)]]
    with_padding = [[(2, 4), (5, 0)], [(3, 3)]]
    for name, grow, adapt, shape, purpose, clauses in (
        ("silent-inputs", "curvature", "activation", without_labels, uncounted, "GRD-006 GROW-004"),
        ("padded-inputs", "gradient", "activation", with_padding, padding, "GRD-006 TRN-021 ADPT-005"),
        ("padded-curvature", "curvature", "sensitivity", with_padding, padding, "GRD-006 TRN-021 GROW-004"),
    ):
        rule, padded = update_choices.RULE | {"grow": grow, "adapt": adapt}, purpose == padding
        for seed in range(200):
            n = Numbers(133, seed)
            settings = SETTINGS | {"seed": seed, "start": "random", "rows": 3, "micro_batches": 2, "rule": rule}
            world = tiny.world(n, tiny.CONFIG)
            parts = [rounded(part) for part in train.Trainer(tiny.CONFIG, *world, settings).parts]
            parts = rounded_after(world, parts, settings)
            of = [rows(n, counts, padded=padded) for counts in shape]
            loss, after, gap = train_batches.one_step(tiny.CONFIG, world[0], parts, of, settings, 2)
            others = [(of, _CountsPadding), (of, _CountsPredictors)] if padded else [(of[:1], train_batches.Given)]
            answers = [
                train_batches.one_step(tiny.CONFIG, world[0], parts, batches, settings, 2, kind)[1]
                for batches, kind in others
            ]
            moved = all(_supports(answer) != _supports(after) for answer in answers)
            if gap >= GAP and moved and not _weak(after):
                break
        else:
            msg = f"no seed for {name} in which the inputs of these rows move a slot"
            raise AssertionError(msg)
        clauses += " TRN-001 TRN-002 EVT-001 EVT-002"
        area.add(name, "train.batches", clauses, purpose, given(world, parts, settings, 2, of), answered(loss, after))


def _supports(parts: list[Part]) -> list[tuple[list[int], list[int]]]:
    return [(sorted(part.phi), sorted(part.base)) for part in parts]


def rounded_after(world: World, parts: list[Part], settings: dict[str, Any]) -> list[Part]:
    """Return the targets after the first step of the run on its text, rounded to binary32."""
    own = train.one_step(tiny.CONFIG, world[0], parts, world[2], settings, 1)
    return [rounded(part) for part in own.parts]


def _weak(parts: list[Part]) -> bool:
    """Return whether a slot moved by a gradient so small beside the others that rounding dominates it."""
    sizes = [[abs(x) for p, x in part.kept["m"].items() if part.kept["age"][p]] for part in parts]
    return any(min(own) < 1e-3 * max(own) for own in sizes if own)


AREAS = (steps,)
