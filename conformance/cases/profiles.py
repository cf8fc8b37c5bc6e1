"""The profiles and numeric classes that a port can claim, and the operations that each one rests on (chapter 16)."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from conformance.cases.case import Case
from conformance.cases.ops import OPS

__all__ = [
    "CLASSES",
    "NEEDS",
    "PROFILES",
    "blocking",
    "classes_offered",
    "in_order",
    "is_scalar",
    "needs_zstd",
    "offered_in",
    "profile_of",
    "profiles_of_case",
    "requires_zstd",
]

CLASSES = {"exact64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Numeric classes, and the dtype of float arrays in each (PRT-011)."""

PROFILES: dict[str, tuple[str, ...]] = {
    "core": (
        "rng.draws",
        "select.largest",
        "select.smallest",
        "topology.positions",
        "topology.of",
        "change.source",
        "change.realign",
        "count.budget",
        "count.drop",
        "schedule.fraction",
        "schedule.events",
        "schedule.learning_rate",
        "delta.effective",
        "delta.initial_random",
        "kernel.sparse",
        "kernel.store",
        "gradient.whole",
        "gradient.at",
        "gradient.candidates",
        "update.drop",
        "update.grow",
        "update.adapt",
        "update.evolve",
        "adamw.step",
        "adamw.clip",
    ),
    "rules": (
        "select.pools",
        "score.drop",
        "score.grow",
        "score.adapt",
        "window.evidence",
        "window.tokens",
        "window.candidates",
        "gradient.norm",
        "count.budgets",
        "schedule.drops",
        "schedule.all_events",
        "schedule.spiel",
        "delta.initial",
        "preset.rule",
        "rule.check",
        "optimizer.step",
        "update.event",
    ),
    "nm": ("prune.pattern",),
    "kernels": ("kernel.dense", "kernel.store_dense", "kernel.exceeding"),
    "layers": (
        "layer.embedding",
        "layer.rmsnorm",
        "layer.linear",
        "layer.rope",
        "layer.attention",
        "layer.swiglu",
        "layer.cross_entropy",
        "rope.frequencies",
        "config.describe",
        "model.step",
    ),
    "train": ("text.training", "text.evaluation", "evaluate.perplexity", "train.step", "train.run"),
    "batches": ("train.batches",),
    "state": ("state.write", "state.resume"),
    "prune": (
        "text.calibration",
        "prune.magnitude",
        "prune.wanda",
        "prune.scope",
        "prune.random",
        "prune.owl",
        "prune.sparsegpt",
        "prune.model",
        "prune.model_sparsegpt",
    ),
    "quant": ("quantise.matrix", "quantise.weights", "quantise.merge"),
    "held": ("train.held",),
    "adapters": ("adapter.initial", "adapter.lora", "adapter.spp", "adapter.sparsepeft", "adapter.lora_star"),
    "generate": ("generate.read", "generate.fork", "generate.pick", "generate.text"),
    "ckpt-read": ("file.read", "delta.apply"),
    "ckpt-write": ("file.write",),
    "compression": ("file.compress",),
    "folders": ("folder.read", "folder.write"),
    "codes": ("convert.codes",),
    "kept-codes": (
        "convert.keep_codes",
        "convert.expand_codes",
        "convert.pack_codes",
        "convert.gptq_codes",
        "convert.gguf_blocks",
        "quantise.model",
    ),
    "convert": ("convert.from_hf", "convert.to_hf", "convert.adapter"),
    "checkpoints": (
        "checkpoint.dtype",
        "checkpoint.final",
        "file.name",
        "file.expand",
        "generate.stops",
        "prune.record",
        "config.biases",
    ),
    "runs": ("run.warnings", "ranks.rows", "event.ratios"),
}
"""Operations by profile; every operation is in exactly one."""

_NM_CLAUSES = {"TOP-005", "GROW-007", "EVT-007", "PRN-004", "PRN-012"}
_NM_OF = ("nm", "core", "rules", "train")
"""Profiles whose N:M cases also belong to `nm`. Those of other profiles do not, because a trainer that claims `nm`
would then need files and pruners."""

NEEDS: dict[str, tuple[str, ...]] = {
    "change.realign": ("change.source",),
    "delta.initial_random": ("rng.draws",),
    "delta.initial": ("select.largest", "rng.draws"),
    "gradient.at": ("gradient.whole",),
    "gradient.candidates": ("select.largest",),
    "update.drop": ("select.smallest",),
    "update.grow": ("select.largest",),
    "update.adapt": ("select.smallest", "delta.effective"),
    "update.evolve": ("update.drop", "update.grow", "update.adapt", "change.realign"),
    "update.event": ("update.evolve", "select.pools", "score.drop", "score.grow", "score.adapt"),
    "event.ratios": ("update.event",),
    "window.candidates": ("select.largest",),
    "schedule.drops": ("schedule.fraction",),
    "layer.linear": ("kernel.sparse",),
    "layer.rope": ("rope.frequencies",),
    "model.step": (
        "layer.embedding",
        "layer.rmsnorm",
        "layer.linear",
        "layer.rope",
        "layer.attention",
        "layer.swiglu",
        "layer.cross_entropy",
        "config.describe",
    ),
    "evaluate.perplexity": ("model.step", "text.evaluation"),
    "train.step": ("model.step", "update.evolve", "adamw.step", "text.training"),
    "train.run": ("train.step",),
    "train.batches": ("model.step", "update.evolve", "adamw.step"),
    "state.write": ("train.run",),
    "state.resume": ("train.run",),
    "prune.scope": ("select.smallest",),
    "prune.random": ("rng.draws",),
    "prune.model": ("prune.wanda", "model.step"),
    "prune.model_sparsegpt": ("prune.sparsegpt", "model.step"),
    "generate.read": ("model.step",),
    "generate.fork": ("generate.read",),
    "generate.pick": ("rng.draws",),
    "generate.text": ("generate.read", "generate.pick"),
    "quantise.merge": ("quantise.weights",),
    "quantise.model": ("quantise.matrix", "file.read"),
    "train.held": ("train.run", "quantise.weights"),
    "adapter.lora_star": ("adapter.lora", "prune.wanda"),
    "delta.apply": ("file.read",),
    "file.expand": ("file.read",),
    "file.compress": ("file.write",),
    "folder.read": ("file.read",),
    "folder.write": ("file.write",),
    "convert.from_hf": ("folder.read",),
    "convert.to_hf": ("folder.read",),
    "convert.codes": ("convert.from_hf",),
    "convert.keep_codes": ("convert.codes",),
    "convert.expand_codes": ("convert.keep_codes",),
    "convert.pack_codes": ("convert.keep_codes",),
    "convert.gptq_codes": ("convert.keep_codes",),
}
"""The operations that an operation rests on: if one of them fails, its own cases are blocked (PRT-012)."""


def blocking(ops: Iterable[str], bad: Collection[str]) -> str:
    """Return an operation of `bad` that is in `ops` or that one of `ops` rests on; empty if there is none (PRT-012)."""
    pending, looked_at = list(ops), set[str]()
    while pending:
        op = pending.pop()
        if op in bad:
            return op
        looked_at.add(op)
        pending += [need for need in NEEDS.get(op, ()) if need not in looked_at]
    return ""


def is_scalar(op: str) -> bool:
    """Return whether an operation has no numeric class of its own (PRT-015)."""
    return op in OPS and OPS[op].kind == "scalar"


def offered_in(name: str, ops: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return the operations that a hello offers in a numeric class; a scalar one counts if in any class (PRT-015).

    ops  numeric classes by operation, as in a hello
    """
    return frozenset(op for op, classes in ops.items() if name in classes or (classes and is_scalar(op)))


def classes_offered(ops: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the numeric classes of a hello; scalar operations count only if it offers no others (PRT-015)."""
    of_arrays = {name for op, classes in ops.items() for name in classes if not is_scalar(op)}
    return of_arrays or {name for classes in ops.values() for name in classes}


_OF = {op: name for name, ops in PROFILES.items() for op in ops}


def profile_of(op: str) -> str:
    """Return the profile of an operation."""
    return _OF[op]


def profiles_of_case(case: Case) -> set[str]:
    """Return the profile of a case's operation, and `nm` if it is in `_NM_OF` and the case tests N:M (D118)."""
    own = _OF[case.op]
    return {own} | ({"nm"} if own in _NM_OF and _NM_CLAUSES & set(case.clauses) else set())


def needs_zstd(case: Case) -> bool:
    """Return whether a file among the inputs of a case requires `zstd`, which a port need not support (PRT-006)."""
    if case.op == "convert.adapter" and case.inputs["kind"] == "weight-sync":
        # FMT-168.2: every tensor of a version folder is a frame
        return True
    values = (*case.inputs.values(), *(case.inputs.get("deltas") or {}).values())
    return any(requires_zstd(one.tobytes()) for one in values if isinstance(one, np.ndarray) and one.dtype == np.uint8)


def requires_zstd(raw: bytes) -> bool:
    """Return whether a file has a readable manifest that requires `zstd` (FMT-043)."""
    if b"zstd" not in raw:
        return False
    try:
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        return "zstd" in json.loads(header["__metadata__"]["seft.manifest"])["requires"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def in_order(ops: Iterable[str]) -> list[list[str]]:
    """Return operations in groups such that each group rests on earlier groups only."""
    pending = dict.fromkeys(ops)
    groups: list[list[str]] = []
    while pending:
        ready = [op for op in pending if not any(need in pending for need in NEEDS.get(op, ()))]
        groups.append(ready)
        for op in ready:
            del pending[op]
    return groups
