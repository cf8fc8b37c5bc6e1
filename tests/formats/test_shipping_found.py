"""What somebody who ships weights found: scalars, folders that are something else, adapters in part, tied masks."""

import json
from dataclasses import replace

import numpy as np
import pytest

import formats
from formats import FormatError, delta
from formats.conversion import convert
from formats.dialects import hf
from formats.dialects.sources import detect, open_changes
from formats.dialects.weight_sync import apply_weight_sync, write_weight_sync
from formats.errors import CannotHold
from formats.records import Checkpoint, Dense
from formats.steps import Follower, Publisher

torch = pytest.importorskip("torch")

from examples.rl_sync import contiguous  # noqa: E402
from formats.dialects.torch_module import from_module, to_module  # noqa: E402
from formats.dialects.vllm_patch import delta_from_patches, delta_to_patches  # noqa: E402


def with_scalar(value, dtype=np.float32):
    return Checkpoint("model", {"s": Dense(np.array(value, dtype)), "w": Dense(np.ones((2, 3), np.float32))})


@pytest.mark.parametrize("encoding", ["xor", "overwrite"])
def test_FMT_168_a_scalar_goes_there_and_back(tmp_path, encoding):
    """Models have them: the k_scale of fp8, num_batches_tracked."""
    base, target = with_scalar(1.5), with_scalar(-2.25)
    write_weight_sync(tmp_path / "weight_v000001", base, target, encoding=encoding)
    assert apply_weight_sync(base, [tmp_path / "weight_v000001"]).tensors["s"].values == -2.25
    formats.write(tmp_path / "base", base)
    change = open_changes(tmp_path / "weight_v000001", base)
    assert sorted(change.tensors) == ["whole:s"]
    again = delta.apply(base, [change])
    assert (again.tensors["s"].values, again.tensors["s"].shape) == (-2.25, ())


def test_FMT_169_a_scalar_goes_to_patches_and_back():
    base, target = with_scalar(1.5), with_scalar(-2.25)
    patches = delta_to_patches(base, delta.diff(base, target))
    assert [patch.name for patch in patches] == ["s"]
    assert delta.apply(base, [delta_from_patches(base, patches)]).tensors["s"].values == -2.25


@pytest.mark.parametrize("config", [None, b'{"a":', b"{}"])
def test_FMT_175_packed_codes_without_their_configuration_are_refused(tmp_path, config):
    parts = {
        "q.weight_packed": Dense(np.zeros((2, 1), np.int32)),
        "q.weight_scale": Dense(np.ones((2, 1), np.float16)),
        "q.weight_shape": Dense(np.array([2, 8], np.int64)),
    }
    hf.checkpoint_to_hf(tmp_path / "codes", Checkpoint("model", parts))
    if config is not None:
        (tmp_path / "codes" / "config.json").write_bytes(config)
    with pytest.raises(FormatError):
        convert(tmp_path / "codes", tmp_path / "out", "sparse")
    assert not (tmp_path / "out").exists()


def test_a_mask_for_one_name_of_a_tied_tensor_holds_for_all():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.lin = torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5, bias=False)
            with torch.no_grad():
                self.emb.weight[1, 2] = 0
            self.lin.weight = self.emb.weight

    policy = Tied()
    masks = {name: p != 0 for name, p in policy.named_parameters() if p.ndim == 2}
    assert list(masks) == ["emb.weight"]
    made = from_module(policy, masks=masks)
    assert made.tied == {"lin.weight": "emb.weight"}
    assert made.tensors["emb.weight"].nnz == 19
    with pytest.raises(CannotHold, match="two supports"):
        from_module(policy, masks={**masks, "lin.weight": torch.ones(5, 4).bool()})


def test_FMT_156_a_module_with_an_expanded_buffer_is_refused_before_anything_changes():
    module = torch.nn.Module()
    module.register_buffer("a", torch.zeros(2))
    module.register_buffer("b", torch.zeros(1, 1).expand(2, 2))
    ones = Checkpoint("model", {"a": Dense(np.ones(2, np.float32)), "b": Dense(np.ones((2, 2), np.float32))})
    with pytest.raises(FormatError, match=r"FMT-156.*'b' is an expanded view"):
        to_module(ones, module)
    assert module.a.tolist() == [0, 0]


def test_a_damaged_version_is_named(tmp_path):
    with Publisher(tmp_path / "steps", "r") as publisher:
        for value in (1.0, 2.0, 3.0):
            publisher.publish(with_scalar(value))
    damaged = tmp_path / "steps" / "000002.delta"
    raw = bytearray(damaged.read_bytes())
    at = raw.index(np.float32(3.0).tobytes(), 1024)
    raw[at] ^= 1
    damaged.write_bytes(raw)
    with Follower(tmp_path / "steps", tmp_path / "now") as follower, pytest.raises(FormatError, match=r"000002\.delta"):
        follower.poll()
    with pytest.raises(FormatError, match=r"000002\.delta"):
        Publisher(tmp_path / "steps", "r")


def test_what_cannot_be_published_says_what_to_do(tmp_path):
    with Publisher(tmp_path / "steps", "r") as publisher:
        with pytest.raises(FormatError, match=r"config\.json.*dataclasses\.replace\(model, files=\{\}\)"):
            publisher.publish(replace(with_scalar(1.0), files={"config.json": b"{}"}))
        assert publisher.publish(with_scalar(1.0)) == 0
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FormatError, match=r"FMT-176.*is a file; name a folder"):
        Publisher(tmp_path / "file", "r")
    with pytest.raises(FormatError, match=r"FMT-176.*is a file; name the folder"):
        Follower(tmp_path / "file", tmp_path / "now")


@pytest.mark.parametrize("content", [b"", b"junk of some length", None])
def test_a_refused_follower_leaves_no_lock_behind(tmp_path, content):
    if content is None:
        formats.write_file(tmp_path / "mine", with_scalar(1.0))
    else:
        (tmp_path / "mine").write_bytes(content)
    with pytest.raises(FormatError):
        Follower(tmp_path / "steps", tmp_path / "mine")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def adapter(folder, config, names=("q.shira_weight", "q.shira_indices")):
    folder.mkdir()
    if config is not None:
        (folder / "adapter_config.json").write_text(config)
    from safetensors.numpy import save_file

    save_file(
        {f"base_model.model.{name}": np.ones(2, np.float32) for name in names}, folder / "adapter_model.safetensors"
    )
    return folder


def test_folders_that_are_something_else_say_what(tmp_path):
    """An adapter whose configuration is broken or missing, a version without its index, a folder of steps."""
    broken = adapter(tmp_path / "broken", '{"peft_type": "SHIRA",')
    with pytest.raises(FormatError, match=r"adapter_config\.json states the peft_type .*fetch a damaged one again"):
        detect(broken)
    alone = adapter(tmp_path / "alone", None)
    with pytest.raises(FormatError, match=r"is an adapter without adapter_config\.json; fetch that again"):
        detect(alone)
    whole = adapter(tmp_path / "whole", json.dumps({"peft_type": "SHIRA"}))
    for opened in (formats.open, hf.open_hf):
        with pytest.raises(FormatError, match=r"is an adapter; seft convert .* DELTA --to delta --base MODEL"):
            opened(whole)
    version = tmp_path / "weight_v000003"
    version.mkdir()
    with pytest.raises(FormatError, match="is a version folder without its index"):
        detect(version)
    with Publisher(tmp_path / "steps", "r") as publisher:
        publisher.publish(with_scalar(1.0))
    for look in (detect, formats.open, hf.open_hf):
        with pytest.raises(FormatError, match=r"holds 1 versions of a run; name one, such as .*000000\.model"):
            look(tmp_path / "steps")


def test_a_module_that_was_trained_whole_is_told_of(tmp_path):
    base = Checkpoint("model", {"q.weight": Dense(np.ones((2, 2), np.float32))})
    folder = adapter(tmp_path / "a", json.dumps({"peft_type": "SHIRA"}), ("q.shira_weight", "lm_head.weight"))
    with pytest.raises(FormatError, match=r"FMT-151.*modules_to_save.*seft diff MODEL MERGED DELTA"):
        open_changes(folder, base)


def test_amounts_that_peft_does_not_keep_name_a_way_that_works(tmp_path):
    base = Checkpoint("model", {"q.weight": Dense(np.ones((2, 2), np.float32))})
    target = replace(base, tensors={"q.weight": Dense(np.array([[1, 2], [1, 1]], np.float32))})
    formats.write(tmp_path / "base", base)
    for op, told in (("add", "--to seft takes them"), ("replace", "use --to seft, or seft diff --op add")):
        with pytest.raises(CannotHold, match=f"FMT-154.*{told}"):
            convert(delta.diff(base, target, op), tmp_path / op, "peft", base=tmp_path / "base")
        convert(delta.diff(base, target, op), tmp_path / f"{op}-seft", "seft", base=tmp_path / "base")


def test_a_state_of_the_example_may_be_views_and_parameters():
    shared = torch.nn.Parameter(torch.randn(3, 2))
    state = {"turned": torch.randn(4, 6).t(), "one": shared, "two": shared}
    plain = contiguous(state)
    assert all(t.is_contiguous() and not t.requires_grad for t in plain.values())
    assert plain["one"] is plain["two"]
    assert torch.equal(plain["turned"], state["turned"])
