"""Properties of a step on rows of labels, in micro-batches (TRN-001, TRN-002)."""

from conformance.gen import tiny
from conformance.gen.numbers import Numbers
from conformance.gen.train import GAP
from conformance.gen.train_batches import LENGTH, given, rows
from conformance.gen.train_steps import SETTINGS, answered, rounded
from conformance.oracle import train, train_batches, update_choices
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of


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
    number, padded = d.integer(0, 1000), d.flag()
    grow, adapt = d.choice(("gradient", "curvature")), d.choice(("sensitivity", "activation"))
    settings = SETTINGS | {"seed": d.integer(0, 99), "start": "magnitude", "weight_decay": d.choice((0.0, 0.5))}
    settings |= {"rule": update_choices.RULE | {"grow": grow, "adapt": adapt}}
    step, sizes = d.choice((2, 3)), [d.integer(1, 2) for _ in range(d.integer(1, 3))]
    for attempt in range(8):
        n = Numbers(65, number, attempt)
        world = tiny.world(n, tiny.CONFIG)
        of: list[train_batches.Batch] = []
        for size in sizes:
            counts = [n.integer(0 if of else 1, LENGTH - 1) for _ in range(size)]
            of.append(rows(n, [(c, n.integer(0, LENGTH - 1 - c)) for c in counts], padded=padded))
        # m is not 0, because a first step of AdamW shows only the sign of a gradient
        parts = [rounded(part) for part in train.Trainer(tiny.CONFIG, *world, settings).parts]
        for part in parts:
            part.kept["m"].update(dict.fromkeys(part.phi, 0.125))
            part.kept["v"].update(dict.fromkeys(part.phi, 0.0625))
            part.kept["age"].update(dict.fromkeys(part.phi, 1))
        loss, after, gap = train_batches.one_step(tiny.CONFIG, world[0], parts, of, settings, step)
        if gap >= GAP:
            break
    t.saw("too close to decide", gap < GAP)
    if gap < GAP:
        return
    t.saw("padding", padded)
    t.saw("inputs beside padding", padded and (grow == "curvature" or adapt == "activation"))
    t.saw("micro-batches of other counts", len({int((one["labels"] != -100).sum()) for one in of}) > 1)
    t.case("train.batches", given(world, parts, settings, step, of), answered(loss, after))
