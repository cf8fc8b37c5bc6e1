"""GPTQ, rounding to nearest and merges against PyTorch: the published algorithm, fake_quantize, whole matrices."""

import numpy as np
import pytest

from seft_ref.prune.sparsegpt import hessian_of
from seft_ref.quantise.gptq import gptq
from seft_ref.quantise.grid import nearest, parse_grid, weights_of
from seft_ref.quantise.merge import beside, in_grid
from seft_ref.topology.csr import flat, from_flat

torch = pytest.importorskip("torch")

SHAPES = [(7, 12), (33, 48), (130, 192)]


def drawn(shape, seed, keep=0.4, dtype=np.float32):
    rng = np.random.default_rng(seed)
    stored = rng.random(shape) < keep
    stored[0] = False  # a row without weights
    weight = (rng.standard_normal(shape) * rng.uniform(0.5, 4, (shape[0], 1))).astype(dtype)
    mixed = rng.standard_normal((shape[1], shape[1])) * 0.2 + np.eye(shape[1])
    inputs = (rng.standard_normal((3 * shape[1], shape[1])) @ mixed).astype(dtype)
    return weight, from_flat(shape, np.flatnonzero(stored)), stored, inputs


def of_authors(weight, stored, inputs, bits, group, damping=0.01):
    """GPTQ: inverse by Cholesky, its upper factor, one column after the other; pruned weights are passed over."""
    w = torch.where(torch.from_numpy(stored), torch.from_numpy(weight).double(), 0.0)
    x = torch.from_numpy(inputs).double()
    h = x.T @ x
    h += torch.eye(len(h), dtype=h.dtype) * damping * torch.diagonal(h).mean()
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    most, mask = 2 ** (bits - 1) - 1, torch.from_numpy(stored)
    codes, ties, scale = torch.zeros_like(w), torch.ones_like(w), None
    for j in range(w.shape[1]):
        if j % (group or w.shape[1]) == 0:
            scale = (w[:, j : j + (group or w.shape[1])].abs().amax(1) / most).float().double()
            scale = torch.where(scale > 0, scale, 1.0)
        quotient = w[:, j] / scale
        ties[:, j] = (quotient - quotient.floor() - 0.5).abs()
        codes[:, j] = torch.round(quotient).clamp(-most - 1, most)
        error = torch.where(mask[:, j], (w[:, j] - codes[:, j] * scale) / upper[j, j], 0.0)
        w[:, j:] -= torch.where(mask[:, j:], torch.outer(error, upper[j, j:]), 0.0)
    return codes.numpy(), ties.numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("bits", "group"), [(4, 0), (4, 6), (8, 4), (4, 12)])
@pytest.mark.parametrize("block", [128, 5])
def test_QNT_005_codes_are_those_of_the_published_algorithm(shape, bits, group, block):
    weight, topology, stored, inputs = drawn(shape, shape[0] + bits)
    grid = parse_grid(f"int{bits}" + (f":g{group}" if group else ""))
    made = gptq(weight, topology, hessian_of(inputs), grid, block=block)
    codes, ties = of_authors(weight, stored, inputs, bits, group)
    sure = (ties > 1e-7)[stored].all()
    assert sure, "an example without a quotient at a tie"
    np.testing.assert_array_equal(made.codes, codes[stored])
    np.testing.assert_array_equal(flat(made.topology), np.flatnonzero(stored))


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_QNT_005_it_leaves_less_error_than_rounding_to_nearest(shape):
    """Where inputs are correlated, as activations are: with weights of 30 % nothing can be carried between others."""
    weight, topology, stored, _ = drawn(shape, 9)
    rng, rank = np.random.default_rng(10), max(2, shape[1] // 10)
    inputs = rng.standard_normal((4 * shape[1], rank)) @ rng.standard_normal((rank, shape[1]))
    inputs += 0.1 * rng.standard_normal(inputs.shape)
    grid = parse_grid("int4:g12")
    kept = np.where(stored, weight, 0)

    def error(made):
        dense = np.zeros(shape)
        dense[stored] = weights_of(made, np.dtype(np.float64))
        return np.linalg.norm(inputs @ (dense - kept).T)

    assert error(gptq(weight, topology, hessian_of(inputs), grid)) < 0.9 * error(nearest(weight, topology, grid))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_QNT_004_nearest_is_fake_quantize_of_torch(shape, dtype, asymmetric):
    weight, topology, stored, _ = drawn(shape, 4, dtype=dtype)
    made = nearest(weight, topology, parse_grid("int8" + ":asym" * asymmetric))
    scales, zeros = torch.from_numpy(made.scales[:, 0]), torch.from_numpy(made.zeros[:, 0].astype(np.int32))
    found = torch.fake_quantize_per_channel_affine(torch.from_numpy(weight).float(), scales, zeros, 0, -128, 127)
    weights = weights_of(made, np.dtype(np.float32))
    # torch multiplies by the reciprocal of the scale, which moves a code where the quotient is near a tie
    quotient = weight.astype(np.float64)[stored] / np.repeat(made.scales, shape[1], axis=1)[stored]
    away = np.abs(quotient - np.floor(quotient) - 0.5) > 1e-4
    np.testing.assert_array_equal(weights[away], found.numpy()[stored][away])
    assert away.mean() > 0.99


def merged(made, now, support, mode):
    """A merge in whole matrices: codes, where they are, where weights stand beside them, and the counts."""
    shape, size = support.shape, made.columns
    scale = torch.from_numpy(made.scales).repeat_interleave(size, 1).double()
    zero = torch.from_numpy(made.zeros).repeat_interleave(size, 1).double()
    codes, coded = torch.zeros(shape).double(), torch.zeros(shape, dtype=torch.bool)
    at = torch.from_numpy(np.asarray(flat(made.topology)))
    codes.view(-1)[at], coded.view(-1)[at] = torch.from_numpy(made.codes).double(), True
    weight = torch.from_numpy(now)
    stand_for = torch.where(coded, (codes - zero) * scale, 0.0).to(weight.dtype)
    same_bits = (stand_for == weight) & (torch.signbit(stand_for) == torch.signbit(weight))
    differs = support & ~(coded & same_bits)
    if mode == "beside":
        return codes, coded & support, differs, (int(differs.sum()), 0, 0)
    free = torch.round(weight.double() / scale) + zero
    low, high = -(2 ** (made.bits - 1)), 2 ** (made.bits - 1) - 1
    before = torch.where(coded, codes, zero)
    new = torch.where(differs, free.clamp(low, high), before)
    beyond = differs & ((free < low) | (free > high))
    return new, support, differs, (int(differs.sum()), int((differs & (new == before)).sum()), int(beyond.sum()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid", ["int8", "int4:g6", "int4:g4:asym", "int8:asym"])
@pytest.mark.parametrize("mode", ["beside", "grid"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_QNT_006_QNT_007_merges_are_those_of_whole_matrices(shape, grid, mode, dtype):
    weight, topology, stored, _ = drawn(shape, 11, dtype=dtype)
    made = nearest(weight, topology, parse_grid(grid))
    rng, now = np.random.default_rng(12), np.zeros(shape, dtype=dtype)
    now[stored] = weights_of(made, np.dtype(dtype))
    # some stored weights leave, pruned ones come back; some weights move by less than half a step, others far away
    support = (stored & (rng.random(shape) < 0.9)) | (rng.random(shape) < 0.05)
    step = np.repeat(made.scales, made.columns, axis=1)
    moved = support & (rng.random(shape) < 0.3)
    now[moved] += (step * rng.choice([-200.0, -1.0, -0.25, 0.0, 0.5, 3.0], shape)).astype(dtype)[moved]
    now[support & (rng.random(shape) < 0.02)] = -0.0
    slots = from_flat(shape, np.flatnonzero(support))
    codes, where, differs, counts = merged(made, now, torch.from_numpy(support), mode)
    values = now[support]
    if mode == "beside":
        kept, beside_codes, found = beside(made, slots, values)
        np.testing.assert_array_equal(beside_codes, differs.numpy()[support])
    else:
        kept, found = in_grid(made, slots, values)
        assert shape == SHAPES[0] or min(counts) > 0
    np.testing.assert_array_equal(flat(kept.topology), np.flatnonzero(where.numpy()))
    np.testing.assert_array_equal(kept.codes, codes.numpy()[where.numpy()])
    np.testing.assert_array_equal(kept.scales, made.scales)
    assert (found.changed, found.vanished, found.saturated) == counts
