"""The five functions: whole runs in one call each, from folders and from loaded models."""

import ml_dtypes
import numpy as np
import pytest

import formats
import seft_ref
from formats.delta import diff
from formats.dialects.hf import open_hf
from formats.errors import DestinationExists
from seft_ref import evaluate, finetune, generate, load_model, prune, read_tokens, settings_of
from seft_ref.errors import CheckpointError, TextError
from seft_ref.files import state as state_file
from seft_ref.files.state import Origin
from seft_ref.kernels import cpu
from seft_ref.model.weights import matrix_of
from tests.seft_ref.folders import TEXT, hf_folder, sparse_folder

SHORT = {"steps": 6, "length": 16, "batch": 2, "evolve_every": 2, "density": 0.05}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    sparse_folder(tmp_path / "sparse")
    return tmp_path


def test_EVT_007_settings_of_ones_own_keep_the_pattern_of_the_folder(tmp_path):
    hf_folder(tmp_path / "dense")
    (tmp_path / "text.txt").write_text(TEXT)
    prune(tmp_path / "dense", tmp_path / "pruned", "magnitude", pattern="2:4")
    formats.convert(tmp_path / "pruned", tmp_path / "sparse", "sparse")
    made = settings_of("active-only", **SHORT | {"drop_fraction": 0.9, "lr": 0.05})
    done = finetune(tmp_path / "sparse", tmp_path / "out", tmp_path / "text.txt", made)
    assert done.settings.pattern == (2, 4)
    for topology, _ in done.final.values():
        kept = np.zeros(topology.shape, bool).reshape(-1)
        kept[formats.flat(formats.Mask(topology.shape, topology.indptr, topology.indices))] = True
        assert kept.reshape(-1, 4).sum(1).max() <= 2


def test_CKP_006_a_state_is_written_with_one_base_unpacked_at_a_time(place, monkeypatch):
    opened, unpacked = [], state_file.formats.write_file

    def written(path, checkpoint, **how):
        assert not opened
        unpacked(path, checkpoint, **how)
        assert len(opened) == 14

    base = type(next(iter(load_model(place / "sparse", cpu).bases.values())))
    open_base = base.open
    monkeypatch.setattr(base, "open", lambda self: opened.append(1) or open_base(self))
    monkeypatch.setattr(state_file.formats, "write_file", lambda *args, **how: (opened.clear(), written(*args, **how)))
    finetune(place / "sparse", place / "out", place / "text.txt", **SHORT | {"stop_after": 2})
    assert (place / "out.state").exists()


def test_what_a_run_returns_is_shown_in_a_few_lines(place):
    done = finetune(place / "sparse", None, place / "text.txt", **SHORT)
    for value in (done, done.model(), formats.read(place / "sparse"), load_model(place / "sparse", cpu)):
        assert len(repr(value)) < 2000


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_whole_round(tmp_path):
    hf_folder(tmp_path / "dense")
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    seen = []
    done = prune(
        tmp_path / "dense",
        tmp_path / "pruned",
        "wanda",
        0.6,
        text=text,
        length=32,
        progress=lambda name, total: seen.append((name, total)),
    )
    assert done.removed / done.of == pytest.approx(0.6, abs=0.02)
    assert len(seen) == 14
    assert {total for _, total in seen} == {14}
    formats.convert(tmp_path / "pruned", tmp_path / "sparse", "sparse")
    tuned = finetune(tmp_path / "sparse", tmp_path / "tuned", text, **SHORT | {"steps": 20, "lr": 0.01})
    assert tuned.kept() <= tuned.stored == done.of - done.removed
    windows = []
    found = seft_ref.evaluate(
        tmp_path / "tuned", text, length=16, windows=3, progress=lambda *told: windows.append(told)
    )
    assert windows == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert found.perplexity < seft_ref.evaluate(tmp_path / "sparse", text, length=16, windows=3).perplexity
    tokens, prompt = [], []
    pieces = generate(
        tmp_path / "tuned", "the quick", max_tokens=5, stops=(), on_token=tokens.append, on_prompt=prompt.append
    )
    assert 0 < len("".join(pieces)) <= 5
    assert (len(tokens), prompt) == (5, [9])


def test_calls_that_take_long_log_every_step(tmp_path, caplog):
    (tmp_path / "text.txt").write_text(TEXT)
    dense, sparse = hf_folder(tmp_path / "dense"), sparse_folder(tmp_path / "sparse")
    caplog.set_level("INFO", logger="seft_ref")
    seft_ref.prune(dense, tmp_path / "pruned", "magnitude", 0.5)
    seft_ref.finetune(sparse, None, tmp_path / "text.txt", steps=3, length=16)
    seft_ref.evaluate(sparse, tmp_path / "text.txt", length=16, windows=2)
    seft_ref.quantise(sparse, tmp_path / "codes", "int8")
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line.startswith("pruning: ")][-1].startswith("pruning: matrix 14 of 14, model.")
    assert [line.partition(", loss ")[0] for line in lines if line.startswith("fine-tuning: ")] == [
        f"fine-tuning: step {step} of 3" for step in (1, 2, 3)
    ]
    assert "evaluating: window 2 of 2" in lines
    assert [line for line in lines if line.startswith("quantising: ")][-1].startswith("quantising: matrix 14 of 14, ")
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_EVL_001_windows_lie_side_by_side_over_the_whole_text(place):
    tokens = [(7 * i + i // 5) % 250 for i in range(16 * 6)]
    whole = seft_ref.evaluate(place / "sparse", tokens, length=16, windows=None)
    cut = [tokens[at : at + 16] for at in range(0, 96, 16)]
    pieces = [seft_ref.evaluate(place / "sparse", piece, length=16, windows=1) for piece in cut]
    assert (whole.windows, whole.targets) == (6, 6 * 15)
    assert whole.nats_per_token == pytest.approx(sum(piece.nats_per_token for piece in pieces) / 6, rel=1e-6)
    assert seft_ref.evaluate(place / "sparse", tokens[:-1], length=16, windows=None).windows == 5
    with pytest.raises(TextError, match="EVL-002"):
        seft_ref.evaluate(place / "sparse", tokens[:15], length=16, windows=None)


def test_an_open_checkpoint_is_converted_like_its_folder(place):
    hf = place / "sparse-hf"
    formats.convert(hf, place / "one", "sparse")
    with open_hf(hf) as folder:
        formats.convert(folder.checkpoint(), place / "two", "sparse")
        for more in ({"source_format": "hf"}, {"expand_quantised": True}):
            with pytest.raises(formats.FormatError, match="FMT-084"):
                formats.convert(folder.checkpoint(), place / "new", "sparse", **more)
        with pytest.raises(formats.FormatError, match=r"FMT-084.*diff"):
            formats.convert(folder.checkpoint(), place / "new", "delta", base=hf)
    assert contents(place / "one") == contents(place / "two")


def test_an_open_delta_is_converted_like_its_folder(place):
    dense = np.zeros((40, 50), dtype=np.float32)
    target, base = (formats.Checkpoint("model", {"w": formats.Dense(dense + x)}) for x in (0, 1))
    formats.write(place / "delta", diff(base, target))
    formats.convert(place / "delta", place / "one", "sparse")
    held = formats.read(place / "delta")
    formats.convert(held, place / "two", "sparse")
    assert contents(place / "one") == contents(place / "two")
    for source in (place / "delta", held):
        for more, told in (({"dtype": "F16"}, "casts models"), ({"zeros": "any"}, "dense tensors")):
            with pytest.raises(formats.FormatError, match=f"FMT-084.*{told}"):
                formats.convert(source, place / "new", "sparse", **more)
    assert not (place / "new").exists()


def test_a_folder_and_a_loaded_model_give_the_same_bytes(place):
    finetune(place / "sparse", place / "one", place / "text.txt", "seft", **SHORT)
    model = load_model(place / "sparse", cpu)
    tokens = read_tokens(place / "text.txt", place / "sparse")
    finetune(model, place / "two", tokens, settings_of("seft", **SHORT))
    assert contents(place / "one") == contents(place / "two")
    assert not (place / "one.state").exists()


def test_a_model_that_a_run_has_spent_is_refused_everywhere(place):
    model = load_model(place / "sparse", cpu)
    tokens = read_tokens(place / "text.txt", place / "sparse")
    with pytest.raises(TextError, match="TRN-003"):
        finetune(model, None, tokens, settings_of("seft", **SHORT | {"length": 10**6}))
    evaluate(model, tokens, length=8)  # the run above did not begin
    finetune(model, None, tokens, settings_of("seft", **SHORT))
    for call in (
        lambda: finetune(model, None, tokens, settings_of("seft", **SHORT)),
        lambda: evaluate(model, tokens, length=8),
        lambda: generate(model, "a", max_tokens=1),
        lambda: prune(model, None, "magnitude"),
    ):
        with pytest.raises(ValueError, match="it is spent; load it again"):
            call()


def test_TRN_004_a_run_that_was_stopped_goes_on_to_the_same_bytes(place):
    finetune(place / "sparse", place / "whole", place / "text.txt", **SHORT)
    steps = []
    first = finetune(place / "sparse", place / "out", place / "text.txt", stop_after=3, save_every=2, **SHORT)
    assert first.final is None
    assert (place / "out.state").is_file()
    assert not (place / "out").exists()
    with pytest.raises(CheckpointError, match=r"CKP-006: .*out.state holds an unfinished run"):
        finetune(place / "sparse", place / "out", place / "text.txt", **SHORT)
    started = []
    finetune(
        place / "sparse",
        place / "out",
        place / "text.txt",
        resume=True,
        on_start=started.append,
        on_step=lambda state, record, seconds: steps.append((state.step, record.step, seconds > 0)),
        **SHORT,
    )
    assert [s.state.step for s in started] == [3]
    assert steps == [(n, n, True) for n in (4, 5, 6)]
    assert contents(place / "out") == contents(place / "whole")
    assert not (place / "out.state").exists()


def test_what_a_callback_raises_ends_the_run_and_keeps_the_last_saved_state(place):
    def stop(state, record, seconds):
        if record.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(place / "sparse", place / "out", place / "text.txt", on_step=stop, save_every=1, **SHORT)
    assert not (place / "out").exists()
    state = []
    finetune(
        place / "sparse",
        place / "out",
        place / "text.txt",
        resume=True,
        on_start=lambda s: state.append(s.state.step),
        **SHORT,
    )
    assert state == [3]


def test_nothing_is_written_without_a_folder_to_write(place):
    before = sorted(place.iterdir())
    done = finetune(place / "sparse", None, place / "text.txt", **SHORT)
    assert sorted(place.iterdir()) == before
    (topology, weights), *_ = done.final.values()
    assert weights.shape == (topology.nnz,)
    assert seft_ref.evaluate(done.model(), [1, 2, 3, 4] * 9, length=8, windows=2).targets == 14


def test_the_model_after_the_last_step_is_that_of_its_state(place):
    done = finetune(place / "sparse", None, place / "text.txt", **SHORT)
    name = next(iter(done.state.targets))
    assert matrix_of(done.model().weights, name) is matrix_of(done.state.weights, name)


def test_what_does_not_go_together_is_refused_before_anything_is_computed(place):
    text = place / "text.txt"
    (place / "there").mkdir()
    for call in (
        lambda: finetune(place / "sparse", place / "there", text, **SHORT),
        lambda: prune(place / "sparse-hf", place / "there", "magnitude"),
    ):
        with pytest.raises(DestinationExists, match=r"^FMT-110: "):
            call()
    model = load_model(place / "sparse", cpu)
    made = seft_ref.Model(model.config, model.weights, model.bases)
    for call, words in (
        (lambda: finetune(place / "sparse", None, text, settings_of("seft"), steps=3), "steps: changes belong"),
        (lambda: finetune(place / "sparse", None, text, resume=True), "there is no state to resume from"),
        (lambda: finetune(model, None, text, dtype="float64"), "dtype is an option of loading"),
        (lambda: finetune(made, None, text), "the model has no folder"),
        (lambda: finetune(made, place / "new", [1, 2], "seft"), "the model was made in memory"),
        (lambda: finetune(made, None, [1, 2], "seft", state_file=place / "new.state"), "give origin"),
        (lambda: prune(place / "sparse-hf", place / "new", "wanda"), "wanda needs a text"),
        (lambda: prune(place / "sparse-hf", place / "new", "magnitude", text=text), "magnitude uses no text"),
        (lambda: prune(place / "sparse-hf", place / "new", "best"), "unknown method 'best'"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(CheckpointError, match=r"CKP-002: .* is not a sparse checkpoint; make one with formats.convert"):
        finetune(place / "sparse-hf", place / "new", text)
    for folder, advice in (("sparse", "convert the sparse checkpoint"), ("nothing", "name one that is there")):
        with pytest.raises(CheckpointError, match=rf"CKP-002: .* is not a Hugging Face folder; {advice}"):
            prune(place / folder, place / "new", "magnitude")
    assert not (place / "new").exists()


def test_CKP_007_a_state_says_what_it_was_told_to(place):
    model = load_model(place / "sparse", cpu)
    made = seft_ref.Model(model.config, model.weights, model.bases)
    told = {"state_file": place / "s", "origin": Origin("m", "t")}
    tokens = list(np.arange(200) % 97)
    finetune(made, None, tokens, stop_after=2, **told, **SHORT)
    again = load_model(place / "sparse", cpu)
    with pytest.raises(CheckpointError, match="CKP-006"):
        finetune(again, None, tokens, resume=True, state_file=place / "s", **SHORT)


def test_a_conversion_tells_each_tensor_once_and_what_a_callback_raises_leaves_nothing(place):
    seen = []
    for to, name in (("hf", "one"), ("sparse", "two")):
        source = place / ("sparse" if to == "hf" else "one")
        seen.clear()
        formats.convert(source, place / name, to, progress=lambda *told: seen.append(told), verify=True)
        with formats.open(place / "sparse") as reader:
            assert sorted(seen) == [(tensor, len(reader)) for tensor in sorted(reader.names())]
        formats.convert(source, place / f"{name}-unwatched", to)
        assert contents(place / name) == contents(place / f"{name}-unwatched")
    with pytest.raises(ZeroDivisionError):
        formats.convert(place / "one", place / "three", "sparse", progress=lambda *_: 1 / 0)
    assert not (place / "three").exists()


@pytest.mark.parametrize("compact", [False, True])
def test_CKP_006_a_resumed_run_takes_the_memory_of_the_model_that_it_has_loaded(tmp_path, monkeypatch, compact):
    sparse_folder(tmp_path / "sparse", dtype=ml_dtypes.bfloat16)
    (tmp_path / "text.txt").write_text(TEXT)
    run, how = (tmp_path / "sparse", tmp_path / "out", tmp_path / "text.txt"), SHORT | {"compact": compact}
    finetune(*run, **how, stop_after=3)
    taken, place = [], state_file.place

    def placed(*args, **memory):
        taken.append(sorted(memory))
        return place(*args, **memory)

    monkeypatch.setattr(state_file, "place", placed)
    finetune(*run, **how, resume=True)
    assert taken == [["spent"]] * 14
    finetune(run[0], tmp_path / "whole", run[2], **how)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    model = load_model(run[0], cpu, compact=compact)
    finetune(run[0], tmp_path / "other", run[2], **how, stop_after=3)
    taken.clear()
    finetune(model, tmp_path / "other", run[2], **SHORT, resume=True)
    assert taken == [[]] * 14
