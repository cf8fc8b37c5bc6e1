"""SEFT for PyTorch and the Hugging Face Trainer.

model = wrap(load_sparse(AutoModelForCausalLM.from_config(config), "pruned"), settings)
Trainer(model, args, optimizers=(SeftOptimizer(model, lr=2e-3), None), callbacks=[SeftCallback(settings)], ...).train()
merge(model)
save_sparse(model, "tuned")

linear, product, kernels    a layer with a sparse update, and its products
model                       wrap and merge
update, delta, split        the update of such a layer, whole or split over processes
events, looks               when events run, and which data they use
decide, criteria, pools     which positions an event changes
select, schedule            the smallest scores, and how many of them
stream                      gradients that are processed block by block
optimizer, slot_step        the optimizer of slots
callback                    the Trainer of transformers
padding                     which rows of a batch count
files, patterns             checkpoints, and N:M tensors
settings, presets, refused  the settings of a run, and what it refuses
port, port_rules, run       the adapter for the conformance kit
counter, errors             random numbers, refusals

The tuner of PEFT is in `seft_ports.peft`. Start with `linear.py`, then `events.py`.
"""

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.events import Evolution
from seft_ports.pytorch.files import checkpoint_of, load_sparse, save_sparse
from seft_ports.pytorch.linear import SeftLinear
from seft_ports.pytorch.model import layers_of, mask_zeros, merge, record_support, wrap
from seft_ports.pytorch.optimizer import SeftOptimizer
from seft_ports.pytorch.patterns import keep_pattern, to_semi_structured
from seft_ports.pytorch.settings import Settings

__all__ = [
    "Evolution",
    "SeftCallback",
    "SeftError",
    "SeftLinear",
    "SeftOptimizer",
    "Settings",
    "checkpoint_of",
    "keep_pattern",
    "layers_of",
    "load_sparse",
    "mask_zeros",
    "merge",
    "record_support",
    "save_sparse",
    "to_semi_structured",
    "wrap",
]


def __getattr__(name: str) -> object:
    """Import SeftCallback on first use, because it imports transformers."""
    if name == "SeftCallback":
        from seft_ports.pytorch.callback import SeftCallback

        return SeftCallback
    raise AttributeError(name)
