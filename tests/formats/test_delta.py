"""Deltas: there and applied again, chains, and what is refused (12.10)."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import formats
from formats import change, delta, digest
from formats.records import bits, flat

F32 = np.float32


def checkpoint(tensors, **more):
    return formats.Checkpoint("model", tensors, **more)


def sparse(rows, dtype=np.float16):
    """None is absent, a number is stored: zeros can be."""
    shape = (len(rows), len(rows[0]))
    at = [(r, c) for r, row in enumerate(rows) for c, x in enumerate(row) if x is not None]
    mask = formats.from_flat(shape, np.array([r * shape[1] + c for r, c in at], np.int64))
    return formats.with_values(mask, np.array([rows[r][c] for r, c in at], dtype))


N = None
BASE = {
    "grown": sparse([[1, N, N], [N, 2, N], [3, 4, N]]),
    "same": formats.Dense(np.arange(3, dtype=np.int64)),
    "dense": formats.Dense(np.array([[1.5, -0.0], [2.5, 3.5]], F32)),
    "gone": formats.Dense(np.array(True)),
    "cast": sparse([[1, N]]),
    "mask": formats.from_support(np.array([True, False])),
}
TARGET = {
    # 2 leaves, 0 is grown at (0, 1), 3 changes, 4 stays
    "grown": sparse([[1, 0, N], [N, N, N], [3.5, 4, N]]),
    "same": BASE["same"],
    "dense": formats.Dense(np.array([[1.5, 0.0], [2.5, 3.5]], F32)),
    "new": sparse([[N, -0.0]], np.float64),
    "cast": sparse([[1, N]], np.float32),
    "mask": formats.from_support(np.array([True, True])),
}


def same_model(a, b, same):
    assert list(a.tensors) == sorted(b.tensors)
    return all(same(a.tensors[n], b.tensors[n]) for n in a.tensors) and (a.tied, a.scales) == (b.tied, b.scales)


@pytest.fixture
def ends():
    base = checkpoint(BASE, tied={"t": "same"}, files={"config.json": b"{}", "old.txt": b"1"})
    target = checkpoint(
        TARGET,
        attributes={"step": 9},
        files={"config.json": b"{}", "old.txt": b"2"},
        scales={"dense": {"scale": "new"}},
    )
    return base, target


def test_FMT_131_FMT_132_FMT_134_FMT_136_a_delta_leads_from_base_to_target(tmp_path, ends, same):
    base, target = ends
    formats.write(tmp_path / "d", delta.diff(base, target))
    with formats.open(tmp_path / "d") as reader:
        made = delta.verified(reader)
        assert list(reader.names()) == [
            "remove:grown",
            "replace:dense",
            "replace:grown",
            "whole:cast",
            "whole:mask",
            "whole:new",
        ]
        assert flat(reader["remove:grown"]).tolist() == [4]
        assert flat(reader["replace:grown"]).tolist() == [1, 6]
        assert reader["replace:grown"].values.tolist() == [0, 3.5]
        assert bits(reader["replace:dense"].values).tolist() == [0]
        assert reader.delta.tensors["gone"][1] is None
        assert reader.delta.tensors["new"][0] is None
        assert dict(reader.files) == {"old.txt": b"2"}
        result = delta.apply(base, [made])
        assert same_model(result, target, same)
        assert result.attributes == {"step": 9}
        assert dict(result.files) == {"config.json": b"{}", "old.txt": b"2"}


def test_FMT_134_replacing_twice_is_replacing_once():
    once = change.apply(BASE["dense"], change.between(BASE["dense"], TARGET["dense"], "replace", "w"), "w")
    again = change.apply(once, change.between(BASE["dense"], TARGET["dense"], "replace", "w"), "w")
    assert once.values.tobytes() == again.values.tobytes() == TARGET["dense"].values.tobytes()


numbers = st.sampled_from([None, 0.0, -0.0, 1.0, -1.5, float("nan"), 3e38])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12), st.booleans(), st.booleans())
def test_FMT_134_any_two_tensors(cells, dense_base, dense_target):
    ends = []
    for i, full in ((0, dense_base), (1, dense_target)):
        row = [0.0 if full and pair[i] is None else pair[i] for pair in cells]
        tensor = sparse([row], F32)
        ends.append(formats.Dense(formats.to_dense(tensor)) if full else tensor)
    base, target = ends
    made = change.apply(base, change.between(base, target, "replace", "w"), "w")
    assert digest.of_content(made) == digest.of_content(target)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_FMT_135_sums_by_a_plain_loop(dtype):
    rng = np.random.default_rng(5)
    base = formats.Dense(rng.standard_normal((7, 5)).astype(dtype))
    at = np.array([0, 3, 17, 34])
    amounts = rng.standard_normal(4).astype(F32) * F32(1e-2)
    made = change.apply(base, {"add": formats.with_values(formats.from_flat((7, 5), at), amounts)}, "w")
    expected = base.values.copy()
    for position, amount in zip(at, amounts, strict=True):
        total = float(expected.flat[position]) + float(amount)
        expected.flat[position] = np.dtype(dtype).type(total if dtype == np.float64 else F32(total))
    assert made.values.tobytes() == expected.tobytes()


def test_FMT_135_a_sum_joins_the_support_and_starts_from_0():
    base = sparse([[1, N], [N, 2]])
    amounts = formats.with_values(formats.from_flat((2, 2), np.array([1, 3])), np.array([0.5, -2], F32))
    made = change.apply(base, {"add": amounts}, "w")
    assert (flat(made).tolist(), made.values.tolist()) == ([0, 1, 3], [1, 0.5, 0])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_FMT_135_differences_lead_to_the_target_bit_for_bit(dtype, same):
    rng = np.random.default_rng(6)
    old = rng.standard_normal((6, 9)).astype(dtype)
    new = (old.astype(F32) * (1 + 1e-2 * rng.standard_normal((6, 9)))).astype(dtype)
    base, target = checkpoint({"w": formats.Dense(old)}), checkpoint({"w": formats.Dense(new)})
    made = delta.diff(base, target, "add")
    assert list(made.tensors) == ["add:w"]
    assert same(delta.apply(base, [made]).tensors["w"], target.tensors["w"])


@pytest.mark.parametrize(
    ("operation", "expected"), [("replace", [5, 7, 9, 11]), ("add", [6, 7, 11, 11])], ids=["replace", "add"]
)
def test_FMT_005_a_change_of_every_position_may_be_dense(operation, expected):
    base, values = sparse([[1, N], [2, N]], F32), np.array([[5, 7], [9, 11]], F32)
    for change_of_all in (formats.Dense(values), sparse(values.tolist(), F32)):
        made = change.apply(base, {operation: change_of_all}, "w")
        assert (flat(made).tolist(), made.values.tolist()) == ([0, 1, 2, 3], expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_FMT_135_sums_at_every_position_are_applied_as_they_are_read(dtype, tmp_path, same):
    old = np.arange(6, dtype=dtype).reshape(2, 3)
    base, target = checkpoint({"w": formats.Dense(old)}), checkpoint({"w": formats.Dense(old + dtype(1))})
    formats.write(tmp_path / "d", delta.diff(base, target, "add"))
    with formats.open(tmp_path / "d") as reader:
        assert same(delta.apply(base, [delta.verified(reader)]).tensors["w"], target.tensors["w"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (formats.Dense(np.array([1e30], F32)), formats.Dense(np.array([1e-30], F32))),
        (formats.Dense(np.array([1.0], F32)), formats.Dense(np.array([np.nan], F32))),
        (formats.Dense(np.array([1.0], F32)), formats.Dense(np.array([-0.0], F32))),
        (formats.Dense(np.array([1], np.int8)), formats.Dense(np.array([2], np.int8))),
        (sparse([[1, 2]]), sparse([[1, N]])),
    ],
)
def test_FMT_135_a_target_that_no_sum_reaches_is_refused(old, new):
    with pytest.raises(formats.FormatError, match=r"FMT-135.*use replace"):
        change.between(old, new, "add", "w")


@pytest.mark.parametrize(
    ("dtype", "quiet"), [(np.float32, 0x00400000), (np.float16, 0x0200), (ml_dtypes.bfloat16, 0x0040)]
)
def test_FMT_135_a_signalling_nan_is_refused_without_a_warning(dtype, quiet):
    dtype = np.dtype(dtype)
    nan = (np.array([np.nan], dtype).view(f"u{dtype.itemsize}") & ~np.array(quiet, f"u{dtype.itemsize}")) | 1
    base = formats.Dense(nan.view(dtype))
    amount = formats.Dense(np.ones(1, np.float32))
    with pytest.raises(formats.FormatError, match="FMT-135"):
        change.apply(base, {"add": amount}, "w")


def test_FMT_135_a_sum_that_overflows_is_refused():
    base = formats.Dense(np.array([60000], np.float16))
    amount = formats.with_values(formats.from_flat((1,), np.array([0])), np.array([60000], F32))
    with pytest.raises(formats.FormatError, match=r"FMT-135.*cannot hold"):
        change.apply(base, {"add": amount}, "w")


def mask_of(shape, *at):
    return formats.from_flat(shape, np.array(at, np.int64))


def test_FMT_133_only_a_whole_comes_from_nothing():
    with pytest.raises(formats.FormatError, match="FMT-133"):
        change.apply(None, {"remove": mask_of((2,), 0)}, "w")


# chains ------------------------------------------------------------------------------------------


def models(count):
    rng = np.random.default_rng(1)
    values, found = rng.standard_normal((5, 8)).astype(np.float16), []
    for _ in range(count):
        values = values.copy()
        values.flat[rng.integers(0, 40, 3)] = rng.standard_normal(3)
        found.append(checkpoint({"a": formats.from_dense(values), "b": formats.Dense(values[:1])}))
    return found


def test_FMT_139_a_chain_leads_to_its_end_and_only_in_order(same):
    a, b, c, d = models(4)
    steps = [delta.diff(a, b), delta.diff(b, c), delta.diff(c, d)]
    assert same_model(delta.apply(a, steps), d, same)
    with pytest.raises(formats.FormatError, match=r"FMT-139.*delta 2 does not start where delta 1 ends"):
        delta.apply(a, [steps[0], steps[2]])
    with pytest.raises(formats.FormatError, match=r"FMT-137.*'a' differs"):
        delta.apply(c, steps)
    with pytest.raises(formats.FormatError, match=r"FMT-137.*has been applied already"):
        delta.apply(b, steps)


def test_FMT_137_each_listed_tensor_is_the_one_of_the_base():
    a, b, *_ = models(2)
    step = delta.diff(a, b)
    name, (_, target) = next(iter(step.delta.tensors.items()))
    wrong = replace(step.delta, tensors={**step.delta.tensors, name: ("0" * 64, target)})
    with pytest.raises(formats.FormatError, match=f"FMT-137.*delta 1 lists '{name}'"):
        delta.apply(a, [replace(step, delta=wrong)])


def test_FMT_137_the_rest_of_the_base_counts_too():
    a, b, *_ = models(2)
    step = delta.diff(a, b)
    other = checkpoint({**a.tensors, "c": BASE["same"]})
    with pytest.raises(formats.FormatError, match=r"FMT-137.*not changed"):
        delta.apply(other, [step])
    with pytest.raises(formats.FormatError, match=r"FMT-131.*not a delta"):
        delta.apply(a, [b])
    with pytest.raises(formats.FormatError, match=r"FMT-131.*no base"):
        delta.apply(step, [step])


def test_FMT_138_a_result_is_what_was_promised(tmp_path):
    a, b, *_ = models(2)
    step = delta.diff(a, b)
    name = next(n for n in step.tensors if n.startswith("replace:a"))
    good = step.tensors[name]
    spoiled = formats.with_values(good, -good.values)
    wrong = replace(step, tensors={**step.tensors, name: spoiled})
    result = delta.apply(a, [wrong])
    with pytest.raises(formats.FormatError, match=r"FMT-138.*'a' becomes"):
        formats.write(tmp_path / "out", result)
    assert list(tmp_path.iterdir()) == []
    # what the next delta takes away is judged too, though nothing of it is left
    rest = checkpoint({name: b.tensors[name] for name in b.tensors if name != "a"})
    with pytest.raises(formats.FormatError, match=r"FMT-138.*'a' becomes"):
        delta.apply(a, [wrong, delta.diff(b, rest)])
    lied = replace(step, delta=replace(step.delta, target_sha256="0" * 64))
    with pytest.raises(formats.FormatError, match="FMT-138"):
        delta.apply(a, [lied])


def test_changes_become_a_delta_that_knows_both_ends(same):
    base = checkpoint({"a": BASE["grown"], "b": BASE["dense"]})
    amounts = formats.with_values(mask_of((3, 3), 1, 4), np.array([0.25, 1], F32))
    made = delta.from_changes(base, "add", {"a": amounts}, {"from": "test"})
    assert (list(made.tensors), made.attributes) == (["add:a"], {"from": "test"})
    result = delta.apply(base, [made])
    assert flat(result.tensors["a"]).tolist() == [0, 1, 4, 6, 7]
    assert result.tensors["a"].values.tolist() == [1, 0.25, 3, 3, 4]
    assert same(result.tensors["b"], BASE["dense"])
    none = formats.with_values(mask_of((3, 3), 0), np.zeros(1, F32))
    with pytest.raises(formats.FormatError, match=r"FMT-131.*nothing to store"):
        delta.from_changes(base, "add", {"a": none})


def test_equal_models_and_unknown_operations_make_no_delta():
    base = checkpoint(BASE)
    with pytest.raises(formats.FormatError, match=r"FMT-131.*same model"):
        delta.diff(base, base)
    with pytest.raises(formats.FormatError, match="FMT-084"):
        delta.diff(base, checkpoint(TARGET), "xor")


# what a file can show ----------------------------------------------------------------------------

D1, D2 = "1" * 64, "2" * 64
W = sparse([[1, N]])
OWN = {
    "FMT_132_an_operation": ({"w": W}, {"w": (D1, D2)}),
    "FMT_132_a_known_operation": ({"xor:w": W}, {"w": (D1, D2)}),
    "FMT_132_a_listed_name": ({"replace:v": W}, {"w": (D1, D2)}),
    "FMT_131_only_what_changes": ({"replace:w": W}, {"w": (D1, D1)}),
    "FMT_132_something_for_each_name": ({}, {"w": (D1, D2)}),
    "FMT_132_new_ones_are_whole": ({"replace:w": W}, {"w": (None, D2)}),
    "FMT_132_what_goes_is_not_stored": ({"whole:w": W}, {"w": (D1, None)}),
    "FMT_132_what_goes_together": ({"whole:w": W, "replace:w": W}, {"w": (D1, D2)}),
    "FMT_132_add_stands_alone": ({"add:w": W, "replace:w": W}, {"w": (D1, D2)}),
}


@pytest.mark.parametrize("case", OWN)
def test_own_rules(tmp_path, case, refused):
    tensors, listed = OWN[case]
    described = formats.DeltaOf(D1, D2, listed)
    with refused:
        formats.write(tmp_path / "d", formats.Checkpoint("delta", tensors, delta=described))
    assert list(tmp_path.iterdir()) == []


def test_FMT_130_a_delta_has_a_description_and_nothing_else_has_one(tmp_path):
    described = formats.DeltaOf(D1, D2, {"w": (D1, D2)})
    for bad in (formats.Checkpoint("delta", {"replace:w": W}), formats.Checkpoint("model", {"w": W}, delta=described)):
        with pytest.raises(formats.FormatError, match="FMT-130"):
            formats.write(tmp_path / "d", bad)
    tied = formats.Checkpoint("delta", {"replace:w": W}, tied={"a": "replace:w"}, delta=described)
    with pytest.raises(formats.FormatError, match=r"FMT-130.*of its own"):
        formats.write(tmp_path / "d", tied)


@pytest.mark.parametrize(
    ("target", "clause"),
    [
        ({"tied": {"a": "a"}}, "FMT-010"),
        ({"tied": {"a#": "b"}}, "FMT-009"),
        ({"scales": {"w": {"": "b"}}}, "FMT-016"),
        ({"scales": {"w": {}}}, "FMT-016"),
        ({"scales": {"w": {"scale": "w"}}}, "FMT-016"),
    ],
)
def test_FMT_131_ties_and_scales_of_the_target_have_their_form(tmp_path, target, clause):
    described = formats.DeltaOf(D1, D2, {"w": (D1, D2)}, **target)
    with pytest.raises(formats.FormatError, match=clause):
        formats.write(tmp_path / "d", formats.Checkpoint("delta", {"replace:w": W}, delta=described))


def test_a_delta_in_parts(tmp_path, ends, same):
    base, target = ends
    formats.write(tmp_path / "d", delta.diff(base, target), shard_bytes=1)
    assert len(list((tmp_path / "d").glob("*.safetensors"))) == 6
    with formats.open(tmp_path / "d") as reader:
        assert same_model(delta.apply(base, [delta.verified(reader)]), target, same)
