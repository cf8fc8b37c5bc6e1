"""Pruning block by block, against a forward written out once more with NumPy in float64."""

import math
from importlib import import_module

import numpy as np
import pytest

from conformance.oracle.prune import sparsegpt as sparsegpt_oracle
from seft_ref.errors import LayerError, PruneError
from seft_ref.kernels import reference
from seft_ref.model.config import ATTENTION, MLP, ModelConfig
from seft_ref.prune.blockwise import prune_magnitude, prune_sparsegpt, prune_wanda
from seft_ref.prune.wanda import wanda_mask
from tests.seft_ref.tiny import CONFIG, TOKENS, n_m_config, parameters
from tests.seft_ref.update.by_hand import floor_of, ranked

BATCHES = [np.asarray([TOKENS[i : i + 7] for i in starts], dtype=np.int64) for starts in ((0, 31, 60), (100, 222))]


def rmsnorm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rotated(x):
    """RoPE of (T, heads, D) with base 10000."""
    length, _, width = x.shape
    half = width // 2
    angle = np.arange(length)[:, None] * 10000.0 ** (-2 * np.arange(half) / width)[None, :]
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def plain_block(x, get, config):
    """The output of a block for one row (T, C), and the input of each of its seven matrices."""
    length = x.shape[0]
    u = rmsnorm(x, get("input_layernorm"), config.rms_norm_eps)
    q, k, v = (
        (u @ get(f"self_attn.{name}").T).reshape(length, -1, config.head_dim) for name in ("q_proj", "k_proj", "v_proj")
    )
    q, k = rotated(q), rotated(k)
    group = config.num_attention_heads // config.num_key_value_heads
    attended = np.zeros_like(q)
    for head in range(config.num_attention_heads):
        for t in range(length):
            scores = k[: t + 1, head // group] @ q[t, head] / math.sqrt(config.head_dim)
            p = np.exp(scores - scores.max())
            attended[t, head] = p / p.sum() @ v[: t + 1, head // group]
    y = attended.reshape(length, -1)
    h = x + y @ get("self_attn.o_proj").T
    w = rmsnorm(h, get("post_attention_layernorm"), config.rms_norm_eps)
    gate, up = w @ get("mlp.gate_proj").T, w @ get("mlp.up_proj").T
    z = gate / (1 + np.exp(-gate)) * up
    inputs = {"self_attn.q_proj": u, "self_attn.k_proj": u, "self_attn.v_proj": u, "self_attn.o_proj": y}
    inputs |= {"mlp.gate_proj": w, "mlp.up_proj": w, "mlp.down_proj": z}
    return h + z @ get("mlp.down_proj").T, inputs


def plain_blocks(dense, config, prune, *, behind_pruned=True):
    """Masks and new weights by the sequential definition; or with all statistics from the unpruned model: not it.

    prune  from a weight and its inputs, one row a token, to mask and new weight
    """
    rows = [dense["model.embed_tokens.weight"][row] for batch in BATCHES for row in batch]
    found = {}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        now = {name: value.copy() for name, value in dense.items()}

        def get(part, prefix=prefix, now=now):
            return now[f"{prefix}.{part}.weight"]

        unpruned = [plain_block(x, get, config) for x in rows]
        for part in [f"self_attn.{p}" for p in ATTENTION] + [f"mlp.{p}" for p in MLP]:
            found[f"{prefix}.{part}.weight"] = prune(
                get(part), np.concatenate([inputs[part] for _, inputs in unpruned])
            )
        for name, (_, weight) in found.items():
            now[name] = weight
        rows = [plain_block(x, get, config)[0] for x in rows] if behind_pruned else [y for y, _ in unpruned]
    return found


def plain_wanda(dense, config, keep, *, behind_pruned=True):
    """Masks of Wanda."""

    def prune(weight, inputs):
        mask = keep(np.abs(weight) * np.sqrt(np.sum(inputs**2, axis=0)))
        return mask, np.where(mask, weight, 0.0)

    found = plain_blocks(dense, config, prune, behind_pruned=behind_pruned)
    return {name: mask for name, (mask, _) in found.items()}


def plain_sparsegpt(sparsity, pattern=None):
    """The kit's oracle, an inverse at every column."""

    def prune(weight, inputs):
        kept, new, gap = sparsegpt_oracle(weight, inputs, sparsity, pattern)
        assert gap > 1e-6
        mask = np.zeros(weight.size, dtype=bool)
        mask[kept] = True
        return mask.reshape(weight.shape), new

    return prune


def keep_rows(sparsity):
    def keep(scores):
        mask = np.ones(scores.shape, dtype=bool)
        for row, values in enumerate(scores):
            mask[row, ranked(values, range(len(values)), floor_of(sparsity * len(values)))] = False
        return mask

    return keep


def keep_groups(n, m):
    def keep(scores):
        mask = np.zeros(scores.shape, dtype=bool)
        for row, values in enumerate(scores):
            for first in range(0, len(values), m):
                mask[row, ranked(values[first : first + m], range(first, first + m), n, largest=True)] = True
        return mask

    return keep


def run(config, dense, sparsity=0.5, pattern=None, batches=BATCHES):
    return prune_wanda(config, dense.__getitem__, batches, reference, sparsity, pattern)


def test_PRN_005_each_block_is_measured_behind_pruned_blocks():
    dense = parameters(CONFIG, np.float64)
    found = dict(run(CONFIG, dense, 0.6))
    expected = plain_wanda(dense, CONFIG, keep_rows(0.6))
    assert list(found) == [matrix.name for matrix in CONFIG.targets()]
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, expected[name], err_msg=name)
    # the first block does not tell the readings apart, the second does
    other = plain_wanda(dense, CONFIG, keep_rows(0.6), behind_pruned=False)
    same = {name: np.array_equal(mask, other[name]) for name, mask in found.items()}
    assert all(same[name] for name in same if ".layers.0." in name)
    assert not all(same[name] for name in same if ".layers.1." in name)


@pytest.mark.parametrize("pattern", [(2, 4), (1, 4)])
def test_PRN_004_PRN_005_a_whole_model_by_pattern(pattern):
    config = n_m_config()
    dense = parameters(config, np.float64)
    expected = plain_wanda(dense, config, keep_groups(*pattern))
    for name, mask in run(config, dense, 0.0, pattern):
        np.testing.assert_array_equal(mask, expected[name], err_msg=name)


@pytest.mark.parametrize(("config", "pattern"), [(CONFIG, None), (n_m_config(), (2, 4))], ids=["blocks", "2:4"])
def test_PRN_005_PRN_010_sparsegpt_measures_each_block_behind_changed_blocks(config, pattern):
    dense = parameters(config, np.float64)
    before = {name: value.tobytes() for name, value in dense.items()}
    found = list(prune_sparsegpt(config, dense.__getitem__, BATCHES, reference, 0.6, pattern))
    expected = plain_blocks(dense, config, plain_sparsegpt(0.6, pattern))
    assert [name for name, *_ in found] == [matrix.name for matrix in config.targets()]
    for name, mask, weight in found:
        np.testing.assert_array_equal(mask, expected[name][0], err_msg=name)
        np.testing.assert_allclose(weight, expected[name][1], rtol=1e-8, atol=1e-10, err_msg=name)
    assert {name: value.tobytes() for name, value in dense.items()} == before
    other = plain_blocks(dense, config, plain_sparsegpt(0.6, pattern), behind_pruned=False)
    close = {name: np.allclose(weight, other[name][1], rtol=1e-3) for name, _, weight in found}
    assert all(close[name] for name in close if ".layers.0." in name)
    assert not any(close[name] for name in close if ".layers.1." in name)


def test_PRN_009_activations_that_overflow_are_refused():
    dense = parameters(CONFIG)
    dense["model.layers.0.post_attention_layernorm.weight"][...] = 3e38
    with pytest.raises(PruneError, match="compute in float64") as refused:
        list(prune_sparsegpt(CONFIG, dense.__getitem__, BATCHES, reference, 0.5))
    assert refused.value.clause == "PRN-009"


def test_PRN_003_the_statistics_do_not_depend_on_the_batches():
    dense = parameters(CONFIG, np.float64)
    one_by_one = [row[None, :] for batch in BATCHES for row in batch]
    found, expected = dict(run(CONFIG, dense, batches=one_by_one)), dict(run(CONFIG, dense))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_PRN_006_what_was_read_keeps_its_bits_and_masks_name_what_stays():
    dense = parameters(CONFIG)
    before = {name: value.tobytes() for name, value in dense.items()}
    for prune in (run(CONFIG, dense), prune_magnitude(CONFIG, dense.__getitem__, 0.5)):
        for name, mask in prune:
            assert mask.shape == dense[name].shape
            assert mask.dtype == bool
    assert {name: value.tobytes() for name, value in dense.items()} == before


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.down_proj.weight"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_PRN_006_a_weight_that_is_not_finite_is_refused_by_name(name, bad):
    dense = parameters(CONFIG)
    dense[name][3, 4] = bad
    by_sparsegpt = prune_sparsegpt(CONFIG, dense.__getitem__, BATCHES, reference, 0.5)
    for prune in (run(CONFIG, dense), by_sparsegpt, prune_magnitude(CONFIG, dense.__getitem__, 0.5)):
        with pytest.raises(PruneError, match=name.replace(".", r"\.")) as refused:
            list(prune)
        assert refused.value.clause == "PRN-006"


def test_PRN_003_activations_that_overflow_are_refused():
    dense = parameters(CONFIG)
    dense["model.layers.0.post_attention_layernorm.weight"] *= np.float32(1e38)
    with pytest.raises(PruneError, match="compute in float64") as refused:
        list(run(CONFIG, dense))
    assert refused.value.clause == "PRN-003"


def test_PRN_014_one_near_tie_of_the_first_block_changes_many_choices_of_the_last(monkeypatch):
    # why the clause asks for a gap in all blocks before: docs/results/pruning.md
    config = ModelConfig.from_json(
        {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8}
        | {"num_attention_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4}
    )
    rng = np.random.default_rng(3)
    dense = {
        name: rng.standard_normal(shape) * shape[-1] ** -0.5 if len(shape) == 2 else np.ones(shape)
        for name, shape in config.parameters().items()
    }
    tokens = rng.integers(0, 64, (4, 32))

    def exchanged(weight, sums, *how):
        mask = wanda_mask(weight, sums, *how)
        if not calls:
            scores = np.abs(weight[0]) * np.sqrt(sums)
            weakest = min(np.flatnonzero(mask[0]), key=lambda c: scores[c])
            strongest = max(np.flatnonzero(~mask[0]), key=lambda c: scores[c])
            mask[0, [weakest, strongest]] = False, True
        calls.append(mask)
        return mask

    def masks():
        return dict(prune_wanda(config, dense.__getitem__, [tokens], reference, 0.7))

    calls = []
    plain = masks()
    monkeypatch.setattr(import_module("seft_ref.prune.blockwise"), "wanda_mask", exchanged)
    other = masks()

    def differing(layer):
        names = [name for name in plain if f".layers.{layer}." in name]
        return sum(int((plain[n] != other[n]).sum()) for n in names) / sum(plain[n].size for n in names)

    assert differing(0) < 1e-3
    assert differing(7) > 0.01


@pytest.mark.parametrize("prune", [prune_wanda, prune_sparsegpt])
@pytest.mark.parametrize(
    ("name", "clause"),
    [("model.embed_tokens.weight", "LYR-015"), ("model.layers.1.input_layernorm.weight", "LYR-016")],
)
def test_LYR_015_an_overflow_that_would_hide_in_a_layer_is_refused(prune, name, clause):
    # before, y = 0 behind a row whose squares overflow, all scores tied, and position decided what stays
    dense = parameters(CONFIG)
    dense[name] *= np.float32(1e25)
    with pytest.raises(LayerError, match="compute in float64") as refused:
        list(prune(CONFIG, dense.__getitem__, BATCHES, reference, 0.5))
    assert refused.value.clause == clause


def test_PRN_002_magnitude_prunes_each_target_on_its_own():
    dense = parameters(CONFIG)
    found = dict(prune_magnitude(CONFIG, dense.__getitem__, 0.7))
    assert list(found) == [matrix.name for matrix in CONFIG.targets()]
    for name, mask in found.items():
        values = np.abs(dense[name]).reshape(-1)
        expected = np.ones(values.size, dtype=bool)
        expected[ranked(values, range(values.size), floor_of(0.7 * values.size))] = False
        np.testing.assert_array_equal(mask.reshape(-1), expected)


def test_PRN_004_a_model_whose_rows_do_not_divide_is_refused():
    dense = parameters(CONFIG)
    for prune in (run(CONFIG, dense, 0.0, (2, 4)), prune_magnitude(CONFIG, dense.__getitem__, 0.0, (2, 4))):
        with pytest.raises(PruneError) as refused:
            list(prune)
        assert refused.value.clause == "PRN-004"
