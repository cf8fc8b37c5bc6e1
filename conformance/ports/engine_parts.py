"""The modules of the engine and of the file library that mutants edit."""

from importlib import import_module

from formats import (
    change,
    compress,
    container,
    delta,
    delta_rules,
    digest,
    encoding,
    header,
    layout,
    reader,
    records,
    validate,
)
from formats.convert import changes, checks, hf, lora, quantised, shira, sparsify, spiel, stock
from formats.encodings import csr, gaps, nm
from seft_ref import config, counter, event, evidence, groups, model, settings, start, text, topology
from seft_ref.kernels import reference as kernels
from seft_ref.layers import attention, attention_blocks, cross_entropy, embedding, rmsnorm, rope
from seft_ref.prune import keep, sparsegpt, wanda
from seft_ref.update import adapt, drop, evolve, grow, optimizers, rules, schedule, select
from seft_ref.update import delta as slots
from seft_ref.update import evidence as norms

training = import_module("seft_ref.train")
"""The module: the package has a function of its name."""

__all__ = [
    "adapt",
    "attention",
    "attention_blocks",
    "change",
    "changes",
    "checks",
    "compress",
    "config",
    "container",
    "counter",
    "cross_entropy",
    "csr",
    "delta",
    "delta_rules",
    "digest",
    "drop",
    "embedding",
    "encoding",
    "event",
    "evidence",
    "evolve",
    "gaps",
    "groups",
    "grow",
    "header",
    "hf",
    "keep",
    "kernels",
    "layout",
    "lora",
    "model",
    "nm",
    "norms",
    "optimizers",
    "quantised",
    "reader",
    "records",
    "rmsnorm",
    "rope",
    "rules",
    "schedule",
    "select",
    "settings",
    "shira",
    "slots",
    "sparsegpt",
    "sparsify",
    "spiel",
    "start",
    "stock",
    "text",
    "topology",
    "training",
    "validate",
    "wanda",
]
