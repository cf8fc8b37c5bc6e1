"""Check before a run whether it fits into the memory of this machine (TRN-012)."""

from pathlib import Path
from typing import Any

import psutil

import formats
from formats.container import DTYPES
from formats.dialects import coded
from seft_cli import console
from seft_ref.files.codes import stored_in
from seft_ref.files.dtypes import compute_dtype
from seft_ref.files.model import read_config
from seft_ref.quantise.grid import parse_grid
from seft_ref.train.memory import Codes, memory_of_run
from seft_ref.train.settings import TrainSettings

CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))
"""Files with the memory limit and use of the control group of this process; they exist only inside one."""


def available_bytes() -> int:
    """Return the bytes of memory that a new process can take without others being swapped out."""
    free = psutil.virtual_memory().available
    if all(path.is_file() for path in CGROUP):
        limit, used = (path.read_text().strip() for path in CGROUP)
        if limit.isdigit():
            free = min(free, max(0, int(limit) - int(used)))
    return free


def itemsize_of(folder: Path, dtype: str | None) -> int:
    """Return the item size of the widest dtype that a run on a sparse checkpoint computes in."""
    with formats.open(folder) as reader:
        # quantised matrices are left out, because a run computes with their weights, not with their codes
        names = sorted(set(read_config(reader.files).parameters()) & set(reader.names()) - set(reader.scales))
        stored = {name: DTYPES[reader.info(name).dtype] for name in names if reader.info(name).dtype in DTYPES}
    return max((compute_dtype(name, kind, dtype).itemsize for name, kind in stored.items()), default=4)


def memory_of(folder: Path, settings: TrainSettings, **options: Any) -> dict[str, int]:
    """Return the bytes of each part of a run on a sparse checkpoint; options are those of `memory_of_run`."""
    with formats.open(folder) as reader:
        config = read_config(reader.files)
        names = {matrix.name for matrix in config.targets()} & set(reader.names())
        stored = {matrix.name: 0 for matrix in config.targets()} | {name: stored_in(reader, name) for name in names}
        if options.get("compact") and coded.ATTRIBUTE in reader.attributes:
            grid = parse_grid(coded.grid_of(reader.attributes))
            options["codes"] = Codes(grid.bits, grid.group, grid.symmetric)
            updates = [roles[coded.UPDATE] for roles in reader.scales.values() if coded.UPDATE in roles]
            options["beside"] = sum(reader.info(name).nnz for name in updates)
    return memory_of_run(config, settings, stored, **options)


def require_memory(folder: Path, settings: TrainSettings, free: int, processes: int = 1, **options: Any) -> None:
    """Raise Refused if a run is expected to need more than `free` bytes; the message says what would help (TRN-012).

    processes  the number of processes that share the memory; each holds a model and a window of its own
    """
    parts = {name: processes * n for name, n in memory_of(folder, settings, **options).items()}
    needed = sum(parts.values())
    if needed <= free:
        return
    taking = ", ".join(f"{name} {_gib(n)}" for name, n in sorted(parts.items(), key=lambda p: -p[1]) if n)
    hints = ["smaller --batch or --length", "a smaller --density"]
    if not options.get("compact"):
        hints.insert(0, "--compact, if the weights are stored in 16 bits or as codes")
    if options.get("transposed"):
        hints.insert(0, "no --transposed")
    if options.get("bfloat16"):
        hints.insert(0, "--arithmetic float32")
    if settings.gradient_window > 1:
        hints.insert(0, "--gradient-window 1")
    if settings.event_batches > 1:
        hints.insert(0, "--set event_batches=1")
    if settings.start_batches > 1:
        hints.insert(0, "--set start_batches=1")
    if processes > 1:
        hints.insert(0, "fewer processes on this device")
    raise console.Refused(
        f"TRN-012: the run needs about {_gib(needed)} of memory and {_gib(free)} are free ({taking}); "
        f"try {', '.join(hints)}, or --ignore-memory to start all the same"
    )


def _gib(n: int) -> str:
    return f"{n / 2**30:.2f} GiB"
