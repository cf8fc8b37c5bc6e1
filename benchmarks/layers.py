"""Compare the two layer sets: each layer with its backward, and a training step of a model of 135 million parameters.

Both sets run in turn in one process, on the same kernel set, after their results are compared.
"""

import json
import statistics
from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from benchmarks.rounds import JsonFile, Threads, machine, restart_in_clean_environment, rounds
from benchmarks.step import CONFIG, LENGTH, ROWS
from seft_cli.output import write_json

SETS = ("plain", "compiled")
WITHIN = 1e-4
"""The largest difference between the sets that is allowed, as a share of the largest entry."""


def layers(
    json_file: JsonFile = None,
    threads: Threads = 1,
    n_rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds in which both sets run.")] = 9,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks of the model; 30 have 135 million parameters.")] = 30,
) -> None:
    """Compare the compiled layers with the plain ones, alone and in a step at 70 % sparsity."""
    restart_in_clean_environment(threads)
    print(json.dumps(machine(threads), indent=1))
    rows = []
    for what, run in (*_layers().items(), ("step", _step(CONFIG | {"num_hidden_layers": blocks}))):
        of_sets = {name: _checked(run, name) for name in SETS}
        times = {name: (own, ratios) for name, own, ratios, _ in rounds(of_sets, n_rounds, SETS[0])}
        ratios = times[SETS[1]][1]
        plain, compiled = (1000 * statistics.median(times[name][0]) for name in SETS)
        ratio, least, most = statistics.median(ratios), min(ratios), max(ratios)
        rows.append({"what": what, "plain": plain, "compiled": compiled, "ratio": ratio, "range": (least, most)})
        print(
            f"{what:16} plain {plain:9.2f} ms  compiled {compiled:9.2f} ms  ratio {ratio:.2f} ({least:.2f}..{most:.2f})"
        )
    write_json(json_file, {"machine": machine(threads), "rows": rows})


def _checked(run: Callable[[str], list[Any]], name: str) -> Callable[[], object]:
    """Return a function that runs the set `name`, after comparing its results with those of the plain set."""
    _compare(name, run(name), run(SETS[0]))
    return lambda: run(name)


def _compare(name: str, found: list[Any], wanted: list[Any]) -> None:
    import numpy as np

    for one, other in zip(found, wanted, strict=True):
        if not np.max(np.abs(one - other)) <= WITHIN * np.max(np.abs(other)):
            raise SystemExit(f"the {name} layers differ from the plain ones")


def _layers() -> dict[str, Callable[[str], list[Any]]]:
    """Return by layer a function that runs it forward and backward with the set that it is given.

    The arrays are random, with the shapes of a step of the model.
    """
    import importlib

    import numpy as np

    from seft_ref.layers.attention import visible_keys
    from seft_ref.layers.rope import Rope, rope_table

    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    def of(name: str) -> Any:
        return importlib.import_module(f"seft_ref.layers.{name}")

    tokens, hidden, inner = ROWS * LENGTH, CONFIG["hidden_size"], CONFIG["intermediate_size"]
    x, dx, weight = drawn(tokens, hidden), drawn(tokens, hidden), drawn(hidden)
    gate, up, dy = (drawn(tokens, inner) for _ in range(3))
    q, k, v = drawn(ROWS, 9, LENGTH, 64), drawn(ROWS, 3, LENGTH, 64), drawn(ROWS, 3, LENGTH, 64)
    table, seen = rope_table(Rope("default", 1e4), 64, LENGTH, 2048, q), visible_keys(LENGTH, None, None, q)
    logits, targets = 4 * drawn(LENGTH, CONFIG["vocab_size"]), rng.integers(0, CONFIG["vocab_size"], LENGTH)

    def rmsnorm(name: str) -> list[Any]:
        y, cache = of(name).rmsnorm_forward(x, weight, 1e-5)
        return [y, *of(name).rmsnorm_backward(dx, cache)]

    def swiglu(name: str) -> list[Any]:
        _, cache = of(name).swiglu_forward(gate, up)
        y, cache = of(name).swiglu_again(cache)
        return [y, *of(name).swiglu_backward(dy, cache)]

    def rope(name: str) -> list[Any]:
        y, cache = of(name).rope_forward(q, table)
        return [y, of(name).rope_backward(y, cache)]

    def attention(name: str) -> list[Any]:
        y, cache = of(name).attention_forward(q, k, v, seen)
        return [y, *of(name).attention_backward(q, cache)]

    def cross_entropy(name: str) -> list[Any]:
        loss, cache = of(name).cross_entropy_forward(logits, targets, LENGTH)
        return [loss, of(name).cross_entropy_backward(np.ones_like(loss), cache)]

    return {f.__name__: f for f in (rmsnorm, rope, swiglu, attention, cross_entropy)}


def _step(config: dict[str, Any]) -> Callable[[str], list[Any]]:
    """Return a function that takes a step of a random model with the set that it is given.

    Each set has a run of its own. A step changes its run, so only the losses of the first steps are compared.
    """
    import numpy as np

    from benchmarks.step import made_up_run
    from seft_ref.kernels import NAMES, cpu

    functions = {name: getattr(cpu, name) for name in NAMES}
    runs = {name: made_up_run(config, 0.7, SimpleNamespace(LAYERS=name, **functions))[:2] for name in SETS}

    first = {name: [np.asarray(run.step(tokens))] for name, (run, tokens) in runs.items()}
    for name in SETS:
        _compare(name, first[name], first[SETS[0]])

    def step(name: str) -> list[Any]:
        run, tokens = runs[name]
        run.step(tokens)
        return []

    return step
