"""Mutants of the windows of a text (TRN-003, EVL, PRN-007)."""

from conformance.wrong.mutants.base import Mutant, changed, ids, mutant, right, unchecked

MUTANTS: list[Mutant] = [
    mutant("TRN-003", "text.training", changed("text.training", step=lambda a: a["step"] + 1), "steps from 0"),
    mutant(
        "PRN-007", "text.calibration", lambda a: right("text.training")(a | {"step": 1, "rows": a["n"]}), "stream 2"
    ),
    mutant(
        "EVL-001",
        "text.evaluation",
        lambda a: {"starts": ids(i * a["tokens"] // a["windows"] for i in range(a["windows"]))},
        "n / windows",
    ),
    *unchecked("text.training", "TRN-003"),
    *unchecked("text.evaluation", "EVL-002"),
]
