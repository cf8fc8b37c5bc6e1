"""Measure the parts of our training step: sparse products, the head, samples, layers and the rest.

The step is that of `benchmarks step`: random weights with the shapes of SmolLM2-135M, 512 tokens. The products,
`sample` and `store` of the kernel set and the functions of the layer set are timed from outside, so that the code that
calls them counts as the rest.
"""

import importlib
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any

import typer

from benchmarks.rounds import JsonFile, Threads, machine, restart_in_clean_environment
from benchmarks.step import CONFIG, LENGTH, ROWS, made_up_run
from seft_cli.output import write_json

HEAD, SPARSE = "head", "sparse"
PRODUCTS = {"matmul": "forward", "matmul_transposed": "dx"}
LAYERS = ("attention", "cross_entropy", "rmsnorm", "rope", "swiglu")


def parts(
    json_file: JsonFile = None,
    threads: Threads = 1,
    sparsity: Annotated[float, typer.Option(min=0.01, max=0.99, help="Positions that are not stored.")] = 0.7,
    n_rounds: Annotated[int, typer.Option("--rounds", min=1, help="Steps that are timed, after one that is not.")] = 7,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks of the model; 30 have 135 million parameters.")] = 30,
) -> None:
    """Print the seconds of a training step by part, and its billions of useful operations a second."""
    restart_in_clean_environment(threads)
    from seft_ref.kernels import NAMES, cpu

    config = CONFIG | {"num_hidden_layers": blocks}
    spent: Counter[str] = Counter()
    work: Counter[str] = Counter()
    functions = {name: getattr(cpu, name) for name in NAMES}
    for name in PRODUCTS:
        functions[name] = _timed_product(functions[name], PRODUCTS[name], config["vocab_size"], spent, work)
    for name in ("sample", "store"):
        functions[name] = _timed(functions[name], name, spent)
    kernels = SimpleNamespace(LAYERS=cpu.LAYERS, **functions)
    run, tokens, *_ = made_up_run(config, sparsity, kernels)
    run.step(tokens)
    rounds: list[dict[str, float]] = []
    with _timed_layers(importlib.import_module(f"seft_ref.layers.{cpu.LAYERS}"), spent):
        for _ in range(n_rounds):
            spent.clear()
            work.clear()
            start = time.perf_counter()
            run.step(tokens)
            whole = time.perf_counter() - start
            rounds.append({**spent, "the rest": whole - sum(spent.values()), "step": whole})
    rows = []
    for what in rounds[0]:
        seconds = statistics.median(of[what] for of in rounds)
        billions = work[what] / 1e9
        rows.append({"what": what, "seconds": seconds, "billions": billions})
        speed = f"{billions:7.1f} billion, {billions / seconds:6.1f} a second" if billions else ""
        print(f"{what:16} {seconds:7.3f} s  {speed}")
    about = {"sparsity": sparsity, "blocks": blocks, "tokens": ROWS * LENGTH}
    print(json.dumps(machine(threads) | about))
    write_json(json_file, {"machine": machine(threads), **about, "rows": rows})


def _timed(function: Callable[..., Any], name: str, spent: Counter[str]) -> Callable[..., Any]:
    """Return the function with a clock: each call adds its seconds to spent[name]."""

    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        answer = function(*arguments, **options)
        spent[name] += time.perf_counter() - start  # type: ignore[assignment]
        return answer

    return timed


def _timed_product(
    function: Callable[..., Any], product: str, classes: int, spent: Counter[str], work: Counter[str]
) -> Callable[..., Any]:
    """Return the product with a clock: each call adds its seconds and operations to its part.

    Operations are the multiplications and additions of stored weights.
    """

    def timed(x: Any, packed: Any) -> Any:
        part = f"{HEAD if packed.shape[0] == classes else SPARSE} {product}"
        start = time.perf_counter()
        answer = function(x, packed)
        spent[part] += time.perf_counter() - start  # type: ignore[assignment]
        work[part] += 2 * x.shape[0] * packed.values.size
        return answer

    return timed


@contextmanager
def _timed_layers(layers: ModuleType, spent: Counter[str]) -> Iterator[None]:
    """Time the functions of a layer set, by layer, during the with-block."""
    names = [name for name in dir(layers) if name.startswith(LAYERS) and callable(getattr(layers, name))]
    before = {name: getattr(layers, name) for name in names}
    for name, function in before.items():
        part = next(layer for layer in LAYERS if name.startswith(layer))
        setattr(layers, name, _timed(function, part, spent))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(layers, name, function)
