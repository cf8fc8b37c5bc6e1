"""Rows of padding do not count in the mean squares of inputs (GRD-006, TRN-021.4)."""

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from peft import get_peft_model  # noqa: E402

from seft_ports.peft import SeftConfig  # noqa: E402
from seft_ports.pytorch import Evolution, SeftError, SeftOptimizer, Settings  # noqa: E402
from seft_ports.pytorch.model import mask_zeros, record_support, wrap  # noqa: E402
from seft_ports.pytorch.update import SparseUpdate  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402

# PEFT asks for an attribute that transformers calls deprecated
pytestmark = pytest.mark.filterwarnings("default")
RULE = {"preset": "sensitivity", "adapt": "activation", "initial_positions": "random", "density": 0.1}


def adapted(how):
    plain = tiny.model()
    for name, mask in tiny.masks(plain).items():
        plain.get_submodule(name).weight.data *= mask
    if how == "wrap":
        return wrap(plain, Settings(**RULE), mask_zeros(plain))
    model = get_peft_model(plain, SeftConfig(**RULE))
    Evolution(model, SeftOptimizer(model, lr=0.0), Settings(**RULE), steps=100).attach()
    return model


def inputs_of(model, padded, *, right, by_name=True):
    """Return the mean squares of the inputs of each layer in a batch of two rows with more or less padding."""
    updates = [module for module in model.modules() if isinstance(module, SparseUpdate)]
    for update in updates:
        update.unwatch()
        update.watch(["gradient", "inputs"])
    tokens, mask = torch.zeros(2, 6 + padded, dtype=torch.int64), torch.zeros(2, 6 + padded, dtype=torch.int64)
    for row, length in ((0, 6), (1, 3)):
        at = slice(0, length) if right else slice(6 + padded - length, 6 + padded)
        tokens[row, at], mask[row, at] = torch.arange(1, length + 1) + 7 * row, 1
    labels = tokens.masked_fill(mask == 0, -100)
    if by_name:
        model(input_ids=tokens, attention_mask=mask, labels=labels).loss.backward()
    else:
        model(tokens, mask, labels=labels).loss.backward()
    return [update.evidence(1)["inputs"] for update in updates]


@pytest.mark.parametrize("how", ["wrap", "peft"])
@pytest.mark.parametrize("right", [True, False])
def test_GRD_006_more_padding_is_no_other_evidence(how, right):
    model = adapted(how)
    few, many = (inputs_of(model, padded, right=right) for padded in (0, 4))
    assert few
    torch.testing.assert_close(many, few, rtol=1e-4, atol=1e-6)
    again = inputs_of(copy.deepcopy(model), 4, right=right, by_name=False)
    torch.testing.assert_close(again, few, rtol=1e-4, atol=1e-6)


def test_GRD_006_without_a_mask_every_row_counts():
    model = adapted("wrap")
    tokens = torch.arange(1, 9).reshape(2, 4)
    masked = []
    for mask in (None, torch.ones_like(tokens)):
        updates = [module for module in model.modules() if isinstance(module, SparseUpdate)]
        for update in updates:
            update.unwatch()
            update.watch(["inputs"])
        model(input_ids=tokens, attention_mask=mask, labels=tokens).loss.backward()
        masked.append([update.evidence(1)["inputs"] for update in updates])
    torch.testing.assert_close(masked[0], masked[1])


def test_GRD_006_a_mask_that_does_not_say_which_rows_is_refused():
    model, tokens = adapted("wrap"), torch.arange(1, 9).reshape(2, 4)
    for update in (module for module in model.modules() if isinstance(module, SparseUpdate)):
        update.watch(["inputs"])
    whole = torch.ones(2, 1, 4, 4, dtype=torch.bool).tril()
    with pytest.raises(SeftError, match="GRD-006"):
        model(input_ids=tokens, attention_mask=whole, labels=tokens).loss.backward()


def test_TOP_004_a_recorded_mask_fits_its_layer():
    plain = tiny.model()
    name, mask = next(iter(mask_zeros(plain).items()))
    for wrong in (mask[:-1], mask.T[:1], mask.float()):
        with pytest.raises(SeftError, match="TOP-004"):
            record_support(plain, {name: wrong})
