"""A tiny LLaMA, texts for it, a Trainer that keeps the order of its data, and two processes at once."""

import contextlib
import gc
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from torch.utils.data import SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from seft_ports.pytorch import Evolution, SeftCallback, SeftOptimizer, Settings, layers_of, wrap

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

STEPS, ROWS, LENGTH, VOCABULARY = 7, 4, 6, 17
SETTINGS = Settings(
    density=0.2, evolve_every=3, drop_fraction=0.9, gradient_window=2, preset="seft", initial_positions="random"
)
BY_GRADIENT = replace(SETTINGS, initial_positions="gradient")
IN_TWO = {
    "parallel": replace(BY_GRADIENT, adapt="absolute"),
    "odd": BY_GRADIENT,
    "tied": replace(BY_GRADIENT, adapt="fisher"),
    "full": replace(BY_GRADIENT, adapt="token-fisher"),
    "sharded": replace(BY_GRADIENT, adapt="absolute", gradient_window=1),
    "adapter": replace(BY_GRADIENT, gradient_window=1, keep_dtype=True),
    "spiel": Settings(preset="spiel-adapt", density=0.2, evolve_every=3, drop_fraction=0.9, gradient_window=1),
}
"""Of runs in two processes."""
STREAMS = {
    "token-fisher": replace(BY_GRADIENT, adapt="token-fisher", gradient_window=1),
    "fisher": replace(BY_GRADIENT, adapt="fisher", gradient_window=1),
    "uneven": replace(BY_GRADIENT, gradient_window=1),
}
"""Rules whose events take factors, in two processes; in the last one of them has more tokens than the other."""
ODD = {"hidden_size": 6, "intermediate_size": 7, "num_attention_heads": 3, "num_hidden_layers": 2}
"""Sizes that two processes cannot halve, and two blocks."""


def model(seed=0, **other):
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 8, "intermediate_size": 10, "max_position_embeddings": 32}
    config = LlamaConfig(
        **sizes
        | {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}
        | other
    )
    return LlamaForCausalLM(config).float()


def masks(plain, seed=1, density=0.5):
    from seft_ports.pytorch.model import targets_of

    dice = torch.Generator().manual_seed(seed)
    return {n: torch.rand(w.weight.shape, generator=dice) < density for n, w in targets_of(plain).items()}


def wrapped(settings=SETTINGS, seed=0, **other):
    plain = model(seed, **other)
    return wrap(plain, settings, masks(plain))


def also_trained(made):
    """The model with its last norm trained whole, as with modules_to_save of PEFT."""
    made.model.norm.weight.requires_grad_(requires_grad=True)
    return made


def texts(n, seed=2, vocabulary=VOCABULARY, length=LENGTH):
    dice = torch.Generator().manual_seed(seed)
    rows = torch.randint(1, vocabulary, (n, length), generator=dice)
    return [{"input_ids": row, "labels": row.clone()} for row in rows]


def short_rows(step, name):
    """The row of each process in a step: its factors are smaller than a gradient of 8 x 8 if it has three tokens."""
    first, second = (row["input_ids"][None] for row in texts(2, seed=step, length=4))
    return [first[:, :3], second if name == "uneven" else second[:, :3]]


class Ordered(Trainer):
    def _get_train_sampler(self, *given):
        return SequentialSampler(self.train_dataset)


class Watcher(TrainerCallback):
    """Notes the support of every matrix after every step; stands behind SeftCallback."""

    def __init__(self):
        self.supports, self.slots, self.bases = [], [], []

    def on_step_end(self, args, state, control, model, **given):
        layers = layers_of(model).values()
        self.supports.append([int(layer.support().sum()) for layer in layers])
        self.slots.append([layer.positions[: layer.slots].clone() for layer in layers])
        self.bases.append([torch.nonzero(layer.base().view(-1)).flatten() for layer in layers])


def trainer(made, folder, settings=SETTINGS, data=None, optimizers=None, seft=None, **other):
    given = {
        "max_steps": STEPS,
        "per_device_train_batch_size": ROWS,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    return Ordered(
        made,
        TrainingArguments(str(folder), **given | other),
        train_dataset=texts(STEPS * ROWS) if data is None else data,
        # the way that the Trainer allows with FSDP as well
        **{"optimizers": optimizers}
        if optimizers
        else {"optimizer_cls_and_kwargs": (SeftOptimizer, {"model": made, "lr": 0.01})},
        callbacks=[seft or SeftCallback(settings), Watcher()],
    )


def loop(made, settings, optimizer, rows, looks=0, max_norm=1.0):
    """Train without the Trainer: rows(t) are the texts of this process in step t; events look at `looks` steps more."""
    evolution = Evolution(made, optimizer, settings, STEPS, event_batches=1 + looks)

    def losses(t):
        for part in rows(t):
            yield made(input_ids=part, labels=part).loss / len(rows(t))

    made_at = []
    for t in range(1, STEPS + 1):
        evolution.before_step(t)
        optimizer.zero_grad()
        for loss in losses(t):
            loss.backward()
        trained = [x for group in optimizer.param_groups for x in group["params"]]
        gradients = [x.grad for x in trained]
        assert all(gradient is not None for gradient in gradients)
        for i in range(looks if evolution.has_event(t) else 0):
            evolution.look(losses(t + 1 + i))
        assert all(x.grad is gradient for x, gradient in zip(trained, gradients, strict=True))
        evolution.before_optimizer(t, max_norm)
        torch.nn.utils.clip_grad_norm_([layer.values for layer in layers_of(made).values()], max_norm)
        optimizer.step()
        made_at.append(evolution.after_step(t))
    evolution.finish(lambda: losses(STEPS))
    return made_at


def watched(run):
    return next(c for c in run.callback_handler.callbacks if isinstance(c, Watcher))


def events(run):
    return next(c for c in run.callback_handler.callbacks if isinstance(c, SeftCallback)).events


def in_two(script, folder):
    """Run a script of this folder, which forks: script.py FOLDER PORT PORT."""
    ports = []
    with contextlib.ExitStack() as held:
        for _ in range(2):
            free = held.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            ports.append(str(free.getsockname()[1]))
    found = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name(script), folder, *ports],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def both(main, folder, port):
    """Fork twice, call main in both processes with its rank, and end where it fails: one import for all."""
    children = []
    # a collection, which the Trainer asks for, would go through all that torch brought, in each process
    gc.freeze()
    for rank in (0, 1):
        if child := os.fork():
            children.append(child)
            continue
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        torch.set_num_threads(1)
        main(rank, folder)
        torch.distributed.destroy_process_group()
        sys.exit()
    ended = [os.waitpid(child, 0)[1] for child in children]
    if any(ended):
        # a process that a signal ends prints nothing itself
        sys.exit(f"exit statuses of both processes, or minus the signal: {[*map(os.waitstatus_to_exitcode, ended)]}")
