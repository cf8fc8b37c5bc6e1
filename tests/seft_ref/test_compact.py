"""Bases held in 16 bits, and the two parts that are multiplied (KRN-015, KRN-016, CKP-008)."""

import ml_dtypes
import numpy as np
import pytest

from seft_ref import finish, initial_state, load_model, read_tokens, save_model, settings_of, step_batches, train
from seft_ref.errors import CheckpointError, KernelError
from seft_ref.files.state import Origin, load_state, save_state
from seft_ref.kernels import cpu, reference
from seft_ref.kernels.cpu import packed as layout
from seft_ref.matrix.bases import PackedBase, compact_base, compacted
from seft_ref.topology.csr import flat, from_flat
from seft_ref.update.delta import Base, effective, new_delta
from tests.kernels.sets import NAMED
from tests.seft_ref.folders import BF16, TEXT, sparse_folder

HALVES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SETS = NAMED
SHAPES = [(1, 1), (5, 7), (64, 64), (130, 200), (3, 257), (33, 0), (0, 4)]


def drawn(shape, half, seed=3, share=0.4):
    """Positions and 16-bit values: subnormals, both zeros and the largest are among them."""
    numbers = np.random.default_rng(seed)
    at = np.flatnonzero(numbers.random(shape[0] * shape[1]) < share)
    bits = numbers.integers(0, 1 << 16, at.size).astype(np.uint16)
    values = bits.view(half)
    values = np.where(np.isfinite(values.astype(np.float32)), values, np.asarray(1, dtype=half)).astype(half)
    if at.size > 3:
        values[:3] = np.asarray([0.0, -0.0, np.finfo(np.float16).smallest_subnormal]).astype(half)
    return from_flat(shape, at), values


def same_bits(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_KRN_015_what_is_packed_comes_back_bit_for_bit(kernels, half, shape):
    topology, values = drawn(shape, HALVES[half])
    packed = SETS[kernels].compact(topology, values)
    found, held = SETS[kernels].unpack(packed)
    assert same_bits(held, values)
    assert same_bits(found.indptr, topology.indptr)
    assert same_bits(found.indices, topology.indices)
    assert (packed.dtype, packed.held_in, packed.shape) == (np.float32, HALVES[half], shape)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 3, 16, 17, 33, 128, 200])
def test_KRN_015_products_are_those_of_the_float32_numbers(half, shape, n, monkeypatch):
    # in panels too, whatever the share of stored positions
    monkeypatch.setattr(layout, "PANELS_BELOW", 2.0)
    topology, values = drawn(shape, HALVES[half], share=0.6)
    values = (values.astype(np.float32) * np.float32(2.0) ** -80).astype(HALVES[half])  # products do not overflow
    wide = cpu.pack(topology, values.astype(np.float32))
    packed = cpu.compact(topology, values)
    numbers = np.random.default_rng(n)
    x, dy = (numbers.standard_normal((n, k)).astype(np.float32) for k in shape[::-1])
    assert same_bits(cpu.matmul(x, packed), cpu.matmul(x, wide))
    assert same_bits(cpu.matmul_transposed(dy, packed), cpu.matmul_transposed(dy, wide))


def test_KRN_015_three_bytes_a_weight_and_the_pointers():
    topology, values = drawn((256, 256), ml_dtypes.bfloat16)
    packed = cpu.compact(topology, values)
    assert packed.nbytes == 3 * topology.nnz + 4 * (4 * 256 + 1)


@pytest.mark.parametrize("kernels", SETS)
def test_KRN_015_other_values_are_refused(kernels):
    topology, values = drawn((5, 7), np.float16)
    with pytest.raises(KernelError, match=r"KRN-010.*float32"):
        SETS[kernels].compact(topology, values.astype(np.float32))
    with pytest.raises(KernelError, match="KRN-009"):
        SETS[kernels].compact(topology, values[:-1])
    packed = SETS[kernels].compact(topology, values)
    with pytest.raises(KernelError, match="KRN-010"):
        SETS[kernels].matmul(np.zeros((2, 7)), packed)


@pytest.mark.parametrize("kernels", SETS)
def test_KRN_016_a_sum_of_two_parts(kernels):
    kernels = SETS[kernels]
    numbers = np.random.default_rng(0)
    topology, _ = drawn((30, 70), np.float16)
    values = numbers.standard_normal(topology.nnz).astype(np.float16)
    slots = from_flat((30, 70), np.sort(numbers.choice(2100, 50, replace=False)))
    live = numbers.standard_normal(50).astype(np.float32)
    both = kernels.split(kernels.compact(topology, values), kernels.pack(slots, live))
    where = kernels.locate(both, slots, np.arange(50))
    new = live.copy()
    new[7:9] = 5.0
    both = kernels.store(both, where[7:9], new[7:9])
    dense = np.zeros(2100)
    dense[flat(topology)] = values
    dense[flat(slots)] += new
    dense = dense.reshape(30, 70)
    x, dy = numbers.standard_normal((9, 70)).astype(np.float32), numbers.standard_normal((9, 30)).astype(np.float32)
    np.testing.assert_allclose(kernels.matmul(x, both), x @ dense.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(kernels.matmul_transposed(dy, both), dy @ dense, rtol=1e-4, atol=1e-4)
    assert both.nbytes == both.frozen.nbytes + both.live.nbytes


@pytest.mark.parametrize("kernels", SETS)
def test_KRN_016_clear_leaves_its_argument_alone(kernels):
    kernels = SETS[kernels]
    topology, values = drawn((9, 70), np.float16)
    packed = kernels.compact(topology, values)
    slots = np.asarray([0, 4, topology.nnz - 1])
    cleared = kernels.clear(packed, kernels.locate(packed, topology, slots))
    expected = values.copy()
    expected[slots] = 0
    assert same_bits(kernels.unpack(cleared)[1], expected)
    assert same_bits(kernels.unpack(packed)[1], values)
    with pytest.raises(KernelError, match="KRN-012"):
        kernels.clear(packed, np.asarray([topology.nnz]))


def test_KRN_016_parts_must_fit():
    packed = reference.compact(*drawn((5, 7), np.float16))
    with pytest.raises(KernelError, match="KRN-009"):
        reference.split(packed, reference.pack_dense(np.zeros((7, 5), np.float32)))
    with pytest.raises(KernelError, match="KRN-010"):
        reference.split(packed, reference.pack_dense(np.zeros((5, 7))))


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("n_slots", [0, 1, 40])
def test_CKP_008_a_base_opens_to_its_bits_under_any_delta(kernels, half, n_slots):
    kernels, shape = SETS[kernels], (12, 70)
    topology, values = drawn(shape, HALVES[half])
    base = Base(topology, values.astype(np.float32))
    slots = np.sort(np.random.default_rng(n_slots).choice(840, n_slots, replace=False))
    if n_slots > 3:
        slots = np.union1d(slots, flat(topology)[:3])  # zeros and a subnormal
    delta = new_delta(shape, slots, base.values)
    delta.values[:] = np.float32(0.25)
    held, packed, where, under = compacted(base, delta, HALVES[half], kernels)
    opened = held.open()
    assert same_bits(opened.values, base.values)
    assert same_bits(flat(opened.topology), flat(topology))
    assert (held.nnz, held.shape, held.held_in) == (topology.nnz, shape, HALVES[half])
    # the live part holds the effective weights, rounded once (DLT-003), and the frozen one nothing there
    support, weight = effective(base, delta)
    at = np.searchsorted(flat(support), slots)
    np.testing.assert_array_equal(under + delta.values, weight[at])
    live = kernels.unpack(packed.live)[1] if packed.live.opens else packed.live.values[where]
    assert same_bits(live, weight[at])
    frozen, left = kernels.unpack(packed.frozen)
    assert not left[np.isin(flat(frozen), slots)].any()


def run(folder, kernels, settings, tokens, compact):
    model = load_model(folder, kernels, compact=compact)
    first = step_batches(settings, tokens, 1, model.weights)
    state = initial_state(settings, model.config, model.weights, model.bases, kernels, first)
    losses = []
    for after, record in train(state, settings, model.config, tokens, kernels):
        state = after
        losses.append(record.loss)
    return state, finish(state, settings, model.config, tokens, kernels), losses


@pytest.fixture
def tokens(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return lambda folder: read_tokens(tmp_path / "text.txt", folder)


CHOICES = {
    "seft": {},
    "row": {"scope": "row"},
    "model": {"scope": "model"},
    "window": {"gradient_window": 2},
    "first-step": {"preset": "spiel-ag", "gradient_window": 1},
    "anywhere": {"initial_scope": "anywhere", "adapts": "never"},
    "magnitude": {"initial_positions": "magnitude"},
    "weight": {"preset": "rigl"},
}


# one set of kernels shows every rule, one rule the other type, and one with slots outside the base, too, the other sets
@pytest.mark.parametrize(
    ("choice", "kernels", "half"),
    [
        *((choice, "cpu", BF16) for choice in CHOICES),
        *((choice, kernels, BF16) for choice in ("seft", "anywhere") for kernels in SETS if kernels != "cpu"),
        *(("seft", kernels, np.float16) for kernels in SETS),
    ],
)
def test_CKP_008_a_compact_run_is_the_run(tmp_path, tokens, kernels, half, choice):
    kernels = SETS[kernels]
    folder = sparse_folder(tmp_path / "model", dtype=half)
    changes = {"steps": 8, "batch": 2, "length": 12, "density": 0.1, "evolve_every": 3, "lr": 1e-2} | CHOICES[choice]
    settings = settings_of(changes.pop("preset", "seft"), **changes)
    plain, expected, losses = run(folder, kernels, settings, tokens(folder), compact=False)
    state, found, compact_losses = run(folder, kernels, settings, tokens(folder), compact=True)
    np.testing.assert_allclose(compact_losses, losses, rtol=1e-5)
    assert all(isinstance(target.base, PackedBase) for target in state.targets.values())
    for name in expected:
        (topology, values), (other, others) = expected[name], found[name]
        np.testing.assert_array_equal(flat(topology), flat(other), err_msg=name)
        np.testing.assert_allclose(others, values, rtol=1e-3, atol=1e-5, err_msg=name)
        base, held = plain.targets[name].base.open(), state.targets[name].base.open()
        assert same_bits(held.values, base.values), name
        assert same_bits(flat(held.topology), flat(base.topology)), name
    save_model(folder, tmp_path / "out", found)


def test_CKP_008_a_compact_run_resumes(tmp_path, tokens):
    folder = sparse_folder(tmp_path / "model", dtype=BF16)
    settings = settings_of("seft", steps=7, batch=2, length=12, density=0.1, evolve_every=3, lr=1e-2)
    _, expected, _ = run(folder, cpu, settings, tokens(folder), compact=True)
    model = load_model(folder, cpu, compact=True)
    first = step_batches(settings, tokens(folder), 1, model.weights)
    state = initial_state(settings, model.config, model.weights, model.bases, cpu, first)
    for after, record in train(state, settings, model.config, tokens(folder), cpu):
        state = after
        if record.step == 4:
            break
    origin = Origin("model", "text")
    save_state(tmp_path / "run.state", state, settings, origin)
    for compact in (True, False):
        again = load_model(folder, cpu, compact=compact)
        state = load_state(tmp_path / "run.state", again.weights, settings, origin, cpu)
        assert all((target.base.held_in is not None) == compact for target in state.targets.values())
        for after, _record in train(state, settings, again.config, tokens(folder), cpu):
            state = after
        found = finish(state, settings, again.config, tokens(folder), cpu)
        for name, (topology, values) in expected.items():
            np.testing.assert_array_equal(flat(found[name][0]), flat(topology))
            if compact:
                assert same_bits(found[name][1], values)


def test_CKP_008_what_has_no_16_bits_is_refused(tmp_path):
    folder = sparse_folder(tmp_path / "single")
    with pytest.raises(CheckpointError, match=r"CKP-008.*stored as float32"):
        load_model(folder, cpu, compact=True)
    half = sparse_folder(tmp_path / "half", dtype=BF16)
    with pytest.raises(CheckpointError, match=r"CKP-008.*computed with in float64"):
        load_model(half, cpu, "float64", compact=True)


def test_CKP_008_a_base_without_a_delta():
    topology, values = drawn((5, 7), np.float16)
    held = compact_base(topology, values, reference)
    assert same_bits(held.values, values.astype(np.float32))
    assert same_bits(flat(held.topology), flat(topology))
    assert held.numel == 35


@pytest.mark.parametrize("kernels", SETS)
def test_KRN_015_memory_of_a_matrix_that_is_no_smaller(kernels):
    kernels = SETS[kernels]
    topology, values = drawn((9, 70), np.float16)
    old = kernels.compact(topology, values)
    fewer, kept = from_flat((9, 70), flat(topology)[::2]), np.ascontiguousarray(values[::2])
    new = kernels.compact(fewer, kept, old)
    found, held = kernels.unpack(new)
    assert same_bits(held, kept)
    assert same_bits(flat(found), flat(fewer))
    if kernels is cpu:
        assert np.shares_memory(new.values, old.values)
        with pytest.raises(KernelError, match="KRN-009"):
            kernels.compact(topology, values, new)
        with pytest.raises(KernelError, match="KRN-009"):
            kernels.compact(from_flat((70, 9), flat(fewer)), kept, old)
        with pytest.raises(KernelError, match="KRN-010"):
            kernels.compact(fewer, kept.astype(ml_dtypes.bfloat16), old)
