"""Experiments without arms. Each is a module of its own, because its measurements are not plain training runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from experiments import pruning_cost, quantised, screening
from experiments.results import Results
from experiments.run import Inputs
from seft_ref import TrainSettings


class Own(Protocol):
    """The interface of a module with an experiment without arms."""

    NAME: str
    TITLE: str
    TAKES: tuple[str, ...] | None
    """the settings that a command line may change; None for all"""

    def fill(
        self,
        inputs: Inputs,
        settings: TrainSettings,
        seeds: Sequence[int],
        before: float,
        results: Results,
        engine: str,
    ) -> Sequence[Mapping[str, Any]]:
        """Make the measurements that the results lack, and return those of all `seeds`."""

    def write(
        self, lines: Sequence[Mapping[str, Any]], command: str, model: str, texts: tuple[str, str], out: Path
    ) -> None:
        """Write page, picture and measurements, each whole or not at all."""

    def write_again(self, data: bytes, out: Path) -> None:
        """Write page and picture again from the JSON that `write` wrote."""


OWN: dict[str, Own] = {module.NAME: cast("Own", module) for module in (pruning_cost, quantised, screening)}
"""Experiments without arms, by name."""
