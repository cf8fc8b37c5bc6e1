"""What data files ask, in which prompts, and how answers are scored (TSK-004 to TSK-010)."""

import json
import math
import statistics

import pytest

from seft_ref.errors import TaskError
from seft_ref.tasks.item import Choices
from seft_ref.tasks.scores import (
    GSM8K,
    INVALID,
    LETTER,
    PROBLEM,
    answer_scores,
    choice_scores,
    same_number,
    same_text,
    standard_error,
)
from seft_ref.tasks.table import TASKS, load_items, task_named
from tests.seft_ref.task_files import choices_of, data_folder, instruction, problem, row, words, worked, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("data"))


def refused(call):
    with pytest.raises(TaskError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def asked(word, question, choices, gold=0):
    return [instruction(word, question, choices, gold)]


CHOICES = ["a red fox", "wax", "the map of our town", "honey"]
PROMPTS = {
    "arc_easy": ("ARC-Easy", "Answer", CHOICES, "Question: what is it?\nAnswer:"),
    "arc_challenge": ("ARC-Challenge", "Answer", CHOICES[:3], "Question: what is it?\nAnswer:"),
    "openbookqa": ("openbookqa", "Answer", CHOICES, "what is it?"),
    "social_iqa": ("social_i_qa", "Answer", CHOICES[:3], "Q: what is it?\nA:"),
    "piqa": ("piqa", "Solution", CHOICES[:2], "Question: what is it?\nAnswer:"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_TSK_005_prompts_of_sets_with_choices(name, tmp_path):
    folder, word, choices, prompt = PROMPTS[name]
    write(tmp_path / "commonsense" / folder / "test.json", asked(word, " what is it? ", choices, 1))
    (item,) = load_items(TASKS[name], tmp_path).items.values()
    assert item == Choices((prompt,) * len(choices), tuple(f" {c}" for c in choices), tuple(choices), 1)


def test_TSK_005_prompts_of_the_others(data):
    boolq = load_items(TASKS["boolq"], data).items[1]
    assert boolq.contexts == (f"Question: {words(1, 4)} 1?\nAnswer:",) * 2
    assert (boolq.continuations, boolq.gold) == ((" no", " yes"), 1)
    winogrande = load_items(TASKS["winogrande"], data).items[0]
    before, after = f"{words(200, 3)} so ", f"{words(201, 2)}."
    options = [words(200, 1), words(203, 2)]
    assert winogrande.contexts == winogrande.choices == tuple(before + option for option in options)
    assert winogrande.continuations == (f" {after}",) * 2
    mmlu = load_items(TASKS["mmlu_redux"], data).items[20]
    first, second, third, fourth = (words(6 + c, 1 + c % 3) for c in range(4))
    assert mmlu.contexts[0] == (
        "The following are multiple choice questions (with answers) about world religions.\n\n"
        f"{words(6, 4)}; what?\nA. {first}\nB. {second}\nC. {third}\nD. {fourth}\nAnswer:"
    )
    assert (mmlu.continuations, mmlu.gold, mmlu.part) == ((" A", " B", " C", " D"), 2, "world_religions")
    gsm8k = load_items(TASKS["gsm8k"], data).items[3]
    assert (gsm8k.prompt, gsm8k.answer) == (f"Question: {words(3, 5)} 3?\nAnswer:", "3,000")
    svamp = load_items(TASKS["svamp"], data).items[3]
    assert (svamp.prompt, svamp.answer) == (f"Question: {words(3, 4)} 3 ?\nAnswer:", "3.0")


def test_TSK_005_every_task_reads_its_files(data):
    for task in TASKS.values():
        loaded = load_items(task, data)
        assert len(loaded.items) == (21 if task.name == "mmlu_redux" else 7), task.name
        assert len(loaded.training) in (0, 3)
        assert task.main in (*(task.filters or ()), "acc", "acc_norm")


def test_TSK_005_an_unknown_task_is_refused():
    assert refused(lambda: task_named("arc_eazy")) == "TSK-005: there is no task 'arc_eazy'; did you mean arc_easy?"
    assert "known are arc_easy" in refused(lambda: task_named("hellaswag"))


def load(tmp_path, name, content):
    task = TASKS[name]
    write(tmp_path / task.folder / (task.split or "mmlu_anatomy.csv"), content)
    return load_items(task, tmp_path)


def test_TSK_006_a_folder_or_split_that_is_missing_is_refused(tmp_path):
    where = tmp_path / "commonsense" / "piqa"
    assert f"there is no folder {where}" in refused(lambda: load_items(TASKS["piqa"], tmp_path))
    where.mkdir(parents=True)
    assert f"there is no test.json in {where}" in refused(lambda: load_items(TASKS["piqa"], tmp_path))
    (tmp_path / "mmlu-redux").mkdir()
    assert "there is no mmlu_SUBJECT.csv" in refused(lambda: load_items(TASKS["mmlu_redux"], tmp_path))


GOOD = instruction("Answer", "what?", ["x", "y"], 0)


def changed(**changes):
    return [GOOD, GOOD | changes]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("arc_easy", b"\xff[", "is not UTF-8"),
        ("arc_easy", b"[1", "is not JSON"),
        ("arc_easy", {"a": 1}, "is not an array"),
        ("arc_easy", [], "holds no item"),
        ("arc_easy", [GOOD, 7], "item 2 .*no JSON object"),
        ("arc_easy", [GOOD, {}], "item 2 .*no text under 'instruction'"),
        ("arc_easy", changed(instruction=3), "item 2 .*no text under 'instruction'"),
        ("arc_easy", changed(answer="  "), "item 2 .*no text under 'answer'"),
        ("arc_easy", changed(answer="answer3"), "item 2 .*'answer3', which is none of answer1, answer2"),
        ("arc_easy", changed(instruction="what?"), "item 2 .*does not end with its answer format"),
        ("arc_easy", asked("Solution", "what?", ["x", "y"]), "item 1 .*must be answer1, answer2"),
        ("arc_easy", asked("Answer", "what?", ["x", "y Answer1: z"]), "item 1 .*once each and in this order"),
        ("arc_easy", asked("Answer", "what?", ["x", ""]), "item 1 .*"),
        ("arc_easy", asked("Answer", " ", ["x", "y"]), "item 1 .*"),
        ("boolq", asked("Answer", "what?", ["x", "y"]), "item 1 .*no question of true or false"),
        ("winogrande", asked("Option", "no blank.", ["x", "y"]), "item 1 .*no blank"),
        ("winogrande", asked("Option", "ends in _", ["x", "y"]), "item 1 .*no blank"),
        ("gsm8k", "", "holds no item"),
        ("gsm8k", '{"question": "a", "answer": "b"}\n', "item 1 .*does not end with ####"),
        ("gsm8k", json.dumps(worked(1)) + "\n\n" + json.dumps(worked(1)), "item 2 .*is not JSON"),
        ("gsm8k", '{"question": "a \\ud800", "answer": "b #### 1"}', "item 1 .*half of a surrogate pair"),
        ("svamp", [problem(1, "1.0"), problem(2, "two")], "item 2 .*the answer 'two'"),
        ("aqua", [problem(1, "F")], "item 1 .*the answer 'F'"),
        ("mmlu_redux", "question,choices\n", "lacks one of the columns question, choices, answer, error_type"),
        ("mmlu_redux", "question,choices,answer,error_type\nq,[]\n", "item 1 .*has 2 values, and the first line has 4"),
        ("mmlu_redux", 'question,choices,answer,error_type\nq,"[1,2,3,4]",0,ok\n', "item 1 .*list of 4 texts"),
        ("mmlu_redux", "question,choices,answer,error_type\nq,\"open('x')\",0,ok\n", "item 1 .*no list of texts"),
        ("mmlu_redux", "question,choices,answer,error_type\n" + row(4).replace('"0"', '"4"'), "item 1 .*from 0 to 3"),
        ("mmlu_redux", "question,choices,answer,error_type\n" + row(4, "expert"), "no row .*is marked ok"),
    ],
)
def test_TSK_006_what_is_malformed_is_refused_by_name(name, content, why, tmp_path):
    message = refused(lambda: load(tmp_path, name, content))
    assert message.startswith("TSK-006: ")
    assert str(tmp_path) in message
    with pytest.raises(TaskError, match=why):
        load(tmp_path, name, content)


@pytest.mark.parametrize("name", ["piqa", "gsm8k", "mmlu_redux"])
def test_TSK_006_3_a_byte_order_mark_and_blank_ends_are_no_part_of_a_file(name, tmp_path):
    data_folder(tmp_path, 3)
    items = load_items(TASKS[name], tmp_path).items
    for file in tmp_path.rglob("*"):
        if file.is_file():
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes() + b" \n\n")
    assert load_items(TASKS[name], tmp_path).items == items


def test_TSK_007_an_item_that_is_also_a_training_item_is_refused_or_left_out(tmp_path):
    folder = tmp_path / "commonsense" / "openbookqa"
    items = choices_of("Answer", 4, 6)
    # the same question with its choices in another order, and with other white space
    again = instruction("Answer", f" {words(4, 3)}  4?  ", [words(4 + 3 * c, 1 + c % 4) for c in (2, 0, 3, 1)], 1)
    write(folder / "test.json", items)
    write(folder / "train.json", [*choices_of("Answer", 4, 2, 50), items[1], again])
    task = TASKS["openbookqa"]
    message = refused(lambda: load_items(task, tmp_path))
    assert message.startswith(f"TSK-007: item 2 of {folder / 'test.json'} and 1 more stand in train.json too")
    assert "--skip-trained" in message
    loaded = load_items(task, tmp_path, skip_trained=True)
    assert [*loaded.items] == [0, 2, 3, 5]
    assert loaded.remarks == ("2 items stand in train.json too; they were left out",)
    write(folder / "train.json", items)
    assert "every item" in refused(lambda: load_items(task, tmp_path, skip_trained=True))


def test_TSK_007_twins_of_winogrande_are_two_items(tmp_path):
    folder, task = tmp_path / "commonsense" / "winogrande", TASKS["winogrande"]
    twins = [f"Ann was a better lawyer than Bea, so _ always got the {what} cases." for what in ("easier", "harder")]
    for name, sentence in zip(("test", "train"), twins, strict=True):
        write(folder / f"{name}.json", asked("Option", sentence, ["Ann", "Bea"]))
    assert len(load_items(task, tmp_path).items) == 1
    write(folder / "train.json", asked("Option", twins[0].replace(" so", "  so"), ["Bea", "Ann"], 1))
    assert "TSK-007" in refused(lambda: load_items(task, tmp_path))


def test_TSK_007_choices_are_counted():
    first, second = (Choices(("q",) * 3, tuple(f" {c}" for c in text), tuple(text), 0) for text in ("aab", "abb"))
    assert first.question() != second.question()


def test_TSK_008_rows_and_encodings_of_mmlu_are_reported(data, tmp_path):
    assert load_items(TASKS["mmlu_redux"], data).remarks == ("21 of 24 rows are marked ok; the others were left out",)
    text = f"question,choices,answer,error_type,,\n{row(1)},,\n{row(2, 'Ok')},,\n{row(3, 'Bad')},,\n"
    text = text.replace(words(2, 4), "caf\xe9")
    loaded = load(tmp_path, "mmlu_redux", text.encode("latin-1"))
    assert loaded.remarks[0] == "mmlu_anatomy.csv is not UTF-8, so it was read as ISO 8859-1 (Latin-1)"
    assert "caf\xe9" in loaded.items[1].contexts[0]
    assert [*loaded.items] == [0, 1]
    assert load(tmp_path, "mmlu_redux", text.encode()).remarks == (
        "2 of 3 rows are marked ok; the others were left out",
    )


def test_TSK_004_the_likeliest_choice():
    item = Choices(("c",) * 3, (" é", " bb", " cccc"), ("é", "bb", "cccc"), 1)
    assert choice_scores([-3.0, -2.0, -3.9], item) == {"acc": 1.0, "acc_norm": 0.0}
    # the letter é has one character and two bytes: −2/1 is below −3/2, and −2/2 would be above
    assert choice_scores([-2.0, -3.0, -9.0], item) == {"acc": 0.0, "acc_norm": 1.0}
    assert choice_scores([-2.0, -2.0, -9.0], item)["acc"] == 0.0
    assert choice_scores([-5.0, -2.0, -2.0], item)["acc"] == 1.0


@pytest.mark.parametrize("values", [[1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]])
def test_TSK_004_standard_errors(values):
    assert standard_error(values) == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), rel=1e-14)
    assert standard_error([1.0]) is None


@pytest.mark.parametrize(
    ("filters", "text", "strict", "flexible"),
    [
        (GSM8K, " 3 + 4 = 7\n#### 7\nthen 9", "7", "9"),
        (GSM8K, "#### -1,234.5. so", "-1,234.5.", "-1,234.5."),
        (GSM8K, "####7 is 5", INVALID, "5"),
        (GSM8K, "none", INVALID, INVALID),
        (PROBLEM, "The answer is 12. The answer is 13.", "12.", "13."),
        (PROBLEM, "the answer is $5", INVALID, "$5"),
        (LETTER, "A is wrong. The answer is (D). E", "D", "E"),
        (LETTER, "ABLE", INVALID, INVALID),
    ],
)
def test_TSK_010_what_filters_take(filters, text, strict, flexible):
    assert [filters[name].extracted(text) for name in ("strict_match", "flexible_extract")] == [strict, flexible]


def test_TSK_010_texts_and_numbers_are_compared():
    assert same_text("$1,234.", "1234")
    assert same_text("x #### 5", "5")
    assert not same_text("7.0", "7")
    assert same_number("7.", "7.0")
    assert same_number("0.667", "0.6666666666666666")
    assert not same_number("0.66", "0.6666666666666666")
    assert not same_number(INVALID, "1.0")
    assert answer_scores("#### 18\n or 5", "18", GSM8K, numbers=False) == {"strict_match": 1.0, "flexible_extract": 0.0}
    assert answer_scores("The answer is 18 .", "18.0", PROBLEM, numbers=True)["flexible_extract"] == 1.0
