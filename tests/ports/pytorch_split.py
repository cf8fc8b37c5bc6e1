"""Two processes that train one model split by FSDP2 over gloo; pytorch_two.py starts them."""

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard

from formats import FormatError
from seft_ports.pytorch import Evolution, SeftError, SeftOptimizer, layers_of, merge, save_sparse, wrap
from seft_ports.pytorch.split import is_split, local, whole
from tests.ports import pytorch_tiny as tiny


def shard(made, **how):
    for block in made.model.layers:
        fully_shard(block, **how)
    return fully_shard(made, **how)


def all_of(tensors):
    return {name: whole(x).detach().clone() for name, x in tensors.items()}


def state_of(made):
    for layer in layers_of(made).values():
        layer.refresh()
    return all_of(made.state_dict())


def own_loop(rank, folder):
    texts = torch.stack([row["input_ids"] for row in tiny.texts(tiny.STEPS * tiny.ROWS)])
    texts = texts.view(tiny.STEPS, tiny.ROWS, -1)[:, 2 * rank : 2 * rank + 2]
    told = {}
    for name, odd, how, parts in (
        ("odd", tiny.ODD, {}, 1),
        ("tied", {"tie_word_embeddings": True}, {"reshard_after_forward": False}, 2),
    ):
        made = tiny.wrapped(tiny.IN_TWO[name], **odd)
        made = shard(tiny.also_trained(made) if name == "odd" else made, **how)
        optimizer = SeftOptimizer(made, lr=0.01)
        events = tiny.loop(
            made, tiny.IN_TWO[name], optimizer, lambda t, n=parts: texts[t - 1].tensor_split(n), parts == 1
        )
        big = [x for layer in layers_of(made).values() for x in (layer.weight, layer.mask, layer.values)]
        kept = [x for layer in layers_of(made).values() for x in optimizer.state[layer.values].values()]
        assert kept
        assert all(is_split(x) for x in (*big, *kept))
        assert any(len(local(x)) < len(x) for x in big)
        decided = [{n: [d.dropped, d.grown, d.pruned] for n, d in one.items()} for one in events]
        told[name] = {"decided": decided, "state": state_of(made)}
        told[name]["kept"] = [all_of(optimizer.kept(layer)) for layer in layers_of(made).values()]
        with torch.no_grad():
            # leaves what is gathered gathered
            told[name]["logits"] = made(input_ids=texts[0, :1] * 0 + 1).logits
        save_sparse(made, f"{folder}/{name}")
        with pytest.raises(RuntimeError if rank else FormatError, match="exists"):
            save_sparse(made, f"{folder}/{name}")
    return told


def free_slots():
    """A step leaves alone what is no slot, in every process."""
    made = shard(tiny.wrapped(tiny.BY_GRADIENT))
    optimizer = SeftOptimizer(made)
    layer = next(iter(layers_of(made).values()))
    assert layer.delta_budget == 12
    layer.place(torch.nonzero(whole(layer.mask).view(-1)).flatten()[:7])
    layer.values.grad = torch.ones_like(layer.values)
    optimizer.step()
    assert whole(optimizer.kept(layer)["age"]).tolist() == [1] * 7 + [0] * 5
    assert torch.count_nonzero(whole(layer.values)) == 7


def refusals(rank):
    late = tiny.wrapped()
    early = SeftOptimizer(late)
    with pytest.raises(SeftError, match=r"OPT-001.*fully_shard"):
        Evolution(shard(late), early, tiny.SETTINGS, 5)
    with pytest.raises(NotImplementedError, match="load_sparse into a plain model"):
        merge(late)
    split = shard(tiny.model())
    with pytest.raises(NotImplementedError, match="wrap the model before"):
        wrap(split, tiny.SETTINGS, tiny.masks(tiny.model()))
    flat = FullyShardedDataParallel(tiny.wrapped(), use_orig_params=True, device_id=torch.device("cpu"))
    with pytest.raises(NotImplementedError, match=r"FSDP1.*fsdp_version 2"):
        Evolution(flat, SeftOptimizer(flat), tiny.SETTINGS, 5)
    tokens = torch.ones(1, 4, dtype=torch.int64)
    rounded = shard(tiny.wrapped(), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    with pytest.raises(NotImplementedError, match="bf16=False"):
        rounded(input_ids=tokens)
    made = shard(tiny.wrapped())
    optimizer = SeftOptimizer(made)
    evolution = Evolution(made, optimizer, tiny.SETTINGS, 5)
    with pytest.raises(SeftError, match=r"TRN-004.*outside windows"):
        evolution.before_step(3)
    made(input_ids=tokens, labels=tokens).loss.backward()
    before = state_of(made)
    if rank == 1:
        # one process sees it, both stop
        local(next(iter(layers_of(made).values())).values.grad)[0] = torch.nan
    with pytest.raises(SeftError, match=r"TRN-007.*gradient"):
        optimizer.step()
    assert all(torch.equal(x, before[name]) for name, x in state_of(made).items())


def trainer(folder, settings=tiny.BY_GRADIENT, config=None, **other):
    return tiny.trainer(
        tiny.wrapped(settings),
        folder,
        settings,
        **{"per_device_train_batch_size": tiny.ROWS // 2, "ddp_backend": "gloo", "fsdp": True, **other},
        fsdp_config={"version": 2, **(config or {})},
    )


def as_on_gpus(state, *given, honest=AcceleratorState.__init__, **named):
    """Let accelerate split on processors as it does on GPUs; as it is, it takes DistributedDataParallel there."""
    honest(state, *given, **named)
    if plugin := named.get("fsdp_plugin") or state.__dict__.get("fsdp_plugin"):
        if (precision := named.get("mixed_precision")) not in (None, "no"):
            plugin.set_mixed_precision(precision)
        state.fsdp_plugin, state.distributed_type = plugin, DistributedType.FSDP


def in_trainer(folder):
    with pytest.raises(NotImplementedError, match="accelerate splits nothing on this device"):
        trainer(f"{folder}/no")
    AcceleratorState.__init__ = as_on_gpus
    for config, other, what in (
        ({"version": 1, "sync_module_states": False}, {}, "FSDP1"),
        ({"cpu_ram_efficient_loading": True}, {}, "cpu_ram_efficient_loading"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, {}, "FULL_STATE_DICT"),
        ({}, {"bf16": True}, "bf16=False"),
    ):
        with pytest.raises(NotImplementedError, match=what):
            trainer(f"{folder}/no", config=config, **other)
    with pytest.raises(NotImplementedError, match=r"first-step.*DistributedDataParallel"):
        trainer(f"{folder}/no", tiny.IN_TWO["spiel"])
    told = {}
    # a save after step 2 lies inside the gradient window of the event after step 3
    for name, kind, at in (("full", "FULL_STATE_DICT", 2), ("sharded", "SHARDED_STATE_DICT", 4)):
        settings = tiny.IN_TWO[name]
        config, out = {"state_dict_type": kind}, f"{folder}/{name}"
        micro = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
        run = trainer(out, settings, config, save_strategy="steps", save_steps=at, **micro)
        run.train()
        assert isinstance(run.model, FSDPModule)
        told[name] = {"state": state_of(run.model), "events": tiny.events(run)}
        again = trainer(f"{folder}/again", settings, config, **micro)
        again.train(resume_from_checkpoint=f"{out}/checkpoint-{at}")
        told[name]["resumed"] = state_of(again.model)
        for layer, other in zip(layers_of(run.model).values(), layers_of(again.model).values(), strict=True):
            a, b = (all_of(r.optimizer.optimizer.kept(x)) for r, x in ((run, layer), (again, other)))
            assert a["age"].dtype == b["age"].dtype == torch.int64
            assert all(torch.equal(a[key], b[key]) for key in a)
    save_sparse(run.model, f"{folder}/trainer")
    return told


def main(rank, folder):
    torch.distributed.init_process_group("gloo")
    told = own_loop(rank, folder)
    free_slots()
    refusals(rank)
    told |= in_trainer(folder)
    torch.save(told, f"{folder}/rank-{rank}.pt")
