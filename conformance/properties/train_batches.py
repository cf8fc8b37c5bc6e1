"""Properties of a step on rows of labels, in micro-batches (TRN-001, TRN-002)."""

import numpy as np

from conformance.answers.train import batches_of
from conformance.oracle import update_choices
from conformance.oracle.train_batches import Batch
from conformance.properties.draws import Draw, Many
from conformance.properties.models import TINY
from conformance.properties.train_drawn import GAP, SETTINGS, asked, drawn_world, moving, started
from conformance.properties.trial import Trial, property_of

_LENGTH = 6


def _rows(d: Draw, size: int, *, least: int, padded: bool) -> Batch:
    """Return a micro-batch whose rows begin with padding and whose last labels count, at least so many of each row."""
    tokens = Many(d).integers(size * _LENGTH, 0, 4).reshape(size, _LENGTH)
    labels, mask = tokens.copy(), np.ones(tokens.shape, dtype=np.bool_)
    for row in range(size):
        counted = d.integer(least, _LENGTH - 1)
        labels[row, : _LENGTH - counted] = -100
        mask[row, : d.integer(0, _LENGTH - 1 - counted)] = False
    return {"tokens": tokens, "labels": labels} | ({"mask": mask} if padded else {})


@property_of(
    "train.batches",
    "TRN-001 TRN-002 TRN-021 LYR-008 LYR-011 GRD-006",
    "batches",
    "train.batches",
    sees=("padding", "micro-batches of other counts", "inputs beside padding"),
    tells=("too close to decide",),
    cost=8,
)
def _batches(d: Draw, t: Trial) -> None:
    """The loss of a step is the mean over all labels that count, whatever the micro-batches; padding enters nothing."""
    padded, step = d.flag(), d.choice((2, 3))
    grow, adapt = d.choice(("gradient", "curvature")), d.choice(("sensitivity", "activation"))
    settings = SETTINGS | {"seed": d.integer(0, 99), "start": "magnitude", "weight_decay": d.choice((0.0, 0.5))}
    settings |= {"rule": update_choices.RULE | {"grow": grow, "adapt": adapt}}
    sizes = [d.integer(1, 2) for _ in range(d.integer(1, 3))]
    for _ in range(8):
        world = drawn_world(d, TINY)
        of = [_rows(d, size, least=not i, padded=padded) for i, size in enumerate(sizes)]
        inputs = asked(world, moving(started(world, settings)), settings, step) | {"batches": of}
        del inputs["text"]
        _, _, gap = batches_of(inputs)
        if gap >= GAP:
            break
    t.saw("too close to decide", gap < GAP)
    if gap < GAP:
        return
    t.saw("padding", padded)
    t.saw("inputs beside padding", padded and (grow == "curvature" or adapt == "activation"))
    t.saw("micro-batches of other counts", len({int((one["labels"] != -100).sum()) for one in of}) > 1)
    t.case("train.batches", inputs)
