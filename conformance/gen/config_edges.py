"""Cases of chapters 4, 5, 7 and 11 for conditions that no other case has alone."""

import math
from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen import tiny
from conformance.gen.kernels import ROUNDED
from conformance.gen.models import MODELS, tensors_of
from conformance.gen.numbers import Area, Numbers, ids, product_bound, reals
from conformance.oracle import generate, update_counts
from conformance.oracle.model import Config, biases, targets

_PLAIN: Config = MODELS["llama-plain"] | {"num_key_value_heads": 1}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


_WINDOWS = ("layer_types", "max_window_layers")
_FIRST: dict[str, Any] = {"layer_types": None, "use_sliding_window": True, "sliding_window": 4}


def configs() -> Area:
    """MDL-003, MDL-004, MDL-006: keys that are missing, null, or of another type, each alone."""
    area = Area("config-edge", "a table")
    good: dict[str, tuple[Config, list[int | None], int, int]] = {
        "mistral-null": (MODELS["mistral"] | {"num_key_value_heads": None, "sliding_window": None}, [None] * 2, 4, 2),
        "qwen3-null": (
            MODELS["qwen3"] | {"head_dim": None, "num_key_value_heads": None, "rope_scaling": None},
            [None, 2],
            2,
            4,
        ),
        "width": (_PLAIN | {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 4}, [None] * 2, 4, 3),
        "llama-slides": (
            _PLAIN | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
            [None] * 2,
            4,
            1,
        ),
        "whole-rotary": (_PLAIN | {"partial_rotary_factor": 1.0}, [None] * 2, 4, 1),
    }
    for name, (config, windows, head_dim, kv_heads) in good.items():
        told = {"windows": windows, "head_dim": head_dim, "kv_heads": kv_heads}
        answer = {"targets": targets(config), "biases": list(biases(config))} | told
        text = "null refused where it is a value, or a window where the family has none"
        area.add(name, "config.describe", "MDL-003 MDL-004 MDL-006", text, {"config": config}, answer)
    # layers 28 and 29 slide, for nothing says from which on
    deep = {k: v for k, v in (MODELS["qwen2"] | {"num_hidden_layers": 30}).items() if k not in _WINDOWS}
    deep |= {"use_sliding_window": True, "sliding_window": 4}
    told = {"windows": [None] * 28 + [4] * 2, "head_dim": 4, "kv_heads": 1}
    answer = {"targets": targets(deep), "biases": list(biases(deep))} | told
    text = "a window in every layer, or in none, where the config names no first one"
    area.add("default-first", "config.describe", "MDL-003 MDL-007", text, {"config": deep}, answer)
    bad: list[tuple[str, Config, dict[str, Any], str]] = [
        *(
            (f"no-{key}", _PLAIN, {key: None}, "MDL-006")
            for key in ("intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
        ),
        ("mistral-no-window", MODELS["mistral"], {"sliding_window": None}, "MDL-006 MDL-004"),
        ("mistral-no-heads", MODELS["mistral"], {"num_key_value_heads": None}, "MDL-006 MDL-004"),
        ("qwen2-no-heads", MODELS["qwen2"], {"num_key_value_heads": None}, "MDL-006 MDL-004"),
        ("qwen3-no-heads", MODELS["qwen3"], {"num_key_value_heads": None}, "MDL-006 MDL-004"),
        ("qwen3-no-width", MODELS["qwen3"], {"head_dim": None}, "MDL-006 MDL-004"),
        ("quantised", _PLAIN, {"quantization_config": {"quant_method": "awq"}}, "MDL-006"),
        ("layer-kind", MODELS["qwen2"], {"layer_types": ["full_attention", "chunked_attention"]}, "MDL-006"),
        ("window-of-nothing", MODELS["qwen2"], {"sliding_window": None}, "MDL-006"),
        ("partial-rotary", _PLAIN, {"partial_rotary_factor": 0.5}, "MDL-006"),
        ("dynamic-2", _PLAIN, {"head_dim": 2, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "MDL-006"),
        ("low-high", _PLAIN, {"rope_scaling": _LLAMA3 | {"low_freq_factor": 8.0}}, "MDL-006"),
        ("low-as-high", _PLAIN, {"rope_scaling": _LLAMA3 | {"low_freq_factor": 4.0}}, "MDL-006"),
        ("first-below-0", MODELS["qwen2"], _FIRST | {"max_window_layers": -1}, "MDL-006 MDL-003"),
        ("true-layers", _PLAIN, {"num_hidden_layers": True}, "MDL-006"),
        ("text-size", _PLAIN, {"vocab_size": "11"}, "MDL-006"),
        ("eps-0", _PLAIN, {"rms_norm_eps": 0.0}, "MDL-006"),
        ("eps-infinite", _PLAIN, {"rms_norm_eps": math.inf}, "MDL-006"),
        ("switch", _PLAIN, {"attention_bias": "yes"}, "MDL-006"),
        ("factor-0", _PLAIN, {"rope_scaling": {"rope_type": "linear", "factor": 0.0}}, "MDL-006"),
    ]
    for name, config, change, clause in bad:
        given = {"config": {k: v for k, v in (config | change).items() if v is not None or k not in change}}
        text = "a config that the family does not define is run all the same"
        area.add(f"refuse-{name}", "config.describe", clause, text, given, refused=clause)
    _angles(area)
    return area


def _angles(area: Area) -> None:
    wide: Config = tiny.CONFIG | {"num_attention_heads": 1, "head_dim": 4}
    changes: dict[str, Config] = {"base": {"rope_theta": None}, "original": {"rope_parameters": _LLAMA3}}
    for i, (name, change) in enumerate(changes.items()):
        config = {k: v for k, v in (wide | change).items() if v is not None}
        n = Numbers(69, i)
        tensors = tensors_of(config, n, 0.9)
        tokens = n.integers((1, 12), 0, 4)
        answer = {"logits": generate.logits_behind(config, tensors, tokens, (12,))}
        given = {"config": config, "tensors": tensors, "tokens": tokens, "parts": [12]}
        text = "another base where none is given, or another context than that of the model"
        area.add(f"angles-{name}", "generate.read", "MDL-004 LYR-005 LYR-006", text, given, answer)


def others() -> Area:
    """DLT-002, SEL-008, LYR-011, PRN-007, PRN-009: one condition each."""
    area = Area("edge", "sorted tuples and integers")
    given: dict[str, Any] = {"logits": np.zeros((2, 3)), "targets": ids([-100, -100]), "count": 0, "dloss": 1.0}
    area.add("no-count", "layer.cross_entropy", "LYR-011", "0 / 0", given, refused="LYR-011")
    given = {"by": "nnz", "amount": 0.29, "shapes": np.array([(10, 20)], dtype=np.int64), "stored": ids([100])}
    answer = {"n": ids(update_counts.delta_budgets("nnz", 0.29, [(10, 20)], [100]))}
    area.add("nnz-last-bit", "count.budgets", "DLT-002 SEL-006", "0.29 · 100 cut to 28", given, answer)
    # gaps of 1.2 / 2.2 and of 4 / 4; by the inner scores 1.2 and 1
    given = {"scores": reals([1.0, 2.25, -4.0, 0.0]), "ids": ids(range(4)), "pools": ids([0, 0, 1, 1])}
    given |= {"counts": ids([1, 1]), "largest": 0}
    told = {"chosen": ids([0, 2]), "inside": reals([1.0]), "outside": reals([2.25]), "gap": reals([1.25 / 2.25])}
    area.add("gap", "select.pools", "SEL-008 SEL-007", "gaps over the score inside", given, told)
    given = {"scores": reals([-0.0, 1.0, -0.0, -2.0]), "ids": ids(range(4)), "pools": ids([0, 0, 1, 1])}
    given |= {"counts": ids([1, 0]), "largest": 0}
    told = {"chosen": ids([0]), "inside": reals([0.0]), "outside": reals([1.0]), "gap": reals([1.0])}
    area.add("zero-inside", "select.pools", "SEL-008", "a boundary of −0", given, told)
    given = given | {"counts": ids([0, 1]), "largest": 0}
    told = {"chosen": ids([3]), "inside": reals([-2.0]), "outside": reals([0.0]), "gap": reals([1.0])}
    area.add("zero-outside", "select.pools", "SEL-008", "a boundary of −0", given, told)
    short = {"tokens": 7, "length": 8, "seed": 0, "n": 1}
    area.add("calibration", "text.calibration", "PRN-007", "a text that wraps", short, refused="PRN-007")
    plain: dict[str, Any] = {"weights": np.eye(2), "inputs": np.eye(2), "sparsity": 0.5}
    sums = {"weights": np.eye(2), "square_sums": reals([math.nan, 1.0]), "sparsity": 0.5}
    text = "NaN taken for an input that is never there"
    area.add("nan-sum", "prune.wanda", "PRN-003", text, sums, refused="PRN-003 PRN-015 SEL-004")
    bad_inputs = reals([math.inf, 1.0, 0.0, 1.0]).reshape(2, 2)
    for name, change in (("damping", {"damping": math.inf}), ("inputs", {"inputs": bad_inputs})):
        text = "numbers that are not finite"
        area.add(f"infinite-{name}", "prune.sparsegpt", "PRN-009", text, plain | change, refused="PRN-009")
    _rounded(area)
    return area


def _rounded(area: Area) -> None:
    """PRT-011: gradients that a 16-bit type does not hold."""
    for name, (a, weights, inputs) in ROUNDED.items():
        dy, rows = reals([a, 1.0, 1.0, -a]).reshape(2, 2), reals([a, *inputs, 0.0, *weights]).reshape(2, 4)
        whole, bound = dy.T @ rows, product_bound(dy.T, rows, 2)
        given: dict[str, Any] = {"dy": dy, "x": rows}
        text, clauses = "a result cut to sixteen bits, rounded to one side, or flushed to zero", "NUM-002 PRT-011"
        how: dict[str, Any] = {"bounds": {"gradient": bound}}
        answer = {"gradient": whole}
        area.add(f"gradient-rounded-{name}", "gradient.whole", f"GRD-001 {clauses}", text, given, answer, **how)
        given = given | {"out": 2, "in": 4, "positions": ids(range(8))}
        how = {"bounds": {"values": Bound(bound.gauge.reshape(-1), 2)}}
        answer = {"values": whole.reshape(-1)}
        area.add(f"at-rounded-{name}", "gradient.at", f"GRD-002 {clauses}", text, given, answer, **how)


AREAS = (configs, others)
