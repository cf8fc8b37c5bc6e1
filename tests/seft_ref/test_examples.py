"""Instruction data: what is read and learned, in which order, and what a run on them leaves."""

import json
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from formats.dialects.hf import to_sparse
from seft_ref import finetune, load_model, loss_and_gradients, prune, read_examples, settings_of, step_batches
from seft_ref.arrays.rng import counter_key, draw
from seft_ref.errors import TextError
from seft_ref.kernels import reference
from seft_ref.text.evaluate import evaluate_examples
from seft_ref.text.examples import Example, Examples, examples_of
from seft_ref.update.rules import Adapt
from tests.seft_ref.folders import CONFIG, hf_folder, parameters, pruned, write_tokenizer
from tests.seft_ref.threads_as_ranks import on_ranks

END, BEGIN = 2, 1
loop = sys.modules["seft_ref.train.loop"]  # seft_ref.train is a function
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role[0] }}>{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}/\n{% endgeneration %}{% else %}{{ m.content }}/\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
LINES = [
    {"prompt": "one and one is", "completion": " two", "source": "a book"},
    {"prompt": "", "completion": "the whole of it"},
    {"prompt": "ends with a space ", "completion": "here"},
    {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "and you"},
            {"role": "assistant", "content": "well, thanks"},
        ]
    },
    {"prompt": "x", "completion": "y"},
]


def merging_tokenizer():
    """Bytes, of which a space and the letter behind it become one token; a text begins with a token of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<unk>": 0, "<s>": BEGIN, "</s>": END} | {c: i for i, c in enumerate(alphabet, 3)}
    space = "Ġ"
    merges = [(space, c) for c in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary |= {space + c: len(vocabulary) + i for i, (_, c) in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGIN)])
    return tokenizer


def model_folder(place, ends):
    config = CONFIG | {"vocab_size": 300}
    source = hf_folder(place.with_name(f"{place.name}-hf"), config, pruned(parameters(config), config))
    merging_tokenizer().save(str(source / "tokenizer.json"))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    (source / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "chat_template": TEMPLATE}))
    to_sparse(source, place)
    return place


@pytest.fixture
def folder(tmp_path):
    return model_folder(tmp_path / "model", [END, 7])


def written(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.fixture
def data(tmp_path):
    return written(tmp_path / "train.jsonl", LINES)


def learned(example, tokenizer):
    """The text of what is learned, with `.` for each other token."""
    parts = [
        "." if label == -100 else tokenizer.decode([token], skip_special_tokens=False)
        for token, label in zip(example.tokens, example.labels, strict=True)
    ]
    return "".join(parts).lstrip(".")


def test_TRN_020_what_is_learned(folder, data):
    tokenizer = merging_tokenizer()
    found = read_examples(data, folder, 64).items
    assert [learned(e, tokenizer) for e in found] == [
        " two</s>",
        "the whole of it</s>",
        # the token that crosses the boundary is the completion's
        " here</s>",
        "hello/\n" + "." * len(tokenizer.encode("<u>and you/\n<a>", add_special_tokens=False).ids) + "well, thanks/\n",
        "y</s>",
    ]
    assert all(label in (-100, token) for e in found for token, label in zip(e.tokens, e.labels, strict=True))
    assert [e.tokens[0] for e in found] == [BEGIN] * 5
    assert found[0].tokens == [*tokenizer.encode("one and one is two").ids, END]
    assert [e.targets() for e in found] == [4, 13, 5, 20, 2]


def test_TRN_020_4_an_end_that_is_there_is_not_put_twice(folder, tmp_path):
    file = written(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "b</s>"}])
    assert read_examples(file, folder, 9).items[0].tokens.count(END) == 1
    file = written(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "b"}])
    assert END not in read_examples(file, model_folder(tmp_path / "endless", None), 9).items[0].tokens


def test_TRN_020_5_a_conversation_is_that_of_transformers(folder, data):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=merging_tokenizer(), bos_token="<s>")
    theirs.chat_template = TEMPLATE
    given = theirs.apply_chat_template(
        LINES[3]["messages"], return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    (mine,) = [read_examples(data, folder, 64).items[3]]
    assert list(mine.tokens) == given["input_ids"]
    assert [label != -100 for label in mine.labels] == [bool(one) for one in given["assistant_masks"]]


def order_by_hand(n, seed, epoch):
    drawn = [(draw(counter_key(seed, 8), epoch * n + i), i) for i in range(n)]
    return [i for _, i in sorted(drawn)]


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_TRN_021_every_epoch_has_every_example_once_in_the_order_of_draws(seed):
    examples = Examples([Example([i, i], [i, i]) for i in range(11)])
    got = [row.tokens[0] for row in examples.rows(range(40), 8, seed)]
    assert got == [i for epoch in range(4) for i in order_by_hand(11, seed, epoch)][:40]
    assert got[:11] != got[11:22]
    assert sorted(got[11:22]) == list(range(11))
    assert [row.tokens[0] for row in examples.rows(range(17, 23), 8, seed)] == got[17:23]


@pytest.mark.parametrize("length", [2, 5, 7, 64])
def test_TRN_021_3_packed_rows_are_cut_from_all_epochs_laid_end_to_end(length):
    rng = np.random.default_rng(length)
    of = []
    for _ in range(6):
        tokens = rng.integers(3, 99, rng.integers(2, 9)).tolist()
        of.append(Example(tokens, [-100 if rng.random() < 0.4 else token for token in tokens]))
    tokens, labels = [], []
    for epoch in range(40):
        for i in order_by_hand(6, 3, epoch):
            tokens += of[i].tokens
            labels += [-100, *of[i].labels[1:]]
    rows = Examples(of, packed=True).rows(range(2, 9), length, 3)
    for j, row in zip(range(2, 9), rows, strict=True):
        assert (row.tokens, row.labels) == (tokens[j * length :][:length], labels[j * length :][:length])


def test_TRN_021_4_a_padded_step_is_the_sum_over_its_examples_alone(folder, data):
    model = load_model(folder, reference, "float64")
    examples = read_examples(data, folder, 64)
    settings = settings_of("seft", steps=3, batch=3, micro_batches=2, length=64, seed=5)
    rows = examples.rows(range(6), 64, 5)
    count = sum(row.targets() for row in rows)
    slots = {name: base.topology for name, base in model.bases.items()}
    whole = loss_and_gradients(
        model.weights, model.config, step_batches(settings, examples, 1, model.weights), reference, slots
    )
    loss, gradients = 0.0, dict.fromkeys(slots, 0.0)
    for row in rows:
        alone = step_batches(replace(settings, batch=1, micro_batches=1), Examples([row]), 1, model.weights)
        assert alone[0].tokens.shape == (1, len(row.tokens))
        one = loss_and_gradients(model.weights, model.config, alone, reference, slots)
        loss += one.loss * row.targets() / count
        gradients = {n: g + one.at[n] * row.targets() / count for n, g in gradients.items()}
    assert whole.loss == pytest.approx(loss, rel=1e-12)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(whole.at[name], gradient, rtol=1e-9, atol=1e-14)
    assert evaluate_examples(model.weights, model.config, Examples(rows), reference, rows=4) == pytest.approx(
        loss, rel=1e-12
    )


@pytest.mark.parametrize("rule", [{"adapt": name} for name in get_args(Adapt)] + [{"grow": "curvature"}], ids=str)
def test_TRN_021_4_padding_changes_nothing(folder, data, monkeypatch, rule):
    """Another token in its place is another input of every layer, and must not be seen by any rule."""
    examples, left = read_examples(data, folder, 64), []
    plain = loop.batch_of_examples
    for padding in (0, 77):

        def padded(rows, weights, padding=padding):
            batch = plain(rows, weights)
            tokens = np.where(batch.mask, batch.tokens, padding) if batch.mask is not None else batch.tokens
            return replace(batch, tokens=tokens)

        monkeypatch.setattr(loop, "batch_of_examples", padded)
        done = finetune(folder, None, examples, **RUN | rule | {"batch": 3, "steps": 4})
        left.append({name: (topology.indices, values) for name, (topology, values) in done.final.items()})
    for name, (indices, values) in left[0].items():
        np.testing.assert_array_equal(indices, left[1][name][0])
        np.testing.assert_array_equal(values, left[1][name][1])


RUN = {"steps": 7, "length": 64, "batch": 2, "evolve_every": 3, "lr": 0.02, "density": 0.05}


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("method", ["seft", "lora-star"])
def test_TRN_004_a_run_on_examples_resumes_to_the_same_bytes(folder, data, tmp_path, packed, method):
    length = 32 if packed else 64
    changes = RUN | {"steps": 5}
    examples = read_examples(data, folder, length, packed=packed)
    if method == "lora-star":
        # its merged model is pruned again with the activations of the examples (TRN-021.6)
        changes = {key: value for key, value in changes.items() if key not in ("evolve_every", "density")}
        dense = hf_folder(tmp_path / "dense", CONFIG | {"vocab_size": 300})
        prune(dense, tmp_path / "wanda", "wanda", 0.5, text=list(range(90)), length=8)
        folder = tmp_path / "pruned"
        to_sparse(tmp_path / "wanda", folder)
    finetune(folder, tmp_path / "whole", examples, method, **changes | {"length": length})
    for stop in (1, 3):
        out = tmp_path / f"stopped-{stop}"
        for resume in (False, True):
            done = finetune(
                folder,
                out,
                examples,
                method,
                stop_after=None if resume else stop,
                resume=resume,
                **changes | {"length": length},
            )
        assert contents(out) == contents(tmp_path / "whole")
    assert done.state.step == 5


def test_TRN_013_ranks_share_the_examples_of_a_step(folder, data):
    examples = read_examples(data, folder, 64)
    alone = finetune(folder, None, examples, **RUN | {"batch": 3})
    both = on_ranks(2, lambda ranks: finetune(folder, None, examples, ranks=ranks, **RUN | {"batch": 3}))
    for one in both:
        for name, (topology, values) in alone.final.items():
            np.testing.assert_array_equal(one.final[name][0].indices, topology.indices)
            np.testing.assert_allclose(one.final[name][1], values, rtol=1e-4, atol=1e-6)


def test_CKP_006_a_state_of_other_examples_is_refused(folder, data, tmp_path):
    finetune(folder, tmp_path / "out", read_examples(data, folder, 64), stop_after=2, **RUN)
    written(data, [*LINES[:-1], {"prompt": "xy", "completion": ""} | {"completion": "z"}])
    with pytest.raises(Exception, match="CKP-006"):
        finetune(folder, tmp_path / "out", read_examples(data, folder, 64), resume=True, **RUN)


LEARNED = ((0, 0, 0, 0, 1), (0, 1, 0, 0, 0, 0, 0, 1, 0, 0), (1, 1))
SAID = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2 is not JSON: Expecting property name enclosed in double quotes at column 2"),
        ('{"prompt": "a", "prompt": "b", "completion": "c"}', "a key stands twice"),
        ({"prompt": None, "completion": "b"}, "prompt is null"),
        ({"messages": [*SAID, {"role": "gpt", "content": "c"}]}, "has the role 'gpt', must be one of system"),
        ("[1]", "line 2 is not a JSON object"),
        ("null", "line 2 is not a JSON object"),
        ({"instruction": "a", "output": "b"}, "or prompt and completion; it has instruction, output"),
        ('{"prompt": "a\\ud800", "completion": "b"}', "prompt holds half of a surrogate pair"),
        ({"messages": [SAID[0], {"role": "assistant", "content": "\ud800"}]}, "content holds half"),
        (f'{{"prompt": {"1" * 5000}}}', "a number has too many digits"),
        ({"prompt": "a", "completion": "b", "messages": SAID}, "must have either"),
        ({"prompt": "a"}, "completion is missing"),
        ({"prompt": ["a"], "completion": "b"}, "prompt is of type list"),
        ({"prompt": "a", "completion": ""}, "empty completion"),
        ({"messages": "a"}, "messages must be a list"),
        ({"messages": SAID[:1]}, "no answer"),
        ({"messages": [*SAID, {"role": "assistant", "content": ""}]}, "an empty answer"),
        ({"messages": [*SAID, {"role": "user"}]}, "content is missing"),
        ({"messages": SAID, "tools": [{"name": "f"}]}, "tools"),
        ({"prompt": "a" * 20, "completion": "b"}, "line 2 has 23 tokens and a row 12"),
    ],
)
def test_TRN_020_7_a_line_that_is_no_example(folder, tmp_path, line, told):
    file = written(tmp_path / "d.jsonl", [LINES[4], line])
    with pytest.raises(TextError, match="TRN-020") as error:
        read_examples([file], folder, 12)
    assert told in str(error.value)
    assert "d.jsonl" in str(error.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'\xef\xbb\xbf{"prompt": "a", "completion": "b"}', "begins with a byte order mark"),
        (b'{"prompt": "a", "completion": "b", "weight": NaN}', "NaN"),
        (b'[{"prompt": "a", "completion": "b"},\n{"prompt": "a", "completion": "b"}]', "holds one array"),
    ],
)
def test_TRN_020_7_a_file_of_another_kind(folder, tmp_path, content, told):
    (tmp_path / "d.jsonl").write_bytes(content)
    with pytest.raises(TextError, match=f"TRN-020.*line 1 is not JSON.*{told}"):
        read_examples(tmp_path / "d.jsonl", folder, 12)


def test_TRN_020_7_one_token_is_no_example(folder, tmp_path):
    write_tokenizer(folder)  # which puts nothing in front
    with pytest.raises(TextError, match=r"TRN-020.*line 1: it has one token, which nothing predicts"):
        examples_of([written(tmp_path / "d.jsonl", [{"prompt": "", "completion": "b"}])], folder, 12, end=None)


def test_TRN_020_7_templates_that_are_not_text(folder, tmp_path):
    named = ["default", {"name": ["default"], "template": TEMPLATE}, {"name": "default"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    with pytest.raises(TextError, match=r"TRN-020.*has no chat template"):
        read_examples(written(tmp_path / "d.jsonl", [{"messages": SAID}]), folder, 64)
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TextError, match=r"TRN-020.*chat_template.jinja is not UTF-8"):
        read_examples(written(tmp_path / "d.jsonl", [{"messages": SAID}]), folder, 64)


def test_TRN_020_7_bytes_that_are_not_text(folder, tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b'\n\n{"prompt": "\xff", "completion": "b"}\n')
    with pytest.raises(TextError, match="line 3 is not UTF-8"):
        read_examples(tmp_path / "d.jsonl", folder, 12)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('no system') }}", "line 1: the chat template refuses this: no system"),
        ("{{ messages[0].content.nothing() }}", "does not work"),
        ("{% if", "does not work"),
        ("{{ 1 / 0 }}", "does not work: division by zero"),
        ("{{ messages[0].content + 1 }}", "does not work"),
        ("{{ strftime_now('%d') }}", "it asks for the date"),
        ("always the same", "which writes no answer here"),
        # what is said first hangs on how much is said
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "writes message 2 otherwise"),
    ],
)
def test_TRN_020_7_a_template_that_cannot_be_used(folder, tmp_path, template, told):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template} if template else {}))
    with pytest.raises(TextError, match="TRN-020") as error:
        read_examples(written(tmp_path / "d.jsonl", [{"messages": SAID}]), folder, 64)
    assert told in str(error.value)


def test_TRN_020_8_examples_longer_than_a_row(folder, tmp_path):
    lines = [{"prompt": "a" * n, "completion": "bcd"} for n in (2, 8, 3, 30)]
    file = written(tmp_path / "d.jsonl", lines)
    dropped = read_examples(file, folder, 8, longer="drop")
    assert ([len(e.tokens) for e in dropped.items], dropped.left_out, dropped.cut) == ([7, 8], 2, 0)
    with pytest.raises(TextError, match=r"line 2: what stands before the first answer fills the row of 8 tokens"):
        read_examples(file, folder, 8, longer="cut")
    cut = read_examples(written(tmp_path / "e.jsonl", lines[:3]), folder, 11, longer="cut")
    assert ([len(e.tokens) for e in cut.items], cut.left_out, cut.cut) == ([7, 11, 8], 0, 1)
    assert len(read_examples(file, folder, 8, packed=True).items) == 4
    with pytest.raises(TextError, match="no example is left"):
        read_examples(file, folder, 3, longer="drop")
    with pytest.raises(TextError, match=r"longer is .*, must be one of"):
        read_examples(file, folder, 3, longer="shorten")
    with pytest.raises(TextError, match="TRN-021: an example has 8 tokens and a row 7"):
        finetune(folder, None, dropped, steps=1, length=7)


def test_TRN_021_3_a_packed_row_of_which_nothing_may_be_learned_is_refused(folder):
    of = [Example([3] * len(learned), [3 if one else -100 for one in learned]) for learned in LEARNED]
    examples = Examples(of, packed=True)
    # by hand: two unlearned tokens end the second, and four begin the first
    assert examples.most_unlearned() == 6
    with pytest.raises(TextError, match=r"TRN-021: 6 tokens on end.* row of 7 .*raise length to 8"):
        finetune(folder, None, examples, steps=1, length=7)
    rows = examples.rows(range(400), 8, 0)
    assert min(row.targets() for row in rows) == 1
    assert min(row.targets() for row in examples.rows(range(400), 7, 0)) == 0


def test_TRN_017_TRN_018_rows_that_the_model_cannot_read(folder, data):
    examples = read_examples(data, folder, 64)
    with pytest.raises(TextError, match="TRN-017"):
        finetune(folder, None, examples, steps=1, length=65)
    strange = Examples([*examples.items, Example([1, 300], [1, 300])])
    with pytest.raises(TextError, match="TRN-018"):
        finetune(folder, None, strange, steps=1, length=64)
