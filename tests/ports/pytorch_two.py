"""Two processes that train one model data-parallel over gloo: pytorch_two.py FOLDER PORT."""

import os
import sys

import pytest
import torch
from torch.distributed.fsdp import fully_shard

from seft_ports.pytorch import Evolution, SeftOptimizer
from tests.ports import pytorch_tiny as tiny


def main(rank, folder, port):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    torch.set_num_threads(1)
    made = tiny.wrapped(tiny.BY_GRADIENT)
    data = []
    made.register_forward_pre_hook(lambda m, args, kwargs: data.append(kwargs["input_ids"].tolist()), with_kwargs=True)
    run = tiny.trainer(
        made,
        f"{folder}/out",
        tiny.BY_GRADIENT,
        per_device_train_batch_size=tiny.ROWS // 2,
        ddp_backend="gloo",
        ddp_find_unused_parameters=False,
    )
    run.train()
    assert torch.distributed.get_world_size() == 2
    assert isinstance(run.model_wrapped, torch.nn.parallel.DistributedDataParallel)
    state = {name: x.clone() for name, x in made.state_dict().items()}
    torch.save({"state": state, "events": tiny.events(run), "data": data}, f"{folder}/rank-{rank}.pt")
    split = fully_shard(tiny.wrapped())
    with pytest.raises(NotImplementedError, match="FSDP"):
        Evolution(split, SeftOptimizer(split), tiny.SETTINGS, 5)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    folder, port = sys.argv[1:]
    # one import of transformers for both
    child = os.fork()
    main(1 if child == 0 else 0, folder, port)
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
