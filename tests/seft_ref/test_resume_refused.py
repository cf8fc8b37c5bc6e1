"""Training states that are refused: of another run (CKP-006), or damaged (CKP-007)."""

from dataclasses import replace

import numpy as np
import pytest

import formats
from seft_ref.errors import SeftError
from seft_ref.files.state import load_state, save_state
from seft_ref.kernels import reference
from tests.seft_ref.rule_runs import ORIGIN, begin, one_step, short

RULES = {
    "seft": {"gradient_window": 3},
    "sgd": {"optimizer": "sgd", "drop": "change"},
    "sm3": {"optimizer": "sm3"},
    "row": {"scope": "row"},
    "inputs": {"adapt": "activation", "gradient_window": 3},
    "first-step": {"preset": "sensitivity", "candidates": "first-step", "moments": "seeded", "gradient_window": 3},
}
TARGET = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def written(tmp_path):
    """`written(rule)` is a run after 2 steps, its window open if it has one, and the content of its state."""

    def make(rule, **how):
        run = begin(short(**RULES[rule]), **how)
        state = run.state
        for _ in range(2):
            state, _ = one_step(run, state)
        save_state(tmp_path / "state", state, run.settings, ORIGIN)
        return run, formats.read(tmp_path / "state")

    return make


def refused(run, tmp_path, content):
    """The error that a state with this content gives."""
    formats.write_file(tmp_path / "changed", content)
    weights = begin(run.settings, run.config).weights
    with pytest.raises(SeftError) as caught:
        load_state(tmp_path / "changed", weights, run.settings, ORIGIN, reference)
    assert "Traceback" not in str(caught.value)
    return caught.value


def with_tensor(content, part, change):
    """The content with a tensor of the target changed, or without it if the change is None."""
    tensors = dict(content.tensors)
    old = tensors.pop(f"{TARGET}.{part}")
    if change is not None:
        tensors[f"{TARGET}.{part}"] = change(old)
    return replace(content, tensors=tensors)


def with_values(fill=None, *, dtype=None, cut=0):
    """A change of a tensor's last value, of its dtype, or of its length."""

    def change(tensor):
        values = tensor.values.astype(dtype or tensor.values.dtype)
        if fill is not None:
            values.reshape(-1)[-1] = fill
        return replace(tensor, values=values[: len(values) - cut] if cut else values)

    return change


FLOATS = [
    ("seft", "base"),
    ("seft", "delta"),
    ("seft", "delta.first_moment"),
    ("seft", "delta.second_moment"),
    ("seft", "window.gradient"),
    ("sgd", "delta.momentum"),
    ("sgd", "delta.origin"),
    ("sm3", "delta.rows"),
    ("sm3", "delta.columns"),
    ("inputs", "window.input_squares"),
    ("first-step", "window.gradient"),
    ("first-step", "window.square"),
]
DENSE = [(rule, part) for rule, part in FLOATS if part not in ("base", "delta") and rule != "first-step"]
INTEGERS = [("seft", "delta.age"), ("row", "row_budget"), ("row", "row_delta_budget")]


@pytest.mark.parametrize(("rule", "part"), FLOATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_CKP_007_a_state_with_a_number_that_is_not_finite_is_refused(written, tmp_path, rule, part, bad):
    run, content = written(rule)
    error = refused(run, tmp_path, with_tensor(content, part, with_values(bad)))
    assert error.clause == "CKP-007"
    assert f"{TARGET}.{part}" in str(error)


@pytest.mark.parametrize(("rule", "part"), DENSE + INTEGERS)
@pytest.mark.parametrize("cut", [1, 3])
def test_CKP_007_a_part_of_another_length_is_refused(written, tmp_path, rule, part, cut):
    run, content = written(rule)
    error = refused(run, tmp_path, with_tensor(content, part, with_values(cut=cut)))
    assert error.clause == "CKP-007"
    assert f"{TARGET}.{part}" in str(error)


@pytest.mark.parametrize(("rule", "part"), FLOATS + INTEGERS)
def test_CKP_007_a_part_of_another_dtype_or_none_at_all_is_refused(written, tmp_path, rule, part):
    run, content = written(rule)
    for change in (with_values(dtype=np.float64), None):
        error = refused(run, tmp_path, with_tensor(content, part, change))
        assert error.clause == "CKP-007"
        assert f"{TARGET}.{part}" in str(error)


@pytest.mark.parametrize(("fill", "said"), [(-1, "negative"), (3, "exceeds step 2")])
def test_CKP_007_ages_lie_between_0_and_the_step(written, tmp_path, fill, said):
    run, content = written("seft")
    assert said in str(refused(run, tmp_path, with_tensor(content, "delta.age", with_values(fill))))


def test_CKP_007_tensors_of_another_shape_or_kind_are_refused(written, tmp_path):
    run, content = written("seft")
    mask = formats.from_flat((2, 2), np.array([1]))
    tall = formats.from_flat((21 * 15, 1), np.array([1]))
    for part, tensor in (("base", mask), ("delta", mask), ("delta.age", mask), ("lost", mask), ("lost", tall)):
        tensors = {**content.tensors, f"{TARGET}.{part}": tensor}
        error = refused(run, tmp_path, replace(content, tensors=tensors))
        assert (error.clause, f"{TARGET}.{part}" in str(error)) == ("CKP-007", True), part


def test_CKP_007_sums_of_candidates_lie_on_candidates_and_support(written, tmp_path):
    run, content = written("first-step")
    other = lambda tensor: formats.from_flat(tensor.shape, formats.flat(tensor)[:-1])  # noqa: E731
    assert "not at the positions where the window keeps it" in str(
        refused(run, tmp_path, with_tensor(content, "window.candidates", other))
    )


ATTRIBUTES = {
    "no step": ("step", None, "CKP-007"),
    "a step that is a text": ("step", "2", "CKP-007"),
    "a step before the first": ("step", -1, "CKP-007"),
    "no dtype": ("dtype", None, "CKP-007"),
    "no matrices": ("matrices", None, "CKP-007"),
    "matrices that nobody has": ("matrices", ["model.layers.0.mlp.other_proj.weight"], "CKP-007"),
    "matrices of another depth": ("matrices", ["model.layers.9.mlp.up_proj.weight"], "CKP-007"),
    "matrices that are no names": ("matrices", [3], "CKP-007"),
    "one matrix of many": ("matrices", [TARGET], "CKP-007"),
    "no budgets": ("budgets", {}, "CKP-007"),
    "no windows": ("windows", None, "CKP-007"),
    "a window without steps": ("windows", {TARGET: {}}, "CKP-007"),
    "one window of many": ("windows", {TARGET: {"steps": 2, "inputs": 0}}, "CKP-007"),
    "settings that are none": ("settings", "{", "CKP-006"),
    "settings as a list": ("settings", "[]", "CKP-006"),
    "another dtype": ("dtype", "float64", "CKP-006"),
    "another model": ("model", "other", "CKP-006"),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_CKP_007_attributes_are_there_and_of_their_kind(written, tmp_path, case):
    key, value, clause = ATTRIBUTES[case]
    run, content = written("seft")
    attributes = {k: v for k, v in content.attributes.items() if k != key} | ({} if value is None else {key: value})
    assert refused(run, tmp_path, replace(content, attributes=attributes)).clause == clause


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("key", ["budgets", "delta_budgets"])
def test_CKP_007_forged_budgets_are_refused(written, tmp_path, key, by):
    run, content = written("seft")
    forged = content.attributes[key] | {TARGET: content.attributes[key][TARGET] + by}
    error = refused(run, tmp_path, replace(content, attributes=content.attributes | {key: forged}))
    assert (error.clause, TARGET in str(error)) == ("CKP-007", True)


def test_CKP_007_lost_weights_and_those_of_a_row_count_as_at_load(written, tmp_path):
    run, content = written("row")
    base = formats.flat(content.tensors[f"{TARGET}.base"])
    shape = content.tensors[f"{TARGET}.base"].shape
    taken = formats.from_flat(shape, base[:1])
    error = refused(run, tmp_path, replace(content, tensors=content.tensors | {f"{TARGET}.lost": taken}))
    assert f"{TARGET}.lost has a position that {TARGET}.base stores" in str(error)
    other = set(range(shape[0] * shape[1])) - set(base.tolist())
    one_more = formats.from_flat(shape, np.array([min(other)]))
    error = refused(run, tmp_path, replace(content, tensors=content.tensors | {f"{TARGET}.lost": one_more}))
    assert f"the budget of {TARGET} is {len(base)}, base and lost have {len(base) + 1} positions" in str(error)

    def moved(tensor):
        values = tensor.values.copy()
        values[:2] += [-1, 1]
        return replace(tensor, values=values)

    error = refused(run, tmp_path, with_tensor(content, "row_budget", moved))
    assert f"{TARGET}.row_budget differs" in str(error)
    error = refused(run, tmp_path, with_tensor(content, "row_delta_budget", with_values(10**6)))
    assert f"delta_budgets give {TARGET}" in str(error)


def test_CKP_006_a_state_computed_in_another_dtype_is_refused(written, tmp_path):
    run, content = written("seft", dtype=np.float64)
    error = refused(run, tmp_path, content)
    assert error.clause == "CKP-006"
    assert "dtype was float64, is float32" in str(error)


def test_CKP_006_the_name_of_the_preset_is_not_compared(written, tmp_path):
    run, content = written("seft")
    named = replace(run.settings, label="literal")
    formats.write_file(tmp_path / "same", content)
    state = load_state(tmp_path / "same", begin(run.settings).weights, named, ORIGIN, reference)
    assert state.step == 2


@pytest.mark.parametrize("damage", [lambda data: data[:-5] + b"\xff" + data[-4:], lambda data: data[:100]])
def test_a_damaged_file_says_what_to_do(written, tmp_path, damage):
    """The file has to be removed: while it is there, a run without --resume is refused, too."""
    run, _ = written("seft")
    path = tmp_path / "state"
    path.write_bytes(damage(path.read_bytes()))
    advice = f"{path} is the training state: if it is damaged, remove it and start without --resume"
    with pytest.raises(formats.FormatError, match=advice):
        load_state(path, begin(run.settings, run.config).weights, run.settings, ORIGIN, reference)
