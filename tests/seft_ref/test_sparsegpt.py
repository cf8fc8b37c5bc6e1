"""SparseGPT against an inverse at every column, least squares, and what holds of it whatever the numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.oracle import prune
from seft_ref.arrays.library import array_namespace, from_numpy, to_numpy
from seft_ref.errors import PruneError
from seft_ref.prune.magnitude import magnitude_mask
from seft_ref.prune.sparsegpt import hessian_of, inverse_factor, sparsegpt
from seft_ref.prune.wanda import wanda_mask
from tests.seft_ref.update.by_hand import F32, F64, LIBRARIES, RULES, floor_of, library_id

libraries = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)


def layer(seed, n_out=7, n_in=13, tokens=40, dtype=np.float32):
    """A weight, and inputs that hang together: without that there is little to make up for."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(tokens, n_in)) @ rng.normal(size=(n_in, n_in)) / math.sqrt(n_in)
    return rng.normal(size=(n_out, n_in)).astype(dtype), mixed.astype(dtype)


def run(library, weight, inputs, *arguments, **options):
    """Mask and new weight as NumPy arrays, from arrays of a library."""
    weight, inputs = (from_numpy(np.asarray(x, dtype=library.dtype), library.like) for x in (weight, inputs))
    mask, new = sparsegpt(weight, hessian_of(inputs), *arguments, **options)
    return to_numpy(mask), to_numpy(new)


def damped(inputs, damping=0.01):
    """H after damping, where no input is dead."""
    x = np.asarray(inputs, dtype=np.float64)
    h = x.T @ x
    return h + damping * np.trace(h) / len(h) * np.eye(len(h))


def squared_errors(weight, h, mask):
    """Per row the sum of what each removal costs, from explicit inverses: the weight then over its own entry."""
    now, total = weight.astype(np.float64), np.zeros(len(weight))
    for i in range(weight.shape[1]):
        inverse = np.linalg.inv(h[i:, i:])
        gone = np.where(mask[:, i], 0.0, now[:, i])
        total += gone**2 / inverse[0, 0]
        now[:, i:] -= np.outer(gone, inverse[0] / inverse[0, 0])
    return total


@libraries
def test_PRN_010_PRN_011_without_correlations_it_is_magnitude_pruning_of_each_block(library):
    rng = np.random.default_rng(3)
    weight = rng.integers(-4, 5, size=(5, 300)).astype(np.float32)  # many ties
    for damping in (0.0, 0.01):
        mask, new = run(library, weight, np.eye(300), 0.7, damping=damping)
        for first in (0, 128, 256):
            part = weight[:, first : first + 128]
            np.testing.assert_array_equal(mask[:, first : first + 128], magnitude_mask(part, 0.7))
        assert new.tobytes() == np.where(mask, weight, 0).astype(library.dtype).tobytes()
    assert not np.array_equal(mask, magnitude_mask(weight, 0.7))


@pytest.mark.parametrize("pattern", [None, (2, 4)])
@pytest.mark.parametrize("seed", range(5))
def test_PRN_010_the_change_of_the_output_is_the_sum_of_the_errors(seed, pattern):
    weight, inputs = layer(seed, n_in=16, dtype=np.float64)
    mask, new = run(F64, weight, inputs, 0.6, pattern, block=5)
    h = damped(inputs)
    change = new - weight
    np.testing.assert_allclose(np.einsum("ri,ij,rj->r", change, h, change), squared_errors(weight, h, mask), rtol=1e-9)
    # the same mask without compensation does not obey it
    change = np.where(mask, 0.0, -weight)
    assert not np.allclose(np.einsum("ri,ij,rj->r", change, h, change), squared_errors(weight, h, mask), rtol=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_PRN_010_one_removed_weight_is_made_up_for_by_least_squares_over_later_columns(seed):
    weight, inputs = layer(seed, n_out=1, dtype=np.float64)
    mask, new = run(F64, weight, inputs, 1 / 13)
    (column,) = np.flatnonzero(~mask[0])
    root = np.linalg.cholesky(damped(inputs)).T  # ‖root v‖² = v H vᵀ
    later = root[:, column + 1 :]
    best, *_ = np.linalg.lstsq(later, weight[0, column] * root[:, column], rcond=None)
    np.testing.assert_allclose(new[0, column + 1 :] - weight[0, column + 1 :], best, rtol=1e-8, atol=1e-12)
    assert new[0, :column].tobytes() == weight[0, :column].tobytes()


@libraries
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("sparsity", "pattern", "block"), [(0.5, None, 5), (0.7, None, 128), (0.0, (2, 4), 128), (0.0, (1, 2), 5)]
)
def test_PRN_009_PRN_012_as_an_inverse_at_every_column_has_it(library, seed, sparsity, pattern, block):
    weight, inputs = layer(seed, n_in=12)
    kept, expected, gap = prune.sparsegpt(weight, inputs, sparsity, pattern, block=block)
    assert gap > 1e-6
    mask, new = run(library, weight, inputs, sparsity, pattern, block=block)
    assert np.flatnonzero(mask).tolist() == kept
    np.testing.assert_allclose(new, expected, rtol=0, atol=np.abs(expected).max() * (1e-9, 1e-6)[new.itemsize == 4])


@RULES
@given(
    sparsity=st.floats(0, 1, exclude_max=True),
    block=st.integers(1, 15),
    seed=st.integers(0, 99),
    tokens=st.sampled_from([1, 5, 40]),
)
def test_PRN_011_each_block_loses_its_count(sparsity, block, seed, tokens):
    mask, new = run(F64, *layer(seed, tokens=tokens), sparsity, block=block)
    for first in range(0, 13, block):
        width = min(block, 13 - first)
        assert (~mask[:, first : first + width]).sum() == floor_of(sparsity * (7 * width))
    assert np.isfinite(new).all()
    assert not new[~mask].any()
    assert not np.signbit(new[~mask]).any()


@pytest.mark.parametrize("pattern", [(2, 4), (3, 6), (1, 12)])
def test_PRN_012_blocks_do_not_matter_to_a_pattern(pattern):
    weight, inputs = layer(8, n_in=12)
    whole, expected = run(F64, weight, inputs, 0.0, pattern)
    assert whole.reshape(-1, pattern[1]).sum(axis=1).tolist() == [pattern[0]] * (7 * 12 // pattern[1])
    for block in (1, 5, 8):
        mask, new = run(F64, weight, inputs, 0.0, pattern, block=block)
        np.testing.assert_array_equal(mask, whole)
        np.testing.assert_allclose(new, expected, rtol=1e-9)


@libraries
def test_PRN_009_the_hessian_is_a_sum_over_all_tokens(library):
    inputs = np.random.default_rng(4).integers(-9, 10, size=(3, 4, 5))
    found = to_numpy(hessian_of(from_numpy(inputs.astype(library.dtype), library.like)))
    tokens = inputs.reshape(12, 5).tolist()
    assert found.tolist() == [[sum(t[i] * t[j] for t in tokens) for j in range(5)] for i in range(5)]
    assert found.dtype == np.float64


@libraries
def test_PRN_009_dead_inputs_go_first_and_a_scale_changes_nothing(library):
    weight, inputs = layer(5)
    inputs[:, [2, 7]] = 0.0
    for sparsity in (0.05, 0.6):
        mask, new = run(library, weight, inputs, sparsity, block=6)
        # 14 weights of dead inputs: one column in each of the blocks of 6, none in the last
        dead = np.count_nonzero(~mask[:, 2]), np.count_nonzero(~mask[:, 7])
        assert dead == ((2, 2) if sparsity == 0.05 else (7, 7))
        assert not new[:, [2, 7]].any()
        for factor in (2.0**-20, 1024.0):
            other, scaled = run(library, weight, inputs * np.float32(factor), sparsity, block=6)
            assert (other.tobytes(), scaled.tobytes()) == (mask.tobytes(), new.tobytes())
    mask, new = run(library, weight, inputs * 0, 0.3)
    assert np.flatnonzero(~mask).tolist() == list(range(floor_of(0.3 * 91)))
    assert not new.any()


@libraries
@pytest.mark.parametrize("tokens", [3, 40])
def test_PRN_010_the_factor_is_upper_and_its_square_the_inverse(library, tokens):
    _, inputs = layer(2, tokens=tokens)
    h = damped(inputs)
    u = np.triu(to_numpy(inverse_factor(from_numpy(h, library.like))))
    np.testing.assert_allclose(u.T @ u @ h, np.eye(13), atol=1e-10)
    assert (np.diag(u) > 0).all()
    first = [np.linalg.inv(h[i:, i:])[0, 0] for i in range(13)]
    np.testing.assert_allclose(np.diag(u) ** 2, first, rtol=1e-9)


def test_PRN_013_float32_is_computed_in_float64_and_rounded_once():
    weight, inputs = layer(6)
    inputs += 64 * inputs[:, :1]  # nearly one direction: a float32 factor has no digit right
    mask, new = run(F32, weight, inputs, 0.5, damping=1e-9, block=5)
    wide, expected = run(F64, weight, inputs, 0.5, damping=1e-9, block=5)
    np.testing.assert_array_equal(mask, wide)
    assert new.tobytes() == expected.astype(np.float32).tobytes()


def test_PRN_009_nothing_is_written():
    weight, inputs = layer(1)
    inputs[:, 3] = 0
    hessian = hessian_of(inputs)
    for x in (weight, hessian):
        x.flags.writeable = False
    sparsegpt(weight, hessian, 0.5, block=4)


@libraries
@pytest.mark.parametrize(
    ("clause", "arguments", "options"),
    [
        ("PRN-001", (1.0,), {}),
        ("PRN-001", (-0.1,), {}),
        ("PRN-004", (0.5, (2, 4)), {}),
        ("PRN-009", (0.5,), {"damping": -0.01}),
        ("PRN-009", (0.5,), {"damping": math.inf}),
        ("PRN-009", (0.5,), {"damping": math.nan}),
        ("PRN-011", (0.5,), {"block": 0}),
    ],
)
def test_PRN_009_arguments_that_mean_nothing_are_refused(library, clause, arguments, options):
    with pytest.raises(PruneError) as refused:
        run(library, *layer(1), *arguments, **options)
    assert refused.value.clause == clause


@libraries
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_PRN_009_a_hessian_that_cannot_be_used_is_refused(library, bad):
    weight = from_numpy(np.ones((2, 3), dtype=library.dtype), library.like)
    for h in (np.full((3, 3), 4.0), -np.eye(3), np.where(np.eye(3) > 0, bad, 0.0)):
        with pytest.raises(PruneError) as refused:
            sparsegpt(weight, from_numpy(h, library.like), 0.5, damping=0.0)
        assert refused.value.clause == "PRN-009"


@pytest.mark.parametrize("last", [0.0, -3.0, math.nan])
def test_PRN_009_a_factorisation_that_fails_without_an_exception_is_refused(monkeypatch, last):
    # CuPy does not look at what cuSOLVER says of a matrix that is not positive definite
    weight, hessian = np.ones((2, 2)), np.full((2, 2), 4.0)
    linalg = array_namespace(hessian).linalg
    monkeypatch.setattr(linalg, "cholesky", lambda h: np.array([[2.0, 0.0], [2.0, last]]))
    with pytest.raises(PruneError) as refused:
        sparsegpt(weight, hessian, 0.5, damping=0.0)
    assert refused.value.clause == "PRN-009"


def test_PRN_013_a_weight_that_does_not_fit_is_refused():
    weight = np.full((1, 2), 3e38)
    with pytest.raises(PruneError) as refused:
        run(F32, weight, np.ones((4, 2)), 0.5)
    assert refused.value.clause == "PRN-013"
    _, new = run(F64, weight, np.ones((4, 2)), 0.5)
    assert new[0, 1] > 5e38


@pytest.mark.parametrize(("shape", "sparsity", "block"), [((64, 160), 0.5, 128), ((24, 32), 0.7, 4)])
def test_PRN_010_on_average_the_output_is_closer_than_behind_wanda(shape, sparsity, block):
    # Not so on every layer: a block as wide as the row is chosen from before anything has been made up for. Over 20
    # seeds the mean ratio of squared errors is 0.77 in the first case, 0.71 in the second and 1.07 there in one block.
    ratios = []
    for seed in range(10):
        weight, inputs = layer(seed, *shape, tokens=1024, dtype=np.float64)
        _, new = run(F64, weight, inputs, sparsity, block=block)
        by_wanda = np.where(wanda_mask(weight, (inputs**2).sum(axis=0), sparsity), weight, 0)
        errors = [np.sum((inputs @ (weight - w).T) ** 2) for w in (new, by_wanda)]
        ratios.append(errors[0] / errors[1])
    assert np.mean(ratios) < 0.9
