"""The part of `seft eval` that scores a model on tasks: seft eval DIR --tasks arc_easy,piqa --data DATA"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from seft_cli import console
from seft_cli.device import Device, place_of
from seft_cli.input import require_input
from seft_cli.interrupt import interrupts
from seft_cli.output import require_file, write_json
from seft_ref import evaluate_tasks
from seft_ref.runs.tasks import BATCH, MAX_TOKENS, TaskResult, TasksEvaluation
from seft_ref.runs.tasks_log import ItemResult
from seft_ref.tasks.table import task_named

SCHEMA = "seft.eval-tasks/1"
"""The name of the --json object in docs/reference/json.md."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The options of `seft eval` that concern tasks; None if an option was not given."""

    data: Annotated[Path | None, typer.Option(help="Folder of the data files of tasks.")] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Score the first so many items of each task [all].")] = None
    sample: Annotated[
        int | None, typer.Option(min=1, help="Score so many items of each task, which --seed picks among all [all].")
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="With --sample: another seed picks other items [0].")] = None
    shots: Annotated[
        int | None, typer.Option(min=0, help="Training items in front of each question, as examples [0].")
    ] = None
    batch: Annotated[int | None, typer.Option(min=1, help=f"Items that the model reads at once [{BATCH}].")] = None
    max_tokens: Annotated[int | None, typer.Option(min=1, help=f"Tokens that an answer may have [{MAX_TOKENS}].")] = (
        None
    )
    skip_trained: Annotated[
        bool | None,
        typer.Option("--skip-trained", help="Leave out items that stand in the training file of their task too."),
    ] = None
    log: Annotated[
        Path | None,
        typer.Option(help="Write every item there when it is scored; if the file exists, go on from it."),
    ] = None


def score(
    folder: Path,
    tasks: str,
    options: TaskOptions,
    device: Device,
    max_bytes: int,
    json_file: Path | None,
    *,
    compact: bool,
) -> None:
    """Print the scores of the model in a folder, and write them and every item to a JSON file.

    max_bytes  bytes that its tensors may take once expanded (FMT-098)
    """
    if options.data is None:
        raise console.Refused("--tasks needs --data DIR, the folder of the data files")
    if options.limit is not None and options.sample is not None:
        raise console.Refused("--limit takes the first items and --sample picks items of all; give one of the two")
    if options.seed is not None and options.sample is None:
        raise console.Refused("--seed picks the items of --sample N; give --sample too, or leave --seed out")
    require_input(options.data, "data folder")
    require_file(options.log)
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    generated = {task_named(name).filters is not None for name in names}
    if options.max_tokens is not None and generated == {False}:
        raise console.Refused("--max-tokens is for answers that are generated; these tasks have choices, leave it out")
    place = place_of(device)
    at: list[float] = []
    resumed: list[int] = []
    try:
        with console.progress("scoring") as advance, interrupts() as check:

            def show(done: int, total: int, result: ItemResult | None) -> None:
                at.append(time.perf_counter())
                if result is None:
                    resumed.append(done)
                advance(result.task if result is not None else "", done=done, total=total)
                check()

            evaluation = evaluate_tasks(
                folder,
                names,
                options.data,
                limit=options.limit,
                sample=options.sample,
                seed=options.seed or 0,
                shots=options.shots or 0,
                batch=options.batch or BATCH,
                max_tokens=options.max_tokens or MAX_TOKENS,
                skip_trained=bool(options.skip_trained),
                log=options.log,
                on_remark=console.err.print,
                on_item=show,
                kernels=place.kernels,
                compact=compact,
                like=place.like,
                max_bytes=max_bytes,
            )
    except KeyboardInterrupt:
        advice = "without --log nothing is kept" if options.log is None else "the same command goes on from its log"
        console.err.print(f"interrupted; {advice}")
        raise typer.Exit(130) from None
    seconds = at[-1] - at[0]
    console.show(_table(evaluation.tasks))
    log_note = f", {resumed[0]} of them from {options.log}" if resumed[0] else ""
    sample = "" if options.sample is None else f", at most {options.sample} of each task by seed {options.seed or 0},"
    console.say(f"{len(evaluation.items)} items{sample} in {seconds:.1f} s{log_note}")
    write_json(json_file, _content(evaluation, options, seconds))


def _table(results: tuple[TaskResult, ...]) -> Table:
    """Return one line for each metric of each task; * marks the metric to report if only one can be."""
    table = Table(box=None)
    table.add_column("task")
    table.add_column("items", justify="right")
    table.add_column("metric")
    table.add_column("score", justify="right")
    table.add_column("standard error", justify="right")
    for result in results:
        for metric, value in result.scores.items():
            error = result.errors[metric]
            mark = "*" if metric == result.main else " "
            shown = "" if error is None else f"{error:.4f}"
            table.add_row(result.task, str(result.items), f"{mark} {metric}", f"{value:.4f}", shown)
    return table


def _content(evaluation: TasksEvaluation, options: TaskOptions, seconds: float) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "tasks": [asdict(result) for result in evaluation.tasks],
        "items": [result.as_json() for result in evaluation.items],
        "limit": options.limit,
        "sample": options.sample,
        "seed": None if options.sample is None else options.seed or 0,
        "shots": options.shots or 0,
        "batch": options.batch or BATCH,
        "max_tokens": options.max_tokens or MAX_TOKENS,
        "seconds": seconds,
        "peak_memory_bytes": console.peak_memory_bytes(),
    }
