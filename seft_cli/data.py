"""Reads the training and validation data that the options of a command line name."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from seft_cli import console
from seft_cli.input import require_input, require_text
from seft_ref import Validation, read_examples
from seft_ref.files.best import Best
from seft_ref.runs.source import DataSource
from seft_ref.text.examples import Examples, Longer
from seft_ref.train.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class DataOptions:
    """The options of `seft finetune` that concern data; None if an option was not given."""

    text: Annotated[Path | None, typer.Option(help="UTF-8 text to train on.")] = None
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="JSON Lines of prompt and completion, or messages, to train on. Repeatable."),
    ] = None
    packing: Annotated[
        bool, typer.Option("--packing", help="Cut rows from the examples of --data laid end to end.")
    ] = False
    longer: Annotated[
        Longer | None, typer.Option(help="What becomes of examples longer than a row: refuse, drop or cut [refuse].")
    ] = None
    valid: Annotated[
        Path | None, typer.Option(help="Text or JSON Lines, as trained on, to measure; the best model is kept.")
    ] = None
    valid_every: Annotated[int | None, typer.Option(min=1, help="Steps between measurements on --valid [20].")] = None
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many measurements without a smaller loss.")
    ] = None
    epochs: Annotated[float | None, typer.Option(help="Passes over the examples of --data, in place of --steps.")] = (
        None
    )

    def require(self, changes: Collection[str]) -> None:
        """Refuse files that are not there, and options that do not go together.

        changes  names of the settings that the command line changes
        """
        if (self.text is None) == (not self.data):
            raise console.Refused("give either --text FILE or --data FILE.jsonl")
        for file in self.data or []:
            require_input(file, "file of examples")
        if self.text is not None:
            require_text(self.text, "give examples as --data FILE.jsonl")
        if self.packing and self.longer and self.valid is None:
            raise console.Refused("--longer has no use beside --packing, which divides examples among rows")
        alone = {"--packing": self.packing, "--longer": self.longer, "--epochs": self.epochs}
        if self.text is not None and (data_options := [option for option, value in alone.items() if value]):
            raise console.Refused(f"{data_options[0]} belongs to --data; a text is read in random windows")
        if self.epochs is not None and "steps" in changes:
            raise console.Refused("--epochs takes the place of --steps; give one of the two")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise console.Refused(f"--epochs is {self.epochs}; give a number above 0")
        if self.valid is not None:
            if self.text is None:
                require_input(self.valid, "validation file")
            else:
                require_text(self.valid, "--valid is a text beside --text; examples go with --data")
        for option, value in (("--patience", self.patience), ("--valid-every", self.valid_every)):
            if self.valid is None and value is not None:
                raise console.Refused(f"{option} counts measurements on --valid; give --valid FILE")

    def read(self, folder: Path, settings: TrainSettings) -> tuple[DataSource, DataSource | None, TrainSettings]:
        """Return training data, validation data, and settings with the steps of the epochs (TRN-020, TRN-021).

        It prints how many examples are left out or cut.
        """
        if self.text is not None:
            return self.text, self.valid, settings
        trained = self._examples(self.data or [], folder, settings.length, packed=self.packing)
        if self.epochs is not None:
            rows = settings.batch * settings.micro_batches
            settings = replace(settings, steps=trained.steps(self.epochs, rows, settings.length))
        valid_data = None if self.valid is None else self._examples([self.valid], folder, settings.length, packed=False)
        if valid_data is not None and (n := len(_texts(valid_data) & _texts(trained))):
            console.err.print(f"warning: {n} of the examples of {self.valid} are trained on too, and tell nothing new")
        return trained, valid_data, settings

    def validation(
        self, valid_data: DataSource | None, on_loss: Callable[[int, float, Best], None], *, shown: bool
    ) -> Validation | None:
        """Return how the run is validated; None without validation data.

        valid_data  as `read` has returned it
        on_loss     called with step, loss and the best so far
        shown       whether this process prints each loss
        """

        def measured(step: int, loss: float, best: Best) -> None:
            on_loss(step, loss, best)
            if shown:
                console.err.print(f"validation at step {step}: loss {loss:.4f}{', the best' * (best.step == step)}")

        return None if valid_data is None else Validation(valid_data, self.valid_every or 20, self.patience, measured)

    def _examples(self, files: list[Path], folder: Path, length: int, *, packed: bool) -> Examples:
        examples = read_examples(files, folder, length, longer=self.longer or "refuse", packed=packed)
        for n, what in ((examples.left_out, "left out"), (examples.cut, "cut")):
            if n:
                one = "1 example" if n == 1 else f"{n} examples"
                console.err.print(f"{', '.join(map(str, files))}: {one} of more than {length} tokens {what} (--longer)")
        return examples


def _texts(examples: Examples) -> set[tuple[int, ...]]:
    return {tuple(example.tokens) for example in examples.items}
