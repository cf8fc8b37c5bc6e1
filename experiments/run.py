"""One run of an experiment: train a pruned model with some settings, evaluate it, and measure time and memory."""

import ctypes
import datetime as dt
import gc
import math
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from seft_cli import console
from seft_ref import (
    Model,
    RunState,
    Started,
    StepRecord,
    Topology,
    TrainSettings,
    evaluate,
    evaluate_tasks,
    finetune,
    load_model,
    read_examples,
    read_tokens,
    save_model,
)
from seft_ref.files.model import identity
from seft_ref.files.state import digest_of_data
from seft_ref.kernels import cpu
from seft_ref.text.evaluate import evaluate_examples
from seft_ref.text.examples import Data, Examples, stream_of
from seft_ref.topology.csr import flat

COUNTS = ("dropped", "grown", "reactivated", "cancelled", "pruned")


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks that every final model is scored on: their names, the folder of their data, items of each at most.

    `items` is a digest of the items in the folder.
    """

    names: tuple[str, ...]
    data: Path
    limit: int | None
    items: str = ""

    def scores(self, model: Path) -> dict[str, float]:
        """Return the main metric of each task, between 0 and 1."""
        found = evaluate_tasks(model, self.names, self.data, limit=self.limit, skip_trained=True)
        return {of.task: of.scores[of.main] for of in found.tasks}


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs that all runs of an experiment share: model, texts and evaluation."""

    folder: Path
    model: str
    """state digest of the pruned model"""
    train: Data
    valid: Data
    evaluation: dict[str, int]
    """length of an evaluation window, and the number of windows"""
    tasks: Tasks | None = None

    def identity(self) -> dict[str, Any]:
        """Return digests of the model and of the data, and how a model is evaluated."""
        tasks = self.tasks
        return {
            "model": self.model,
            "train": digest_of_data(self.train),
            "valid": digest_of_data(self.valid),
            "evaluation": self.evaluation,
            **({} if tasks is None else {"tasks": [*tasks.names], "limit": tasks.limit, "items": tasks.items}),
        }


def read_inputs(
    folder: Path, train: Path, valid: Path, evaluation: dict[str, int], length: int, tasks: Tasks | None = None
) -> Inputs:
    """Return the inputs of an experiment: texts as tokens, and .jsonl files as examples in rows of `length`."""

    def read(file: Path) -> Data:
        return read_examples(file, folder, length) if file.suffix == ".jsonl" else read_tokens(file, folder)

    return Inputs(folder, identity(folder), read(train), read(valid), evaluation, tasks)


def measure(
    inputs: Inputs, settings: TrainSettings, work: Path, advance: Callable[[str], None] = lambda remark: None
) -> dict[str, Any]:
    """Train and evaluate once, and return all measurements, ready for JSON.

    The final model is written and read again before it is evaluated, because a user would keep that file.
    """
    reset_peak()
    at_start: dict[str, Topology] = {}
    losses, seconds, events = [], [], []
    began = 0.0

    def start(started: Started) -> None:
        at_start.update({name: target.base.topology for name, target in started.state.targets.items()})

    def step(state: RunState, record: StepRecord, took: float) -> None:
        nonlocal began
        losses.append(record.loss)
        seconds.append(round(took, 4))
        if record.event is not None:
            counts = {name: int(record.event[name]) for name in (*COUNTS, "slots", "support")}
            events.append({"step": state.step, **counts})
        advance(f"loss {record.loss:.3f}")
        began = time.perf_counter()

    # no folder is written yet, so that the time of the last pass is measured alone
    done = finetune(inputs.folder, None, inputs.train, settings, on_start=start, on_step=step)
    seconds_finish = round(time.perf_counter() - began, 4)
    final, stored = done.final or {}, done.stored
    supports = [stored, *(event["support"] for event in events)]
    kept = sum(topology.nnz for topology, _ in final.values())
    before_last_pass = None
    if kept < supports[-1]:  # the last pass pruned something
        before_last_pass = perplexity_of(done.model(), inputs)
    overlap = sum(
        np.intersect1d(flat(topology), flat(at_start[name]), assume_unique=True).size
        for name, (topology, _) in final.items()
    )
    del done
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        path = Path(temporary) / "final"
        save_model(inputs.folder, path, final)
        del final, at_start
        nbytes = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        perplexity = perplexity_of(path, inputs)
        scores = {} if inputs.tasks is None else {"scores": inputs.tasks.scores(path)}
    return {
        **scores,
        "perplexity_after": perplexity,
        "perplexity_before_last_pass": before_last_pass,
        "losses": losses,
        "events": events,
        "counts": {name: sum(event[name] for event in events) for name in COUNTS},
        "stored": stored,
        "support_max": max(supports),
        "support_before_last_pass": supports[-1],
        "support_final": kept,
        "overlap": overlap / max(stored, 1),
        "seconds": seconds,
        "seconds_finish": seconds_finish,
        "peak_memory_bytes": peak_bytes(),
        "bytes": nbytes,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": machine(),
    }


def perplexity_of(model: Path | Model, inputs: Inputs) -> float:
    """Return the perplexity of a model on the validation text; of examples, only learned tokens count."""
    if isinstance(inputs.valid, Examples):
        loaded = load_model(model, cpu) if isinstance(model, Path) else model
        return math.exp(evaluate_examples(loaded.weights, loaded.config, inputs.valid, cpu))
    windows_of = inputs.evaluation
    return evaluate(model, inputs.valid, length=windows_of["length"], windows=windows_of["windows"]).perplexity


def tokens_of(data: Data) -> int:
    """Return how many tokens a text or examples have."""
    return len(stream_of(data))


def seconds_of(run: Mapping[str, Any]) -> tuple[float, float | None]:
    """Return the median seconds of a step without event, and how much longer the median step with one takes."""
    event_steps = {event["step"] for event in run["events"]}
    plain = [s for step, s in enumerate(run["seconds"], 1) if step not in event_steps]
    with_event = [s for step, s in enumerate(run["seconds"], 1) if step in event_steps]
    step = statistics.median(plain or with_event)
    return step, statistics.median(with_event) - step if plain and with_event else None


def minutes_of(run: Mapping[str, Any]) -> float:
    """Return the minutes of a run from the medians of its steps, because a pause of the machine must not count."""
    step, more = seconds_of(run)
    return (len(run["seconds"]) * step + len(run["events"]) * (more or 0)) / 60


def machine() -> dict[str, Any]:
    """Return the processor, its cores, and the versions that numbers depend on."""
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        match = None
    return {
        "cpu": match[1] if match else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "numba": version("numba"),
    }


def reset_peak() -> None:
    """Reset the largest resident size, if the system can (Linux)."""
    gc.collect()
    # return freed memory to the system, because glibc keeps it and a run would start with that of the run before it
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_bytes() -> int:
    """Return the largest resident size in bytes since reset_peak, or of the whole process if there is no reset."""
    try:
        match = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        match = None
    return int(match[1]) * 1024 if match else console.peak_memory_bytes()
