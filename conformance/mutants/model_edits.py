"""Configs, layers, pruners, draws and topologies with one condition of one rule forgotten, or a limit off by one."""

from typing import Any

from conformance.mutants.base import Mutant, edited, unchecked
from seft_ref import config, counter, text, topology
from seft_ref.layers import attention, cross_entropy, embedding, rmsnorm, rope
from seft_ref.prune import keep, sparsegpt, wanda
from seft_ref.update import delta, select

__all__ = ["MUTANTS"]

_READ = config.ModelConfig.from_json
_WINDOWS, _ROPE = config._windows, config._rope
_MISSING = "if config.get(key) is None]"

_CONFIG: tuple[tuple[str, Any, str, str, str], ...] = (
    *(
        ("MDL-006", _READ, _MISSING, f'if key != "{key}" and config.get(key) is None]', f"{key} not asked for")
        for key in ("intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    ),
    ("MDL-004 MDL-006", _READ, "_NAMED.get(family, ())", "()", "what libraries fill in taken for a default"),
    (
        "MDL-004 MDL-006",
        _READ,
        "_NAMED.get(family, ()) if key not in config",
        "_NAMED.get(family, ())[:1] if key not in config",
        "head_dim of qwen3, window of mistral not asked for",
    ),
    (
        "MDL-004",
        _READ,
        "_NAMED.get(family, ()) if key not in config",
        "_NAMED.get(family, ()) if config.get(key) is None",
        "null refused where it is a value",
    ),
    (
        "MDL-004",
        _READ,
        'config.get("head_dim") is None and sizes',
        "sizes",
        "a head width that need not divide refused",
    ),
    ("MDL-006", _READ, "if heads % kv_heads", "if False", "query heads that do not divide"),
    ("MDL-006", _READ, "if head_dim % 2", "if False", "an odd head width"),
    ("MDL-006", config._refuse_unsupported, 'config.get("hidden_act", "silu")', '"silu"', "any activation"),
    ("MDL-006", config._refuse_unsupported, 'config.get("quantization_config")', "False", "quantised weights"),
    ("MDL-006", config._refuse_unsupported, 'config.get("attention_dropout")', "False", "dropout"),
    ("MDL-003", _WINDOWS, "layer >= first", "layer > first", "a layer late"),
    (
        "MDL-003",
        _WINDOWS,
        "kinds is None:",
        'kinds is None or not config.get("use_sliding_window"):',
        "layer_types unread",
    ),
    ("MDL-006", _WINDOWS, " or len(kinds) != layers", "", "layer_types of another length"),
    ("MDL-006", _WINDOWS, " or any(kind not in known for kind in kinds)", "", "any layer type"),
    ("MDL-006", _WINDOWS, 'window is None and "sliding_attention" in kinds', "False", "a window of nothing"),
    ("MDL-003", _WINDOWS, 'if family == "llama"', "if False", "windows for llama"),
    ("MDL-006", _ROPE, "partial not in (None, 1, 1.0)", "False", "a part of the head rotated"),
    ("MDL-006", _ROPE, 'kind == "dynamic" and head_dim <= 2', "False", "dynamic heads of 2"),
    ("MDL-006", _ROPE, 'not numbers["low_freq_factor"] < numbers["high_freq_factor"]', "False", "low above high"),
    ("MDL-006", _ROPE, 'numbers["low_freq_factor"] < numbers', 'numbers["low_freq_factor"] <= numbers', "low as high"),
    ("MDL-006", config._positive_int, " or isinstance(value, bool)", "", "true for 1"),
    ("MDL-006", config._positive_int, "value < 1", "value < 0", "0 of something"),
    ("MDL-006", config._positive_number, "0 < value < math.inf", "0 <= value", "an eps of 0 or infinity"),
    (
        "MDL-006",
        config._switch,
        "value is not None and not isinstance(value, bool)",
        "False",
        "a switch that is no switch",
    ),
)
_OTHER: tuple[tuple[str, str, Any, str, str, str], ...] = (
    ("rope.frequencies", "LYR-005", rope.rope_frequencies, "max(length, max_positions)", "length", "T for L"),
    (
        "model.step",
        "MDL-004",
        _ROPE,
        'config.get("rope_parameters") or config.get("rope_scaling")',
        'config.get("rope_scaling")',
        "rope_parameters unread",
    ),
    ("generate.read", "MDL-004", _ROPE, "10000.0", "1000000.0", "another default base"),
    ("generate.read", "MDL-004", _ROPE, 'config.get("max_position_embeddings")', "8192", "another original context"),
    ("model.step", "MDL-004", _ROPE, ' or settings.pop("type", None)', "", "type unread"),
    ("layer.attention", "LYR-008", attention.visible_keys, "age < window", "age <= window", "a key more in a window"),
    ("layer.attention", "LYR-008", attention.visible_keys, "age >= 0", "age > 0", "a query that does not see itself"),
    (
        "layer.cross_entropy",
        "LYR-011",
        cross_entropy.cross_entropy_forward,
        "targets != IGNORE",
        "targets >= 0",
        "any target below 0 ignored",
    ),
    ("layer.cross_entropy", "LYR-011", cross_entropy.cross_entropy_forward, "count < 1", "count < 0", "a count of 0"),
    ("layer.embedding", "LYR-001", embedding.embedding_forward, "not 0 <=", "not -9 <=", "a token below 0"),
    ("layer.rmsnorm", "LYR-002", rmsnorm.rmsnorm_forward, "x * r * weight", "x * r * (1 + weight)", "1 + weight"),
    ("prune.magnitude", "PRN-001", keep.removed_count, "0 <= sparsity < 1", "0 <= sparsity <= 1", "a sparsity of 1"),
    ("prune.magnitude", "PRN-001", keep.removed_count, "0 <= sparsity < 1", "0 < sparsity < 1", "sparsity 0 refused"),
    ("prune.magnitude", "PRN-001", keep.removed_count, "count(sparsity * n)", "round(sparsity * n)", "counts rounded"),
    ("prune.wanda", "PRN-003", wanda.wanda_mask, "weight.shape[1])", "weight.shape[0])", "a count of rows"),
    (
        "prune.pattern",
        "PRN-004",
        keep.keep_n_of_m,
        "rank_in_rows(-groups) < n",
        "rank_in_rows(groups) >= m - n",
        "ties up",
    ),
    ("prune.sparsegpt", "PRN-009", sparsegpt._damped, "0 <= damping < inf", "damping < inf", "damping below 0"),
    (
        "prune.sparsegpt",
        "PRN-009",
        sparsegpt._damped,
        "damping * xp.mean(diagonal))",
        "damping * xp.mean(xp.where(dead, xp.ones_like(diagonal), diagonal)))",
        "dead inputs in the mean as 1",
    ),
    (
        "prune.sparsegpt",
        "PRN-011",
        sparsegpt.sparsegpt,
        "removed_count(sparsity, n_out * n)",
        "removed_count(sparsity, n) * n_out",
        "a count of each row",
    ),
    (
        "prune.sparsegpt",
        "PRN-013",
        sparsegpt._rounded,
        "not bool(xp.all(xp.abs(new) <= xp.finfo(weight.dtype).max))",
        "False",
        "infinite weights",
    ),
    ("text.training", "TRN-003", text._room, "tokens - length + 1", "tokens - length", "the last window left out"),
    ("text.training", "TRN-003", text._room, "tokens < length", "tokens <= length", "a text of one window refused"),
    ("text.evaluation", "EVL-001", text._room, "tokens < length", "tokens <= length", "a text of one window refused"),
    (
        "text.evaluation",
        "EVL-001",
        text.evaluation_starts,
        "i * (room - 1) // max(windows - 1, 1)",
        "round(i * (room - 1) / max(windows - 1, 1))",
        "starts rounded",
    ),
    ("rng.draws", "RNG-002", counter.counter_key, "0 <= word <= _MASK", "0 <= word <= _MASK // 2", "63 bits"),
    ("train.run", "RNG-002", counter.counter_key, "0 <= word <= _MASK", "word <= _MASK", "words below 0"),
    ("train.run", "RNG-002", counter.counter_key, "0 <= word <= _MASK", "0 <= word", "words of 65 bits"),
    ("topology.positions", "TOP-001", topology.check, "int(indptr[0]) != 0 or ", "", "pointers from 1"),
    ("topology.positions", "TOP-001", topology.check, " or int(indptr[-1]) != topology.nnz", "", "pointers to less"),
    ("topology.positions", "TOP-002", topology.check, "lowest < 0 or ", "", "columns below 0"),
    ("topology.positions", "TOP-002", topology.check, "highest >= n_in", "highest > n_in", "a column of in"),
    (
        "topology.positions",
        "TOP-002",
        topology.check,
        "positions[1:] > positions[:-1]",
        "positions[1:] >= positions[:-1]",
        "a column twice",
    ),
    ("topology.of", "TOP-003", topology.from_flat, "first < 0 or ", "", "positions below 0"),
    ("topology.of", "TOP-003", topology.from_flat, "last >= n_out * n_in", "last > n_out * n_in", "a position behind"),
    (
        "topology.of",
        "TOP-003",
        topology.from_flat,
        "positions[1:] > positions[:-1]",
        "positions[1:] >= positions[:-1]",
        "a position twice",
    ),
    (
        "count.budgets",
        "DLT-002",
        delta.budget_by_count,
        "slots * extent.numel // total",
        "round(slots * extent.numel / total)",
        "shares rounded",
    ),
    ("count.budgets", "DLT-002", delta.budget_by_count, ", extent.nnz)", ", extent.numel)", "shares above K"),
    ("count.budgets", "DLT-002", delta.budget_by_rank, ", extent.nnz)", ", extent.numel)", "ranks above K"),
    (
        "count.budgets",
        "DLT-002",
        delta.budget_by_nnz,
        "count(density * extent.nnz)",
        "int(density * extent.nnz)",
        "int()",
    ),
    ("select.largest", "SEL-005", select._check_count, "0 <= k <= n", "0 <= k < n", "all refused"),
    ("select.smallest", "SEL-005", select._check_count, "0 <= k <= n", "k <= n", "fewer than none"),
    ("select.smallest", "SEL-004", select._check_finite, "xp.isfinite(scores)", "~xp.isnan(scores)", "infinite scores"),
    (
        "select.pools",
        "SEL-008",
        select.selection_in_pools,
        "int(xp.argmin(gaps))",
        "gaps.shape[0] - 1 - int(xp.argmin(xp.flip(gaps)))",
        "the last of equal gaps",
    ),
    (
        "select.pools",
        "SEL-008",
        select.selection_in_pools,
        "xp.maximum(xp.abs(inside), xp.abs(outside))",
        "xp.abs(inside)",
        "gaps by the inner score",
    ),
)

MUTANTS: list[Mutant] = [
    *(edited(clauses, "config.describe", f, old, new, flaw) for clauses, f, old, new, flaw in _CONFIG),
    *unchecked("text.calibration", "PRN-007"),
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _OTHER),
]
