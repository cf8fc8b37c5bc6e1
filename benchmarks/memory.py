"""Measure the memory of a training step by part, and compare the formula, this engine and PyTorch on the same work.

Every run is a process of its own. The size of a part is the sum of the sizes of its arrays. *Transient* is the most
that a step, or a step with an event, allocates above the arrays that stay between steps. For PyTorch it is the rise of
the largest resident size, because PyTorch does not report its allocations on a CPU.
"""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.rounds import JsonFile, Threads, machine, restart_in_clean_environment
from seft_cli.output import write_json

GOALS = {0.5: 3.0, 0.7: 2.0, 0.9: 1.0}
"""Sparsity -> the most bytes for each weight of the targets, update and optimizer included."""
HELD = ("weights", "base", "delta", "moments")
PATTERNS = ((2, 4), (4, 8), (1, 4), (8, 16), (3, 7))
PATTERN_SHAPE = (2048, 4 * 4 * 7 * 36)
"""A shape whose row length is a multiple of every M of PATTERNS."""


def memory(
    json_file: JsonFile = None,
    threads: Threads = 2,
    quick: Annotated[bool, typer.Option(help="70 %, a model of four blocks.")] = False,
) -> None:
    """Print the memory of a training step of a model of 135 million parameters, and PyTorch's for the same step."""
    restart_in_clean_environment(threads)
    rows = []
    for sparsity in (0.7,) if quick else GOALS:
        for who in ("ours", "compact", "transposed", "torch"):
            arguments = [sys.executable, "-m", __name__, who, str(sparsity), "4" if quick else "30"]
            done = subprocess.run(arguments, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            rows.append({"who": who, "sparsity": sparsity} | json.loads(done.stdout.splitlines()[-1]))
            print(_format(rows[-1]), flush=True)
    for sparsity in (0.7,) if quick else GOALS:
        ours, peer = (
            next(r for r in rows if r["who"] == who and r["sparsity"] == sparsity) for who in ("ours", "torch")
        )
        print(f"{sparsity:.0%}: largest resident size {ours['peak'] / peer['peak']:.2f} of PyTorch's (goal 0.5)")
    patterns = [_pattern(*pattern) for pattern in PATTERNS]
    for row in patterns:
        print("  ".join(f"{name} {value:.3f}" if isinstance(value, float) else value for name, value in row.items()))
    write_json(json_file, {"machine": machine(threads), "rows": rows, "patterns": patterns})


def _pattern(n_keep: int, width: int) -> dict[str, Any]:
    """Return bytes per position of an N:M matrix as a run holds it: packed for products, and as the base."""
    import ml_dtypes
    import numpy as np

    from seft_ref.kernels import cpu
    from seft_ref.topology.csr import from_flat
    from seft_ref.topology.groups import in_groups

    n_out, n_in = PATTERN_SHAPE
    rng = np.random.default_rng(width)
    order = rng.random((n_out * n_in // width, width)).argsort(axis=1)[:, :n_keep]
    stored = np.sort((np.arange(len(order))[:, None] * width + order).reshape(-1))
    topology = from_flat(PATTERN_SHAPE, stored)
    values = rng.standard_normal(stored.size, dtype=np.float32)
    groups = in_groups(topology, (n_keep, width))
    numel = n_out * n_in
    return {
        "pattern": f"{n_keep}:{width}",
        "values": 4 * n_keep / width,
        "packed": cpu.pack(topology, values).nbytes / numel,
        "packed in 16 bits": cpu.compact(topology, values.astype(ml_dtypes.bfloat16)).nbytes / numel,
        "positions of the base": _size(groups) / numel,
        "as CSR": _size(topology) / numel,
    }


def _size(topology: Any) -> int:
    """Return the bytes of a topology: its nbytes if it is stored in groups, else those of its two arrays."""
    return int(getattr(topology, "nbytes", 0)) or topology.indptr.nbytes + topology.indices.nbytes


def _format(row: dict[str, Any]) -> str:
    parts, transient = (
        "  ".join(f"{name} {size / 2**20:.1f}" + _expected(row, name) for name, size in row[kind].items())
        for kind in ("held", "transient")
    )
    return (
        f"{row['who']:8} {row['sparsity']:.0%}   MiB held (formula): {parts}   transient: {transient}   "
        f"peak {row['peak'] / 2**20:.0f}   bytes a weight {row['bytes_a_weight']:.2f}"
    )


def _expected(row: dict[str, Any], name: str) -> str:
    return f" ({row['formula'][name] / 2**20:.1f})" if name in row.get("formula", {}) else ""


def _ours(sparsity: float, blocks: int, *, compact: bool, transposed: bool) -> dict[str, Any]:
    from benchmarks.step import CONFIG, made_up_run
    from seft_ref.kernels import cpu
    from seft_ref.kernels.cpu import transposed as two_copies
    from seft_ref.kernels.split import Split
    from seft_ref.matrix.bases import PackedBase
    from seft_ref.model.weights import matrix_of
    from seft_ref.train.memory import memory_of_run

    config_json = CONFIG | {"num_hidden_layers": blocks}
    changes = {"steps": 4, "evolve_every": 2}
    kernels = two_copies if transposed else cpu
    run, tokens, _, dense, config = made_up_run(config_json, sparsity, kernels, compact=compact, **changes)
    dense.clear()
    state = run.state
    sizes = dict.fromkeys(HELD, 0)
    for name, target in state.targets.items():
        packed, delta, base = matrix_of(state.weights, name), target.delta, target.base
        frozen, live = (packed.frozen.nbytes, packed.live.nbytes) if isinstance(packed, Split) else (packed.nbytes, 0)
        sizes["weights"] += frozen
        topology = delta.topology
        arrays: tuple[Any, ...] = (topology.indptr, topology.indices, delta.values, target.where, target.under)
        if isinstance(base, PackedBase):
            arrays = (*arrays, base.inside)
        else:
            sizes["base"] += base.values.nbytes + base.topology.indices.nbytes + base.topology.indptr.nbytes
        sizes["delta"] += sum(a.nbytes for a in arrays) + live
        sizes["moments"] += sum(a.nbytes for a in delta.kept.values())
    stored = {name: target.base.nnz for name, target in state.targets.items()}
    formula = memory_of_run(config, run.settings, stored, compact=compact, transposed=transposed)
    step_formula = formula["activations"] + formula["logits"]
    numel = sum(m.shape[0] * m.shape[1] for m in config.targets())
    del state
    run.step(tokens)  # a first step, which compiles kernels and allocates their scratch memory
    before = _forget_peak()
    transient, peak = {}, 0
    for name in ("with an event", "a step"):
        tracemalloc.start()
        run.step(tokens)
        transient[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        peak = max(peak, largest_resident())
    return {
        "held": sizes,
        "formula": formula | {"a step": step_formula, "with an event": step_formula + formula["event"]},
        "transient": transient,
        "resident_before": before,
        "peak": peak,
        "bytes_a_weight": sum(sizes.values()) / numel,
    }


def _torch(sparsity: float, blocks: int) -> dict[str, Any]:
    import gc

    from benchmarks.step import CONFIG, made_up_run
    from benchmarks.torch_step import TorchRun
    from seft_ref.kernels import cpu

    config_json = CONFIG | {"num_hidden_layers": blocks}
    run, tokens, positions, dense, config = made_up_run(config_json, sparsity, cpu)
    settings = run.settings
    del run
    gc.collect()
    peer = TorchRun(config, config_json, dense, positions, lr=settings.lr, max_norm=settings.max_norm)
    numel = sum(m.shape[0] * m.shape[1] for m in config.targets())
    slots = sum(len(p) for p in positions.values())
    sizes = {"weights": 4 * numel, "delta": slots * (8 + 4 + 4), "moments": 8 * slots}
    peer.step(tokens)
    before = _forget_peak()
    peer.step(tokens)
    peak = largest_resident()
    return {
        "held": sizes,
        "transient": {"a step": peak - before},
        "resident_before": before,
        "peak": peak,
        "bytes_a_weight": sum(sizes.values()) / numel,
    }


def _forget_peak() -> int:
    """Reset the largest resident size to the current one, and return that (Linux only)."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return largest_resident()


def largest_resident() -> int:
    """Return the largest resident size since the last reset, in bytes (Linux only)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


if __name__ == "__main__":
    who, sparsity, blocks = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    form = {"compact": who == "compact", "transposed": who == "transposed"}
    print(json.dumps(_torch(sparsity, blocks) if who == "torch" else _ours(sparsity, blocks, **form)))
