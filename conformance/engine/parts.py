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
from formats.dialects import (
    bitmasks,
    changes,
    checks,
    coded,
    coded_folder,
    compressed_tensors,
    gguf_codes,
    gptq_folder,
    hf,
    int_codes,
    int_folder,
    int_layers,
    int_schemes,
    int_words,
    lora,
    pack_quantized,
    padding,
    quantised,
    seft_adapter,
    shira,
    sparsify,
    spiel,
    stock,
    super_tuning,
    trl_delta,
    version_index,
    weight_sync,
)
from formats.encodings import csr, gaps, nm
from seft_ref.adapters import frozen as adapter_base
from seft_ref.adapters import lora as adapter_lora
from seft_ref.adapters import sparsepeft as adapter_sparsepeft
from seft_ref.adapters import spp as adapter_spp
from seft_ref.arrays import rng
from seft_ref.files import dtypes as file_dtypes
from seft_ref.files import model as model_files
from seft_ref.files import quantised as quantise_files
from seft_ref.files import state as state_file
from seft_ref.kernels import reference as kernels
from seft_ref.layers import attention, attention_blocks, cross_entropy, embedding, linear, past, rmsnorm, rope
from seft_ref.matrix import evidence, strongest, window
from seft_ref.model import config, head
from seft_ref.model import decoder as model
from seft_ref.prune import keep, owl, sparsegpt, wanda
from seft_ref.prune import record as prune_record
from seft_ref.quantise import gptq as quantise_gptq
from seft_ref.quantise import grid as quantise_grid
from seft_ref.quantise import merge as quantise_merge
from seft_ref.runs import outcome
from seft_ref.runs import tasks as task_runs
from seft_ref.tasks import arithmetic, commonsense, mmlu
from seft_ref.tasks import files as task_files
from seft_ref.tasks import item as task_item
from seft_ref.tasks import scores as task_scores
from seft_ref.tasks import table as task_table
from seft_ref.text import batch, evaluate, examples, generate, sampling, score
from seft_ref.text import tokens as text
from seft_ref.topology import csr as topology
from seft_ref.topology import groups
from seft_ref.topology import nm as nm_topology
from seft_ref.train import diagnose, event, gradients, settings, start
from seft_ref.update import adapt, drop, evolve, grow, optimizers, pools, rules, schedule, select
from seft_ref.update import delta as slots
from seft_ref.update import evidence as norms
from seft_ref.update import record as event_record

training = import_module("seft_ref.train.loop")
"""The module `seft_ref.train.loop`."""

__all__ = [
    "adapt",
    "adapter_base",
    "adapter_lora",
    "adapter_sparsepeft",
    "adapter_spp",
    "arithmetic",
    "attention",
    "attention_blocks",
    "batch",
    "bitmasks",
    "change",
    "changes",
    "checks",
    "coded",
    "coded_folder",
    "commonsense",
    "compress",
    "compressed_tensors",
    "config",
    "container",
    "cross_entropy",
    "csr",
    "delta",
    "delta_rules",
    "diagnose",
    "digest",
    "drop",
    "embedding",
    "encoding",
    "evaluate",
    "event",
    "event_record",
    "evidence",
    "evolve",
    "examples",
    "file_dtypes",
    "gaps",
    "generate",
    "gguf_codes",
    "gptq_folder",
    "gradients",
    "groups",
    "grow",
    "head",
    "header",
    "hf",
    "int_codes",
    "int_folder",
    "int_layers",
    "int_schemes",
    "int_words",
    "keep",
    "kernels",
    "layout",
    "linear",
    "lora",
    "mmlu",
    "model",
    "model_files",
    "nm",
    "nm_topology",
    "norms",
    "optimizers",
    "outcome",
    "owl",
    "pack_quantized",
    "padding",
    "past",
    "pools",
    "prune_record",
    "quantise_files",
    "quantise_gptq",
    "quantise_grid",
    "quantise_merge",
    "quantised",
    "reader",
    "records",
    "rmsnorm",
    "rng",
    "rope",
    "rules",
    "sampling",
    "schedule",
    "score",
    "seft_adapter",
    "select",
    "settings",
    "shira",
    "slots",
    "sparsegpt",
    "sparsify",
    "spiel",
    "start",
    "state_file",
    "stock",
    "strongest",
    "super_tuning",
    "task_files",
    "task_item",
    "task_runs",
    "task_scores",
    "task_table",
    "text",
    "topology",
    "training",
    "trl_delta",
    "validate",
    "version_index",
    "wanda",
    "weight_sync",
    "window",
]
