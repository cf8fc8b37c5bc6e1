"""Checks of a GPU: the kit, products against their definition, runs against those on the processor; and memory."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import formats
from benchmarks.gpu import pruned
from benchmarks.gpu_here import Gpu
from conformance.cases.compare import tau
from conformance.command.runner import Options, Target, judge
from formats.container import dtype_name
from formats.dialects.hf import to_sparse, write_hf
from formats.dialects.stock import outline
from seft_ref import Finetuned, RunState, StepRecord, finetune, settings_of
from seft_ref.arrays.library import binary64, from_numpy, to_numpy
from seft_ref.kernels import KernelSet, cpu, reference
from seft_ref.model.config import ModelConfig
from seft_ref.topology.csr import Topology, flat, from_flat, placed_like
from seft_ref.train.settings import TrainSettings

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
RUNS: dict[str, dict[str, Any]] = {
    "seft": {},
    "scope row": {"scope": "row"},
    "scope model, window of 2": {"scope": "model", "gradient_window": 2},
    "2:4": {"scope": "group", "pattern": (2, 4)},
    "spiel-ag": {"preset": "spiel-ag", "gradient_window": 1},
}
"""The runs that are compared; one has a 2:4 base."""
MATRICES = (
    ((300, 152), "70%"),
    ((64, 128), "2:4"),
    ((72, 128), "4:8"),
    ((40, 200), "20%"),
    ((513, 96), "97%"),
    ((1100, 1300), "70%"),
)
"""Shapes and patterns of products that are compared."""
TOKENS = (0, 1, 3, 16, 17, 128, 300)
"""Numbers of tokens of these products."""
TERMS = (512, 4096)
"""Numbers of equal terms whose sums are compared."""
WIDE_LAYER = (2048, 4096, 512)
"""Rows, columns and tokens of the layer whose sums are checked."""
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
"""Variables that let Open MPI run as root, and with more processes than cores."""
HALVES = ("float16", "bfloat16")
LOSSES_WITHIN = {"float64": 1e-10, "float32": 1e-4}
"""The allowed relative difference of losses between two devices."""

PROCESSES_WITHIN = 1e-7
"""The allowed difference of a weight, stored as float32, between one process and two."""
KIT_SECONDS = 300.0
"""Seconds that a call of the kit may take; the default of PRT-009 is 20."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a check: its name, whether it held, and the details."""

    what: str
    held: bool
    seen: str


def check_kit(backend: str, examples: int) -> Iterator[Checked]:
    """Run the kit on the engine with a backend, with `examples` examples of each property."""
    # a long timeout, because a call may wait for many kernels to be compiled
    run = judge(Target.of_engine((backend,)), Options(timeout=KIT_SECONDS, examples=examples))
    verdict = run.verdict()
    passed, failed, skipped = verdict.passed, verdict.failed, verdict.skipped
    wrong = [result.name for result in run.results if result.failures]
    details = f"{passed} passed, {failed} failed, {skipped} of operations that are not offered"
    yield Checked(
        f"kit, backend {backend}", not failed and bool(passed), details + "".join(f"; {w}" for w in wrong[:5])
    )


def check_kernels(gpu: Gpu) -> Iterator[Checked]:
    """Compare products of small integers, which are exact, with the reference kernels on NumPy arrays."""
    for dtype in ("float32", "float64"):
        for shape, pattern in MATRICES:
            wrong = [what for n in TOKENS for what in _wrong(gpu, shape, pattern, n, dtype)]
            what = f"products, {shape[0]} x {shape[1]}, {pattern} away, {dtype}"
            yield Checked(what, not wrong, "exact" if not wrong else f"differ: {', '.join(wrong[:6])}")
    for shape, pattern in MATRICES:
        differ = [what for n in TOKENS if n for what in _restless(gpu, shape, pattern, n)]
        what = f"bits of a second launch, {shape[0]} x {shape[1]}, {pattern} away (KRN-008)"
        yield Checked(what, not differ, "the same" if not differ else f"differ: {', '.join(differ[:6])}")
    for n in TERMS:
        yield _many_equal_terms(gpu, n)
    yield _a_wide_layer(gpu)


def check_processes(folder: Path) -> Iterator[Checked]:
    """Compare fine-tuning in float64 by two processes over MPI, each on a GPU, with one; skipped without MPI."""
    mpirun = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
    if mpirun is None or find_spec("mpi4py") is None:
        return
    folder.mkdir(exist_ok=True)
    base, text = _write_model(folder / "shared", "60%"), folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog and runs away\n" * 40)
    wanted = "--steps 6 --batch 3 --length 16 --evolve-every 2 --density 0.1 --lr 0.01 --dtype float64 --device cuda"
    results = []
    for launcher in ([], [mpirun, "-n", "2"]):
        out = folder / f"of-{len(launcher)}"
        line = [
            *launcher,
            sys.executable,
            "-m",
            "seft_cli",
            "finetune",
            str(base),
            str(out),
            "--text",
            str(text),
            *wanted.split(),
        ]
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | OPEN_MPI, timeout=900)
        if done.returncode:
            last = ([one for one in done.stderr.splitlines() if one.strip(" -")] or ["no word"])[-1]
            yield Checked("two processes over MPI, float64", False, f"{' '.join(launcher) or 'one'}: {last}")
            return
        with formats.open(out) as reader:
            results.append({name: formats.to_dense(reader[name]) for name in reader.names()})
    one, two = results
    differ = sum(int(((one[name] != 0) != (two[name] != 0)).sum()) for name in one)
    apart = max(float(np.max(abs(one[name].astype(np.float64) - two[name]))) for name in one)
    details = f"{differ} positions differ, weights apart by {apart:.1e} from those of one process"
    yield Checked("two processes over MPI, float64", not differ and apart <= PROCESSES_WITHIN, details)


def _restless(gpu: Gpu, shape: tuple[int, int], pattern: str, n: int) -> list[str]:
    """Return the products whose second launch gives other bits than the first, which a race of threads would cause."""
    rng = np.random.default_rng([n, *shape])
    topology = pruned(rng, shape, pattern)
    values, x, dy = (
        rng.standard_normal(size, dtype=np.float32) for size in (topology.nnz, (n, shape[1]), (n, shape[0]))
    )
    topology_on_gpu = placed_like(topology, gpu.like)
    tx, tdy = from_numpy(x, gpu.like), from_numpy(dy, gpu.like)
    forms = {"": gpu.kernels.pack(topology_on_gpu, from_numpy(values, gpu.like))}
    forms |= {f" in {kind}": gpu.kernels.compact(topology_on_gpu, values.astype(kind)) for kind in HALVES}
    differ = []
    for name, packed in forms.items():
        launches = {
            "forward": partial(gpu.kernels.matmul, tx, packed),
            "dx": partial(gpu.kernels.matmul_transposed, tdy, packed),
        }
        if not name:
            launches["sample"] = partial(gpu.kernels.sample, tdy, tx, topology_on_gpu)
        for product, launch in launches.items():
            first, second = to_numpy(launch()), to_numpy(launch())
            if first.tobytes() != second.tobytes():
                differ.append(f"{product}{name} of {n} tokens")
    return differ


def _many_equal_terms(gpu: Gpu, n: int) -> Checked:
    """Check the error of sums of n equal terms against KRN-006, because adding them one by one would drift."""
    term = np.float32(0.1)
    ones = from_numpy(np.ones((n, 48), dtype=np.float32), gpu.like)
    tenths = from_numpy(np.full((48, n), term, dtype=np.float32), gpu.like)
    every, few = (placed_like(from_flat((48, 48), np.arange(0, 48 * 48, k)), gpu.like) for k in (1, 9))
    flat_ones, across = gpu.xp.ascontiguousarray(ones.T), gpu.xp.ascontiguousarray(tenths.T)
    sums = {
        "forward, dense": gpu.kernels.matmul(flat_ones, gpu.kernels.pack_dense(tenths)),
        "dx, dense": gpu.kernels.matmul_transposed(flat_ones, gpu.kernels.pack_dense(across)),
        "sample of all": gpu.kernels.sample(across, ones, every),
        "sample of a ninth": gpu.kernels.sample(across, ones, few),
    }
    exact = n * float(term)
    off = {name: float(np.max(abs(binary64(a) - exact))) / (exact * 2.0**-24) for name, a in sums.items()}
    worst = max(off, key=lambda name: off[name])
    details = f"{worst} is off by {off[worst]:.0f} roundings of {tau(n):.0f} allowed"
    return Checked(f"sums of {n} equal terms (KRN-006)", off[worst] <= tau(n), details)


def _a_wide_layer(gpu: Gpu) -> Checked:
    """Check sums of equal terms in a layer of a usual size; a library cuts narrow products into short sums."""
    n_out, n_in, n = WIDE_LAYER
    term = np.float32(0.1)
    ones = from_numpy(np.ones((n, n_in), dtype=np.float32), gpu.like)
    weight = gpu.kernels.pack_dense(from_numpy(np.full((n_out, n_in), term, dtype=np.float32), gpu.like))
    exact = n_in * float(term)
    off = float(np.max(abs(binary64(gpu.kernels.matmul(ones, weight)) - exact))) / (exact * 2.0**-24)
    details = f"forward, dense is off by {off:.0f} roundings of {tau(n_in):.0f} allowed"
    return Checked(f"sums of {n_in} equal terms, {n_out} rows, {n} tokens (KRN-006)", off <= tau(n_in), details)


def _wrong(gpu: Gpu, shape: tuple[int, int], pattern: str, n: int, dtype: str) -> list[str]:
    rng = np.random.default_rng([n, *shape])
    topology = pruned(rng, shape, pattern)
    values, x, dy = (
        rng.integers(-4, 5, size).astype(dtype) for size in ((topology.nnz,), (n, shape[1]), (n, shape[0]))
    )
    topology_on_gpu = placed_like(topology, gpu.like)
    tv, tx, tdy = (from_numpy(a, gpu.like) for a in (values, x, dy))
    packed, definition = gpu.kernels.pack(topology_on_gpu, tv), reference.pack(topology, values)
    least = 2.0
    pairs = {
        "forward": (gpu.kernels.matmul(tx, packed), reference.matmul(x, definition)),
        "dx": (gpu.kernels.matmul_transposed(tdy, packed), reference.matmul_transposed(dy, definition)),
        "sample": (gpu.kernels.sample(tdy, tx, topology_on_gpu), reference.sample(dy, x, topology)),
        "exceeding": (gpu.kernels.exceeding(tv, least), reference.exceeding(values, least)),
    }
    for kind in HALVES if dtype == "float32" else ():
        half = values.astype(kind)
        half_packed, definition = gpu.kernels.compact(topology_on_gpu, half), reference.compact(topology, half)
        pairs |= {
            f"forward in {kind}": (gpu.kernels.matmul(tx, half_packed), reference.matmul(x, definition)),
            f"dx in {kind}": (
                gpu.kernels.matmul_transposed(tdy, half_packed),
                reference.matmul_transposed(dy, definition),
            ),
        }
    return [f"{name} of {n} tokens" for name, (a, b) in pairs.items() if not np.array_equal(to_numpy(a), b)]


def check_runs(gpu: Gpu, folder: Path) -> Iterator[Checked]:
    """Train small models on the GPU, on the processor, and on both in turn, and compare losses and supports.

    Losses must agree, and in float64 also supports.
    """
    tokens = np.random.default_rng(5).integers(0, CONFIG["vocab_size"], 4000).tolist()
    bases = {pattern: _write_model(folder / pattern.replace(":", "-"), pattern) for pattern in ("60%", "2:4")}
    on_cpu: tuple[KernelSet, Any] = (cpu, None)
    on_gpu: tuple[KernelSet, Any] = (gpu.kernels, gpu.like)
    for name, changes in RUNS.items():
        wanted: dict[str, Any] = {
            "steps": 8,
            "batch": 2,
            "length": 16,
            "density": 0.1,
            "evolve_every": 3,
            "lr": 1e-2,
        } | changes
        settings = settings_of(wanted.pop("preset", "seft"), **wanted)
        base = bases["2:4" if settings.pattern else "60%"]
        for dtype, within in LOSSES_WITHIN.items():
            state = folder / "run.state"
            first, expected = _run(base, settings, tokens, dtype, on_cpu, on_cpu, state)
            second, from_gpu = _run(base, settings, tokens, dtype, on_gpu, on_gpu, state)
            _, moved = _run(base, settings, tokens, dtype, on_gpu, on_cpu, state)
            apart = max(abs(a - b) / abs(a) for a, b in zip(first, second, strict=True))
            differ = sum(_apart(from_gpu[m], expected[m]) + _apart(moved[m], expected[m]) for m in expected)
            fine = apart <= within and (dtype == "float32" or not differ)
            details = f"losses apart by {apart:.1e}, {differ} positions differ, with those of a run resumed here"
            yield Checked(f"run {name}, {dtype}", fine, details)


def _run(
    base: Path,
    settings: TrainSettings,
    tokens: list[int],
    dtype: str,
    begun: tuple[KernelSet, Any],
    ended: tuple[KernelSet, Any],
    file: Path,
) -> tuple[list[float], dict[str, Topology]]:
    """Train half of a run on one device and the rest, from its state file, on another; return losses and supports."""
    losses: list[float] = []

    def note(_: RunState, record: StepRecord, seconds: float) -> None:
        losses.append(record.loss)

    def run(place: tuple[KernelSet, Any], **part: Any) -> Finetuned:
        return finetune(
            base,
            None,
            tokens,
            settings,
            state_file=file,
            on_step=note,
            kernels=place[0],
            dtype=dtype,
            like=place[1],
            **part,
        )

    file.unlink(missing_ok=True)
    run(begun, stop_after=settings.steps // 2)
    done = run(ended, resume=True)
    return losses, {name: topology for name, (topology, _) in (done.final or {}).items()}


def _apart(a: Topology, b: Topology) -> int:
    """Return the number of positions that are in only one of two topologies."""
    return int(np.setxor1d(to_numpy(flat(a)), to_numpy(flat(b))).shape[0])


def _write_model(folder: Path, pattern: str) -> Path:
    """Write a small pruned model with seeded random weights and bytes as tokens, as a sparse checkpoint."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rng = np.random.default_rng(0)
    config = ModelConfig.from_json(CONFIG)
    tensors = {
        name: (rng.standard_normal(shape) * (0.3 if len(shape) == 2 else 0.1) + (len(shape) == 1)).astype(np.float32)
        for name, shape in config.parameters().items()
    }
    for matrix in config.targets():
        kept = np.zeros(matrix.shape, dtype=np.float32)
        positions = flat(pruned(rng, matrix.shape, pattern))
        kept.reshape(-1)[positions] = tensors[matrix.name].reshape(-1)[positions]
        tensors[matrix.name] = kept
    outlines = [outline(name, dtype_name(values.dtype), values.shape) for name, values in tensors.items()]
    source = folder.with_name(folder.name + "-hf")
    files = {"config.json": json.dumps(CONFIG).encode(), "tokenizer.json": tokenizer.to_str().encode()}
    write_hf(source, outlines, tensors.__getitem__, files)
    to_sparse(source, folder)
    return folder


def memory(gpu: Gpu, shape: tuple[int, int], tokens: int = 512) -> Iterator[tuple[str, float, float]]:
    """Yield for each pattern its name, bytes a stored weight, and MiB that forward and backward products allocate."""
    rng = np.random.default_rng(0)
    for pattern in ("50%", "2:4", "70%", "90%", "70% in 16 bits"):
        topology = placed_like(pruned(rng, shape, pattern.split(" in ", maxsplit=1)[0]), gpu.like)
        values = rng.standard_normal(topology.nnz, dtype=np.float32)
        packed: Any
        if "16" in pattern:
            packed = gpu.kernels.compact(topology, values.astype(np.float16))
        else:
            packed = gpu.kernels.pack(topology, from_numpy(values, gpu.like))
        x, dy = (from_numpy(rng.standard_normal((tokens, k), dtype=np.float32), gpu.like) for k in shape[::-1])
        gpu.finish()

        def work(x: Any = x, dy: Any = dy, packed: Any = packed) -> None:
            gpu.kernels.matmul(x, packed)
            gpu.kernels.matmul_transposed(dy, packed)

        yield pattern, packed.nbytes / topology.nnz, gpu.taken(work) / 2**20
