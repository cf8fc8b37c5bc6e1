"""Quantised models in the PyTorch port: loaded as weights, trained, written beside their codes as the engine does."""

from pathlib import Path

import numpy as np
import pytest
import torch

import formats
import seft_ref
from formats.dialects import coded
from seft_ports.pytorch import layers_of, load_sparse, merge, save_sparse, wrap
from seft_ports.pytorch.model import targets_of
from seft_ref.topology.csr import from_flat
from tests.ports import pytorch_tiny as tiny


@pytest.fixture(params=["int4:g2", "int8", "int8:g2:asym"])
def folder(request, tmp_path) -> Path:
    made = tiny.wrapped()
    merge(made)
    save_sparse(made, tmp_path / "floats")
    seft_ref.quantise(tmp_path / "floats", tmp_path / "codes", request.param)
    return tmp_path / "codes"


def logits(model):
    return model.eval()(torch.stack([row["input_ids"] for row in tiny.texts(3, seed=9)])).logits


def test_QNT_006_a_model_is_trained_beside_its_codes(folder, tmp_path):
    made = load_sparse(tiny.model(seed=5), folder)
    expanded = coded.expanded(formats.read(folder))
    for name, linear in targets_of(made).items():
        dense = formats.to_dense(expanded.tensors[f"{name}.weight"])
        np.testing.assert_array_equal(linear.weight.detach().numpy(), dense)
    made = wrap(made, tiny.SETTINGS)
    tiny.trainer(made, tmp_path).train()
    want = logits(made)
    supports = merge(made)
    save_sparse(made, tmp_path / "beside", beside=folder)
    again = load_sparse(tiny.model(seed=6), tmp_path / "beside")
    assert torch.equal(logits(again), want)
    found = layers_of(wrap(again, tiny.SETTINGS))
    assert all(torch.equal(found[name].mask, mask) for name, mask in supports.items())
    # the engine writes the same of the same weights
    final = {}
    for name, linear in targets_of(made).items():
        at = supports[name].reshape(-1).nonzero()[:, 0].numpy()
        values = linear.weight.detach().numpy().reshape(-1)[at]
        final[f"{name}.weight"] = (from_flat(tuple(linear.weight.shape), at), values)
    seft_ref.save_model(folder, tmp_path / "engine", final)
    ours, theirs = formats.read(tmp_path / "beside"), formats.read(tmp_path / "engine")
    assert ours.scales == theirs.scales
    for name in {*final, *(part for roles in ours.scales.values() for part in roles.values())}:
        one, other = ours.tensors[name], theirs.tensors[name]
        assert formats.to_dense(one).tobytes() == formats.to_dense(other).tobytes()
        assert one.nnz == other.nnz
    assert any(name.endswith(".update") for name in ours.tensors)


def test_QNT_009_what_does_not_fit_is_refused(folder, tmp_path):
    made = load_sparse(tiny.model(seed=5), folder)
    with pytest.raises(formats.FormatError, match="QNT-009"):
        save_sparse(made, tmp_path / "out", beside=tmp_path / "floats")
    with pytest.raises(formats.FormatError, match=r"QNT-009.*train in F32"):
        save_sparse(made.to(torch.bfloat16), tmp_path / "out", beside=folder)
    other = tiny.model(seed=5, intermediate_size=12)
    with pytest.raises(formats.FormatError, match=r"QNT-009.*in its shape"):
        save_sparse(other, tmp_path / "out", beside=folder)
    assert not (tmp_path / "out").exists()
