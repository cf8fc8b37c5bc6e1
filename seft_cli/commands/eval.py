"""Perplexity of a model on a text: seft eval DIR --text VALID.txt"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seft_cli import console
from seft_cli.device import Device, DeviceOption, place_of
from seft_cli.input import MaxBytes, limit_of, require_input
from seft_cli.output import require_file, write_json
from seft_ref import evaluate

SCHEMA = "seft.eval/1"
"""The name of the --json object in docs/reference/json.md."""


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Sparse checkpoint or Hugging Face folder.")],
    text: Annotated[Path, typer.Option(help="UTF-8 text to predict.")],
    length: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 128,
    windows: Annotated[int, typer.Option(min=1, help="Windows, spread evenly over the text.")] = 40,
    compact: Annotated[
        bool, typer.Option("--compact", help="Hold 16-bit weights in their 16 bits: 3.2 bytes a stored weight.")
    ] = False,
    device: DeviceOption = Device.cpu,
    max_bytes: MaxBytes = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result there too.")] = None,
) -> None:
    """Print the perplexity of the model in DIR over windows of a text, which overlap where it is short."""
    require_file(json_file)
    limit = limit_of(max_bytes, require_input(folder))
    require_input(text, "text file")
    place = place_of(device)
    with console.progress("evaluating", windows) as advance:
        at: list[float] = []

        def show(done: int, _: int) -> None:
            at.append(time.perf_counter())
            advance(done=done)

        result = evaluate(
            folder,
            text,
            length=length,
            windows=windows,
            progress=show,
            kernels=place.kernels,
            compact=compact,
            like=place.like,
            limit=limit,
        )
    seconds = at[-1] - at[0]
    console.out.print(
        f"perplexity {result.perplexity:.4g}  "
        f"({result.targets} targets in {windows} windows of {length}, {seconds:.1f} s)"
    )
    write_json(
        json_file,
        {"schema": SCHEMA} | asdict(result) | {"seconds": seconds, "peak_memory_bytes": console.peak_memory_bytes()},
    )
