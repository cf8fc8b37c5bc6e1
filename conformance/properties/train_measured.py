"""Properties of losses of examples, and of the measurements of a run with validation data (EVL-004, TRN-022)."""

from typing import Any

import numpy as np

from conformance.answers import answer
from conformance.answers.answer import ids, reals
from conformance.oracle import train_measured
from conformance.oracle.model import targets
from conformance.properties.draws import Draw, Many
from conformance.properties.large import beyond
from conformance.properties.model_large import LONG, WIDE, wide_config, wide_tensors
from conformance.properties.models import KINDS, OFF, ask_until_sure, drawn_config, drawn_tensors, surely
from conformance.properties.trial import Trial, property_of


def _examples(d: Draw, vocabulary: int, lengths: list[int]) -> dict[str, Any]:
    """Return examples as inputs; each learns its last token, and others by chance."""
    tokens = [ids(d.integers(n, 0, vocabulary - 1)) for n in lengths]
    labels = [np.where(np.array(d.integers(n, 0, 2)) > 0, row, -100) for n, row in zip(lengths, tokens, strict=True)]
    for row, learned in zip(tokens, labels, strict=True):
        learned[-1] = row[-1]
    return {"tokens": tokens, "labels": labels, "rows": d.integer(1, len(lengths))}


@property_of(
    "evaluate.examples",
    "EVL-004 TRN-017 TRN-018",
    "runs",
    "evaluate.examples",
    sees=(*KINDS, "an example that is refused"),
    seeded=1,
)
def _loss(d: Draw, t: Trial) -> None:
    """The loss of examples is the mean over the targets of forwards over one example each."""
    for kind in KINDS:

        def draw(kind: str = kind) -> tuple[dict[str, Any], dict[str, Any] | None]:
            config = drawn_config(d, kind) | {"max_position_embeddings": 16}
            tensors = drawn_tensors(d, config)
            inputs = _examples(d, config["vocab_size"], [d.integer(2, 7) for _ in range(d.integer(2, 5))])
            inputs |= {"config": config, "tensors": tensors}
            made = surely(
                d, tensors, lambda other: dict(answer("evaluate.examples", inputs | {"tensors": other}).outputs)
            )
            return inputs, made

        ask_until_sure(t, "evaluate.examples", draw, kind)
    config = drawn_config(d, KINDS[0]) | {"max_position_embeddings": 6}
    model = {"config": config, "tensors": drawn_tensors(d, config)}
    long, strange = (_examples(d, config["vocab_size"], [3, n, 2]) for n in (7 + d.integer(0, 3), 4))
    strange["tokens"][1][0] = d.choice((-1, config["vocab_size"]))
    t.saw("an example that is refused")
    t.case("evaluate.examples", model | long)
    t.case("evaluate.examples", model | strange)


_LONG = "an example above 256 tokens beside a short one"


@property_of("evaluate.examples-large", "EVL-004 NUM-004", "runs", "evaluate.examples", sees=(WIDE, _LONG), seeded=1)
def _large(d: Draw, t: Trial) -> None:
    """The loss of long examples, and of wide matrices, is the mean over the targets of forwards over one each."""
    wide = wide_config(d)
    for config, tensors, lengths, saw in (
        (wide, wide_tensors(d, wide), [beyond(d, 64), 5, beyond(d, 32)], WIDE),
        (LONG, drawn_tensors(d, LONG), [beyond(d, 256), 3, beyond(d, 128)], _LONG),
    ):
        t.saw(saw)
        inputs = _examples(d, config["vocab_size"], lengths) | {"config": config, "tensors": tensors}
        t.case("evaluate.examples", inputs | {"rows": 2})


_RUNS = ("equal losses", "a run that patience ends", "a run that patience does not end", "a last step that is not due")


@property_of("run.measured", "TRN-022", "runs", "run.measured", sees=_RUNS)
def _measured(d: Draw, t: Trial) -> None:
    """A run is measured when the clause says, leaves the model of its smallest loss, and ends by its patience."""
    losses = [3 + x for x in d.levels(d.integer(1, 24), d.choice((1, 3, 20)))]
    inputs: dict[str, Any] = {"losses": reals(losses), "valid_every": d.integer(1, 6)}
    inputs |= {"patience": d.integer(1, 4)} if d.flag() else {}
    made = answer("run.measured", inputs).outputs
    at = [losses[step - 1] for step in made["measured"]]
    t.saw(_RUNS[0], at.count(min(at)) > 1)
    t.saw(_RUNS[1], made["last"] < len(losses))
    t.saw(_RUNS[2], "patience" in inputs and made["last"] == len(losses))
    t.saw(_RUNS[3], made["last"] % inputs["valid_every"])
    t.case("run.measured", inputs)


_SETTINGS: dict[str, Any] = {
    "preset": "seft",
    "optimizer": "sgd",
    "start": "random",
    "steps": 6,
    "rows": 2,
    "micro_batches": 1,
    "length": 5,
    "density": 0.25,
    "drop_fraction": 0.5,
    "gradient_window": 1,
    "lr": 0.5,
    "warmup": 0,
    "schedule": "constant",
    "max_norm": 1.0,
    "weight_decay": 0.0,
}
_SMALL = {"vocab_size": 5, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
_SMALL |= {"num_attention_heads": 2, "num_key_value_heads": 1}
_NEAR, _GAP = 1e-3, 2e-4
"""The least relative distances of losses and of selected scores at which rounding changes no choice."""
_TRIED = 80
"""The most runs that are drawn to get one whose choices rounding cannot change; one in four is."""
_WHOLE = ("a run that leaves another model than its last", "a run with an event")


@property_of("train.measured", "TRN-022 EVL-001", "runs", "train.measured", sees=_WHOLE, seeded=1)
def _whole(d: Draw, t: Trial) -> None:
    """A run is measured on its effective weights, and leaves the model that it would give at its best step."""
    for saw in _WHOLE:
        for _ in range(_TRIED):
            inputs, made = _run(d, saw)
            if made is not None:
                t.saw(saw)
                t.case("train.measured", inputs, made)
                break


def _run(d: Draw, saw: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the inputs of a run, and its answer, None if it is not meant or rounding could change it."""
    config = drawn_config(d, KINDS[1]) | _SMALL
    tensors, stored = drawn_tensors(d, config), {}
    for name in targets(config):
        at = d.subset(tensors[name].size)
        mask = np.zeros(tensors[name].size)
        mask[at] = 1.0
        stored[name], tensors[name] = at, tensors[name] * mask.reshape(tensors[name].shape)
    # the text of validation is longer than what programs take at once
    text, valid = (Many(d).integers(n, 0, config["vocab_size"] - 1) for n in (40, 600))
    settings = _SETTINGS | {"seed": d.integer(0, 2**40), "evolve_every": 9 if saw == _WHOLE[0] else 3}
    every = d.integer(1, 2)
    asked = settings | {"valid": valid.tolist(), "valid_every": every, "patience": None}
    measurements, _, gap = train_measured.run(config, tensors, stored, text.tolist(), asked)
    assert measurements.best is not None
    masks = {name: ids(at) for name, at in stored.items()}
    inputs = {"config": config, "tensors": tensors, "stored": masks, "text": text, "settings": settings}
    inputs |= {"valid": valid, "valid_every": every}
    if gap < _GAP or measurements.near < _NEAR or (saw == _WHOLE[0] and measurements.best[0] == measurements.last):
        return inputs, None
    return inputs, surely(
        d, tensors, lambda other: dict(answer("train.measured", inputs | {"tensors": other}).outputs), 10 * OFF
    )
