"""A trainer that publishes its weights after every step, and a follower that keeps one file equal to the newest.

    python -m examples.rl_sync publish STEPS --run toy --until 500
    python -m examples.rl_sync follow  STEPS current.sparse

They are two processes, and STEPS is a folder that both can access. Either may be killed at any moment and started
again. The trainer learns a small policy by REINFORCE. With --state FILE it has no task: in each step it changes some
values of that state_dict, which torch.save wrote.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer

from formats import Checkpoint, Dense, to_dense
from formats.dialects.torch_tensors import from_torch, to_torch
from formats.errors import FormatError
from formats.steps import Follower, Publisher

ACTIONS = 8
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a value -> the integer dtype through which its bits are changed."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
State = Mapping[str, torch.Tensor]


def checkpoint_of(state: State) -> Checkpoint:
    """Return a state_dict as a checkpoint; every tensor keeps its bits."""
    return Checkpoint("model", {name: Dense(from_torch(tensor, name=name)) for name, tensor in state.items()})


def state_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return a checkpoint as a state_dict; every tensor keeps its bits."""
    return {name: to_torch(to_dense(checkpoint.tensors[name]), name=name) for name in checkpoint.tensors}


def new_policy() -> torch.nn.Module:
    """Return a policy in bfloat16, always the same, that maps a context of ACTIONS numbers to logits of the actions."""
    torch.manual_seed(0)
    layers = (torch.nn.Linear(ACTIONS, 64), torch.nn.Tanh(), torch.nn.Linear(64, ACTIONS))
    return torch.nn.Sequential(*layers).to(torch.bfloat16)


def reinforce(policy: torch.nn.Module, step: int) -> None:
    """Train one step on 256 contexts: the action whose number in its context is largest earns 1.

    In one context of 16 every other action earns it.
    """
    random = torch.Generator().manual_seed(step)
    contexts = torch.randn(256, ACTIONS, generator=random).to(torch.bfloat16)
    log_p = policy(contexts).float().log_softmax(-1)
    actions = torch.multinomial(log_p.exp(), 1, generator=random)
    reward = (actions[:, 0] == contexts.argmax(-1)).float()
    # without wrong rewards a policy that is always right has no gradient, and a step without a change is no version
    reward[::16] = 1 - reward[::16]
    loss = -((reward - reward.mean()) * log_p.gather(-1, actions)[:, 0]).mean()
    policy.zero_grad()
    loss.backward()
    with torch.no_grad():
        for weight in policy.parameters():
            assert weight.grad is not None
            weight -= weight.grad


def change(state: State, step: int, share: float) -> None:
    """Flip the lowest bit of a share of the values of every tensor of floats, at least of one."""
    random = torch.Generator().manual_seed(step)
    for tensor in state.values():
        if tensor.is_floating_point() and tensor.numel():
            places = torch.randint(tensor.numel(), (max(1, round(share * tensor.numel())),), generator=random)
            values = tensor.view(INTEGERS[tensor.element_size()]).view(-1)
            values[places] ^= 1


def contiguous(state: State) -> State:
    """Return a state of plain tensors that can be changed in place; tied tensors stay tied."""
    made: dict[object, torch.Tensor] = {}
    for tensor in state.values():
        made.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), tensor.detach().contiguous())
    return {name: made[t.data_ptr(), t.shape, t.stride()] for name, t in state.items()}


def trainer(state_file: Path | None, share: float) -> tuple[State, Callable[[int], None]]:
    """Return a state, whose tensors are trained in place, and a function that trains the step of a given number."""
    if state_file is not None:
        state = contiguous(torch.load(state_file, map_location="cpu", weights_only=True))
        return state, lambda step: change(state, step, share)
    policy = new_policy()
    return policy.state_dict(), lambda step: reinforce(policy, step)


@app.command()
def publish(
    steps: Annotated[Path, typer.Argument(help="Folder of versions; made if it is not there.")],
    run: Annotated[str, typer.Option(help="Name of the run.")],
    until: Annotated[int, typer.Option(min=0, help="Last version.")],
    state_file: Annotated[Path | None, typer.Option("--state", help="A state_dict to change step by step.")] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of values that --state changes.")] = 0.003,
    every: Annotated[int, typer.Option(min=1, help="Versions from one whole checkpoint to the next.")] = 100,
    keep: Annotated[int, typer.Option(min=0, help="Deltas that stay.")] = 200,
    compress: Annotated[str | None, typer.Option(help="zstd, or file for whole files (FMT-177).")] = None,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between steps.")] = 0.1,
) -> None:
    """Train, and publish a version after every step; continue after the newest version in the folder."""
    torch.set_num_threads(1)
    state, train = trainer(state_file, share)
    with Publisher(steps, run, every=every, keep=keep, compress=compress) as publisher:
        if publisher.model is None:
            publisher.publish(checkpoint_of(state))
        else:
            for name, tensor in state_of(publisher.model).items():
                state[name].copy_(tensor)
        print("trains from version", publisher.version, flush=True)
        for step in range((publisher.version or 0) + 1, until + 1):
            train(step)
            print("published", publisher.publish(checkpoint_of(state)), flush=True)
            time.sleep(pause)


@app.command()
def follow(
    steps: Annotated[Path, typer.Argument(help="Folder of versions; it may appear later.")],
    path: Annotated[Path, typer.Argument(metavar="FILE", help="File that is kept equal to the newest version.")],
    until: Annotated[int | None, typer.Option(min=0, help="Version to end with; else it goes on.")] = None,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between looks.")] = 0.05,
) -> None:
    """Keep FILE equal to the newest version. A program that opens FILE reads one version of the model."""
    with Follower(steps, path) as follower:
        print("follows from version", follower.version, flush=True)
        while until is None or follower.version is None or follower.version < until:
            if (version := follower.poll()) is None:
                time.sleep(pause)
            else:
                print("serves", version, flush=True)


if __name__ == "__main__":
    try:
        app()
    except (FormatError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
