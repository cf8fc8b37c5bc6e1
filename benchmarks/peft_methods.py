"""Compare SEFT with other tuners of PEFT: time, memory, bytes of the adapter, and loss of the trained model.

Every method trains on the same text, in a process of its own. All but `masked` train about as many numbers. With
`--speed` every method runs few steps once a round, and no loss is measured. Without it each learning rate is tried,
and the page shows the best one.
"""

import json
import math
import statistics
import subprocess
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.page import TABLE
from benchmarks.peft_child import METHODS, Asked
from benchmarks.rounds import JsonFile, Threads, machine, restart_in_clean_environment
from seft_cli.output import Refused, write_file, write_json

TRIED = (5e-4, 2e-3, 8e-3)
"""Learning rates that each method is trained with."""


def peft(
    models: Annotated[list[Path], typer.Argument(help="Hugging Face folders, dense or pruned.", exists=True)],
    train: Annotated[Path, typer.Option(help="Text to train on.", exists=True)],
    valid: Annotated[Path, typer.Option(help="Text to measure the loss on.", exists=True)],
    method: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(METHODS)}; all without.")] = None,
    lr: Annotated[list[float] | None, typer.Option(help="A learning rate to try; 5e-4, 2e-3 and 8e-3 without.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed of the text's order and of random starts; 0.")] = None,
    speed: Annotated[bool, typer.Option("--speed", help="Measure time and memory alone, in rounds.")] = False,
    steps: Annotated[int, typer.Option(min=4, help="Steps of a run; with --speed 9 suffice.")] = 100,
    rows: Annotated[int, typer.Option(min=1, help="Rows of 128 tokens in a step.")] = 2,
    n_rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of --speed.")] = 3,
    threads: Threads = 1,
    json_file: JsonFile = None,
) -> None:
    """Train a model by SEFT and by other tuners of PEFT, and compare."""
    restart_in_clean_environment(threads)
    chosen = tuple(method or METHODS)
    if unknown := set(chosen) - set(METHODS):
        raise Refused(f"there is no method {min(unknown)}; there are {', '.join(METHODS)}")
    rates, repeats = ((2e-3,), n_rounds) if speed else (tuple(lr or TRIED), 1)
    runs: list[dict[str, Any]] = []
    for _, number, model, rate, name in product(range(repeats), seed or (0,), models, rates, chosen):
        asked = Asked(
            *(str(model), name, str(train), str(valid), rate, steps, rows),
            evolve_every=max(2, steps // 4),
            windows=0 if speed else 40,
            seed=number,
        )
        runs.append(_run(asked))
        print(_line(runs[-1]), flush=True)
        write_json(json_file, {"machine": machine(threads), "runs": runs})


def _run(asked: Asked) -> dict[str, Any]:
    """Run `benchmarks.peft_child` in a process of its own, and return its result."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peft_child", json.dumps(asdict(asked))]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise Refused(f"{asked.method} failed: {found.stderr.strip().splitlines()[-1]}")
    answer: dict[str, Any] = json.loads(found.stdout.strip().splitlines()[-1])
    answer["model"] = Path(asked.model).name
    del answer["train"], answer["valid"]
    return answer


def _line(run: dict[str, Any]) -> str:
    plain, events = (statistics.median([s for s, e in run["seconds"] if e == event] or [0]) for event in (False, True))
    return (
        f"{run['model']:12} {run['method']:12} lr {run['lr']:<7g} {plain:6.2f} s a step, {events:6.2f} with an event, "
        f"{(run['peak'] - run['loaded']) / 2**20:6.0f} MiB more, {run['adapter'] / 2**20:5.1f} MiB of adapter, "
        f"{100 * run['stored'] / run['positions']:5.1f} % stored, loss {run.get('loss', 0):.4f}"
    )


def peft_page(
    quality: Annotated[Path, typer.Argument(help="What `peft --json` wrote.", exists=True)],
    speed: Annotated[Path, typer.Argument(help="What `peft --speed --json` wrote of a pruned model.", exists=True)],
    dense: Annotated[Path, typer.Argument(help="What `peft --speed --json` wrote of a dense one.", exists=True)],
    page: Annotated[Path, typer.Argument(help="The page whose tables are written anew.", exists=True)],
) -> None:
    """Write the tables of a page from three results of `peft`."""
    made = {"quality": _quality(_runs(quality)), "speed": _speed(_runs(speed)), "dense": _speed(_runs(dense))}
    text = page.read_text(encoding="utf-8")
    write_file(page, TABLE.sub(lambda m: f"{m[1]}\n{made[m[2]]}\n\n{m[3]}", text).encode())


def _runs(file: Path) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["runs"]
    return runs


def _quality(runs: list[dict[str, Any]]) -> str:
    """Return a table of perplexities by model and method: mean and range over seeds, at the best learning rate."""
    lines = [
        "| base | method | learning rate | seeds | perplexity | stored after the merge | adapter |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    models = sorted({run["model"] for run in runs}, reverse=True)
    for model, name in product(models, METHODS):
        mine = [run for run in runs if (run["model"], run["method"]) == (model, name)]
        if mine:
            # the first seed chooses the rate, because it was run with all rates
            first = min(run["seed"] for run in mine)
            best = min((run for run in mine if run["seed"] == first), key=lambda run: run["loss"])
            found = [math.exp(run["loss"]) for run in mine if run["lr"] == best["lr"]]
            between = f" ({min(found):.1f} to {max(found):.1f})" if len(found) > 1 else ""
            share = 100 * best["stored"] / best["positions"]
            lines.append(
                f"| {model} | `{name}` | {best['lr']:g} | {len(found)} | {statistics.mean(found):.1f}{between} | "
                f"{share:.1f} % | {best['adapter'] / 2**20:.1f} MiB |"
            )
    return "\n".join(lines)


def _speed(runs: list[dict[str, Any]]) -> str:
    """Return time and memory of each method as a table; times as ratios to LoRA's in the same round."""
    lines = [
        "| method | trained numbers | s a step | LoRA's time over it | s with an event | MiB beside the loaded model |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    times = {name: [_median(run, events=False) for run in runs if run["method"] == name] for name in METHODS}
    if any(times[name] and len(times[name]) != len(times["lora"]) for name in METHODS):
        raise Refused("times are ratios to those of lora in the same round; run lora as often as the others")
    for name in METHODS:
        mine = [run for run in runs if run["method"] == name]
        if not mine:
            continue
        ratios = [lora / own for lora, own in zip(times["lora"], times[name], strict=True)]
        event = statistics.median(_median(run, events=True) for run in mine)
        more = statistics.median((run["peak"] - run["loaded"]) / 2**20 for run in mine)
        lines.append(
            f"| `{name}` | {mine[0]['parameters']:,} | {statistics.median(times[name]):.2f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
            f"{f'{event:.2f}' if event else ''} | {more:.0f} |"
        )
    return "\n".join(lines)


def _median(run: dict[str, Any], *, events: bool) -> float:
    """Return the median seconds of a run's steps with, or without, an event; the first step warms up and is skipped."""
    return statistics.median([s for s, event in run["seconds"][1:] if event == events] or [0])
