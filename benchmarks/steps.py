"""Publish the weights of a torch model after every step: as a folder of steps, and as a whole file a step.

The model has about 10 million weights in bfloat16, and a step flips the lowest bit of the given share of each tensor.
Both ways write to disk (fsync), and end with the weights in a module of the receiver. A follower first writes each
delta into a file of its own, from which the receiver reads. A whole file is read where the sender put it.
"""

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.deltas import clock
from benchmarks.rounds import JsonFile, machine, restart_in_clean_environment
from seft_cli.output import write_json

WAYS = ("steps", "whole file")


def _new_module(hidden: int) -> Any:
    """Return a stack of linear layers in bfloat16; a width of 512 makes 10.5 million weights."""
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Linear(*shape) for _ in range(5) for shape in ((hidden, 4 * hidden), (4 * hidden, hidden))]
    return torch.nn.Sequential(*layers).to(torch.bfloat16)


def _whole_file(state: Any, path: Path) -> None:
    """Write a state_dict with safetensors to a temporary file, and rename that once it is on disk."""
    from safetensors.torch import save_file

    temporary = path.with_suffix(".tmp")
    save_file(state, temporary)
    handle = os.open(temporary, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    temporary.replace(path)


def _check(got: Any, sent: Any, way: str) -> None:
    import torch

    if not all(torch.equal(got[name].view(torch.int16), sent[name].view(torch.int16)) for name in sent):
        raise AssertionError(f"{way} does not lead to the weights after the step")


def steps(
    count: Annotated[int, typer.Option("--steps", min=1, help="Steps that are published.")] = 50,
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of weights that a step changes.")] = 0.003,
    every: Annotated[int, typer.Option(min=1, help="Versions from one whole checkpoint to the next.")] = 25,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the model; 512 makes 10.5 million weights.")] = 512,
    json_file: JsonFile = None,
) -> None:
    """Publish the weights of every step and follow them, beside a whole safetensors file a step."""
    restart_in_clean_environment(1)
    from safetensors.torch import load_file

    import formats
    from examples.rl_sync import change, checkpoint_of, state_of
    from formats.steps import Follower, Publisher

    module, receiver = _new_module(hidden), _new_module(hidden)
    state, got = module.state_dict(), receiver.state_dict()
    total = sum(tensor.nbytes for tensor in state.values())
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder, served, whole = root / "steps", root / "current.sparse", root / "model.safetensors"
        with Publisher(folder, "bench", every=every, keep=2 * count) as publisher, Follower(folder, served) as follower:
            publisher.publish(checkpoint_of(state))
            follower.poll()
            # the first step is not counted, because it loads the libraries
            for step in range(1, count + 2):
                change(state, step, share)
                told: dict[str, float] = {}
                with clock(told, "send"):
                    version = publisher.publish(checkpoint_of(state))
                with clock(told, "receive"):
                    follower.poll()
                    receiver.load_state_dict(state_of(formats.read(served, verify=False)))
                _check(got, state, WAYS[0])
                files = folder.glob(f"{version:06}.*")
                told["bytes"] = sum(path.stat().st_size for path in files)
                told["whole"] = float((folder / f"{version:06}.model").exists())
                peer: dict[str, float] = {}
                with clock(peer, "send"):
                    _whole_file(state, whole)
                with clock(peer, "receive"):
                    receiver.load_state_dict(load_file(whole))
                _check(got, state, WAYS[1])
                peer["bytes"] = whole.stat().st_size
                if step > 1:
                    rows[WAYS[0]].append(told)
                    rows[WAYS[1]].append(peer)
    print(f"{total:,} bytes of weights, {share:.2%} changed in each of {count} steps; a whole version every {every}")
    for way, told_rows in rows.items():
        deltas = [row for row in told_rows if not row.get("whole")]
        size = statistics.median(row["bytes"] for row in deltas)
        mean = statistics.fmean(row["bytes"] for row in told_rows)
        print(f"{way:12} {size:>12,.0f} bytes, {mean:,.0f} on average", end="")
        for half in ("send", "send cpu", "receive", "receive cpu"):
            values = sorted(row[half] for row in deltas)
            print(f"  {half} {statistics.median(values):.3f} ({values[0]:.3f}..{values[-1]:.3f})", end="")
        print()
    content = {"machine": machine(1), "bytes": total, "steps": count, "share": share, "every": every, "ways": rows}
    write_json(json_file, content)
    print(json.dumps(content["machine"]))
