"""Two pairs of processes, one after the other: data-parallel over gloo, and split. pytorch_two.py FOLDER PORT PORT."""

import sys
from pathlib import Path

import torch

from tests.ports import pytorch_split
from tests.ports import pytorch_tiny as tiny


def trainer(folder, **other):
    return tiny.trainer(
        tiny.wrapped(tiny.IN_TWO["parallel"]),
        folder,
        tiny.IN_TWO["parallel"],
        per_device_train_batch_size=tiny.ROWS // 2,
        ddp_backend="gloo",
        ddp_find_unused_parameters=False,
        **other,
    )


def parallel(rank, folder):
    run = trainer(f"{folder}/out", save_strategy="steps", save_steps=2)
    data = []
    run.model.register_forward_pre_hook(
        lambda m, args, kwargs: data.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    run.train()
    assert torch.distributed.get_world_size() == 2
    assert isinstance(run.model_wrapped, torch.nn.parallel.DistributedDataParallel)
    # a save after step 2 lies inside the gradient window of the event after step 3
    again = trainer(f"{folder}/again")
    again.train(resume_from_checkpoint=f"{folder}/out/checkpoint-2")
    state, other = ({name: x.clone() for name, x in r.model.state_dict().items()} for r in (run, again))
    told = {"state": state, "resumed": other, "events": tiny.events(run), "data": data}
    torch.save(told, f"{folder}/rank-{rank}.pt")


if __name__ == "__main__":
    folder, *ports = sys.argv[1:]
    for name, main, port in zip(("parallel", "split"), (parallel, pytorch_split.main), ports, strict=True):
        made = Path(folder, name)
        made.mkdir()
        tiny.both(main, made, port)
