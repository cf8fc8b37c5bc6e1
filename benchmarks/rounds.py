"""Shared parts of benchmarks: a clean environment, a description of the machine, rounds in which every method runs."""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from seft_cli.output import require_file
from seft_cli.threads import NAMES, PASSIVE

JsonFile = Annotated[
    Path | None, typer.Option("--json", callback=require_file, help="Write the result to this file as well.")
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of every library.")]

# variables that are removed, because they would make OpenBLAS choose a slower dense product than the machine's own
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

BLOCK_SECONDS = 0.04
"""Least duration of a timed block."""


def machine(threads: int) -> dict[str, Any]:
    """Return a description of the machine and the libraries, which a reader needs to compare figures."""
    import numba
    import numpy as np

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    blas = "unknown (threadpoolctl is not installed)"
    if find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_info

        blas = ", ".join(
            f"{i['internal_api']} {i['version']} {i.get('architecture')}"
            for i in threadpool_info()
            if i["user_api"] == "blas"
        )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "blas of numpy": blas,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
    }


def restart_in_clean_environment(threads: int) -> None:
    """Restart this process with libraries that wait passively for work and use the machine's own kernels."""
    wanted = PASSIVE | dict.fromkeys(NAMES, str(threads))
    if all(os.environ.get(name) == value for name, value in wanted.items()) and not any(n in os.environ for n in UNSET):
        return
    environment = {name: value for name, value in os.environ.items() if name not in UNSET} | wanted
    os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606


def shape_of(told: str) -> tuple[int, int]:
    """Return rows and columns of a shape that an option tells; columns are a multiple of 4, for patterns N:4."""
    n_out, _, n_in = told.partition("x")
    if not (n_out.isdigit() and n_in.isdigit() and int(n_out) and int(n_in) and int(n_in) % 4 == 0):
        raise typer.BadParameter(f"--shape {told} is not OUTxIN with IN a multiple of 4; say 2048x2048")
    return int(n_out), int(n_in)


def drawn_mask(rng: Any, shape: tuple[int, int], pattern: str) -> Any:
    """Return a random boolean mask of stored positions: N of every M for `N:M`, all but about 70 % for `70%`."""
    if ":" in pattern:
        n_keep, width = map(int, pattern.split(":"))
        order = rng.random((shape[0], shape[1] // width, width)).argsort(axis=2)
        return (order < n_keep).reshape(shape)
    return rng.random(shape) >= int(pattern.rstrip("%")) / 100


def timed(method: Callable[[], Any]) -> Callable[[int], Any]:
    """Return a function that calls a method `count` times, and returns wall and processor seconds; its result for 0."""

    def block(count: int) -> Any:
        if not count:
            return method()
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(count):
            method()
        return time.perf_counter() - start, time.process_time() - cpu_start

    return block


def rounds(
    methods: dict[str, Callable[[], Any]],
    n_rounds: int,
    base: str = "numpy",
    peers: Mapping[str, Callable[[int], Any]] = MappingProxyType({}),
) -> Iterator[tuple[str, list[float], list[float], float]]:
    """Time each method once a round, then yield the name, times, ratios and share of cores of each.

    A ratio is the time of the base over that of the method. The share is the least that the method or the base got of
    its cores in a block.

    peers  methods of other processes, as `timed` makes them
    """
    blocks = {name: timed(method) for name, method in methods.items()} | dict(peers)
    times: dict[str, list[float]] = {name: [] for name in blocks}
    cores: dict[str, list[float]] = {name: [] for name in blocks}
    repeats: dict[str, int] = {}
    n_threads = int(os.environ[NAMES[0]])
    for _ in range(n_rounds):
        for name, block in blocks.items():
            once, _cpu = block(1)
            count = repeats.setdefault(name, max(1, min(200, int(BLOCK_SECONDS / once))))
            elapsed, cpu = block(count)
            times[name].append(elapsed / count)
            cores[name].append(cpu / elapsed / n_threads)
    for name, own in times.items():
        ratios = [dense / mine for dense, mine in zip(times[base], own, strict=True)]
        yield name, own, ratios, min(cores[name] + cores[base])
