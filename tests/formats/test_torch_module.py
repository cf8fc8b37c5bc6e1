"""Live modules: pruned parameters, ties, buffers, and training that keeps its support."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from formats import errors
from formats.dialects.torch_module import from_module, to_module
from formats.records import Checkpoint, Dense, Mask, Sparse, from_dense, from_support, to_dense, with_values


class Net(nn.Module):
    """Two tied matrices, one free, a buffer that is saved and one that is not."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.norm = nn.BatchNorm1d(5)
        self.mix = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, ids):
        return self.head(self.mix(self.norm(self.embed(ids)))) * self.scale


def net(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return Net().to(dtype)


def random_mask(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def pruned(seed=0):
    model = net(seed)
    mask = random_mask((5, 5))
    mask[0, 0] = True
    prune.custom_from_mask(model.mix, "weight", mask)
    with torch.no_grad():
        model.mix.weight_orig[0, 0] = 0
    return model, mask


def raw(values) -> bytes:
    return np.ascontiguousarray(values).tobytes()


def test_names_are_those_of_the_state_dict_and_values_keep_every_bit():
    model = net(dtype=torch.bfloat16)
    bits = model.mix.weight.data.view(torch.int16)
    bits.flatten()[:2] = torch.tensor([0x7FA1, -0x8000], dtype=torch.int16)
    found = from_module(model)
    assert found.tied == {"head.weight": "embed.weight"}
    assert set(found.tensors) | set(found.tied) == set(model.state_dict())
    assert "scratch" not in found.tensors
    for name, tensor in found.tensors.items():
        assert isinstance(tensor, Dense)
        expected = model.state_dict()[name]
        assert raw(tensor.values) == bytes(expected.contiguous().clone().untyped_storage()), name
    other = net(1, torch.bfloat16)
    to_module(found, other)
    for name, expected in model.state_dict().items():
        assert bytes(other.state_dict()[name].clone().untyped_storage()) == bytes(expected.clone().untyped_storage())
    assert other.head.weight is other.embed.weight


def test_what_is_taken_is_a_copy():
    model = net()
    found = from_module(model)
    before = raw(found.tensors["mix.weight"].values)
    with torch.no_grad():
        model.mix.weight.add_(1)
    assert raw(found.tensors["mix.weight"].values) == before


def test_a_pruned_parameter_is_one_sparse_tensor_with_its_kept_zero():
    model, mask = pruned()
    found = from_module(model)
    assert {"mix.weight", "mix.bias"} <= set(found.tensors)
    assert not any(name.endswith(("_orig", "_mask")) for name in found.tensors)
    weight = found.tensors["mix.weight"]
    assert isinstance(weight, Sparse)
    assert to_dense(Mask(weight.shape, weight.indptr, weight.indices)).tolist() == mask.tolist()
    assert weight.values[0] == 0
    assert np.array_equal(to_dense(weight), (model.mix.weight_orig * model.mix.weight_mask).detach().numpy())


def test_pruning_twice_and_in_any_rank():
    conv = nn.Conv2d(3, 4, 3)
    prune.random_unstructured(conv, "weight", 0.3)
    prune.ln_structured(conv, "weight", 0.5, n=1, dim=0)
    prune.random_unstructured(conv, "bias", 0.5)
    found = from_module(conv)
    assert {name: type(t) for name, t in found.tensors.items()} == {"bias": Sparse, "weight": Sparse}
    assert found.tensors["weight"].shape == (4, 3, 3, 3)
    for name in found.tensors:
        assert np.array_equal(to_dense(found.tensors[name]), getattr(conv, name).detach().numpy())
        assert found.tensors[name].nnz == int(getattr(conv, name + "_mask").sum())
    plain = nn.Conv2d(3, 4, 3)
    to_module(found, plain, prune_masks=True)
    again = from_module(plain)
    assert all(raw(again.tensors[n].indices) == raw(found.tensors[n].indices) for n in found.tensors)


@pytest.mark.parametrize("as_numpy", [True, False])
def test_given_masks_make_supports(as_numpy):
    model = net()
    mask = random_mask((5, 5))
    with torch.no_grad():
        model.mix.weight.mul_(mask)
        model.mix.weight[tuple(mask.nonzero()[0])] = 0
    found = from_module(model, masks={"mix.weight": mask.numpy() if as_numpy else mask})
    assert found.tensors["mix.weight"].nnz == int(mask.sum())
    assert np.array_equal(to_dense(found.tensors["mix.weight"]), model.mix.weight.detach().numpy())


def test_FMT_156_masks_that_do_not_fit_are_refused():
    model, mask = pruned()
    full = torch.ones(7, 5, dtype=torch.bool)
    for masks in (
        {"mix.wait": mask},
        {"embed.weight": full[:6]},
        {"embed.weight": full.float()},
        {"embed.weight": full.tolist()},
        {"embed.weight": ~full},
        {"mix.weight": mask},
        {"scale": torch.tensor(True)},
    ):
        with pytest.raises(errors.FormatError, match="FMT-156"):
            from_module(model, masks=masks)


def test_FMT_154_one_tensor_with_two_supports_is_refused():
    model = net()
    prune.custom_from_mask(model.head, "weight", random_mask((7, 5)))
    with pytest.raises(errors.CannotHold, match="two supports"):
        from_module(model)
    prune.custom_from_mask(model.embed, "weight", random_mask((7, 5)))
    found = from_module(model)
    assert found.tied == {"head.weight": "embed.weight"}
    model.head.weight_mask[0, 0] = 1 - model.head.weight_mask[0, 0]
    with pytest.raises(errors.CannotHold, match="two supports"):
        from_module(model)
    model.head.weight_mask[0, 0] = 0.5
    with pytest.raises(errors.CannotHold, match="other than 0 and 1"):
        from_module(model)


def test_FMT_154_a_module_without_values_is_refused():
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(errors.CannotHold, match="meta"):
        from_module(model)
    with pytest.raises(errors.CannotHold, match="meta"):
        to_module(Checkpoint("model", {}), model, strict=False)


class Extra(nn.Linear):
    """A module that saves more than tensors."""

    def get_extra_state(self):
        return {"calls": 3}


def test_FMT_156_of_many_differences_some_are_told():
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(9)))
    tensors = {name: Dense(t.numpy().astype(np.float16)) for name, t in module.state_dict().items()}
    with pytest.raises(errors.FormatError, match=r"; and 10 more$") as refused:
        to_module(Checkpoint("model", tensors), module)
    assert str(refused.value).count("the module has") == 8


def test_FMT_156_extra_state_is_refused():
    with pytest.raises(errors.FormatError, match=r"FMT-156.*_extra_state"):
        from_module(nn.Sequential(Extra(2, 2)))


def small(weight) -> Checkpoint:
    return Checkpoint("model", {"weight": weight, "bias": Dense(np.ones(3, dtype=np.float32))})


BAD = {
    "missing": (lambda c: {"weight": c["weight"]}, "missing in the checkpoint: 'bias'"),
    "unexpected": (lambda c: {**c, "more": c["bias"]}, "unexpected, not in the module: 'more'"),
    "shape": (lambda c: {**c, "bias": Dense(np.ones(4, dtype=np.float32))}, r"'bias' is .*\[4\]"),
    "dtype": (
        lambda c: {**c, "bias": Dense(np.ones(3, dtype=np.float16))},
        "float16, the module has torch.float32; make the module in dtype=torch.float16",
    ),
    "foreign": (lambda c: {**c, "bias": Dense(np.ones(3, dtype=ml_dtypes.float4_e2m1fn))}, "float4"),
}


@pytest.mark.parametrize("case", BAD)
def test_FMT_156_every_difference_is_told_and_nothing_is_changed(case):
    edit, said = BAD[case]
    module = nn.Linear(2, 3)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    tensors = edit(dict(small(from_dense(np.eye(3, 2, dtype=np.float32))).tensors))
    with pytest.raises(errors.FormatError, match=f"FMT-156.*{said}"):
        to_module(Checkpoint("model", tensors), module, prune_masks=True)
    assert all(torch.equal(module.state_dict()[name], t) for name, t in before.items())


def test_FMT_156_all_differences_stand_in_one_message():
    tensors = {"weight": Dense(np.zeros((5, 5))), "more": Dense(np.zeros(1))}
    with pytest.raises(errors.FormatError, match="FMT-156") as found:
        to_module(Checkpoint("model", tensors), nn.Linear(2, 3))
    assert all(name in str(found.value) for name in ("'weight'", "'more'", "'bias'"))


def test_a_wrong_record_changes_nothing():
    module, sparse = nn.Linear(2, 3), from_dense(np.eye(3, 2, dtype=np.float32))
    before = module.bias.clone()
    sparse.indices[0] = 7
    with pytest.raises(errors.FormatError, match="FMT-068"):
        to_module(small(sparse), module)
    with pytest.raises(errors.CannotHold, match="without values"):
        to_module(small(from_support(np.eye(3, 2, dtype=np.bool_))), module)
    assert torch.equal(module.bias, before)


def test_what_only_one_side_has_is_left_alone_if_asked():
    module = nn.Linear(2, 3)
    bias = module.bias.clone()
    tensors = {"weight": Dense(np.full((3, 2), 2, dtype=np.float32)), "more": Dense(np.zeros(1))}
    to_module(Checkpoint("model", tensors), module, strict=False)
    assert (module.weight == 2).all()
    assert torch.equal(module.bias, bias)
    with pytest.raises(errors.FormatError, match="FMT-156"):
        to_module(Checkpoint("model", {"weight": Dense(np.zeros((2, 3)))}), module, strict=False)


def test_FMT_156_ties_of_module_and_checkpoint_agree():
    content = from_module(net())
    left_out = Checkpoint("model", content.tensors)
    other = net(1)
    to_module(left_out, other)
    assert torch.equal(other.head.weight, net().head.weight)
    apart = Checkpoint("model", {**content.tensors, "head.weight": content.tensors["embed.weight"]})
    with pytest.raises(errors.FormatError, match=r"FMT-156.*one tensor of the module"):
        to_module(apart, other)
    untied = net(2)
    untied.head.weight = nn.Parameter(torch.zeros(7, 5))
    to_module(content, untied)
    assert torch.equal(untied.head.weight, net().head.weight)


def test_a_pruned_module_takes_values_and_masks():
    model, mask = pruned()
    found = from_module(model)
    other, _ = pruned(3)
    other.mix.weight_mask.copy_(random_mask((5, 5), 9))
    orig = other.mix.weight_orig
    to_module(found, other)
    assert other.mix.weight_orig is orig
    assert torch.equal(other.mix.weight_mask.bool(), mask)
    assert torch.equal(other.mix.weight, model.mix.weight_orig * mask)
    again = from_module(other)
    assert raw(again.tensors["mix.weight"].values) == raw(found.tensors["mix.weight"].values)
    to_module(from_module(net()), other)
    assert other.mix.weight_mask.all()
    assert torch.equal(other.mix.weight, net().mix.weight)


def test_without_the_flag_a_plain_module_stays_plain():
    found = from_module(pruned()[0])
    other = net(1)
    to_module(found, other)
    assert "weight" in other.mix._parameters
    assert not other.mix._forward_pre_hooks
    assert np.array_equal(other.mix.weight.detach().numpy(), to_dense(found.tensors["mix.weight"]))


def test_FMT_156_a_sparse_buffer_cannot_be_pruned():
    module = nn.Module()
    module.register_buffer("table", torch.zeros(3, 3))
    content = Checkpoint("model", {"table": from_dense(np.eye(3, dtype=np.float32))})
    with pytest.raises(errors.FormatError, match=r"FMT-156.*no buffer"):
        to_module(content, module, prune_masks=True)
    to_module(content, module)
    assert torch.equal(module.table, torch.eye(3))


def test_a_module_in_two_places_is_pruned_once():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    eye = from_dense(np.eye(3, dtype=np.float32))
    content = Checkpoint("model", {"0.weight": eye, "0.bias": Dense(np.zeros(3, dtype=np.float32))})
    to_module(content, model, prune_masks=True)
    assert len(layer._forward_pre_hooks) == 1
    assert from_module(model).tied == {"1.weight": "0.weight", "1.bias": "0.bias"}


def train(model, steps, seed=0):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(7, (16,), generator=g)
        loss = nn.functional.cross_entropy(model(ids), (ids + 1) % 7)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_training_after_loading_keeps_the_support_and_moves_kept_zeros():
    source, mask = pruned()
    found = from_module(source)
    support = random_mask((7, 5), 4).numpy()
    tied = with_values(from_support(support), found.tensors["embed.weight"].values[support])
    start = Checkpoint("model", {**found.tensors, "embed.weight": tied}, tied=found.tied)
    model = net(5)
    held = list(model.parameters())
    to_module(start, model, prune_masks=True)
    assert {id(p) for p in model.parameters()} == {id(p) for p in held}
    first = train(model, 1)
    assert train(model, 40) < first
    after = from_module(model)
    assert after.tied == {"head.weight": "embed.weight"}
    for name in ("mix.weight", "embed.weight"):
        old, new = start.tensors[name], after.tensors[name]
        assert isinstance(new, Sparse)
        assert (raw(new.indptr), raw(new.indices)) == (raw(old.indptr), raw(old.indices))
        assert raw(new.values) != raw(old.values)
    assert after.tensors["mix.weight"].values[0] != 0
    effective = model.mix.weight_orig * model.mix.weight_mask
    assert not effective[~mask].any()
