"""Bases in the dtype of computation that are held nowhere but in what is multiplied (KRN-017)."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from seft_ref import finish, initial_state, load_model, read_tokens, settings_of, step_batches, train
from seft_ref.kernels import cpu, reference
from seft_ref.kernels.cpu import packed as layout
from seft_ref.matrix.bases import PackedBase, compacted, in_packed, merged, not_held, with_moved_slots
from seft_ref.matrix.window import support_of
from seft_ref.model.weights import matrix_of
from seft_ref.quantise.grid import nearest, parse_grid
from seft_ref.topology.csr import Located, Topology, flat, from_flat
from seft_ref.update.delta import Base, effective, new_delta
from tests.kernels.sets import NAMED
from tests.seft_ref.folders import TEXT, sparse_folder

SHAPES = [(1, 1), (5, 7), (64, 64), (130, 200), (3, 257), (33, 0), (0, 4)]


def drawn(shape, dtype, share=0.4, seed=0):
    """Positions and values, subnormals and both zeros among them."""
    numbers = np.random.default_rng(seed)
    at = np.flatnonzero(numbers.random(shape[0] * shape[1]) < share)
    values = numbers.standard_normal(at.size).astype(dtype)
    if at.size > 3:
        values[:4] = [0.0, -0.0, np.finfo(dtype).smallest_subnormal, -np.finfo(dtype).max]
    return from_flat(shape, at), values


def same_bits(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def same_base(a, b):
    return same_bits(a.values, b.values) and all(
        same_bits(np.asarray(getattr(a.topology, part)), np.asarray(getattr(b.topology, part)))
        for part in ("indptr", "indices")
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernels", [k for k in NAMED if k != "reference"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_KRN_017_what_opens_comes_back_bit_for_bit_as_the_last_store_left_it(kernels, dtype, shape):
    kernels = NAMED[kernels]
    topology, values = drawn(shape, dtype, share=0.2)
    packed = kernels.pack(topology, values)
    if not packed.opens:
        # the GPU's set holds a matrix of few columns densely
        assert topology.nnz == 0 or topology.shape[1] < 8 or 4 * topology.nnz >= topology.numel
        return
    found, held = kernels.unpack(packed)
    assert same_base(Base(found, held), Base(topology, values))
    slots = np.arange(0, topology.nnz, 3)
    packed = kernels.store(packed, kernels.locate(packed, topology, slots), np.full(slots.size, 7, dtype=dtype))
    assert same_bits(held, values), "what was opened is not the memory that store writes to"
    values[slots] = 7
    found, held = kernels.unpack(packed)
    assert same_base(Base(found, held), Base(topology, values))


def test_KRN_017_a_dense_matrix_does_not_open():
    assert not cpu.pack(*drawn((64, 64), "float32", share=0.9)).opens
    assert not cpu.pack_dense(np.ones((3, 4))).opens
    assert cpu.pack(*drawn((64, 64), "float32", share=0.5)).opens
    assert reference.compact(*drawn((5, 7), "float16")).opens


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernels", NAMED)
@pytest.mark.parametrize("n_slots", [0, 1, 60, 840])
def test_KRN_017_a_base_opens_to_its_bits_under_any_delta(kernels, dtype, n_slots):
    kernels, shape = NAMED[kernels], (12, 70)
    topology, values = drawn(shape, dtype, share=0.15)
    base = Base(topology, values.copy())
    slots = np.sort(np.random.default_rng(n_slots).choice(840, n_slots, replace=False))
    if n_slots > 3:
        slots = np.union1d(slots, flat(topology)[:4])
    delta = new_delta(shape, slots, base.values)
    delta.values[:] = 0.25
    held, packed, where, under = merged(base, delta, kernels)
    assert isinstance(held, PackedBase) == packed.opens
    assert (held.nnz, held.shape, held.numel, held.held_in) == (topology.nnz, shape, 840, None)
    assert same_base(held.open(), Base(topology, values))
    support, weight = effective(base, delta)
    # its own slots are in the packed matrix, others are not
    for eta in (delta.topology, from_flat(shape, slots[::2])):
        assert np.array_equal(flat(support_of(held, eta)), np.union1d(flat(topology), flat(eta)))
    at = np.searchsorted(flat(support), slots)
    assert same_bits(under + delta.values, weight[at])
    # whatever training stores at the slots, the base stays what it was
    kernels.store(packed, where, np.full(slots.size, np.nan, dtype=dtype))
    assert same_base(held.open(), Base(topology, values))


def test_KRN_017_a_base_alone_is_the_packed_matrix():
    topology, values = drawn((40, 70), "float32", share=0.3)
    base = Base(topology, values)
    for kernels in (cpu, reference):
        packed = kernels.pack(topology, values)
        held = in_packed(base, packed, kernels)
        assert isinstance(held, PackedBase) == packed.opens
        assert same_base(held.open(), base)


def test_KRN_017_a_base_that_is_held_by_itself_keeps_no_positions():
    topology, values = drawn((5, 7), "float32")
    packed = cpu.pack(topology, values)
    opened, *_ = merged(Base(topology, values), new_delta((5, 7), flat(topology)[::3], values), cpu, loaded=packed)
    opened = opened.open()
    assert isinstance(opened.topology, Located)
    base, again, _, _ = merged(opened, new_delta((5, 7), flat(topology)[:3], values), reference)
    assert not again.opens
    assert type(base.topology) is Topology
    assert same_base(base, Base(topology, values))


def test_KRN_011_memory_that_suffices_is_used_again_and_other_memory_is_not():
    large, values = drawn((40, 70), "float32", share=0.3)
    small, others = drawn((40, 70), "float32", share=0.2, seed=1)
    spent = cpu.pack(large, values)
    again = cpu.pack(small, others, spent)
    assert np.shares_memory(again.values, spent.values)
    assert same_base(Base(*cpu.unpack(again)), Base(small, others))
    larger = cpu.pack(large, values, again)
    assert not np.shares_memory(larger.values, again.values)
    for other in (
        cpu.pack(*drawn((40, 70), "float64", share=0.3)),
        cpu.pack(*drawn((70, 40), "float32", share=0.5)),
        cpu.pack(*drawn((40, 70), "float32", share=0.9)),
    ):
        found = cpu.pack(small, others, other)
        assert not np.shares_memory(found.values, other.values)
        assert same_base(Base(*cpu.unpack(found)), Base(small, others))


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"scope": "row"},
        {"scope": "model"},
        {"gradient_window": 2},
        {"preset": "spiel-ag", "gradient_window": 1},
        {"preset": "rigl"},
        {"initial_scope": "anywhere", "adapts": "never"},
        {"initial_positions": "magnitude"},
        {"initial_positions": "gradient", "initial_scope": "anywhere", "adapts": "never"},
    ],
    ids=lambda choice: "-".join(map(str, choice.values())) or "seft",
)
def test_KRN_017_a_run_decides_as_with_bases_of_their_own(tmp_path, choice, monkeypatch):
    folder = sparse_folder(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    tokens = read_tokens(tmp_path / "text.txt", folder)
    changes = {"steps": 8, "batch": 2, "length": 12, "density": 0.1, "evolve_every": 3, "lr": 1e-2} | choice
    settings = settings_of(changes.pop("preset", "seft"), **changes)

    def run(kind):
        model = load_model(folder, cpu, "float64")
        assert {type(base) for base in model.bases.values()} == {kind}
        first = step_batches(settings, tokens, 1, model.weights)
        start = initial_state(settings, model.config, model.weights, model.bases, cpu, first)
        for state, record in train(start, settings, model.config, tokens, cpu):  # noqa: B007
            assert {type(target.base) for target in state.targets.values()} == {kind}
        for name, target in state.targets.items():
            assert kind is Base or target.base.packed.values is matrix_of(state.weights, name).values
        return finish(state, settings, model.config, tokens, cpu), record

    found, record = run(PackedBase)
    monkeypatch.setattr(layout.PackedPanels, "opens", property(lambda packed: packed.held_in is not None))
    expected, plain = run(Base)
    assert record.loss == plain.loss
    for name in expected:
        assert same_base(Base(*found[name]), Base(*expected[name]))


HELD = [None, np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), "int8", "int4:g16", "int4:g32:asym", "exact"]


@pytest.mark.parametrize("held_in", HELD, ids=str)
@pytest.mark.parametrize("kernels", [k for k in NAMED if k != "reference"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_CKP_008_slots_that_move_within_the_base_leave_what_packing_anew_makes(kernels, held_in, share):
    if isinstance(held_in, str) and kernels == "gpu":
        pytest.skip("this set holds no codes")
    kernels, shape, numbers = NAMED[kernels], (40, 96), np.random.default_rng(5)
    topology, values = drawn(shape, "float32", share=0.2)
    values = np.clip(values, -9, 9)
    if isinstance(held_in, str):
        grid = parse_grid("int4:g48" if held_in == "exact" else held_in)
        dense = np.zeros(topology.numel, dtype=np.float32)
        dense[flat(topology)] = values
        held_in = replace(nearest(dense.reshape(shape), topology, grid), exact=held_in == "exact")
        values = held_in.weights()
    elif held_in is not None:
        values = values.astype(held_in).astype(np.float32)
    stored = flat(topology)
    first, then = (np.sort(numbers.choice(stored, int(share * stored.size), replace=False)) for _ in range(2))
    then = np.union1d(then, stored[:4])[: max(first.size, 1)]  # both zeros among them

    def place(delta, base):
        return merged(base, delta, kernels) if held_in is None else compacted(base, delta, held_in, kernels)

    def at(positions):
        delta = new_delta(shape, positions, values)
        delta.values[:] = np.where(positions % 3, numbers.standard_normal(positions.size), 0)
        return delta

    before, packed, where, under = place(at(first), Base(topology, values.copy()))
    kernels.store(packed, where, under + np.float32(0.5))  # as training does
    after = at(then)
    expected = place(after, Base(topology, values.copy()))
    moved = with_moved_slots(before, before.open(), after)
    assert moved is not None
    for found, wanted in zip(moved[2:], expected[2:], strict=True):
        assert same_bits(np.asarray(found), np.asarray(wanted))
    assert same_base(moved[0].open(), Base(topology, values))
    bits = [getattr(base.held_in, "bits", base.held_in) for base in (moved[0], expected[0])]
    assert (moved[0].nnz, bits[0]) == (expected[0].nnz, bits[1])
    x, dy = numbers.standard_normal((3, 96)).astype(np.float32), numbers.standard_normal((3, 40)).astype(np.float32)
    for product, operand in ((kernels.matmul, x), (kernels.matmul_transposed, dy)):
        assert same_bits(product(operand, moved[1]), product(operand, expected[1]))
    # training goes on in what was moved, and the base stays what it was
    kernels.store(moved[1], moved[2], np.full(then.size, np.nan, dtype=np.float32))
    assert same_base(moved[0].open(), Base(topology, values))


def test_CKP_008_a_base_with_weights_beside_its_codes_is_packed_anew():
    shape, (topology, values) = (40, 96), drawn((40, 96), "float32", share=0.2)
    dense = np.zeros(topology.numel, dtype=np.float32)
    dense[flat(topology)] = np.clip(values, -9, 9)
    codes = nearest(dense.reshape(shape), topology, parse_grid("int4:g16"))
    weights = codes.weights()
    weights[[3, 9]] += np.float32(0.01)
    base, first = Base(topology, weights), new_delta(shape, flat(topology)[::5], weights)
    before, *_ = compacted(base, first, codes, cpu, beside=not_held(base, codes))
    assert with_moved_slots(before, before.open(), new_delta(shape, flat(topology)[1::5], weights)) is None


def test_CKP_008_a_base_that_has_changed_is_packed_anew():
    topology, values = drawn((40, 70), "float32", share=0.2)
    base = Base(topology, values)
    inside, outside = flat(topology)[::3], np.setdiff1d(np.arange(2800), flat(topology))[::50]
    held, *_ = merged(base, new_delta((40, 70), inside, values), cpu)
    assert with_moved_slots(held, held.open(), new_delta((40, 70), outside, values)) is None
    fewer = Base(topology.without_slots(np.array([3])), np.delete(values, 3))
    assert with_moved_slots(held, fewer, new_delta((40, 70), inside[2:], values)) is None
    beyond, *_ = merged(base, new_delta((40, 70), outside, values), cpu)
    assert with_moved_slots(beyond, beyond.open(), new_delta((40, 70), inside, values)) is None
