"""Predict the time and memory of a step and of an event, for models and numbers of hosts that cannot be measured here.

Memory is the formula of `seft_ref.train.memory`, which tests compare with runs. Time is a model with three measured
constants. They come from a run of a 7B shape, and are checked on a run of 135M that did not decide them. Hosts work
together as `seft_ref.arrays.ranks` does: each has the whole model and reads rows of its own.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from benchmarks.large import SHAPES
from benchmarks.rounds import JsonFile
from benchmarks.step import CONFIG
from seft_cli import console
from seft_cli.output import write_json
from seft_ref import settings_of
from seft_ref.model.config import ModelConfig
from seft_ref.train.memory import memory_of_run

MODELS: dict[str, dict[str, Any]] = SHAPES | {
    "70b": SHAPES["7b"]
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "135m": CONFIG,
}
"""config.json of LLaMA-2-70B and SmolLM2-135M beside the shapes of `large`."""
SPARSITY, DENSITY = 0.7, 0.005
HOSTS = (1, 4, 16, 64)
LINKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}
"""Link -> bytes a second that a host sends, and receives at the same time."""


@dataclass(frozen=True, slots=True)
class Run:
    """A measured run: the seconds of a step, and the additional seconds of a step with an event."""

    model: str
    tokens: int
    recompute: bool
    step: float
    event: float


DECIDES = Run("7b", 128, recompute=True, step=10.1, event=99.2 - 10.1)
"""The run that decides the constants (docs/results/large.md: AMD EPYC, two cores)."""
CHECKS = Run("135m", 512, recompute=False, step=0.815, event=2.31)
"""The run that checks them (docs/results/benchmarks.md and growth.md: the same processor)."""
BYTES_A_SECOND = 5.2e9 / 31
"""Bytes of a checkpoint that are read, verified and packed in a second, from the file of the 7B model."""


@dataclass(frozen=True, slots=True)
class Size:
    """The numbers of a model that decide time: positions, stored weights and slots of targets, entries of its head."""

    config: ModelConfig
    numel: int
    stored: int
    slots: int
    head: int


def size_of(model: str) -> Size:
    """Return the size of a model at SPARSITY and DENSITY."""
    config = ModelConfig.from_json(MODELS[model])
    numel = sum(n_out * n_in for n_out, n_in in (matrix.shape for matrix in config.targets()))
    head = config.vocab_size * config.hidden_size
    return Size(config, numel, round((1 - SPARSITY) * numel), round(DENSITY * numel), head)


def products(size: Size, tokens: int, *, recompute: bool) -> float:
    """Return the multiplications of a step: forward and dx of every matrix, and a second forward if recomputed."""
    return tokens * ((3 if recompute else 2) * size.stored + 2 * size.head)


@dataclass(frozen=True, slots=True)
class Constants:
    """The speed of a host, and the cost of an event for each stored weight."""

    rate: float
    """multiplications a second, on two threads"""
    passes: float
    """seconds of an event for each stored weight, without the gradient"""

    @classmethod
    def of(cls, run: Run) -> "Constants":
        """Return the constants that follow from a measured run."""
        size = size_of(run.model)
        rate = products(size, run.tokens, recompute=run.recompute) / run.step
        return cls(rate, (run.event - size.numel * run.tokens / rate) / size.stored)

    def step(self, size: Size, tokens: int, *, recompute: bool) -> float:
        """Return the seconds of a step without an event, on one host."""
        return products(size, tokens, recompute=recompute) / self.rate

    def event(self, size: Size, tokens: int, hosts: int = 1) -> float:
        """Return the additional seconds of a step with an event: a dense gradient, and passes over the weights.

        Where factors are gathered, every host computes the gradient of the tokens of all hosts.
        """
        of_all = sum(
            n_out * n_in * tokens * (hosts if as_factors(n_out, n_in, tokens, hosts) else 1)
            for n_out, n_in in (matrix.shape for matrix in size.config.targets())
        )
        return of_all / self.rate + self.passes * size.stored


def as_factors(n_out: int, n_in: int, tokens: int, hosts: int) -> bool:
    """Return whether the factors of all hosts are gathered, because they are smaller than the matrix (TRN-013)."""
    return hosts * tokens * (n_out + n_in) < n_out * n_in


def exchanged(size: Size, tokens: int, hosts: int) -> tuple[float, float]:
    """Return the bytes that each host sends in a step, and those that it sends in an event in addition (TRN-013).

    A sum is sent twice, because its parts are reduced and then gathered. At an event the factors of all hosts are
    gathered if they are smaller than the matrix. Otherwise the gradients are summed.
    """
    if hosts == 1:
        return 0.0, 0.0
    share = (hosts - 1) / hosts
    event = 0.0
    for matrix in size.config.targets():
        n_out, n_in = matrix.shape
        gathered = as_factors(n_out, n_in, tokens, hosts)
        event += 4 * share * (hosts * tokens * (n_out + n_in) if gathered else 2 * n_out * n_in)
    return 2 * 4 * share * size.slots, event


def row(model: str, hosts: int, tokens: int, constants: Constants) -> dict[str, Any]:
    """Return memory of one host, seconds of a step and of an event, bytes and seconds of the exchange, time to load."""
    size = size_of(model)
    settings = settings_of("seft", batch=1, length=min(tokens, 2048), density=DENSITY)
    stored = {
        matrix.name: round((1 - SPARSITY) * matrix.shape[0] * matrix.shape[1]) for matrix in size.config.targets()
    }
    parts = memory_of_run(size.config, settings, stored, compact=True, recompute=True)
    in_step, in_event = exchanged(size, tokens, hosts)
    return {
        "model": model,
        "hosts": hosts,
        "tokens a step": hosts * tokens,
        "GiB a host": sum(parts.values()) / 2**30,
        "step": constants.step(size, tokens, recompute=True),
        "event": constants.event(size, tokens, hosts),
        "GB sent in a step": in_step / 1e9,
        "GB sent in an event": in_event / 1e9,
        **{f"step, {name}": in_step / link for name, link in LINKS.items()},
        **{f"event, {name}": in_event / link for name, link in LINKS.items()},
        "load": (2 + 1 / 8 / (1 - SPARSITY)) * size.stored / BYTES_A_SECOND + 4 * size.head / BYTES_A_SECOND,
    }


def scale(
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a step on each host.")] = 2048,
    json_file: JsonFile = None,
) -> None:
    """Predict and print seconds and memory of a step and an event, for models of 1B, 7B and 70B on 1 to 64 hosts."""
    constants = Constants.of(DECIDES)
    size = size_of(CHECKS.model)
    step = constants.step(size, CHECKS.tokens, recompute=CHECKS.recompute)
    event = constants.event(size, CHECKS.tokens)
    console.out.print(
        f"{constants.rate / 1e9:.0f} G multiplications a second, {constants.passes * 1e9:.0f} ns a weight"
    )
    console.out.print(f"135m: step {step:.2f} s, measured {CHECKS.step}; event {event:.1f} s, measured {CHECKS.event}")
    rows = [row(model, hosts, tokens, constants) for model in ("1b", "7b", "70b") for hosts in HOSTS]
    for one in rows:
        numbers = "  ".join(f"{name} {value:.3g}" for name, value in one.items() if name not in ("model", "hosts"))
        console.out.print(f"{one['model']:>4} on {one['hosts']:>2}: {numbers}")
    write_json(json_file, {"tokens": tokens, "rate": constants.rate, "passes": constants.passes, "rows": rows})
