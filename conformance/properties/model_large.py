"""Properties of whole models with more rows, columns and tokens than a program takes at once."""

import numpy as np

from conformance.oracle.model import Config
from conformance.properties.draws import Array, Draw, Many
from conformance.properties.large import beyond
from conformance.properties.models import TINY, drawn_tensors
from conformance.properties.trial import Trial, property_of

LONG: Config = TINY | {"max_position_embeddings": 4096}
"""A model with small matrices, for long rows."""
WIDE = "matrices of more than 64 rows and 128 columns"


def wide_config(d: Draw) -> Config:
    """Return a config of one block whose matrices have more rows and columns than a tile, and a rest."""
    return LONG | {
        "vocab_size": beyond(d, 256),
        # even, because transformers refuses a width that is no multiple of the number of heads
        "hidden_size": 2 * beyond(d, 32),
        "intermediate_size": beyond(d, 128),
        "head_dim": 2 * beyond(d, 32),
    }


def wide_tensors(d: Draw, config: Config) -> dict[str, Array]:
    """Return random tensors of a wide config, of which few numbers are equal."""
    return drawn_tensors(d, config, 0.25)


def uneven_labels(many: Many, tokens: Array) -> Array:
    """Return labels of which one row has few, one has them at its end only, and the others have nearly all."""
    labels = np.where(many.integers(tokens.size, 0, 9).reshape(tokens.shape) > 0, tokens, -100)
    labels[0, 9:], labels[-1, :-40] = -100, -100
    return labels


_MODEL = (WIDE, "more than 128 tokens a row", "more than 512 tokens, whose labels count unevenly")


@property_of(
    "model.step-large",
    "MDL-001 GRD-001 TRN-001 TRN-002 LYR-008 LYR-011 LYR-012",
    "layers",
    "model.step",
    sees=_MODEL,
    seeded=1,
)
def _step(d: Draw, t: Trial) -> None:
    """Loss, logits and gradients of wide matrices and of long rows are those of the written formulas."""
    wide = wide_config(d)
    rows = 3
    for config, top, length in ((wide, 0.25, beyond(d, 64)), (LONG, 1.0, beyond(d, 256))):
        tensors, many = drawn_tensors(d, config, top), Many(d)
        tokens = many.integers(rows * length, 0, config["vocab_size"] - 1).reshape(rows, length)
        labels, mask = uneven_labels(many, tokens), np.ones((rows, length), dtype=bool)
        mask[1, -d.integer(1, 9) :] = False
        labels[~mask] = -100
        t.saw(WIDE, config is wide)
        t.saw(_MODEL[1], length > 128)
        t.saw(_MODEL[2], tokens.size > 512)
        inputs = {"config": config, "tensors": tensors, "tokens": tokens, "labels": labels, "mask": mask}
        t.case("model.step", inputs | {"rows_at_once": 2})


@property_of(
    "evaluate.perplexity-large",
    "EVL-001 NUM-004",
    "train",
    "evaluate.perplexity",
    sees=("windows of more than 512 tokens", WIDE),
    seeded=1,
)
def _perplexity(d: Draw, t: Trial) -> None:
    """Perplexity over long windows, and of wide matrices, is e to the power of the mean loss."""
    wide = wide_config(d)
    for config, top, length in ((wide, 0.25, beyond(d, 64)), (LONG, 1.0, beyond(d, 512))):
        tensors = drawn_tensors(d, config, top)
        text, windows = Many(d).integers(3 * length + d.integer(2, 30), 0, config["vocab_size"] - 1), 3
        t.saw(WIDE, config is wide)
        t.saw("windows of more than 512 tokens", length > 512)
        inputs = {"config": config, "tensors": tensors, "text": text, "length": length, "windows": windows}
        t.case("evaluate.perplexity", inputs)
