"""PEFT itself loads the adapters that are written, and merges those that it saved to the bits that `apply` gives.

Skipped without PEFT (extra `peft`); `test_adapters.py` and `test_super_tuning.py` judge by frozen answers of it.
"""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import formats
from formats import delta
from formats.dialects.sources import open_changes
from formats.records import Dense, from_flat, to_dense, with_values

peft = pytest.importorskip("peft")
super_tuning = pytest.mark.skipif(not hasattr(peft, "SupertuningConfig"), reason="this PEFT has no Super-Tuning")
pytestmark = pytest.mark.filterwarnings("default")

CONFIGS = {
    "peft": lambda: peft.ShiraConfig(r=2, random_seed=3, target_modules=["up", "down"]),
    "super-tuning": lambda: peft.SupertuningConfig(sparsity=0.9, target_modules=["up", "down"]),
}
KINDS = ["peft", pytest.param("super-tuning", marks=super_tuning)]
NP = {torch.float32: np.float32, torch.bfloat16: ml_dtypes.bfloat16, torch.float16: np.float16}


class Two(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(23, 31, bias=False)
        self.inner = nn.Sequential()
        self.inner.down = nn.Linear(31, 23, bias=False)
        self.to(dtype)

    def forward(self, x):
        return self.inner.down(self.up(x))


def arrays(model):
    """The weights of a module as a checkpoint."""
    found = {}
    for name, tensor in model.state_dict().items():
        dtype, bits = tensor.dtype, tensor.detach().clone().contiguous()
        raw = bits.numpy() if dtype is torch.float32 else bits.view(torch.uint16).numpy()
        found[name] = Dense(raw.view(NP[dtype]))
    return formats.Checkpoint("model", found)


def bits_of(checkpoint):
    return {name: to_dense(tensor).tobytes() for name, tensor in checkpoint.tensors.items()}


def trained(kind, folder, dtype=torch.float32, **options):
    """Save an adapter with amounts of float32 in it, and return the bits that PEFT merges."""
    config = CONFIGS[kind]()
    for option, value in options.items():
        setattr(config, option, value)
    model = peft.get_peft_model(Two(dtype), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "shira_weight" in name or "supertuning_values" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.01)
    model.save_pretrained(folder)
    return bits_of(arrays(model.merge_and_unload()))


@pytest.mark.parametrize("kind", KINDS)
def test_FMT_170_what_peft_merges_is_what_apply_gives(tmp_path, kind):
    merged = trained(kind, tmp_path / "a")
    base = arrays(Two())
    assert bits_of(delta.apply(base, [open_changes(tmp_path / "a", base)])) == merged
    assert merged != bits_of(base)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@super_tuning
def test_FMT_170_with_16_bits_peft_rounds_the_amounts_first(tmp_path, dtype):
    merged = trained("super-tuning", tmp_path / "a", dtype)
    base = arrays(Two(dtype))
    name = "BF16" if dtype is torch.bfloat16 else "F16"
    assert bits_of(delta.apply(base, [open_changes(tmp_path / "a", base, dtype=name)])) == merged
    assert bits_of(delta.apply(base, [open_changes(tmp_path / "a", base)])) != merged


@pytest.mark.parametrize("counts", [(40, 90), (90, 40), (1, 713), (71, 71)])
@pytest.mark.parametrize("kind", KINDS)
def test_FMT_170_peft_loads_what_is_written(tmp_path, kind, counts):
    base = arrays(Two())
    formats.write(tmp_path / "base", base)
    rng = np.random.default_rng(5)
    changed = {}
    for (name, tensor), count in zip(base.tensors.items(), counts, strict=True):
        at = np.sort(rng.choice(713, count, replace=False))
        changed[name] = with_values(from_flat(tensor.shape, at), rng.standard_normal(count).astype(np.float32))
    change = delta.from_changes(base, "add", changed)
    formats.write(tmp_path / "d", change)
    if kind == "peft" and max(counts) == 713:
        # r (rows + columns) exceeds the matrix
        with pytest.raises(formats.FormatError, match="FMT-154"):
            formats.convert(tmp_path / "d", tmp_path / "ours", kind, base=tmp_path / "base")
        return
    formats.convert(tmp_path / "d", tmp_path / "ours", kind, base=tmp_path / "base")
    model = peft.PeftModel.from_pretrained(Two(), tmp_path / "ours")
    x = torch.randn(5, 23)
    with torch.no_grad():
        live = model(x)
    model.save_pretrained(tmp_path / "theirs")
    plain = model.merge_and_unload()
    expected = bits_of(delta.apply(base, [change]))
    assert bits_of(arrays(plain)) == expected
    assert torch.allclose(plain(x), live, atol=1e-5)
    # PEFT saves it again, and it still leads to the same model
    for folder in ("ours", "theirs"):
        assert bits_of(delta.apply(base, [open_changes(tmp_path / folder, base)])) == expected


@super_tuning
def test_FMT_170_indices_that_are_absent_come_back_by_the_advice_of_the_error(tmp_path):
    merged = trained("super-tuning", tmp_path / "a", save_precomputed_indices=False)
    base = arrays(Two())
    with pytest.raises(formats.FormatError, match=r"FMT-170.*save_precomputed_indices"):
        open_changes(tmp_path / "a", base)
    config = peft.PeftConfig.from_pretrained(tmp_path / "a")
    config.save_precomputed_indices = True
    peft.PeftModel.from_pretrained(Two(), tmp_path / "a", config=config).save_pretrained(tmp_path / "b")
    assert bits_of(delta.apply(base, [open_changes(tmp_path / "b", base)])) == merged
