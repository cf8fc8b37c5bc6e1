"""SEFT adapters as deltas and back: PEFT itself trains, merges and loads them."""

import hashlib
import json
from dataclasses import fields, replace

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402

import formats  # noqa: E402
from formats import delta  # noqa: E402
from formats.dialects.seft_adapter import KNOWN  # noqa: E402
from formats.dialects.sources import open_changes  # noqa: E402
from formats.records import Checkpoint, Sparse, from_flat, with_values  # noqa: E402
from seft_ports.peft import SeftConfig, SeftLayer  # noqa: E402
from tests.formats.test_adapters_peft import Two, arrays, bits_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
WEIGHTS = "adapter_model.safetensors"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def pruned(dtype=torch.float32):
    """Return a small model of which half is pruned."""
    model = Two(dtype)
    torch.manual_seed(1)
    for parameter in model.parameters():
        # not by a product, which would leave zeros of either sign
        parameter.data[torch.rand(parameter.shape) < 0.5] = 0
    return model


def trained(folder, dtype=torch.float32, prunes=0):
    """Save an adapter that changes something, and return the model that PEFT merges."""
    torch.manual_seed(2)
    config = SeftConfig(density=0.1, init_weights=False, target_modules=["up", "down"])
    model = peft.get_peft_model(pruned(dtype), config)
    for layer in (m for m in model.modules() if isinstance(m, SeftLayer)):
        update = layer.seft_delta["default"]
        stored = torch.nonzero(layer.stored().view(-1)).flatten()
        # pruned weights, one of which is an index too, and an index that the base does not store
        update.pruned = stored[torch.randperm(len(stored))[:prunes]].sort().values
        if prunes:
            update.pruned = torch.cat([update.pruned, update.positions[:1]]).unique()
            free = torch.nonzero(~layer.stored().view(-1)).flatten()[:1]
            update.positions[: update.slots] = torch.cat([update.positions[: update.slots - 1], free]).sort().values
        update.hold()
        update.settings = replace(update.settings, adapts="never", grow_scope="anywhere")
    model.save_pretrained(folder)
    return model.merge_and_unload()


def test_FMT_171_every_setting_of_the_tuner_is_known():
    own = {field.name for field in fields(SeftConfig)} - {field.name for field in fields(peft.PeftConfig)}
    # those that change what is adapted are looked at by everyone
    assert own - KNOWN <= {"modules_to_save"}


def sparse(model):
    """A model as a checkpoint whose pruned weights are absent."""
    found = {}
    for name, tensor in arrays(model).tensors.items():
        at = np.flatnonzero(tensor.values.reshape(-1) != 0)
        found[name] = with_values(from_flat(tensor.shape, at), tensor.values.reshape(-1)[at])
    return Checkpoint("model", found)


@pytest.mark.parametrize("prunes", [0, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_FMT_171_what_an_adapter_changes(tmp_path, dtype, prunes):
    merged = trained(tmp_path / "a", dtype, prunes)
    for base in (arrays(pruned(dtype)), sparse(pruned(dtype))):
        change = open_changes(tmp_path / "a", base)
        made = delta.apply(base, [change])
        assert bits_of(made) == bits_of(arrays(merged))
        kinds = {name.split(":")[0] for name in change.tensors}
        keeps = isinstance(next(iter(base.tensors.values())), Sparse)
        assert kinds == ({"replace", "remove"} if prunes and keeps else {"replace"} if prunes else {"add"})
        if keeps:
            for name, tensor in made.tensors.items():
                assert tensor.nnz == int(merged.get_submodule(name.removesuffix(".weight")).seft_mask.sum())


@pytest.mark.parametrize("held", [sparse, arrays])
@pytest.mark.parametrize("prunes", [0, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_FMT_171_an_adapter_comes_back_from_its_delta(tmp_path, dtype, prunes, held):
    merged = trained(tmp_path / "a", dtype, prunes)
    formats.write(tmp_path / "base", held(pruned(dtype)))
    formats.convert(tmp_path / "a", tmp_path / "delta", "delta", base=tmp_path / "base")
    formats.convert(tmp_path / "delta", tmp_path / "b", "seft", base=tmp_path / "base")
    again = peft.PeftModel.from_pretrained(pruned(dtype), tmp_path / "b").merge_and_unload()
    assert bits_of(arrays(again)) == bits_of(arrays(merged))
    one, other = (load_file(tmp_path / name / WEIGHTS) for name in "ab")
    if not prunes:
        assert all(torch.equal(x, other[name]) for name, x in one.items())
    # FMT-171.9: of a dense base, too
    assert all(len(x) == 0 or len(other[name]) for name, x in one.items() if name.endswith("pruned"))
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text())["peft_type"] == "SEFT"


STEM = "base_model.model.up.seft_delta"
WRONG = {
    "another name": (lambda t: {f"{STEM}.more": t[f"{STEM}.values"].clone()}, "has no place in this adapter"),
    "two lengths": (lambda t: {f"{STEM}.values": t[f"{STEM}.values"][:-1]}, "indices beside"),
    "values in 16 bits": (lambda t: {f"{STEM}.values": t[f"{STEM}.values"].half()}, "expected one dimension of F32"),
    "a position twice": (lambda t: {f"{STEM}.indices": t[f"{STEM}.indices"] * 0}, "comes twice"),
    "a position outside": (lambda t: {f"{STEM}.indices": t[f"{STEM}.indices"] + 700}, "the base has shape"),
    "pruned and not stored": (lambda _: {f"{STEM}.pruned": torch.tensor([ABSENT])}, "does not store"),
}
ABSENT = int(torch.nonzero(pruned().up.weight.view(-1) == 0)[0])


@pytest.mark.parametrize("what", WRONG)
def test_FMT_171_a_wrong_adapter_is_refused(tmp_path, what):
    trained(tmp_path / "a", prunes=2)
    tensors = load_file(tmp_path / "a" / WEIGHTS)
    change, says = WRONG[what]
    save_file(tensors | change(tensors), tmp_path / "a" / WEIGHTS)
    base = sparse(pruned())
    with pytest.raises(formats.FormatError, match=rf"FMT-171.*{says}"):
        delta.apply(base, [open_changes(tmp_path / "a", base)])


def test_FMT_171_a_base_that_stores_other_positions_is_refused(tmp_path):
    trained(tmp_path / "a")
    model = pruned()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.roll(1, dims=1)
    with pytest.raises(formats.FormatError, match=r"FMT-171.*other positions than that of the adapter"):
        open_changes(tmp_path / "a", sparse(model))
    # a dense base does not say which zeros it stores
    open_changes(tmp_path / "a", arrays(model))
    open_changes(tmp_path / "a", sparse(pruned()))


def test_FMT_171_the_digest_of_the_masks_by_a_plain_loop(tmp_path):
    trained(tmp_path / "a")
    masks = b""
    for name in ("inner.down", "up"):
        for row in pruned().get_submodule(name).weight.tolist():
            bits = [int(value != 0) for value in row] + [0] * (-len(row) % 8)
            masks += bytes(sum(bits[8 * i + j] << j for j in range(8)) for i in range(len(bits) // 8))
    stated = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert stated["stored_sha256"] == hashlib.sha256(masks).hexdigest()


def test_FMT_154_what_an_adapter_cannot_hold(tmp_path):
    base = sparse(pruned())
    formats.write(tmp_path / "base", base)
    name, tensor = next(iter(base.tensors.items()))
    values = tensor.values.copy()
    values[:1] = np.float32(-0.0)
    tiny = Checkpoint("model", base.tensors | {name: with_values(tensor, values)})
    formats.write(tmp_path / "d", delta.diff(base, tiny))
    with pytest.raises(formats.FormatError, match=r"FMT-154.*no amount to add reaches"):
        formats.convert(tmp_path / "d", tmp_path / "a", "seft", base=tmp_path / "base")
    other = Checkpoint("model", base.tensors | {name: with_values(tensor, tensor.values + 1)})
    formats.write(tmp_path / "whole", delta.diff(base, other))
    with pytest.raises(formats.FormatError, match=r"FMT-154.*some positions change"):
        formats.convert(tmp_path / "whole", tmp_path / "a", "seft", base=tmp_path / "base")
    assert not (tmp_path / "a").exists()


def test_FMT_171_a_value_that_no_amount_reaches_takes_the_place_of_the_base(tmp_path):
    base = sparse(pruned())
    formats.write(tmp_path / "base", base)
    name, tensor = next(iter(base.tensors.items()))
    values = tensor.values.copy()
    # beside a large weight the amounts of float32 are too far apart
    values[np.argmax(np.abs(values))] = np.float32(1e-30)
    target = Checkpoint("model", base.tensors | {name: with_values(tensor, values)})
    formats.write(tmp_path / "d", delta.diff(base, target))
    formats.convert(tmp_path / "d", tmp_path / "a", "seft", base=tmp_path / "base")
    assert (
        load_file(tmp_path / "a" / WEIGHTS)[f"base_model.model.{name.removesuffix('weight')}seft_delta.pruned"].numel()
        == 1
    )
    assert bits_of(delta.apply(base, [open_changes(tmp_path / "a", base)])) == bits_of(target)


def test_FMT_171_no_amounts_are_added_to_floats_of_8_bits(tmp_path):
    """An adapter that prunes makes values of the base's dtype; the fuzzer found that those of F8 were made too."""
    trained(tmp_path / "a", prunes=2)
    base = sparse(pruned())
    narrow = {name: replace(t, values=t.values.astype(ml_dtypes.float8_e4m3fn)) for name, t in base.tensors.items()}
    with pytest.raises(formats.FormatError, match=r"FMT-171: .* is F8_E4M3, to which no amounts are added"):
        open_changes(tmp_path / "a", Checkpoint("model", narrow))
