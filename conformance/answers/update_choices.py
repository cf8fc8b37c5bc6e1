"""Presets, and choices that contradict each other (EVT-007, EVT-011, EVT-012)."""

from typing import Any

from conformance.answers.answer import Inputs, answers
from conformance.oracle import update_choices

__all__: list[str] = []


@answers("preset.rule")
def _preset(a: Inputs) -> dict[str, Any]:
    return {"choices": update_choices.spelled(a["name"])}


@answers("rule.check")
def _check(a: Inputs) -> dict[str, Any]:
    update_choices.check(a["choices"])
    return {"ok": 1}
