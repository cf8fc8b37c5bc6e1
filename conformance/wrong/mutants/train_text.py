"""Mutants of the windows of a text (TRN-003, EVL, PRN-007)."""

from conformance.wrong.mutants.base import Mutant, ids, mutant, mutants, right

MUTANTS: list[Mutant] = [
    *mutants("text.training",
        ("TRN-003", {"step": lambda a: a["step"] + 1}, "steps from 0"),
        unchecked="TRN-003"),
    mutant("PRN-007", "text.calibration",
     lambda a: right("text.training")(a | {"step": 1, "rows": a["n"]}), "stream 2"),
    *mutants("text.evaluation",
        ("EVL-001", lambda a: {"starts": ids(i * a["tokens"] // a["windows"] for i in range(a["windows"]))},
         "n / windows"),
        unchecked="EVL-002"),
]  # fmt: skip
