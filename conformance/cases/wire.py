"""The wire type of every input and output (PRT-002, PRT-003).

    type_of("update.drop", "delta", output=False)      "i64[n_delta]"

A type is
    int, float, string, bool, null      JSON's, a float as {"f64": ...}: binary64 whatever the dtype of the call
    i64[..] u64[..] u8[..] bool[..]     an array of this dtype
    real[..]                            an array of floats in the dtype of the call; f64 of a scalar operation
    list of T, dict of T                a list or dict whose entries are all T
    value                               any of these but arrays, as in a configuration file
    a name of RECORDS                   a dict with these members
or several of these with "or" between them. Brackets hold the lengths of the axes:
    the name of an int input            its value
    another name                        a length that is the same everywhere in a call, in a list within one entry
    a number, *                         this length, any length
    ...                                 any number of axes, the same ones everywhere
"""

from collections.abc import Mapping

__all__ = ["INPUTS", "OF", "OUTPUTS", "RECORDS", "type_of"]

Types = Mapping[str, str]


def _each(names: str, wire_type: str) -> dict[str, str]:
    """Return a dict that maps every name to the same type."""
    return dict.fromkeys(names.split(), wire_type)


INPUTS: Types = {
    # numbers
    **_each("out in k n m steps step seed matrix rows parts budget delta_budget n_drop length", "int"),
    **_each("slots stored warmup slot_warmup evolve_every accumulate period gradient_window head_dim", "int"),
    **_each("largest adapts first use count windows rows_at_once recompute window block rank", "int"),
    **_each("max_tokens top_k stop limit part_bytes ranks expand_quantised exact", "int"),
    **_each("asked dtype generation record held", "string"),
    "files": "dict of u8[*]",
    **_each("density drop_fraction lr beta1 beta2 eps weight_decay momentum", "float"),
    **_each("norm max_norm fill least alpha sparsity damping temperature top_p outlier spread", "float"),
    **_each("evolve_until fraction dloss", "float"),
    **_each("grid mode", "string"),
    **_each("scope kind by criterion events drop_schedule first_event name encoding zeros cast", "string"),
    # slots and positions
    "positions": "i64[n_slots]",
    "values": "real[n_slots]",
    "base": "i64[n_base]",
    "base_values": "real[n_base]",
    "delta": "i64[n_delta]",
    "delta_values": "real[n_delta]",
    "dropped": "i64[n_dropped]",
    "old": "i64[n_old]",
    "new": "i64[n_new]",
    **_each("m v u origin", "real[n_delta]"),
    "age": "i64[n_delta]",
    "indptr": "i64[n_pointers]",
    "indices": "i64[n_slots]",
    # evidence
    **_each("gradient absolute square", "real[out, in]"),
    "inputs": "real[in]",
    "row_moments": "real[out]",
    "column_moments": "real[in]",
    "square_sums": "real[in]",
    # products and layers
    "x": "real[..., in]",
    "dy": "real[..., out]",
    "weight": "real[out, in]",
    "bias": "real[out] or null",
    "odd": "dict of string",
    "live": "i64[n_live]",
    # selection
    "scores": "real[n]",
    "ids": "i64[n]",
    "words": "u64[words]",
    "numbers": "i64[numbers]",
    # models
    **_each("config settings rule rope choices", "dict of value"),
    "tensors": "dict of real[...]",
    "text": "i64[n_text]",
    "tokens": "i64[B, T]",
    "mask": "bool[B, T] or null",
    # files
    "raw": "u8[bytes]",
    **_each("attributes scales", "string"),
    "tied": "dict of string",
}
"""Types of inputs by name, unless `OF` has another for the operation."""

OUTPUTS: Types = {
    **_each("n head_dim kv_heads parameters targets ok quantised", "int"),
    **_each("factor value norm loss perplexity", "float"),
    **_each("kind attributes scales delta state", "string"),
    "draws": "u64[numbers]",
    "chosen": "i64[n_chosen]",
    "positions": "i64[n_positions]",
    "indptr": "i64[n_pointers]",
    "indices": "i64[n_slots]",
    **_each("at sums starts", "i64[*]"),
    **_each("dropped grown pruned candidates kept indices support", "i64[*]"),
    "weights": "real[*]",
    "y": "real[..., out]",
    "dx": "real[..., in]",
    "dvalues": "real[n_slots]",
    "shape": "i64[2]",
    "gradient": "real[out, in]",
    "scores": "real[n_slots]",
    "logits": "real[B, T, V]",
    "raw": "u8[*]",
    "tied": "dict of string",
    "tensors": "dict of tensor",
}
"""Types of outputs by name, unless `OF` has another; ``*`` is a length that the operation decides."""

RECORDS: Mapping[str, Types] = {
    "tensor": {
        "dtype": "string",
        "shape": "i64[rank]",
        "row_pointers": "i64[n_pointers] or null",
        "columns": "i64[n_slots] or null",
        "bits": "u8[*]",
    },
    "part of an event": {
        **_each("out in matrix steps first", "int"),
        "base": "i64[n_base]",
        "base_values": "real[n_base]",
        "delta": "i64[n_delta]",
        "delta_values": "real[n_delta]",
        "age": "i64[n_delta] or null",
        **_each("m v u origin", "real[n_delta] or null"),
        **_each("gradient absolute square tokens", "real[*] or real[out, in] or null"),
        **_each("inputs column_moments", "real[in] or null"),
        "row_moments": "real[out] or null",
        "candidates": "i64[*] or null",
        "lost": "i64[*]",
        "budget": "i64[*]",
        "delta_budget": "i64[*]",
        "optimizer": "string",
    },
    "record of an event": {
        **_each("dropped grown cancelled pruned reactivated refilled slots support start", "int"),
        **_each("drop grow adapt", "real[*]"),
    },
    "batch of a step": {"tokens": "i64[b, T]", "labels": "i64[b, T]", "mask": "bool[b, T]"},
    "part of a step": {
        "base": "i64[n_base]",
        "base_values": "real[n_base]",
        "delta": "i64[n_delta]",
        **_each("delta_values m v", "real[n_delta]"),
        "age": "i64[n_delta]",
        "budget": "int",
        "delta_budget": "int",
        "window": "real[*, *]",
        "window_tokens": "real[*]",
        "window_steps": "int",
    },
}
"""Types of dicts with fixed members: by name of the type, the types of its members."""

_NO_OTHER: Types = {}
_CODED: Types = {"codes": "i64[n_slots]", "scales": "real[out, groups]", "zeros": "i64[out, groups] or null"}
_ADAPTER = {"merged": "real[*]", "parameters": "int"}
_EVENT = {"parts": "list of part of an event", "pattern": "list of int"}
_RUN = {
    "losses": "real[*]",
    **_each("budgets delta_budgets", "i64[*]"),
    **_each("slots bases", "list of list of i64[*]"),
    "support": "list of i64[*]",
    "weights": "list of real[*]",
}
_LISTS = {
    **_each("base delta age", "list of i64[*] or null"),
    **_each("base_values delta_values m v", "list of real[*] or null"),
}

OF: Mapping[str, tuple[Types, Types]] = {
    "adapter.initial": (
        {"like": "real[*]"},
        {"a": "real[rows, in]", "other": "real[*] or real[*, *]"},
    ),
    "adapter.lora": ({"a": "real[r, in]", "b": "real[out, r]"}, _ADAPTER | {"da": "real[r, in]", "db": "real[out, r]"}),
    "adapter.spp": ({"a": "real[*, in]", "c": "real[*]"}, _ADAPTER | {"da": "real[*, in]", "dc": "real[*]"}),
    "adapter.sparsepeft": (
        {"a": "real[r, in]", "b": "real[out, r]"},
        _ADAPTER | {"da": "real[r, in]", "db": "real[out, r]"},
    ),
    "adapter.lora_star": (
        {"a": "real[r, in]", "b": "real[out, r]", "pattern": "i64[2] or null"},
        {"values": "real[*]"},
    ),
    "adamw.step": (
        _each("values m v gradient", "real[n]") | {"age": "i64[n]"},
        _each("values m v", "real[n]") | {"age": "i64[n]"},
    ),
    "change.source": (_NO_OTHER, {"source": "i64[n_new]"}),
    "change.realign": ({"values": "real[n_old]"}, {"values": "real[n_new]"}),
    "config.describe": (
        _NO_OTHER,
        {"targets": "list of string", "windows": "list of int or null", "head_dim": "int", "kv_heads": "int"},
    ),
    "config.biases": (_NO_OTHER, {"projections": "list of string"}),
    "count.budgets": (
        {"amount": "int or float", "shapes": "i64[n, 2]", "stored": "i64[n]"},
        {"n": "i64[n]"},
    ),
    "delta.apply": ({"base": "u8[*]", "deltas": "dict of u8[*]"}, _NO_OTHER),
    "delta.effective": (_NO_OTHER, {"support": "i64[n_support]", "weights": "real[n_support]"}),
    "delta.initial_random": (_NO_OTHER, {"positions": "i64[n]"}),
    "event.ratios": (_EVENT, _each("churn overlap", "list of float") | {"gradient_norm": "list of float or null"}),
    "file.write": ({"tensors": "dict of tensor", "delta": "string"}, _NO_OTHER),
    "generate.read": ({"parts": "list of int"}, {"logits": "real[B, *, V]"}),
    "generate.pick": (
        {"logits": "real[V]", "numbers": "list of int"},
        {"picked": "i64[*]"},
    ),
    "generate.text": ({"prompt": "list of int", "stops": "list of int"}, {"tokens": "i64[*]"}),
    "gradient.at": (_NO_OTHER, {"values": "real[n_slots]"}),
    "gradient.candidates": (
        {"dy": "list of real[*, out]", "x": "list of real[*, in]"},
        {"candidates": "i64[n_found]", "values": "real[n_found]"},
    ),
    "kernel.exceeding": ({"values": "real[n]"}, _NO_OTHER),
    "kernel.store": ({"slots": "i64[n_new]", "new": "real[n_new]"}, _NO_OTHER),
    "kernel.store_dense": ({"slots": "i64[n_new]", "new": "real[n_new]"}, _NO_OTHER),
    "layer.attention": (
        {
            "q": "real[B, T, heads, d]",
            "k": "real[B, T, kv_heads, d]",
            "v": "real[B, T, kv_heads, d]",
            "dy": "real[B, T, heads, d]",
            "window": "int or null",
        },
        {
            "y": "real[B, T, heads, d]",
            "dq": "real[B, T, heads, d]",
            "dk": "real[B, T, kv_heads, d]",
            "dv": "real[B, T, kv_heads, d]",
        },
    ),
    "layer.cross_entropy": ({"logits": "real[t, V]", "targets": "i64[t]"}, {"dlogits": "real[t, V]"}),
    "layer.embedding": (
        {"weight": "real[V, d]", "tokens": "i64[t]", "dy": "real[t, d]"},
        {"y": "real[t, d]", "dweight": "real[V, d]"},
    ),
    "layer.linear": (_NO_OTHER, {"dweight": "real[out, in]", "dbias": "real[out] or null"}),
    "layer.rmsnorm": (
        {"x": "real[..., d]", "weight": "real[d]", "dy": "real[..., d]"},
        {"y": "real[..., d]", "dx": "real[..., d]", "dweight": "real[d]"},
    ),
    "layer.rope": (
        _each("x dy", "real[B, T, heads, d]"),
        _each("y dx", "real[B, T, heads, d]"),
    ),
    "layer.swiglu": (
        _each("gate up dy", "real[...]"),
        _each("y dgate dup", "real[...]"),
    ),
    "model.step": ({"labels": "i64[B, T]"}, {"gradients": "dict of real[...]"}),
    "optimizer.step": (
        {
            **_each("values m v u gradient", "real[n_slots]"),
            "age": "i64[n_slots]",
            "rows": "real[out]",
            "columns": "real[in]",
        },
        {
            "values": "real[n_slots]",
            **_each("m v u", "real[n_slots] or null"),
            "age": "i64[n_slots] or null",
            "rows": "real[out] or null",
            "columns": "real[in] or null",
        },
    ),
    "preset.rule": (_NO_OTHER, {"choices": "list of string"}),
    "prune.magnitude": ({"weights": "real[out, in]"}, _NO_OTHER),
    "prune.wanda": ({"weights": "real[out, in]"}, _NO_OTHER),
    "prune.pattern": ({"scores": "real[out, in]", "m": "int"}, _NO_OTHER),
    "prune.scope": ({"scores": "list of real[*, *]"}, {"kept": "list of i64[*]"}),
    "prune.owl": ({"scores": "list of list of real[*, *]"}, {"sparsities": "list of float"}),
    "prune.sparsegpt": (
        {"weights": "real[out, in]", "inputs": "real[t, in]", "m": "int"},
        {"weights": "real[out, in]"},
    ),
    "prune.model": (_NO_OTHER, {"kept": "dict of i64[*]"}),
    "prune.model_sparsegpt": (_NO_OTHER, {"kept": "dict of i64[*]", "weights": "dict of real[*, *]"}),
    "quantise.matrix": (
        {"weights": "real[out, in]", "inputs": "real[t, in] or null"},
        {"codes": "i64[n_slots]", "scales": "real[out, groups]", "zeros": "i64[out, groups]"},
    ),
    "quantise.weights": (_CODED, {"values": "real[n_slots]"}),
    "quantise.merge": (
        {**_CODED, "support": "i64[n_support]", "values": "real[n_support]"},
        {
            **_each("positions codes", "i64[n_kept]"),
            "update": "i64[n_update]",
            "update_values": "real[n_update]",
            **_each("changed vanished saturated", "int"),
        },
    ),
    "rope.frequencies": (_NO_OTHER, {"frequencies": "real[*]"}),
    "score.adapt": (
        _each("weight gradient absolute square tokens", "real[n_slots]"),
        _NO_OTHER,
    ),
    "score.drop": (_each("origin square weight", "real[n_slots]"), _NO_OTHER),
    "select.pools": (
        {"pools": "i64[n]", "counts": "i64[n_pools]"},
        _each("inside outside gap", "real[*]"),
    ),
    "text.training": ({"tokens": "int"}, {"starts": "i64[rows]"}),
    "text.calibration": ({"tokens": "int"}, {"starts": "i64[n]"}),
    "text.evaluation": ({"tokens": "int", "windows": "int or null"}, {"starts": "i64[n_windows]"}),
    "topology.of": ({"pattern": "i64[2] or null"}, _NO_OTHER),
    "topology.positions": (_NO_OTHER, {"positions": "i64[n_slots]"}),
    "train.run": ({"stored": "dict of i64[*]"}, _RUN),
    "train.held": (
        _each("stored codes", "dict of i64[*]")
        | {"scales": "dict of real[out, groups]", "zeros": "dict of i64[out, groups]"},
        _RUN,
    ),
    "train.batches": ({"parts": "list of part of a step", "batches": "list of batch of a step"}, _LISTS),
    "generate.fork": ({"branches": "list of i64[B, *]"}, {"logits": "list of real[B, V]"}),
    "state.write": ({"stored": "dict of i64[*]", "origin": "dict of string"}, {"raw": "u8[*]"}),
    "state.resume": (
        {"origin": "dict of string"},
        {
            "losses": "real[*]",
            **_each("slots bases", "list of list of i64[*]"),
            **_each("starts support", "list of i64[*]"),
            "weights": "list of real[*]",
        },
    ),
    "file.compress": ({"tensors": "dict of tensor", "delta": "string"}, {"raw": "u8[*]"}),
    "folder.read": (_NO_OTHER, {"files": "dict of u8[*]"}),
    "folder.write": ({"tensors": "dict of tensor", "delta": "string"}, {"files": "dict of u8[*]"}),
    "convert.from_hf": ({"large": "dict of int"}, {"companions": "dict of string", "left_out": "list of string"}),
    **dict.fromkeys(
        ("convert.codes", "convert.keep_codes"),
        (_NO_OTHER, {"companions": "dict of string", "config": "string"}),
    ),
    "convert.expand_codes": (_NO_OTHER, _NO_OTHER),
    "convert.pack_codes": (_NO_OTHER, {"scheme": "string", "zeros": "int"}),
    "convert.gptq_codes": (_NO_OTHER, {"scheme": "string", "zeros": "int", "rounded": "int"}),
    "quantise.model": (_NO_OTHER, _NO_OTHER),
    "convert.gguf_blocks": ({"type": "string"}, {"scales": "real[*]", **_each("codes zeros", "i64[*]")}),
    "convert.adapter": ({"tensors": "dict of tensor"}, {"how": "string", "left_out": "dict of int"}),
    "convert.to_hf": (_NO_OTHER, {"files": "dict of u8[*]"}),
    "checkpoint.dtype": ({"stored": "string"}, {"dtype": "string"}),
    "checkpoint.final": ({"values": "real[n]"}, {"bits": "u8[*]"}),
    "file.expand": (_NO_OTHER, {"bits": "u8[*]"}),
    "generate.stops": ({"config": "string"}, {"stops": "i64[*]"}),
    "prune.record": (_NO_OTHER, {"pattern": "i64[2] or null"}),
    "run.warnings": (
        {"losses": "real[*]", "events": "i64[e]", "support": "i64[e]"},
        {"steps": "i64[*]", "names": "list of string"},
    ),
    "ranks.rows": (_NO_OTHER, {"first": "i64[*]"}),
    "train.step": ({"parts": "list of part of a step"}, _LISTS),
    "update.event": (
        _EVENT,
        _LISTS
        | _each("u origin", "list of real[*] or null")
        | _each("dropped grown cancelled pruned", "list of i64[*]")
        | {"records": "list of record of an event"},
    ),
    "update.evolve": (
        _NO_OTHER,
        {
            "base": "i64[m_base]",
            "base_values": "real[m_base]",
            "delta": "i64[m_delta]",
            **_each("delta_values m v", "real[m_delta]"),
            "age": "i64[m_delta]",
            "support": "i64[m_support]",
            "weights": "real[m_support]",
        },
    ),
    "window.candidates": (
        {"gradients": "list of real[out, in]"},
        {"candidates": "i64[n_found]", "gradient": "real[n_found]", "square": "real[n_found]"},
    ),
    "window.tokens": (
        {"dy": "list of list of real[*, out]", "x": "list of list of real[*, in]", "support": "i64[n_support]"},
        {"tokens": "real[n_support]"},
    ),
    "window.evidence": (
        {"dy": "list of list of real[*, out]", "x": "list of list of real[*, in]"},
        {**_each("absolute square", "real[out, in]"), "inputs": "real[in]"},
    ),
}
"""By operation, the types of inputs and the types of outputs that differ from `INPUTS` and `OUTPUTS`."""


def type_of(op: str, name: str, *, output: bool) -> str:
    """Return the type of an input, or output, of an operation.

    Raises:
        KeyError: the tables have no such name.
    """
    own = OF.get(op, (_NO_OTHER, _NO_OTHER))[output]
    return own[name] if name in own else (OUTPUTS if output else INPUTS)[name]
