"""A run with validation leaves its best model, ends early, and resumes to the same (TRN-022)."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import formats
from formats.errors import DestinationExists
from seft_ref import Validation, evaluate, finetune, load_model
from seft_ref.errors import CheckpointError, TextError
from seft_ref.kernels import cpu
from seft_ref.text.examples import Example, Examples
from seft_ref.topology.csr import flat
from tests.seft_ref.folders import TEXT, hf_folder, sparse_folder
from tests.seft_ref.threads_as_ranks import on_ranks

# so high that the loss on another text falls first and then rises
RUN = {"steps": 11, "length": 16, "batch": 2, "evolve_every": 3, "lr": 0.05, "density": 0.2}
MEASURED = (2, 4, 6, 8, 10, 11)
OTHER = [token % 256 for token in range(0, 900, 7)]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    sparse_folder(tmp_path / "sparse")
    return tmp_path


def losses_of(place, **changes):
    """The loss after some steps, measured on the model that a run of its own leaves when it is stopped there."""
    found = {}
    for step in MEASURED:
        done = finetune(place / "sparse", None, place / "text.txt", "seft", stop_after=step, **RUN | changes)
        found[step] = evaluate(done.model(), OTHER, length=16).nats_per_token
    return found


def run(place, out, *, every=2, patience=None, method="seft", **more):
    seen = []
    held = Validation(OTHER, every, patience, lambda step, loss, best: seen.append((step, loss, best.step)))
    done = finetune(place / "sparse", out, place / "text.txt", method, valid=held, **RUN | more)
    return done, seen


def test_TRN_022_the_loss_is_that_of_the_model_at_each_step(place):
    each = losses_of(place)
    done, seen = run(place, place / "out")
    assert [step for step, *_ in seen] == list(MEASURED)
    for step, loss, best in seen:
        assert loss == pytest.approx(each[step], rel=1e-12)
        assert best == min((s for s, *_ in seen if s <= step), key=lambda s: each[s])
    assert 2 < done.best.step < 11, "the rate must be so high that the loss rises again"
    assert done.best.loss == min(loss for _, loss, _ in seen)
    assert done.state.step == 11


def test_TRN_022_2_what_is_left_is_what_ends_at_the_best_step(place):
    # what an event drops must not hang on the number of steps
    done, _ = run(place, place / "out", drop_schedule="constant")
    steps = done.best.step
    finetune(
        place / "sparse",
        place / "short",
        place / "text.txt",
        "seft",
        **RUN | {"steps": steps, "drop_schedule": "constant"},
    )
    left, short = formats.read(place / "out"), formats.read(place / "short")
    for name, tensor in short.tensors.items():
        np.testing.assert_array_equal(formats.to_dense(left.tensors[name]), formats.to_dense(tensor), err_msg=name)
    for name, (topology, values) in done.final.items():
        np.testing.assert_array_equal(formats.flat(left.tensors[name]), flat(topology))
        np.testing.assert_array_equal(left.tensors[name].values, values)


@pytest.mark.parametrize("changes", [{"adapts": "end"}, {"adapts": "end", "adapt": "random", "event_batches": 2}])
def test_TRN_022_2_the_last_pass_of_the_best_step_is_that_of_a_run_that_ends_there(place, changes):
    how = {"drop_schedule": "constant", "lr": 1.0, **changes}
    ended = []
    # no event follows these steps; which of them is better than the last one hangs on how a processor rounds
    for every in (7, 8, 10):
        done, _ = run(place, place / f"out{every}", every=every, **how)
        ended.append(done.best.step)
        steps, short = {"steps": done.best.step}, place / f"short{every}"
        finetune(place / "sparse", short, place / "text.txt", "seft", **RUN | steps | how)
        left, expected = formats.read(place / f"out{every}"), formats.read(short)
        for name, tensor in expected.tensors.items():
            np.testing.assert_array_equal(formats.to_dense(left.tensors[name]), formats.to_dense(tensor), err_msg=name)
    assert min(ended) < 11


def test_TRN_022_2_a_best_step_with_an_event_is_kept_after_its_event(place):
    # at 9 of 11 steps; a run of 9 steps would have no event there (SCH-003)
    done, _ = run(place, place / "out", every=9, drop_schedule="constant", lr=1.0)
    assert done.best.step == 9
    stopped = finetune(
        place / "sparse",
        None,
        place / "text.txt",
        "seft",
        stop_after=9,
        **RUN | {"drop_schedule": "constant", "lr": 1.0},
    )
    for model in (stopped.model(), load_model(place / "out", cpu)):
        assert evaluate(model, OTHER, length=16).nats_per_token == pytest.approx(done.best.loss, rel=1e-12)


def test_TRN_022_a_model_that_is_no_longer_best_is_removed_after_a_crash(place, monkeypatch):
    remove = shutil.rmtree

    def crash(path, **how):
        if ".best-" in str(path) and Path(path).exists():
            raise KeyboardInterrupt
        remove(path, **how)

    monkeypatch.setattr(shutil, "rmtree", crash)
    with pytest.raises(KeyboardInterrupt):
        run(place, place / "out", save_every=1)
    monkeypatch.undo()
    assert len([path for path in place.iterdir() if path.name.startswith("out.best-")]) >= 1
    done, _ = run(place, place / "out", resume=True)
    assert (place / "out").is_dir()
    assert not [path for path in place.iterdir() if ".best-" in path.name]
    assert done.best is not None


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(("every", "patience"), [(1, 2), (2, 1)])
def test_TRN_022_3_a_run_ends_when_the_loss_no_longer_falls(place, every, patience):
    _, all_of_them = run(place, place / "whole", every=every)
    done, seen = run(place, place / "out", every=every, patience=patience)
    smallest, worse, last = math.inf, 0, 11
    for step, loss, _ in all_of_them:
        smallest, worse = (loss, 0) if loss < smallest else (smallest, worse + 1)
        if worse == patience:
            last = step
            break
    assert (done.state.step, seen) == (last, [one for one in all_of_them if one[0] <= last])
    assert last < 11
    assert done.best.loss == min(loss for step, loss, _ in all_of_them if step <= last)
    assert sorted(path.name for path in place.iterdir() if path.name.startswith("out")) == ["out"]


@pytest.mark.parametrize(("method", "patience"), [("seft", None), ("seft", 2), ("lora", 2)])
def test_TRN_022_4_a_run_stopped_after_any_step_is_the_same(place, method, patience):
    more = {"method": method, "every": 2, "patience": patience}
    if method == "lora":
        more |= {"evolve_every": None, "density": None}
    more = {key: value for key, value in more.items() if value is not None or key == "patience"}
    changes = {key: RUN[key] for key in RUN if method == "seft" or key not in ("evolve_every", "density")}

    def one(out, **how):
        seen = []
        held = Validation(OTHER, 2, patience, lambda step, loss, best: seen.append((step, loss, best.step)))
        return finetune(place / "sparse", out, place / "text.txt", method, valid=held, **changes | how), seen

    whole, seen = one(place / "whole")
    # before the first measurement, at it, behind the best one, at the last
    last = whole.state.step
    stops = sorted({1, 2, min(whole.best.step + 1, last - 1), last - 1})
    # what is kept before a measurement and at it does not hang on patience
    for stop in stops if patience else stops[2:]:
        out = place / f"out-{stop}"
        # the state is older than the last measurement, as after a crash
        _, before = one(out, stop_after=stop, save_every=1)
        done, after = one(out, resume=True)
        assert before + after == seen
        assert (done.best, done.state.step) == (whole.best, whole.state.step)
        assert contents(out) == contents(place / "whole")
    assert not [path for path in place.iterdir() if ".best-" in path.name or path.name.endswith(".state")]


def test_TRN_022_4_a_crash_before_the_model_is_in_place(place, monkeypatch):
    more = {"every": 1, "patience": 2, "lr": 0.05}
    whole, _ = run(place, place / "whole", **more)
    assert whole.state.step < RUN["steps"]

    def crash(*_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr("seft_ref.runs.outcome.give_out", crash)
        with pytest.raises(InterruptedError):
            run(place, place / "out", **more)
    done, seen = run(place, place / "out", resume=True, **more)
    assert (seen, done.best, done.state.step) == ([], whole.best, whole.state.step)
    assert contents(place / "out") == contents(place / "whole")


def test_TRN_022_4_a_crash_between_measurement_and_state(place):
    class Crash(Exception):
        pass

    whole, _ = run(place, place / "whole", every=1)

    def crash(state, record, seconds):
        if state.step == 7:
            raise Crash

    held = Validation(OTHER, 1)
    with pytest.raises(Crash):
        finetune(
            place / "sparse", place / "out", place / "text.txt", "seft", valid=held, on_step=crash, save_every=3, **RUN
        )
    assert len([path for path in place.iterdir() if path.name.startswith("out.best-")]) == 1
    # the state is saved after every measurement, so that there is one wherever a model is kept
    assert (place / "out.state").exists()
    done = finetune(place / "sparse", place / "out", place / "text.txt", "seft", valid=held, resume=True, **RUN)
    assert done.best == whole.best
    assert contents(place / "out") == contents(place / "whole")


def test_TRN_013_ranks_keep_the_same_best(place):
    whole, _ = run(place, place / "whole")
    both = on_ranks(2, lambda ranks: run(place, place / "out", ranks=ranks)[0])
    assert [one.best.step for one in both] == [whole.best.step] * 2
    assert both[0].best == both[1].best
    assert all(one.kept() == whole.kept() for one in both)


def test_EVL_004_examples_are_measured_whole(place):
    lines = [Example([5, 6, 7], [-100, 6, 7]), Example(list(range(30, 60)), [-100] * 20 + list(range(50, 60)))]
    seen = []
    held = Validation(Examples(lines), 11, None, lambda step, loss, best: seen.append(loss))
    done = finetune(place / "sparse", place / "out", place / "text.txt", "seft", valid=held, **RUN)
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    formats.convert(place / "out", place / "hf", "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(place / "hf"))
    total = 0.0
    with torch.no_grad():
        for line in lines:
            logits = theirs(torch.tensor([line.tokens])).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(line.labels[1:]), reduction="sum").item()
    assert done.best.loss == seen[0] == pytest.approx(total / 12, rel=1e-5)


def test_what_cannot_be_validated_is_refused_before_the_first_step(place):
    def refused(held, kind, told, out=place / "out", **more):
        with pytest.raises(kind, match=told):
            finetune(
                place / "sparse", out, place / "text.txt", "seft", valid=held, on_step=lambda *_: 1 / 0, **RUN | more
            )

    refused("valid.txt", ValueError, r"give Validation\(data\)")
    refused(Validation(OTHER, 0), ValueError, "every is 0")
    refused(None, ValueError, "save_every is 0, must be at least 1", save_every=0)
    refused(None, ValueError, "stop_after is 0, must be at least 1", stop_after=0)
    refused(None, ValueError, "stop_after is -1", stop_after=-1)
    refused(Validation(OTHER, 1, 0), ValueError, "patience 0")
    refused(Validation(OTHER), ValueError, "name out", out=None)
    refused(Validation([1, 2, 3]), TextError, "EVL-002")
    refused(Validation([1, 300] * 20), TextError, "TRN-018")
    refused(Validation(Examples([Example([1] * 65, [1] * 65)])), TextError, "TRN-017")
    assert not (place / "out").exists()


def test_CKP_006_what_an_unfinished_run_kept_is_not_taken_for_another(place):
    run(place, place / "out", stop_after=5, every=2)
    (place / "out.state").rename(place / "aside")
    for how in ({}, {"every": 3}):
        with pytest.raises(CheckpointError, match=r"CKP-006.*out\.best-4"):
            run(place, place / "out", **how)
    (place / "aside").rename(place / "out.state")
    # a run with validation does not go on without
    with pytest.raises(CheckpointError, match=r"CKP-006.*out\.best-4.* with the same validation, or remove"):
        finetune(place / "sparse", place / "out", place / "text.txt", "seft", resume=True, **RUN)
    with pytest.raises(CheckpointError, match=r"CKP-006.*measured with other steps between measurements;"):
        run(place, place / "out", resume=True, every=3)
    assert run(place, place / "out", resume=True)[0].best.step > 0


def test_TRN_022_4_folders_of_like_names_are_left_alone(place):
    run(place, place / "out", stop_after=5, every=2)
    others = [place / "out.best-4-copy", place / "out.best-notes", place / "out.best-"]
    for other in others:
        other.mkdir()
        (other / "notes.txt").write_text("mine")
    run(place, place / "out", resume=True, every=2)
    assert [(other / "notes.txt").read_text() for other in others] == ["mine"] * 3


@pytest.mark.parametrize("make", [sparse_folder, hf_folder, Path.mkdir])
def test_CKP_006_a_folder_with_the_name_of_a_kept_model_that_no_run_kept(place, make):
    run(place, place / "out", stop_after=3, every=4)
    make(place / "out.best-2")
    with pytest.raises(CheckpointError, match=r"CKP-006.*out\.best-2 was not kept by a run"):
        run(place, place / "out", resume=True, every=4)


def test_TRN_022_4_a_name_with_brackets_is_a_name(place):
    run(place, place / "plain", every=2)
    run(place, place / "o[ut]*", stop_after=5, every=2)
    run(place, place / "o[ut]*", resume=True, every=2)
    a, b = ((place / out / "model.sparse.safetensors").read_bytes() for out in ("plain", "o[ut]*"))
    assert a == b
    assert not [path for path in place.iterdir() if ".best-" in path.name]


def test_the_settings_of_a_run_do_not_hang_on_validation(place):
    run(place, place / "out", every=4)
    finetune(place / "sparse", place / "plain", place / "text.txt", "seft", **RUN)
    told, plain = (formats.read(place / name).attributes for name in ("out", "plain"))
    assert told["seft.settings"] == plain["seft.settings"]
    assert set(told) - set(plain) == {"seft.validation"}


def test_TRN_022_what_is_kept_lies_beside_the_folder_however_it_is_spelled(place):
    held = Validation(OTHER, 2)
    out = f"{place / 'out'}/"
    finetune(place / "sparse", out, place / "text.txt", "seft", valid=held, stop_after=4, **RUN)
    assert (place / "out.state").is_file()
    assert [path.is_dir() for path in place.glob("out.best-*")] == [True]
    assert not (place / "out").exists()
    finetune(place / "sparse", out, place / "text.txt", "seft", valid=held, resume=True, **RUN)
    assert [path.name for path in place.glob("out*")] == ["out"]


def test_a_folder_that_appears_during_the_run_is_not_replaced(place):
    def on_step(state, record, seconds):
        if state.step == 3:
            (place / "out").mkdir()

    with pytest.raises(DestinationExists):
        run(place, place / "out", on_step=on_step)
    assert not list((place / "out").iterdir())
    (place / "out").rmdir()
    done, seen = run(place, place / "out", resume=True)
    assert (done.state.step, seen) == (11, [])


def test_CKP_006_a_model_that_was_replaced_during_the_run_is_not_mixed_with_it(place):
    def on_step(state, record, seconds):
        if state.step == 3:
            (place / "sparse").rename(place / "kept")
            checkpoint = formats.read(place / "kept")
            table = checkpoint.tensors["model.embed_tokens.weight"]
            other = dict(checkpoint.tensors) | {"model.embed_tokens.weight": formats.Dense(2 * table.values)}
            formats.write(place / "sparse", replace(checkpoint, tensors=other))

    with pytest.raises(CheckpointError, match=r"CKP-006.*was replaced"):
        finetune(place / "sparse", place / "out", place / "text.txt", "seft", on_step=on_step, **RUN)
    assert not (place / "out").exists()
    shutil.rmtree(place / "sparse")
    (place / "kept").rename(place / "sparse")
    whole = finetune(place / "sparse", place / "whole", place / "text.txt", "seft", **RUN)
    done = finetune(place / "sparse", place / "out", place / "text.txt", "seft", resume=True, **RUN)
    assert done.state.step == whole.state.step
    assert contents(place / "out") == contents(place / "whole")
