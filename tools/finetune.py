"""Fine-tune a pruned model so that it stays pruned: python tools/finetune.py SPARSE_DIR OUT_DIR --text TRAIN.txt

While it runs, the training state is kept in OUT_DIR.state; --resume continues from there.
"""

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import _cli
import numpy as np
import typer

from formats.index import is_sparse
from seft_ref import (
    TrainSettings,
    finish,
    initial_state,
    load_model,
    read_tokens,
    save_model,
    step_batches,
    train,
)
from seft_ref.checkpoint import Origin, identity, load_state, save_state, settings_text
from seft_ref.kernels import cpu
from seft_ref.update.grow import GrowScope
from seft_ref.update.optimizers import AdamW


def main(
    folder: Annotated[Path, typer.Argument(metavar="SPARSE_DIR", help="Sparse checkpoint of a pruned model.")],
    destination: Annotated[
        Path,
        typer.Argument(metavar="OUT_DIR", help="Where the fine-tuned sparse checkpoint goes; must not exist."),
    ],
    text: Annotated[Path, typer.Option(help="UTF-8 text to train on.")],
    preset: Annotated[str, typer.Option(help="Update rule: seft, active-only, no-adapt or static.")] = "seft",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 80,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a micro-batch.")] = 4,
    micro_batches: Annotated[int, typer.Option(min=1, help="Micro-batches of a step.")] = 1,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a row.")] = 128,
    density: Annotated[float, typer.Option(help="Trained positions, as a fraction of each matrix.")] = 0.02,
    evolve_every: Annotated[int, typer.Option(min=1, help="Steps between events.")] = 20,
    drop_fraction: Annotated[float, typer.Option(help="Fraction of slots dropped at an event, annealed to 0.")] = 0.2,
    gradient_window: Annotated[int, typer.Option(min=1, help="Steps whose gradients an event averages.")] = 1,
    initial_positions: Annotated[
        str, typer.Option(help="Where slots start: gradient (largest) or random.")
    ] = "gradient",
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    warmup_steps: Annotated[int, typer.Option(min=0, help="Steps over which the learning rate rises.")] = 0,
    lr_schedule: Annotated[str, typer.Option(help="constant, linear or cosine.")] = "constant",
    weight_decay: Annotated[float, typer.Option(help="Decoupled decay of the delta towards the base.")] = 0.0,
    max_norm: Annotated[float, typer.Option(help="Clip the delta gradient to this norm; 0 for never.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of positions and of the order of text.")] = 0,
    dtype: Annotated[
        str | None, typer.Option(help="Compute in float32 or float64; default: as stored, 16-bit as float32.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from OUT_DIR.state.")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saves of the state.")] = 20,
    stop_after: Annotated[int | None, typer.Option(min=1, help="Stop after this step and keep the state.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write settings, every step and the totals there.")
    ] = None,
) -> None:
    """Train a sparse update of the model in SPARSE_DIR and write the result, as sparse as before, to OUT_DIR."""
    _cli.require_absent(destination)
    if not is_sparse(folder):
        raise _cli.Refused(
            f"{folder} is not a sparse checkpoint; make one with tools/convert.py {folder} DST --to sparse"
        )
    state_file = destination.with_name(destination.name + ".state")
    if state_file.exists() and not resume:
        raise _cli.Refused(f"{state_file} holds an unfinished run; continue it with --resume or remove it")
    settings = TrainSettings(
        preset=preset,
        grow_scope=_grow_scope(folder),
        steps=steps,
        batch=batch,
        micro_batches=micro_batches,
        length=length,
        density=density,
        evolve_every=evolve_every,
        drop_fraction=drop_fraction,
        gradient_window=gradient_window,
        initial_positions=initial_positions,  # type: ignore[arg-type]
        lr=lr,
        warmup_steps=warmup_steps,
        lr_schedule=lr_schedule,  # type: ignore[arg-type]
        optimizer=AdamW(weight_decay=weight_decay),
        max_norm=max_norm,
        seed=seed,
    )
    tokens = read_tokens(text, folder)
    whose = Origin(identity(folder), hashlib.sha256(np.asarray(tokens, dtype="<i8").tobytes()).hexdigest())
    model = load_model(folder, cpu, dtype)
    if resume:
        state = load_state(state_file, model.weights, settings, whose, cpu)
    else:
        first = step_batches(settings, tokens, 1, model.weights)
        state = initial_state(settings, model.config, model.weights, model.bases, cpu, first)
    stored = model.stored()
    del model.bases, model.weights  # the state holds what is still needed

    last = min(stop_after or steps, steps)
    records: list[dict[str, Any]] = []
    started = time.perf_counter()
    with _cli.progress("fine-tuning", max(last - state.step, 0)) as advance:
        run = train(state, settings, model.config, tokens, cpu) if state.step < last else ()
        for state, record in run:
            now = time.perf_counter()
            records.append(asdict(record) | {"seconds": now - started})
            started = now
            advance(f"loss {record.loss:.3f}")
            if state.step == last or state.step % save_every == 0:
                save_state(state_file, state, settings, whose)
                started = time.perf_counter()
            if state.step == last:
                break
    seconds = sorted(r["seconds"] for r in records)
    totals = {
        "settings": json.loads(settings_text(settings)),
        "stored_weights_at_load": stored,
        "median_seconds_a_step": seconds[len(seconds) // 2] if seconds else None,
        "records": records,
    }
    if state.step < steps:
        _cli.write_json(json_file, totals | {"peak_memory_bytes": _cli.peak_memory_bytes()})
        _cli.out.print(f"stopped after step {state.step} of {steps}; continue with --resume")
        return
    final = finish(state, settings, model.config, tokens, cpu)
    kept = sum(topology.nnz for topology, _ in final.values())
    save_model(folder, destination, final, {"seft.settings": settings_text(settings)})
    state_file.unlink(missing_ok=True)
    _cli.write_json(json_file, totals | {"stored_weights": kept, "peak_memory_bytes": _cli.peak_memory_bytes()})
    _cli.out.print(f"{destination}: {kept} stored weights ({stored} at load), {steps} steps")


def _grow_scope(folder: Path) -> GrowScope | None:
    """Return "active" for a base with an N:M pattern, which growth elsewhere would break (EVT-007)."""
    record = folder / "pruning.json"
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")).get("pattern"):
        return "active"
    return None


if __name__ == "__main__":
    _cli.run(main)
