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
from seft_ref import evaluate
from seft_ref.runs.tasks import BATCH, MAX_TOKENS

SCHEMA = "seft.eval/1"
"""The name of the --json object in docs/reference/json.md."""
LENGTH, WINDOWS = 128, 40
OF_TEXT = ("--length", "--windows", "--whole")
OF_TASKS = ("--data", "--limit", "--sample", "--seed", "--shots", "--batch", "--max-tokens", "--skip-trained", "--log")


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
    data: Annotated[Path | None, typer.Option(help="Folder of the data files of tasks.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score the first so many items of each task [all].")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Score so many items of each task, which --seed picks among all [all].")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="With --sample: another seed picks other items [0].")] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Training items in front of each question, as examples [0].")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help=f"Items that the model reads at once [{BATCH}].")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Tokens that an answer may have [{MAX_TOKENS}].")
    ] = None,
    skip_trained: Annotated[
        bool | None,
        typer.Option("--skip-trained", help="Leave out items that stand in the training file of their task too."),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(help="Write every item there when it is scored; if the file exists, go on from it."),
    ] = None,
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
    options = (data, limit, sample, seed, shots, batch, max_tokens, skip_trained, log)
    if (text is None) == (tasks is None):
        raise console.Refused("give either --text FILE, for perplexity, or --tasks NAMES with --data DIR, for scores")
    console.refuse_unused(
        "--text" if tasks is None else "--tasks",
        OF_TASKS if tasks is not None else OF_TEXT,
        {
            **dict(zip(OF_TEXT, (length, windows, whole), strict=True)),
            **dict(zip(OF_TASKS, options, strict=True)),
        },
    )
    require_beside("--json", require_file(json_file), folder, "which is a model")
    require_beside("--log", log, folder, "which is a model")
    require_json(json_file, [text], log)
    memory = limit_of(max_bytes, require_input(folder))
    if tasks is not None:
        chosen = TaskOptions(
            tasks, data, limit, sample, seed, shots or 0, batch, max_tokens, bool(skip_trained), log, compact
        )
        score(folder, chosen, device, memory, json_file)
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
