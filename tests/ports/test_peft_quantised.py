"""Adapters beside quantised bases: a stand-in for PEFT's backends, and bitsandbytes where it is installed."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from peft import PeftModel, get_peft_model  # noqa: E402

from seft_ports.peft import SeftError, layer, mask_zeros, model, record_support  # noqa: E402
from seft_ports.pytorch.model import targets_of  # noqa: E402
from tests.ports.peft_tiny import bits, config, layers, pruned  # noqa: E402
from tests.ports.test_peft import IDS, trained  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")


class Coded(torch.nn.Linear):
    """A linear layer of whole numbers from -7 to 7 with one scale, as its codes and not as its weight."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.scale = linear.weight.detach().abs().max() / 7
        self.weight = torch.nn.Parameter(
            (linear.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False
        )

    def weights(self):
        return self.weight.float() * self.scale


class Backend:
    layer_type = "linear"

    def get_base_weight(self, base):
        return base.weights()


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    def resolve(base, **_):
        return Backend() if isinstance(base, Coded) else None

    monkeypatch.setattr(layer, "resolve_quantization_backend", resolve)
    monkeypatch.setattr(model, "resolve_quantization_backend", resolve)


def coded():
    """Return a tiny pruned model with codes, and its masks; some stored weights have the code 0."""
    plain, masks = pruned()
    for name, linear in list(targets_of(plain).items()):
        parent, _, last = name.rpartition(".")
        setattr(plain.get_submodule(parent), last, Coded(linear))
    return plain, masks


def test_top_004_the_masks_come_from_the_model_before():
    plain, masks = coded()
    assert sum(int(x.sum()) for x in mask_zeros(plain).values()) < sum(int(x.sum()) for x in masks.values())
    with pytest.raises(SeftError, match="TOP-004: a quantised layer has no record of its support"):
        get_peft_model(plain, config())
    plain, masks = coded()
    record_support(plain, masks)
    tuned = get_peft_model(plain, config())
    assert all(
        torch.equal(one.stored(), masks[n.removeprefix("base_model.model.")]) for n, one in layers(tuned).items()
    )


def test_an_adapter_trains_beside_codes_as_beside_their_weights(tmp_path):
    plain, masks = coded()
    record_support(plain, masks)
    dense, _ = pruned()
    for name, linear in targets_of(dense).items():
        linear.weight.data = targets_of(plain)[name].weights()
    record_support(dense, masks)
    twins = [get_peft_model(one, config(preset="seft")) for one in (plain, dense)]
    before = bits(plain)
    for twin in twins:
        trained(twin, config(preset="seft").settings())
        twin.eval()
    assert torch.equal(twins[0](IDS).logits, twins[1](IDS).logits)
    codes = {name: x for name, x in bits(plain).items() if x.dtype == torch.int8}
    assert codes
    assert all(torch.equal(x, before[name]) for name, x in codes.items())
    twins[0].save_pretrained(tmp_path)
    again, _ = coded()
    record_support(again, masks)
    assert torch.equal(PeftModel.from_pretrained(again, tmp_path).eval()(IDS).logits, twins[0](IDS).logits)
    with pytest.raises(NotImplementedError, match="the base layer is quantised"):
        twins[0].merge_adapter()


@pytest.mark.parametrize("how", ["int8", "nf4"])
def test_bitsandbytes(how, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    monkeypatch.undo()
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain, masks = pruned(hidden_size=64, intermediate_size=128)
    plain.save_pretrained(tmp_path / "base")
    options = {"load_in_8bit": True} if how == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=BitsAndBytesConfig(**options), dtype=torch.float32, device_map="cpu"
    )
    record_support(base, masks)
    tuned = get_peft_model(base, config(preset="seft"))
    trained(tuned, config(preset="seft").settings())
    assert tuned.eval()(IDS).logits.isfinite().all()
    assert sum(int(one.support().sum()) for one in layers(tuned).values()) == sum(int(x.sum()) for x in masks.values())
