"""Cases of chapter 10: the starts of the windows of a text."""

from typing import Any

from conformance.gen.numbers import Area, ids
from conformance.oracle import train_text


def text() -> Area:
    """Return starts of windows in training, calibration and evaluation (TRN-003, PRN-007, EVL-001, EVL-002)."""
    area = Area("text", "Python integers")
    for tokens, length, seed, step, rows in (
        (1000, 16, 0, 1, 4),
        (1000, 16, 0, 2, 4),
        (129, 128, 9, 7, 3),
        (8, 8, 1, 1, 2),
    ):
        starts = ids(train_text.window_starts(seed, 2, (step - 1) * rows, rows, tokens, length))
        inputs = {"tokens": tokens, "length": length, "seed": seed, "step": step, "rows": rows}
        purpose = "a step counted from 0, the last window left out, another stream"
        area.add(
            f"training-{tokens}-{step}",
            "text.training",
            "TRN-003 RNG-002",
            purpose,
            inputs,
            {"starts": starts},
        )
        inputs = {"tokens": tokens, "length": length, "seed": seed, "n": rows}
        starts = ids(train_text.window_starts(seed, 4, 0, rows, tokens, length))
        purpose = "the stream of training windows"
        area.add(
            f"calibration-{tokens}-{step}",
            "text.calibration",
            "PRN-007 RNG-002",
            purpose,
            inputs,
            {"starts": starts},
        )
    for tokens, length, windows in (
        (1000, 128, 40),
        (1000, 128, 1),
        (128, 128, 3),
        (777, 50, 13),
        (130, 128, 7),
    ):
        inputs = {"tokens": tokens, "length": length, "windows": windows}
        starts = ids(train_text.evaluation_starts(tokens, length, windows))
        purpose = "the last window left out, or n for n − length"
        area.add(f"evaluation-{tokens}-{windows}", "text.evaluation", "EVL-001", purpose, inputs, {"starts": starts})
    for tokens, length in ((3001, 64), (128, 128), (255, 128)):
        side_by_side: dict[str, Any] = {"tokens": tokens, "length": length, "windows": None}
        starts = ids(train_text.evaluation_starts(tokens, length, None))
        purpose = "windows spread over the text in place of side by side, or a window more for the rest"
        area.add(f"evaluation-{tokens}-whole", "text.evaluation", "EVL-001", purpose, side_by_side, {"starts": starts})
    short: dict[str, Any] = {"tokens": 7, "length": 8}
    purpose = "a text shorter than one window is padded or wrapped"
    inputs = short | {"seed": 0, "step": 1, "rows": 1}
    area.add("refuse-training", "text.training", "TRN-003", purpose, inputs, refused="TRN-003")
    area.add("refuse-evaluation", "text.evaluation", "EVL-002", purpose, short | {"windows": 2}, refused="EVL-002")
    return area


AREAS = (text,)
