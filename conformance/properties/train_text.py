"""Properties of windows of a text (chapters 10 and 11)."""

from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of


@property_of(
    "text.calibration", "PRN-007 RNG-002", "prune", "text.calibration", sees=("one window", "a text of one window")
)
def _calibration(d: Draw, t: Trial) -> None:
    """Calibration windows start at the draws of their own stream."""
    length, n = d.integer(2, 20), d.integer(1, 5)
    tokens, seed = (
        length + d.choice((0, d.integer(0, 60), d.integer(0, 2**33))),
        d.choice((0, 2**64 - 1, d.integer(0, 99))),
    )
    t.saw("one window", n == 1)
    t.saw("a text of one window", tokens == length)
    t.case("text.calibration", {"tokens": tokens, "length": length, "seed": seed, "n": n})


@property_of(
    "text.windows",
    "TRN-003 EVL-001 EVL-002 PRN-007",
    "train",
    "text.training text.evaluation",
    sees=("a text too short", "one window", "windows side by side"),
)
def _windows(d: Draw, t: Trial) -> None:
    """Training windows start at the draws of their stream, evaluation windows where the formula puts them."""
    length, n = d.integer(2, 20), d.integer(1, 5)
    tokens = length + d.choice((0, -1, d.integer(0, 60)))
    seed, step = d.choice((0, 7, 2**64 - 1)), d.integer(1, 50)
    windows, fits = d.choice((n, None)), tokens >= length
    t.saw("a text too short", not fits)
    t.saw("one window", fits and n == 1)
    t.saw("windows side by side", fits and windows is None)
    t.case("text.training", {"tokens": tokens, "length": length, "seed": seed, "step": step, "rows": n})
    t.case("text.evaluation", {"tokens": tokens, "length": length, "windows": windows})
