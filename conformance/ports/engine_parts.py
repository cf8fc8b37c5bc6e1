"""The modules of the engine and of the file library that mutants edit."""

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
from seft_ref import config, counter, event, settings, start, text, topology
from seft_ref.layers import attention, cross_entropy, embedding, rmsnorm, rope
from seft_ref.prune import keep, sparsegpt, wanda
from seft_ref.update import delta as slots
from seft_ref.update import drop, evolve, grow, optimizers, rules, schedule, select

__all__ = [
    "attention",
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
    "evolve",
    "gaps",
    "grow",
    "header",
    "hf",
    "keep",
    "layout",
    "lora",
    "nm",
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
    "validate",
    "wanda",
]
