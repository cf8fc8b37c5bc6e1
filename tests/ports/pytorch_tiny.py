"""A tiny LLaMA, texts for it, and a Trainer that keeps the order of its data."""

from dataclasses import replace

import torch
import transformers
from torch.utils.data import SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from seft_ports.pytorch import SeftCallback, SeftOptimizer, Settings, layers_of, wrap

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

STEPS, ROWS, LENGTH, VOCABULARY = 7, 4, 6, 17
SETTINGS = Settings(density=0.2, evolve_every=3, drop_fraction=0.9, gradient_window=2, start="random")
BY_GRADIENT = replace(SETTINGS, start="gradient")


def model(seed=0, **other):
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 8, "intermediate_size": 10, "max_position_embeddings": 32}
    config = LlamaConfig(
        **sizes
        | {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}
        | other
    )
    return LlamaForCausalLM(config).float()


def masks(plain, seed=1, density=0.5):
    from seft_ports.pytorch.model import targets_of

    dice = torch.Generator().manual_seed(seed)
    return {n: torch.rand(w.weight.shape, generator=dice) < density for n, w in targets_of(plain).items()}


def wrapped(settings=SETTINGS, seed=0):
    plain = model(seed)
    return wrap(plain, settings, masks(plain))


def texts(n, seed=2, vocabulary=VOCABULARY, length=LENGTH):
    dice = torch.Generator().manual_seed(seed)
    rows = torch.randint(1, vocabulary, (n, length), generator=dice)
    return [{"input_ids": row, "labels": row.clone()} for row in rows]


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
        self.bases.append([torch.nonzero(layer.mask.view(-1)).flatten() for layer in layers])


def trainer(made, folder, settings=SETTINGS, data=None, optimizers=None, **other):
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
        optimizers=optimizers or (SeftOptimizer(made, lr=0.01), None),
        callbacks=[SeftCallback(settings), Watcher()],
    )


def watched(run):
    return next(c for c in run.callback_handler.callbacks if isinstance(c, Watcher))


def events(run):
    return next(c for c in run.callback_handler.callbacks if isinstance(c, SeftCallback)).events
