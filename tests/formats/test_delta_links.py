"""Ties and scales of what a delta leads to: one rule, whatever the base is and whatever the result is written as."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file

import formats
from formats import delta, digest
from formats.dialects import hf
from formats.dialects.sources import open_source

LINKS = {
    "a tie to nothing": ("FMT-010", {"tied": {"alias": "gone"}}),
    "a tie to a tie": ("FMT-010", {"tied": {"alias": "a", "more": "alias"}}),
    "a tie of what is stored": ("FMT-010", {"tied": {"a": "b"}}),
    "scales of nothing": ("FMT-016", {"scales": {"gone": {"scale": "a"}}}),
    "nothing as a scale": ("FMT-016", {"scales": {"a": {"scale": "gone"}}}),
}


@pytest.fixture
def bases(tmp_path):
    """The same model as a Hugging Face folder and as a sparse checkpoint."""
    values = {name: np.arange(6, dtype=np.float32).reshape(2, 3) + i for i, name in enumerate("ab")}
    (tmp_path / "hf").mkdir()
    save_file(values, tmp_path / "hf" / "model.safetensors")
    hf.to_sparse(tmp_path / "hf", tmp_path / "sparse", encoding="dense")
    return {name: open_source(tmp_path / name) for name in ("hf", "sparse")}


def changed(base, **links):
    """Return a delta of one value, bound to a target with other links, its digests right."""
    new = formats.Dense(base.tensors["a"].values + np.float32(1))
    tensors = {**{name: base.tensors[name] for name in base.tensors}, "a": new}
    made = delta.diff(base, formats.Checkpoint("model", tensors))
    state = delta.contents(formats.Checkpoint("model", tensors))
    end = digest.of_state(state, links.get("tied", {}), links.get("scales", {}))
    return dataclasses.replace(made, delta=dataclasses.replace(made.delta, target_sha256=end, **links))


@pytest.mark.parametrize("case", LINKS)
@pytest.mark.parametrize("kind", ["hf", "sparse"])
def test_FMT_010_FMT_016_links_of_a_target_are_judged_when_a_delta_is_applied(bases, tmp_path, kind, case):
    clause, links = LINKS[case]
    base = bases[kind]
    formats.write(tmp_path / "d", changed(base, **links))  # the form is right, so that the file is
    step = open_source(tmp_path / "d")
    with pytest.raises(formats.FormatError, match=clause):
        delta.apply(base, [step])
    # nor does it pass where a later delta would mend it
    state = delta.contents(delta.apply(base, [changed(base)]))
    start = digest.of_state(state, links.get("tied", {}), links.get("scales", {}))
    mended = dataclasses.replace(
        step.delta, base_sha256=start, target_sha256=digest.of_state(state, {}, {}), tensors={}, tied={}, scales={}
    )
    with pytest.raises(formats.FormatError, match=clause):
        delta.apply(base, [step, formats.Checkpoint("delta", {}, delta=mended)])


def test_FMT_010_good_links_arrive(bases):
    links = {"tied": {"alias": "b"}, "scales": {"a": {"scale": "b"}}}
    for base in bases.values():
        result = delta.apply(base, [changed(base, **links)])
        assert (dict(result.tied), dict(result.scales)) == (links["tied"], links["scales"])
