"""Measure a training step, and one with an event, of a model that is too large for float32 (CKP-008, MDL-008).

A checkpoint of the model's shape is written tensor by tensor with random weights, then loaded and trained on random
tokens. Its loss means nothing; memory and seconds are the results. All measured stages run in one process, and peak
memory is its largest resident size.
"""

import json
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import ml_dtypes
import numpy as np
import typer

import formats
from benchmarks.rounds import JsonFile, Threads, machine, restart_in_clean_environment
from formats.dialects.coded import ATTRIBUTE, SCALE
from formats.lazy import Lazy
from seft_cli import console
from seft_cli.output import write_json
from seft_ref.model.config import ModelConfig
from seft_ref.quantise.grid import Grid, parse_grid

SHAPES: dict[str, dict[str, Any]] = {
    "7b": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    "1b": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
}
"""config.json of LLaMA-2-7B and of TinyLlama-1.1B."""
SPARSITY = 0.7
GOAL, GOAL_OF_CODES = 16 << 30, 9 << 30
"""The bytes that a step of the largest shape, event included, may take: in 16 bits, and as codes of 4 bits."""


def large(
    shape: Annotated[str, typer.Option(help="7b or 1b.")] = "7b",
    folder: Annotated[Path, typer.Option(help="Where the checkpoint is written; needs 6 GB for 7b.")] = Path(
        "build/large"
    ),
    length: Annotated[int, typer.Option(help="Tokens of the one row of a step.")] = 128,
    density: Annotated[float, typer.Option(help="Slots of the delta, as a share of all positions.")] = 0.005,
    grid: Annotated[str, typer.Option(help="Hold codes of this grid, int4:g64 for instance; 16 bits if empty.")] = "",
    preset: Annotated[str, typer.Option(help="The rule of the event.")] = "seft",
    threads: Threads = 2,
    keep: Annotated[bool, typer.Option(help="Leave the checkpoint; use one that is there.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Take a step without and a step with an event, and print seconds and peak memory of each stage."""
    restart_in_clean_environment(threads)
    if grid and not parse_grid(grid).symmetric:
        raise typer.BadParameter(f"--grid {grid} has zero points, which are not made up")
    if shape not in SHAPES:
        raise typer.BadParameter(f"{shape} is not one of {', '.join(SHAPES)}")
    model = folder / (f"{shape}-{grid.replace(':', '-')}" if grid else shape)
    if not (keep and model.is_dir()):
        shutil.rmtree(model, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", __name__, "make", shape, str(model), grid], check=True)
        size = sum(f.stat().st_size for f in model.iterdir())
        print(f"made {model}: {size:,} bytes in {time.perf_counter() - started:.0f} s", flush=True)
    result = folder / f"{model.name}.json"
    arguments = [sys.executable, "-m", __name__, "train", shape, str(model), str(length), str(density), str(result)]
    subprocess.run([*arguments, preset], check=True)
    report = json.loads(result.read_text()) | {"grid": grid, "preset": preset, "machine": machine(threads)}
    goal = GOAL_OF_CODES if grid else GOAL
    fits = report["peak_bytes"] <= goal
    print(f"peak {report['peak_bytes'] / 2**30:.2f} GiB, goal {goal / 2**30:.0f}: {'met' if fits else 'missed'}")
    write_json(json_file, report)
    if not keep:
        shutil.rmtree(model)


def _made_up(config: ModelConfig, name: str) -> formats.Tensor:
    """Return a random tensor seeded by its name: norms are 1, matrices are scaled for activations of size 1."""
    shape = config.parameters()[name]
    if "norm" in name:
        return formats.Dense(np.ones(shape, dtype=ml_dtypes.bfloat16))
    rng = np.random.default_rng(list(name.encode()))
    scale = np.float32(1.0 / np.sqrt(shape[-1] * (1 - SPARSITY)))
    values = rng.standard_normal(shape, dtype=np.float32)
    values *= scale
    if name not in {matrix.name for matrix in config.targets()}:
        return formats.Dense(values.astype(ml_dtypes.bfloat16))
    kept = rng.random(shape, dtype=np.float32) >= SPARSITY
    n_out, n_in = shape
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept.sum(axis=1))])
    columns = np.broadcast_to(np.arange(n_in, dtype=np.int32), shape)[kept]
    return formats.Sparse((n_out, n_in), indptr, columns, values[kept].astype(ml_dtypes.bfloat16))


def _made_up_codes(config: ModelConfig, grid: Grid, name: str) -> formats.Tensor:
    """Return random codes of a matrix, or scales that give its weights the size of those of `_made_up`."""
    targets = {matrix.name for matrix in config.targets()}
    if name.removesuffix(f".{SCALE}") in targets - {name}:
        n_out, n_in = config.parameters()[name.removesuffix(f".{SCALE}")]
        size = 2 / grid.highest / np.sqrt(n_in * (1 - SPARSITY))
        return formats.Dense(np.full((n_out, n_in // grid.columns(n_in)), size, dtype=np.float32))
    tensor = _made_up(config, name)
    if not isinstance(tensor, formats.Sparse):
        return tensor
    drawn = np.random.default_rng(0).integers(-grid.highest, grid.highest + 1, tensor.indices.size, dtype=np.int8)
    return formats.Sparse(tensor.shape, tensor.indptr, tensor.indices, drawn)


def _make(shape: str, model: Path, grid: str) -> None:
    files = {"config.json": json.dumps(SHAPES[shape], indent=1).encode()}
    config = ModelConfig.from_json(SHAPES[shape])
    if not grid:
        tensors = Lazy(config.parameters(), partial(_made_up, config))
        formats.write(model, formats.Checkpoint("model", tensors, files=files), encoding="bitmask")
        return
    scales = {matrix.name: {SCALE: f"{matrix.name}.{SCALE}"} for matrix in config.targets()}
    names = [*config.parameters(), *(roles[SCALE] for roles in scales.values())]
    tensors = Lazy(names, partial(_made_up_codes, config, parse_grid(grid)))
    attributes: dict[str, formats.JSON] = {ATTRIBUTE: {"grid": grid, "rounding": "nearest"}}
    made = formats.Checkpoint("model", tensors, attributes, scales=scales, files=files)
    formats.write(model, made, encoding="bitmask")


def _train(model: Path, length: int, density: float, result: Path, preset: str = "seft") -> None:
    from seft_ref import RunState, Started, StepRecord, TrainState, finetune, settings_of
    from seft_ref.kernels import cpu

    stages: list[dict[str, Any]] = []
    records: list[StepRecord] = []
    begun = time.perf_counter()

    def stage(name: str, seconds: float) -> None:
        peak = console.peak_memory_bytes()
        stages.append({"stage": name, "seconds": seconds, "peak_bytes": peak})
        print(f"{name:24} {seconds:7.1f} s   peak so far {peak / 2**30:6.2f} GiB", flush=True)

    def step(state: RunState, record: StepRecord, seconds: float) -> None:
        records.append(record)
        stage("step with event" if record.event else "step", seconds)

    def start(started: Started) -> None:
        stage("load, first positions", time.perf_counter() - begun)

    settings = settings_of(preset, steps=3, batch=1, length=length, density=density, evolve_every=2, lr=1e-4)
    vocabulary = ModelConfig.from_json(json.loads((model / "config.json").read_text())).vocab_size
    tokens = np.random.default_rng(0).integers(0, vocabulary, 50 * length).tolist()
    done = finetune(
        model, None, tokens, settings, stop_after=2, on_start=start, on_step=step, kernels=cpu, compact=True
    )
    targets = cast("TrainState", done.state).targets
    summary = {
        "stored_weights": done.stored,
        "slots": sum(target.delta.topology.nnz for target in targets.values()),
        "losses": [record.loss for record in records],
        "event": records[-1].event,
        "stages": stages,
        "peak_bytes": console.peak_memory_bytes(),
    }
    result.write_text(json.dumps(summary, indent=1))
    print({k: summary[k] for k in ("stored_weights", "slots", "losses", "event")})


if __name__ == "__main__":
    if sys.argv[1] == "make":
        _make(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        _train(Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), Path(sys.argv[6]), sys.argv[7])
