"""Where the windows of a text start (chapters 10 and 11: TRN-003, PRN-007, EVL)."""

from typing import Any

from conformance.answers.answer import Inputs, answers, ids, refuse
from conformance.oracle import train_text

__all__: list[str] = []


@answers("text.training")
def _training(a: Inputs) -> dict[str, Any]:
    refuse(TRN_003=_too_short(a))
    first = (a["step"] - 1) * a["rows"]
    return {"starts": ids(train_text.window_starts(a["seed"], 2, first, a["rows"], a["tokens"], a["length"]))}


def _too_short(a: Inputs) -> bool:
    return not 2 <= a["length"] <= a["tokens"]


@answers("text.calibration")
def _calibration(a: Inputs) -> dict[str, Any]:
    refuse(PRN_007=_too_short(a))
    return {"starts": ids(train_text.window_starts(a["seed"], 4, 0, a["n"], a["tokens"], a["length"]))}


@answers("text.evaluation")
def _evaluation(a: Inputs) -> dict[str, Any]:
    refuse(EVL_002=_too_short(a))
    return {"starts": ids(train_text.evaluation_starts(a["tokens"], a["length"], a["windows"]))}
