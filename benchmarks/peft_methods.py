"""SEFT beside other tuners of PEFT: time, memory, bytes, and what a trained model is worth.

Every method trains about as many numbers, on the same text, in a process of its own. `--speed` takes few steps in
rounds, every method once a round, and measures no loss; without it each learning rate is tried and the best one kept.
"""

import json
import statistics
import subprocess
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.peft_child import METHODS, Asked
from benchmarks.rounds import JsonFile, Threads, machine, restart_in_clean_environment
from seft_cli.output import Refused, write_json

TRIED = (5e-4, 2e-3)
"""Learning rates that each method is trained with."""


def peft(
    models: Annotated[list[Path], typer.Argument(help="Hugging Face folders, dense or pruned.", exists=True)],
    train: Annotated[Path, typer.Option(help="Text to train on.", exists=True)],
    valid: Annotated[Path, typer.Option(help="Text to measure the loss on.", exists=True)],
    method: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(METHODS)}; all without.")] = None,
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
    rates, repeats = ((2e-3,), n_rounds) if speed else (TRIED, 1)
    runs: list[dict[str, Any]] = []
    for _, model, rate, name in product(range(repeats), models, rates, chosen):
        asked = Asked(
            *(str(model), name, str(train), str(valid), rate, steps, rows),
            evolve_every=max(2, steps // 4),
            windows=0 if speed else 40,
        )
        runs.append(_run(asked))
        print(_line(runs[-1]), flush=True)
        write_json(json_file, {"machine": machine(threads), "runs": runs})


def _run(asked: Asked) -> dict[str, Any]:
    """Return what a process of its own says."""
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
