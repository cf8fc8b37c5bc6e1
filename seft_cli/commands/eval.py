"""Perplexity of a model on a text, or its scores on tasks: seft eval DIR --text VALID.txt"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seft_cli import console
from seft_cli.commands.eval_tasks import TaskOptions, score
from seft_cli.device import Device, DeviceOption, place_of
from seft_cli.input import MaxBytes, limit_of, require_input, require_text
from seft_cli.output import require_beside, require_file, require_json, write_json
from seft_cli.records import by_option, of_records
from seft_ref import evaluate

SCHEMA = "seft.eval/1"
"""The name of the --json object in docs/reference/json.md."""
LENGTH, WINDOWS = 128, 40


@of_records
def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Sparse checkpoint or Hugging Face folder.")],
    text: Annotated[Path | None, typer.Option(help="UTF-8 text to predict; measures perplexity.")] = None,
    length: Annotated[int | None, typer.Option(min=2, help=f"Tokens in a window [{LENGTH}].")] = None,
    windows: Annotated[
        int | None, typer.Option(min=1, help=f"Windows, spread evenly over the text [{WINDOWS}].")
    ] = None,
    whole: Annotated[
        bool | None, typer.Option("--whole", help="Windows side by side over the whole text, in place of --windows.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks to score instead of --text, such as arc_easy,piqa,gsm8k.")
    ] = None,
    *,
    of_tasks: TaskOptions,
    compact: Annotated[
        bool, typer.Option("--compact", help="Hold weights as they are stored, in 16 bits or as codes.")
    ] = False,
    device: DeviceOption = Device.cpu,
    max_bytes: MaxBytes = None,
    threads: console.Threads = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result there too.")] = None,
) -> None:
    """Print the perplexity of the model in DIR over windows of a text, which overlap where it is short, or its scores
    on tasks.
    """
    if (text is None) == (tasks is None):
        raise console.Refused("give either --text FILE, for perplexity, or --tasks NAMES with --data DIR, for scores")
    if tasks is None:
        console.refuse_unused("--text", (), by_option(of_tasks))
    else:
        console.refuse_unused("--tasks", (), {"--length": length, "--windows": windows, "--whole": whole})
    require_beside("--json", require_file(json_file), folder, "which is a model")
    require_beside("--log", of_tasks.log, folder, "which is a model")
    require_json(json_file, [text], of_tasks.log)
    memory = limit_of(max_bytes, require_input(folder))
    if tasks is not None:
        score(folder, tasks, of_tasks, device, memory, json_file, compact=compact)
        return
    assert text is not None
    if whole and windows is not None:
        raise console.Refused("--whole takes as many windows as the text has; leave out --windows")
    length, windows = length or LENGTH, None if whole else windows or WINDOWS
    require_text(text, "perplexity is measured on a plain text")
    place = place_of(device)
    with console.progress("evaluating", windows) as advance:
        at: list[float] = []

        def show(done: int, total: int) -> None:
            at.append(time.perf_counter())
            advance(done=done, total=total)

        result = evaluate(
            folder,
            text,
            length=length,
            windows=windows,
            progress=show,
            kernels=place.kernels,
            compact=compact,
            like=place.like,
            limit=memory,
        )
    seconds = at[-1] - at[0]
    console.out.print(
        f"perplexity {result.perplexity:.4g}  "
        f"({result.targets} targets in {result.windows} windows of {length}, {seconds:.1f} s)"
    )
    write_json(
        json_file,
        {"schema": SCHEMA} | asdict(result) | {"seconds": seconds, "peak_memory_bytes": console.peak_memory_bytes()},
    )
