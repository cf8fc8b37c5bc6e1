"""What a reader found in runs: states of seeded slots and open windows, ranks that differ, kept models, odd data."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

import formats
from seft_ref import Validation, finetune
from seft_ref.errors import CheckpointError, SeftError, TextError
from seft_ref.files.model import load_model
from seft_ref.files.state import load_state, save_state
from seft_ref.kernels import reference
from seft_ref.runs import outcome
from seft_ref.runs.loops import loop_of
from seft_ref.text.examples import Example, Examples, examples_of
from tests.seft_ref.folders import TEXT, hf_folder, parameters, pruned, sparse_folder
from tests.seft_ref.rule_runs import ORIGIN, begin, one_step, short
from tests.seft_ref.threads_as_ranks import on_ranks

TOKENS = [ord(c) % 256 for c in TEXT]
OTHER = [ord(c) % 200 for c in TEXT[::-1]]
RUN = {"steps": 4, "batch": 2, "length": 8, "evolve_every": 2, "density": 0.05, "lr": 0.01, "kernels": reference}


@pytest.fixture
def base(tmp_path):
    return sparse_folder(tmp_path / "sparse")


def test_CKP_007_9_seeded_slots_are_as_old_as_their_window_with_its_further_steps(base, tmp_path):
    """The event after step 4 looks at 8 steps, so that its slots are 8 steps old then."""
    how = RUN | {"moments": "seeded", "event_batches": 8, "evolve_every": 4, "steps": 6}
    whole = finetune(base, None, TOKENS, **how)
    finetune(base, tmp_path / "out", TOKENS, stop_after=5, **how)
    done = finetune(base, tmp_path / "out", TOKENS, resume=True, **how)
    assert done.final.keys() == whole.final.keys()
    for name, (_, values) in whole.final.items():
        assert np.array_equal(done.final[name][1], values)


def of_state(tmp_path, change, steps=2, **how):
    """A run whose state of step 2 was changed, and its weights."""
    run = begin(short(**how))
    state = run.state
    for _ in range(steps):
        state, _ = one_step(run, state)
    save_state(tmp_path / "state", state, run.settings, ORIGIN)
    content = formats.read(tmp_path / "state")
    formats.write_file(tmp_path / "changed", change(content))
    load_state(tmp_path / "changed", begin(run.settings, run.config).weights, run.settings, ORIGIN, reference)


def no_windows(content):
    kept = {name: t for name, t in content.tensors.items() if ".window." not in name}
    return replace(content, attributes=content.attributes | {"windows": {}}, tensors=kept)


def other_steps(content):
    windows = {name: {**of, "steps": 7} for name, of in content.attributes["windows"].items()}
    return replace(content, attributes=content.attributes | {"windows": windows})


@pytest.mark.parametrize("change", [no_windows, other_steps])
def test_CKP_007_4_a_window_holds_the_steps_that_its_step_asks_for(tmp_path, change):
    with pytest.raises(CheckpointError, match=r"CKP-007.*windows must hold the 1 steps"):
        of_state(tmp_path, change, gradient_window=3)


@pytest.mark.parametrize("key", ["pattern", "preset", "lr"])
def test_CKP_007_10_a_setting_that_is_absent_is_named(tmp_path, key):
    def change(content):
        settings = json.loads(content.attributes["settings"])
        del settings[key]
        return replace(content, attributes=content.attributes | {"settings": json.dumps(settings, sort_keys=True)})

    with pytest.raises(CheckpointError, match=rf"CKP-007.*its settings lack {key}"):
        of_state(tmp_path, change)


def refused_on_ranks(work, told):
    with pytest.raises(SeftError, match=rf"TRN-014.*{told}"):
        on_ranks(2, work)


def test_TRN_014_ranks_measure_alike(base, tmp_path):
    for name, first, second in (
        ("data", Validation(TOKENS, 1), Validation(OTHER, 1)),
        ("every", Validation(OTHER, 1), Validation(OTHER, 2)),
        ("patience", Validation(OTHER, 1), Validation(OTHER, 1, 1)),
    ):

        def work(ranks, name=name, first=first, second=second):
            valid = second if ranks.rank else first
            return finetune(base, tmp_path / name, TOKENS, valid=valid, ranks=ranks, **RUN)

        refused_on_ranks(work, "validation")


def test_TRN_014_models_that_were_made_in_memory_are_compared_too(base, tmp_path):
    other = tmp_path / "other"
    formats.convert(hf_folder(tmp_path / "hf", tensors=pruned(parameters(seed=5))), other, "sparse")

    def work(ranks, text=(TOKENS, TOKENS), model=(base, base)):
        loaded = load_model(model[ranks.rank], reference)
        loaded.folder = None
        return finetune(loaded, None, text[ranks.rank], ranks=ranks, **RUN).state.step

    assert on_ranks(2, work) == [4, 4]
    refused_on_ranks(lambda ranks: work(ranks, text=(TOKENS, OTHER)), "other text")
    refused_on_ranks(lambda ranks: work(ranks, model=(base, other)), "other model")


def test_TRN_014_open_windows_are_part_of_a_state():
    run = begin(short(gradient_window=3))
    state, _ = one_step(run, one_step(run, run.state)[0])

    def parts(ranks):
        sums = {name: replace(one, gradient=one.gradient * (1 + ranks.rank)) for name, one in state.window.items()}
        return loop_of(run.settings, reference).parts(replace(state, window=sums), ranks)

    one, two = on_ranks(2, parts)
    assert one["windows"] != two["windows"]
    assert {name: one[name] == two[name] for name in ("positions", "values")} == {"positions": True, "values": True}


def test_TRN_022_4_a_kept_model_moves_after_every_rank_has_read_it(base, tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    def work(ranks, **how):
        return finetune(base, tmp_path / "out", TOKENS, valid=Validation(OTHER, 2), ranks=ranks, **RUN | how)

    with monkeypatch.context() as patched:
        patched.setattr(outcome, "give_out", killed)
        with pytest.raises(KeyboardInterrupt):
            on_ranks(2, work)

    def later(ranks):
        return work(ranks, resume=True, on_start=lambda started: time.sleep(0.3 * ranks.rank))

    one, two = on_ranks(2, later)
    assert one.best == two.best is not None
    assert (tmp_path / "out").is_dir()


def test_CKP_006_an_ended_run_whose_kept_model_is_gone_says_what_to_do(base, tmp_path, monkeypatch):
    """The run had no validation, and failed when it wrote its model."""

    def full(*arguments, **more):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(outcome, "save_model", full)
        with pytest.raises(OSError, match="disk full"):
            finetune(base, tmp_path / "out", TOKENS, **RUN)
    with pytest.raises(CheckpointError, match=r"CKP-006.*no model .*best-STEP is kept.*resume without validation"):
        finetune(base, tmp_path / "out", TOKENS, resume=True, valid=Validation(OTHER, 2), **RUN)
    assert finetune(base, tmp_path / "out", TOKENS, resume=True, **RUN).best is None


def test_TRN_020_7_a_line_without_tokens_is_named(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab={"<unk>": 0, "a": 1}, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "lines.jsonl").write_text('{"prompt":"a","completion":"a"}\n{"prompt":"","completion":"\\n"}\n')
    with pytest.raises(TextError, match=r"TRN-020.*lines\.jsonl.*2.*reads no token"):
        examples_of([tmp_path / "lines.jsonl"], tmp_path, 8, end=1)


def test_EVL_004_packed_examples_are_measured_as_rows(base, tmp_path):
    """The longest example has an answer of one token, which a packed row of that length would not hold."""
    items = [Example([i + 1, i + 2, i + 3, i + 4, 9], [-100] * 4 + [9]) for i in range(8)]
    losses = [
        finetune(base, tmp_path / f"{packed}", TOKENS, valid=Validation(Examples(items, packed=packed), 2), **RUN).best
        for packed in (False, True)
    ]
    assert losses[0] == losses[1]


def test_numbers_of_a_validation_are_checked_before_the_run(base, tmp_path):
    done = finetune(base, tmp_path / "out", TOKENS, valid=Validation(OTHER, np.int64(2), np.int32(9)), **RUN)
    assert done.best is not None
    for wrong in (Validation(OTHER, 2.5), Validation(OTHER, True), Validation(OTHER, 2, 1.5), Validation(OTHER, "2")):
        with pytest.raises(ValueError, match=r"whole number|must be"):
            finetune(base, tmp_path / "other", TOKENS, valid=wrong, **RUN)
