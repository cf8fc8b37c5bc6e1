"""SEFT as a tuner of PEFT: sparse updates of a pruned model that drop, grow, and leave it as sparse as it was.

model = get_peft_model(AutoModelForCausalLM.from_pretrained("pruned"), SeftConfig(density=0.02, preset="seft"))
Trainer(model, args, optimizers=(SeftOptimizer(model, lr=2e-3), None), callbacks=[SeftCallback()], ...).train()
model.save_pretrained("adapter")
model.merge_and_unload().save_pretrained("tuned")

Importing this package makes PEFT know the type SEFT. The rules are those of `seft_ports.pytorch`.
Start with `layer.py`.
"""

from seft_ports.peft.config import SeftConfig
from seft_ports.peft.layer import SeftLayer
from seft_ports.peft.model import SeftModel, Stored, stored_weights
from seft_ports.peft.register import register
from seft_ports.peft.update import SeftUpdate
from seft_ports.pytorch import (
    Evolution,
    SeftError,
    SeftOptimizer,
    checkpoint_of,
    load_sparse,
    mask_zeros,
    record_support,
    save_sparse,
)
from seft_ports.pytorch.callback import SeftCallback

__all__ = [
    "Evolution",
    "SeftCallback",
    "SeftConfig",
    "SeftError",
    "SeftLayer",
    "SeftModel",
    "SeftOptimizer",
    "SeftUpdate",
    "Stored",
    "checkpoint_of",
    "load_sparse",
    "mask_zeros",
    "record_support",
    "register",
    "save_sparse",
    "stored_weights",
]

register()
