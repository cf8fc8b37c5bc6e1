"""Two pairs of processes, one after the other: data-parallel over gloo, and split. pytorch_two.py FOLDER PORT PORT."""

import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from seft_ports.pytorch import SeftOptimizer
from seft_ports.pytorch.stream import Stream
from tests.ports import pytorch_split
from tests.ports import pytorch_tiny as tiny
from tests.ports.peft_tiny import adapted


def trainer(folder, name, **other):
    settings = tiny.IN_TWO[name]
    made = adapted(preset="seft") if name == "adapter" else tiny.wrapped(settings, seed=1)
    return tiny.trainer(
        made,
        folder,
        settings,
        None,
        (SeftOptimizer(made, lr=0.01, kind=settings.optimizer), None),
        per_device_train_batch_size=tiny.ROWS // 2,
        ddp_backend="gloo",
        ddp_find_unused_parameters=False,
        **other,
    )


def parallel(rank, folder):
    # a save after step 2 lies inside the gradient window of the event after step 3, one after step 3 in that of step 4
    told = {name: one_run(f"{folder}/{name}", name, at) for name, at in (("parallel", 2), ("spiel", 3), ("adapter", 3))}
    told |= {f"streams {name}": streams(rank, name) for name in tiny.STREAMS}
    torch.save(told, f"{folder}/rank-{rank}.pt")


def streams(rank, name):
    """A loop without the Trainer, whose events take the factors of both processes, where both have them."""
    made = tiny.wrapped(tiny.STREAMS[name])
    optimizer = SeftOptimizer(made, lr=0.01)
    taken, take = [], Stream.take
    Stream.take = lambda stream, factors: (taken.append(tuple(stream._update.weight.shape)), take(stream, factors))
    events = tiny.loop(
        DistributedDataParallel(made), tiny.STREAMS[name], optimizer, lambda t: tiny.short_rows(t, name)[rank:][:1]
    )
    Stream.take = take
    decided = [{n.removeprefix("module."): [d.dropped, d.grown, d.pruned] for n, d in one.items()} for one in events]
    return {"decided": decided, "state": made.state_dict(), "taken": taken}


def one_run(folder, name, at):
    run = trainer(f"{folder}/out", name, save_strategy="steps", save_steps=at)
    data = []
    run.model.register_forward_pre_hook(
        lambda m, args, kwargs: data.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    run.train()
    assert torch.distributed.get_world_size() == 2
    assert isinstance(run.model_wrapped, torch.nn.parallel.DistributedDataParallel)
    again = trainer(f"{folder}/again", name)
    again.train(resume_from_checkpoint=f"{folder}/out/checkpoint-{at}")
    state, other = ({name: x.clone() for name, x in r.model.state_dict().items()} for r in (run, again))
    return {"state": state, "resumed": other, "events": tiny.events(run), "data": data}


if __name__ == "__main__":
    folder, *ports = sys.argv[1:]
    for name, main, port in zip(("parallel", "split"), (parallel, pytorch_split.main), ports, strict=True):
        made = Path(folder, name)
        made.mkdir()
        tiny.both(main, made, port)
