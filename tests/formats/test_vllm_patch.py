"""Patches of vLLM against a plain receiver and a plain sender of their own (FMT-169)."""

from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest

import formats
from formats import Checkpoint, Dense, FormatError, delta
from formats.dialects.sources import open_source
from formats.errors import CannotHold
from formats.records import Mask

torch = pytest.importorskip("torch")
from formats.dialects import vllm_patch  # noqa: E402  # torch may be absent
from formats.dialects.torch_tensors import from_torch, to_torch  # noqa: E402
from formats.dialects.vllm_patch import WeightPatch, delta_from_patches, delta_to_patches  # noqa: E402

FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


class CheckpointWeightPatch(NamedTuple):
    """The fields of vLLM 0.33."""

    name: str
    shape: tuple
    dtype: torch.dtype
    values: torch.Tensor
    indices: torch.Tensor | None = None


@dataclass
class SparseWeightPatch:
    """The fields of vLLM 0.33."""

    name: str
    indices: torch.Tensor
    values: torch.Tensor
    full_shape: tuple


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    weights = {f"w.{np.dtype(d).name}": rng.integers(-9, 9, (5, 7)).astype(d) for d in FLOATS}
    for values in weights.values():
        values[0, 0], values[4, 6] = 0, np.nan
    return weights | {"norm": np.ones(3, np.float32), "cube": np.ones((2, 3, 4), np.float16), "ids": np.arange(4)}


def changed(before, seed=1):
    rng = np.random.default_rng(seed)
    after = {name: values.copy() for name, values in before.items()}
    for name in ("cube", *(name for name in before if name.startswith("w."))):
        at = np.flatnonzero(rng.random(after[name].size) < 0.3)
        special = np.array([-0.0, 0.0, np.inf, -np.inf, 2.0**-14, 1 / 3]).astype(after[name].dtype)
        at = at[at < 34]  # the NaN stays
        after[name].reshape(-1)[at] = special[rng.integers(len(special), size=at.size)]
        after[name].reshape(-1)[0] = -0.0
    return after


def model(of):
    return Checkpoint("model", {name: Dense(values) for name, values in of.items()})


def sparse(of):
    """The matrices sparse, zeros absent; −0.0 stays stored."""
    tensors = {n: formats.from_dense(v, "positive") if v.ndim > 1 else Dense(v) for n, v in of.items()}
    return Checkpoint("model", tensors)


def received(before, patches):
    """What a server makes of patches: positions of its own weights in a loop."""
    state = {name: values.copy() for name, values in before.items()}
    for patch in patches:
        flat, shape = state[patch.name].reshape(-1), state[patch.name].shape
        assert (patch.shape, patch.full_shape) == (shape, shape)
        assert patch.values.dtype == patch.dtype
        for index, value in zip(patch.indices.tolist(), from_torch(patch.values), strict=True):
            flat[index] = value
    return {name: values.tobytes() for name, values in state.items()}


def of_bytes(arrays):
    return {name: values.tobytes() for name, values in arrays.items()}


def expanded(checkpoint):
    return {name: formats.to_dense(tensor).tobytes() for name, tensor in checkpoint.tensors.items()}


def sent(before, after, make, index_dtype=torch.int32, reverse=True):
    """Patches of a plain sender, positions from last to first."""
    patches = []
    for name, old in before.items():
        pairs = [(i, v) for i, (o, v) in enumerate(zip(old.flat, after[name].flat, strict=True)) if repr(o) != repr(v)]
        if pairs:
            pairs = pairs[::-1] if reverse else pairs
            indices = torch.tensor([i for i, _ in pairs], dtype=index_dtype)
            patches.append(make(name, old.shape, indices, to_torch(np.array([v for _, v in pairs], old.dtype))))
    return patches


MAKE = {
    "checkpoint": lambda name, shape, indices, values: CheckpointWeightPatch(
        name, shape, values.dtype, values, indices
    ),
    "sparse": lambda name, shape, indices, values: SparseWeightPatch(name, indices, values, shape),
}


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("kind", [model, sparse])
def test_FMT_169_6_a_plain_server_gets_every_bit(kind, index_dtype):
    before = arrays()
    after = changed(before)
    change = delta.diff(kind(before), kind(after))
    patches = delta_to_patches(kind(before), change, index_dtype=index_dtype)
    assert received(before, patches) == of_bytes(after)
    assert [patch.name for patch in patches] == sorted(name for name in after if name not in ("norm", "ids"))
    for patch in patches:
        assert (patch.indices.dtype, patch.indices.is_contiguous(), patch.values.is_contiguous()) == (
            index_dtype,
            True,
            True,
        )
        assert (patch.indices[1:] > patch.indices[:-1]).all()
        # positions that keep their bits are left out
        old = before[patch.name].reshape(-1)[patch.indices.numpy()]
        assert not any(a.tobytes() == b.tobytes() for a, b in zip(old, from_torch(patch.values), strict=True))
        assert CheckpointWeightPatch(*patch)._asdict() == patch._asdict()


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("kind", [model, sparse])
@pytest.mark.parametrize("make", MAKE)
def test_FMT_169_2_what_a_plain_sender_means(make, kind, index_dtype, tmp_path):
    before = arrays()
    after = changed(before)
    patches = sent(before, after, MAKE[make], index_dtype)
    change = delta_from_patches(kind(before), iter(patches))
    # the tensors of patches belong to the trainer, which writes into them again
    for patch in patches:
        patch.values.zero_()
    formats.write(tmp_path / "delta", change)
    made = delta.apply(kind(before), [open_source(tmp_path / "delta")])
    assert expanded(made) == of_bytes(after)
    assert change.attributes == {"adapter": "vllm-patch"}


@pytest.mark.parametrize("op", ["replace", "add"])
def test_FMT_169_there_and_back(op):
    before = {name: np.abs(values) for name, values in arrays().items()}
    after = {name: values.copy() for name, values in before.items()}
    for name in FLOATS:
        after[f"w.{np.dtype(name).name}"][1, 2:5] += np.ones((), name)
    change = delta.diff(model(before), model(after), op)
    patches = delta_to_patches(model(before), change)
    back = delta_from_patches(model(before), patches)
    assert back.delta == delta.diff(model(before), model(after)).delta
    again = delta_to_patches(model(before), back)
    for one, other in zip(patches, again, strict=True):
        assert one[:3] == other[:3]
        assert all(torch.equal(a, b) for a, b in zip(one[3:], other[3:], strict=True))


def test_FMT_169_6_a_position_that_leaves_the_support_becomes_zero():
    before = {"w": np.array([[1, 0, 2], [0, 3, 0]], np.float32)}
    after = {"w": np.array([[0, 5, 2], [0, 3, 0]], np.float32)}
    change = delta.diff(sparse(before), sparse(after))
    (patch,) = delta_to_patches(sparse(before), change)
    assert (patch.indices.tolist(), patch.values.tolist()) == ([0, 1], [0.0, 5.0])
    # a stored zero is no value for a server
    kept = Checkpoint("model", {"w": formats.with_values(formats.from_dense(before["w"]), np.ones(3, np.float32))})
    stored = Checkpoint(
        "model", {"w": formats.Sparse((2, 3), np.array([0, 3, 4]), np.array([0, 1, 2, 1], "i4"), np.ones(4, "f4"))}
    )
    stored.tensors["w"].values[1] = 0
    assert delta_to_patches(kept, delta.diff(kept, stored)) == []


def test_FMT_169_3_a_whole_tensor_and_4_patches_in_order():
    before = arrays()
    whole = torch.arange(24, dtype=torch.float16)
    ids = torch.tensor([3, 2, 1, 0])
    change = delta_from_patches(
        model(before),
        [WeightPatch("cube", (2, 3, 4), torch.float16, whole), WeightPatch("ids", (4,), torch.int64, ids)],
    )
    made = delta.apply(model(before), [change]).tensors
    assert made["cube"].values.reshape(-1).tolist() == list(range(24))
    assert made["ids"].values.tolist() == [3, 2, 1, 0]

    def of(indices, values):
        return WeightPatch("norm", (3,), torch.float32, torch.tensor(values), torch.tensor(indices))

    made = delta.apply(model(before), [delta_from_patches(model(before), [of([0, 1], [7.0, 8.0]), of([1], [9.0])])])
    assert made.tensors["norm"].values.tolist() == [7, 9, 1]


def with_(**fields):
    sound = WeightPatch("norm", (3,), torch.float32, torch.tensor([7.0, 8.0]), torch.tensor([2, 0]))
    return [sound._replace(**fields)]


BROKEN = {
    "another name": (with_(name="other"), "FMT-169.*the base has no 'other'"),
    "no name": (with_(name=3), "FMT-169.*has the name 3"),
    "another shape": (with_(shape=(3, 1)), r"FMT-169.*states shape \[3, 1\].*the base has \[3\]"),
    "another dtype": (with_(dtype=torch.float16), "FMT-169.*float16, the base has.*float32"),
    "no dtype": (with_(dtype="float32"), "FMT-169.*states the dtype 'float32', expected a torch.dtype"),
    "a cast": (with_(values=torch.tensor([7.0, 8.0]).half()), "FMT-169.*is float16 in a patch"),
    "no shape": ([SparseWeightPatch("norm", torch.tensor([0]), torch.ones(1), None)], "FMT-169.*no shape"),
    "a matrix": (with_(values=torch.ones(1, 2)), r"FMT-169.*shape \[1, 2\], expected one dimension"),
    "too few values": (with_(values=torch.ones(1)), "FMT-169.*2 indices for 1 values"),
    "too few of all": (with_(indices=None), "FMT-169.*2 values for the whole tensor, expected 3"),
    "an index outside": (with_(indices=torch.tensor([0, 3])), "FMT-169.*run from 0 to 3"),
    "a negative index": (with_(indices=torch.tensor([0, -1])), "FMT-169.*run from -1 to 0"),
    "an index twice": (with_(indices=torch.tensor([1, 1])), "FMT-169.*position 1 of 'norm' comes twice"),
    "other indices": (with_(indices=torch.tensor([0, 1]).short()), "FMT-169.*are int16"),
    "fractions": (with_(indices=torch.tensor([0.0, 1.0])), "FMT-169.*are float32"),
    "NaN": (with_(values=torch.tensor([7.0, torch.nan])), "FMT-169.*NaN, which marks what stays"),
    "both kinds": (with_() + with_(indices=None, values=torch.ones(3)), "FMT-169.*some have none"),
    "integers": (
        [WeightPatch("ids", (4,), torch.int64, torch.tensor([9]), torch.tensor([1]))],
        "FMT-169.*'ids' is I64, sparse patches hold BF16, F16, F32, F64",
    ),
    "no tensor": (with_(values=[1.0, 2.0]), "FMT-154.*is a list, expected a plain torch.Tensor"),
    "a mask": ([WeightPatch("mask", (2, 2), torch.bool, torch.ones(1).bool(), torch.tensor([0]))], "FMT-169.*a mask"),
    "the same": (with_(values=torch.ones(2)), "FMT-131.*leave every tensor as it is"),
    "nothing": ([], "FMT-131.*leave every tensor as it is"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_FMT_169_5_what_does_not_fit_is_refused(case):
    patches, told = BROKEN[case]
    base = model(arrays() | {"one": np.zeros((), np.float32)})
    base.tensors["mask"] = formats.from_support(np.eye(2, dtype=bool))
    with pytest.raises(FormatError, match=told):
        delta_from_patches(base, patches)


def a_mask(values):
    return Mask(values.shape, *(getattr(formats.from_dense(values), part) for part in ("indptr", "indices")))


REFUSED = {
    "comes": (lambda t: t.update(new=Dense(np.ones(3, np.float32))), "'new' comes or goes"),
    "goes": (lambda t: t.pop("cube"), "'cube' comes or goes"),
    "another dtype": (lambda t: t.update(norm=Dense(np.ones(3, np.float16))), "'norm' changes its dtype or shape"),
    "another shape": (lambda t: t.update(norm=Dense(np.ones((3, 1), np.float32))), "'norm' changes its dtype or shape"),
    "integers": (lambda t: t.update(ids=Dense(np.arange(4) + 1)), "'ids' is I64 and changes, sparse patches hold BF16"),
    "NaN": (lambda t: t.update(norm=Dense(np.array([1, np.nan, np.nan], "f4"))), "'norm' gets NaN at 2 positions"),
    "a mask": (lambda t: t.update(norm=a_mask(np.eye(2))), "'norm' is a mask"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_FMT_169_7_what_patches_cannot_hold(case):
    edit, told = REFUSED[case]
    base = model(arrays())
    target = model(changed(arrays()))
    edit(target.tensors)
    with pytest.raises(CannotHold, match=f"FMT-154.*{told}"):
        delta_to_patches(base, delta.diff(base, target))


def test_FMT_169_7_ties_that_change_are_refused():
    before = arrays()
    base = Checkpoint("model", model(before).tensors, tied={"head": "w.float32"})
    target = Checkpoint("model", model(changed(before)).tensors, tied={"head": "w.float16"})
    with pytest.raises(CannotHold, match=r"FMT-154.*tied or scaled"):
        delta_to_patches(base, delta.diff(base, target))


def test_FMT_169_7_int32_is_for_fewer_elements_than_2_to_the_31(monkeypatch):
    base, target = model(arrays()), model(changed(arrays()))
    monkeypatch.setattr(vllm_patch, "MAX_ELEMENTS", 34)
    change = delta.diff(base, target)
    with pytest.raises(CannotHold, match=r"FMT-154.*has 35 elements, int32.*at most 34; ask for torch.int64"):
        delta_to_patches(base, change)
    assert len(delta_to_patches(base, change, index_dtype=torch.int64)) == 5
    with pytest.raises(FormatError, match=r"FMT-084.*index_dtype is torch.int16"):
        delta_to_patches(base, change, index_dtype=torch.int16)


def test_FMT_169_another_base_is_refused():
    before = arrays()
    change = delta.diff(model(before), model(changed(before)))
    with pytest.raises(FormatError, match="FMT-137"):
        delta_to_patches(model(arrays(5)), change)
    with pytest.raises(FormatError, match="FMT-131"):
        delta_to_patches(model(before), model(before))


def test_FMT_169_5_damaged_patches_are_refused_or_mean_what_a_plain_server_makes():
    before = arrays()
    sound = [patch for patch in sent(before, changed(before), MAKE["checkpoint"]) if patch.name != "cube"]
    rng, refused = np.random.default_rng(9), 0
    for _ in range(300):
        i, at = (int(n) for n in rng.integers((len(sound), 2**31)))
        patch = sound[i]
        indices, at = patch.indices.clone(), at % len(patch.indices)
        indices[at] = int(rng.integers(-3, 40))
        damaged = WeightPatch(*patch[:4], indices)
        if 0 <= indices[at] < 35 and len(set(indices.tolist())) == len(indices):
            made = delta.apply(model(before), [delta_from_patches(model(before), [damaged])])
            assert expanded(made) == received(before, [damaged])
        else:
            refused += 1
            with pytest.raises(FormatError, match="FMT-169"):
                delta_from_patches(model(before), [damaged])
    assert 50 < refused < 250
