"""Benchmark of a whole training step: of one linear layer, and of a model of 135 million parameters.

    torch          dense weight + scattered update, gradient gathered from a dense one: how the method is run today
    torch lora     dense weight with a LoRA of rank 16 (layers only)
    ours           sparse weight, gradient at the update's positions only, AdamW, new values stored
    transposed     ours with a second, transposed copy of the sparse weight

Before anything is timed, the losses of the model and the gradients of the layer must agree. PyTorch's model has a
process of its own (`beside`).
"""

import json
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.beside import Beside
from benchmarks.goals import missed
from benchmarks.rounds import JsonFile, Threads, machine, restart_in_clean_environment, rounds
from seft_cli.output import write_json

SHAPES = ((2048, 2048), (5632, 2048), (4096, 4096))
SPARSITIES = (0.5, 0.7, 0.9)
TOKENS = 512
DENSITY = 0.01
RANK = 16
OURS = ("ours", "transposed")
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
"""config.json of SmolLM2-135M."""
ROWS, LENGTH = 4, 128


@dataclass(frozen=True)
class StepRow:
    """One layer or model: median milliseconds, and ratios of the peers' times to ours."""

    what: str
    sparsity: float
    milliseconds: dict[str, float]
    ratio: dict[str, float]
    ratio_range: dict[str, tuple[float, float]]


def step(
    json_file: JsonFile = None,
    threads: Threads = 1,
    quick: Annotated[bool, typer.Option(help="One layer and a model of two blocks, three rounds.")] = False,
) -> None:
    """Compare a training step with the same one in PyTorch, dense and with LoRA."""
    restart_in_clean_environment(threads)
    import torch

    torch.set_num_threads(threads)
    print(json.dumps(machine(threads) | {"torch": torch.__version__}, indent=1))
    rows = []
    print(f"{'what':>16} {'sparse':>6}   ms: ours and others   others/ours (range)")
    n_rounds = 3 if quick else 7
    for shape in SHAPES[:1] if quick else SHAPES:
        for sparsity in (0.7,) if quick else SPARSITIES:
            rows.append(_row(f"{shape[0]}x{shape[1]}", sparsity, _layer(shape, sparsity), n_rounds))
            print(_format(rows[-1]), flush=True)
    config = CONFIG | {"num_hidden_layers": 2} if quick else CONFIG
    for sparsity in (0.7,) if quick else SPARSITIES:
        rows.append(_row("model", sparsity, _model(config, sparsity), n_rounds))
        print(_format(rows[-1]), flush=True)
    written = [asdict(row) for row in rows]
    print(missed("step", written, threads))
    write_json(json_file, {"machine": machine(threads), "rows": written})


def _row(what: str, sparsity: float, methods: dict[str, Callable[[], Any]], n_rounds: int) -> StepRow:
    times = {name: own for name, own, _, _ in rounds(methods, n_rounds, "torch")}
    ratios = {
        name: [theirs / ours for theirs, ours in zip(own, times["ours"], strict=True)]
        for name, own in times.items()
        if name not in OURS
    }
    ratios["torch / transposed"] = [a / b for a, b in zip(times["torch"], times["transposed"], strict=True)]
    return StepRow(
        what,
        sparsity,
        {name: 1000 * statistics.median(own) for name, own in times.items()},
        {name: statistics.median(r) for name, r in ratios.items()},
        {name: (min(r), max(r)) for name, r in ratios.items()},
    )


def _layer(shape: tuple[int, int], sparsity: float) -> dict[str, Callable[[], Any]]:
    import torch

    from benchmarks.torch_step import LoraLinear, ScatteredLinear
    from seft_ref.kernels import cpu
    from seft_ref.kernels.cpu import transposed
    from seft_ref.topology.csr import from_flat
    from seft_ref.update.delta import new_delta
    from seft_ref.update.optimizers import AdamW

    rng = np.random.default_rng(0)
    n_out, n_in = shape
    stored = np.flatnonzero(rng.random(n_out * n_in) >= sparsity)
    values = rng.standard_normal(stored.size, dtype=np.float32)
    weight = np.zeros(n_out * n_in, dtype=np.float32)
    weight[stored] = values
    weight = weight.reshape(shape)
    positions = np.sort(rng.choice(stored, int(DENSITY * n_out * n_in), replace=False))
    x, dy = (rng.standard_normal((TOKENS, n), dtype=np.float32) for n in (n_in, n_out))
    topology, under = from_flat(shape, stored), weight.reshape(-1)[positions]
    optimizer, lr = AdamW(), 1e-4

    def step_with(kernels: Any) -> Callable[[], None]:
        packed = kernels.pack(topology, values)
        update_slots = kernels.locate(packed, topology, np.searchsorted(stored, positions))
        held: dict[str, Any] = {"packed": packed, "delta": new_delta(shape, positions, values)}

        def work() -> None:
            kernels.matmul(x, held["packed"])
            kernels.matmul_transposed(dy, held["packed"])
            gradient = kernels.sample(dy, x, held["delta"].topology)
            held["delta"] = optimizer.step(held["delta"], gradient, lr)
            held["packed"] = kernels.store(held["packed"], update_slots, under + held["delta"].values)

        return work

    torch_x, torch_dy = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

    def torch_step(layer: Any) -> Callable[[], None]:
        adamw = torch.optim.AdamW(layer.parameters(), lr=lr, weight_decay=0.0)

        def work() -> None:
            adamw.zero_grad(set_to_none=True)
            torch_x.grad = None
            layer(torch_x).backward(torch_dy)
            adamw.step()

        return work

    scattered = ScatteredLinear(weight, positions)
    scattered(torch_x).backward(torch_dy)
    assert scattered.values.grad is not None
    of_ours = cpu.sample(dy, x, new_delta(shape, positions, values).topology)
    _check(of_ours, scattered.values.grad.numpy(), f"the gradient of {shape}")
    return {
        "torch": torch_step(scattered),
        "torch lora": torch_step(LoraLinear(weight, RANK)),
        "ours": step_with(cpu),
        "transposed": step_with(transposed),
    }


def _model(json_config: dict[str, Any], sparsity: float) -> dict[str, Callable[[], Any]]:
    from seft_ref.kernels import cpu
    from seft_ref.kernels.cpu import transposed

    ours, tokens, *_ = made_up_run(json_config, sparsity, cpu)
    twice, *_ = made_up_run(json_config, sparsity, transposed)
    peer = Beside(torch_peer, json_config, sparsity)
    for _ in range(2):
        losses = np.asarray([ours.step(tokens), twice.step(tokens)])
        _check(losses, np.asarray([peer(tokens)]), "the loss")
    return {
        "torch": lambda: peer(tokens),
        "ours": lambda: ours.step(tokens),
        "transposed": lambda: twice.step(tokens),
    }


def torch_peer(json_config: dict[str, Any], sparsity: float) -> Callable[[Any], float]:
    """Return a step of the peer on the same weights and positions, on as many threads as OMP_NUM_THREADS says."""
    import torch

    from benchmarks.torch_step import TorchRun
    from seft_ref.kernels import cpu

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    ours, _, positions, dense, config = made_up_run(json_config, sparsity, cpu)
    peer = TorchRun(config, json_config, dense, positions, lr=ours.settings.lr, max_norm=ours.settings.max_norm)
    return lambda tokens: float(peer.step(tokens))


class OurRun:
    """A run of this engine that takes one step a call, so that it can alternate with its peers."""

    def __init__(self, config: Any, settings: Any, state: Any, kernels: Any) -> None:
        self.config, self.settings, self.state, self.kernels = config, settings, state, kernels

    def step(self, tokens: Any) -> float:
        """Take one step on rows of tokens, and return the loss."""
        from seft_ref.text.batch import Batch
        from seft_ref.train.loop import train_step

        batch = np.asarray(tokens, dtype=np.int64)
        self.state, record = train_step(self.state, [Batch(batch, batch)], self.settings, self.config, self.kernels)
        return record.loss


def made_up_run(
    json_config: dict[str, Any], sparsity: float, kernels: Any, *, compact: bool = False, **changes: Any
) -> tuple[OurRun, Any, dict[str, Any], dict[str, Any], Any]:
    """Return a run on random weights, the tokens of a step, and for a peer: slot positions, dense weights, config."""
    import ml_dtypes

    from seft_ref.matrix.bases import AnyBase, compact_base, in_packed
    from seft_ref.model.config import ModelConfig
    from seft_ref.model.weights import assemble
    from seft_ref.text.batch import Batch
    from seft_ref.topology.csr import flat, from_flat
    from seft_ref.train.loop import initial_state
    from seft_ref.train.settings import settings_of
    from seft_ref.update.delta import Base

    rng = np.random.default_rng(0)
    config = ModelConfig.from_json(json_config)
    dense: dict[str, Any] = {}
    for name, shape in config.parameters().items():
        dense[name] = (
            np.ones(shape, dtype=np.float32)
            if "norm" in name
            else rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        )
    bases: dict[str, AnyBase] = {}
    packed: dict[str, Any] = {}
    for matrix in config.targets():
        weight = dense[matrix.name].reshape(-1)
        weight[rng.random(weight.size) < sparsity] = 0
        stored = np.flatnonzero(weight)
        topology, values = from_flat(matrix.shape, stored), weight[stored]
        if compact:
            half = compact_base(topology, values.astype(ml_dtypes.bfloat16), kernels)
            bases[matrix.name], packed[matrix.name] = half, half.packed
        else:
            packed[matrix.name] = kernels.pack(topology, values)
            bases[matrix.name] = in_packed(Base(topology, values), packed[matrix.name], kernels)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    packed["lm_head.weight"] = kernels.pack_dense(dense[head])
    weights = assemble(config, dense, packed)
    options = {"steps": 1000, "evolve_every": 1000, "density": DENSITY, "batch": ROWS, "length": LENGTH} | changes
    settings = settings_of("seft", **({"initial_positions": "random"} | options))
    tokens = rng.integers(0, config.vocab_size, (ROWS, LENGTH))
    state = initial_state(settings, config, weights, bases, kernels, [Batch(tokens, tokens)])
    positions = {name: flat(target.delta.topology) for name, target in state.targets.items()}
    return OurRun(config, settings, state, kernels), tokens, positions, dense, config


def _check(found: Any, expected: Any, what: str) -> None:
    """Exit if a result differs from the peer's, because timing it would be pointless."""
    off = float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))
    if not off <= 1e-4:
        raise SystemExit(f"{what} is off by {off} of its largest entry")


def _format(row: StepRow) -> str:
    ms = ", ".join(f"{name} {middle:.1f}" for name, middle in row.milliseconds.items())
    ratios = "  ".join(
        f"{n} {r:.2f} ({row.ratio_range[n][0]:.2f}..{row.ratio_range[n][1]:.2f})" for n, r in row.ratio.items()
    )
    return f"{row.what:>16} {row.sparsity:6.0%}   {ms}   {ratios}"
