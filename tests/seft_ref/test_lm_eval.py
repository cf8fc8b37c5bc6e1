"""lm-eval drives our engine on its own task files and gives what our evaluator gives (TSK-013)."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from seft_ref import finetune
from seft_ref.errors import TaskError
from seft_ref.runs.tasks import evaluate_tasks
from seft_ref.tasks.scores import GSM8K, same_text
from seft_ref.tasks.table import TASKS
from tests.seft_ref.folders import CONFIG, sparse_folder
from tests.seft_ref.task_files import data_folder, write

lm_eval = pytest.importorskip("lm_eval")
from benchmarks import lm_eval_peer as peer  # noqa: E402  # needs lm-eval
from seft_ref.runs.lm_eval import SeftLM  # noqa: E402

os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
pytestmark = pytest.mark.filterwarnings("default")
SHORT = {"batch": 3, "max_tokens": 6}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("data"), 7)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sparse_folder(tmp_path_factory.mktemp("model") / "m", CONFIG | {"max_position_embeddings": 256})


def both(model, names, data, out, **options):
    """Evaluate with ours and with lm-eval, which has to give the same; return ours."""
    ours = evaluate_tasks(model, names, data, **options)
    theirs, totals = peer.peer_items(model, out, data, list(ours.items), "seft", *options.values())
    for task, row in peer.differences(list(ours.items), theirs).items():
        assert (row["same_bits"], row["differ"], row["most_nats_apart"]) == (row["items"], 0, 0.0), task
        assert row["ours"] == row["theirs"]
    for of_task in ours.tasks:
        assert of_task.task == "mmlu_redux" or peer.same_totals(of_task, totals[f"peer_{of_task.task}"])
    return ours


def test_TSK_013_lm_eval_gives_the_same_item_by_item(model, data, tmp_path):
    both(model, [*peer.PEERS], data, tmp_path, **SHORT)


def test_TSK_013_answers_that_are_right_are_right_in_both(model, tmp_path):
    data, names, options = data_folder(tmp_path / "data", 7), ["gsm8k", "multiarith"], {"batch": 3, "max_tokens": 40}
    (tmp_path / "text").write_text("#### 5, " * 90)
    speaking = tmp_path / "speaking"
    finetune(model, speaking, tmp_path / "text", "sparse-full", steps=40, length=32, batch=2, lr=0.01)
    said = {(one.task, one.item): one.text for one in evaluate_tasks(speaking, names, data, **options).items}

    def numbers(text):
        return [number.replace(",", "") for number in re.findall("[0-9][0-9,]*", text)]

    # every second right answer becomes the last number that the model says
    for name, file in (("gsm8k", "gsm8k/test.jsonl"), ("multiarith", "arithmetic/MultiArith/test.json")):
        text = (data / file).read_text()
        records = [json.loads(line) for line in text.splitlines()] if name == "gsm8k" else json.loads(text)
        for n in range(0, len(records), 2):
            for last in numbers(said[name, n])[-1:]:
                records[n]["answer"] = f"so\n#### {last}" if name == "gsm8k" else f"{last}.0"
        write(data / file, "\n".join(map(json.dumps, records)) + "\n" if name == "gsm8k" else records)
    for of_task in both(speaking, names, data, tmp_path, **options).tasks:
        assert 0 < of_task.scores["flexible_extract"] < 1, of_task.task


LOCAL = """
task: local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {test}, train: {train}}}, cache_dir: {cache}}}
output_type: {kind}
test_split: test
fewshot_split: train
num_fewshot: 2
fewshot_config: {{sampler: first_n}}
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
{rest}
"""
OF_CHOICES = """
doc_to_target: "{{choices.label.index(answerKey)}}"
doc_to_choice: "{{choices.text}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
OF_ANSWERS = """
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["Question:"], do_sample: false, max_gen_toks: 6}
metric_list: [{metric: exact_match}]
"""


@pytest.mark.parametrize(
    ("name", "kind", "rest"), [("arc_easy", "multiple_choice", OF_CHOICES), ("gsm8k", "generate_until", OF_ANSWERS)]
)
def test_TSK_012_shots_are_those_of_lm_eval(data, tmp_path, name, kind, rest):
    from lm_eval.tasks import TaskManager

    model = sparse_folder(tmp_path / "m", CONFIG | {"max_position_embeddings": 512})
    task, as_row = TASKS[name], peer.PEERS[name][1]
    files = {}
    for split in ("test", "train"):
        text = (data / task.folder / getattr(task, "split" if split == "test" else "train")).read_text()
        records = [json.loads(line) for line in text.splitlines()] if name == "gsm8k" else json.loads(text)
        rows = "".join(json.dumps(as_row(record)) + "\n" for record in records)
        files[split] = write(tmp_path / "rows" / f"{split}.jsonl", rows)
    write(tmp_path / "tasks" / "local.yaml", LOCAL.format(kind=kind, rest=rest, cache=tmp_path / "cache", **files))
    found = lm_eval.simple_evaluate(
        model="seft",
        model_args={"folder": str(model)},
        tasks=["local"],
        batch_size=SHORT["batch"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        log_samples=True,
    )
    samples = found["samples"]["local"]
    for ours in evaluate_tasks(model, [name], data, shots=2, **SHORT).items:
        resps = samples[ours.item]["resps"]
        assert resps == [[ours.text]] if ours.nats is None else [nats for ((nats, _),) in resps] == [*ours.nats]


def test_TSK_013_the_command_of_the_page_runs(model, data, tmp_path):
    page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "score-tasks.md"
    (block,) = re.findall(r"^(python -c .*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    program, *words = shlex.split(block.replace("\\\n", " "))
    records = json.loads((data / TASKS["arc_easy"].folder / "test.json").read_text())
    rows = "".join(json.dumps(peer.PEERS["arc_easy"][1](record)) + "\n" for record in records)
    file = write(tmp_path / "rows.jsonl", rows)
    text = LOCAL.format(kind="multiple_choice", rest=OF_CHOICES, cache=tmp_path / "cache", test=file, train=file)
    write(tmp_path / "tasks" / "local.yaml", text)
    words = [{"folder=pruned": f"folder={model}", "hellaswag": "local"}.get(word, word) for word in words]
    options = ("--include_path", tmp_path / "tasks", "--num_fewshot", "0", "--output_path", tmp_path / "out.json")
    done = subprocess.run([sys.executable, *words, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = tmp_path.glob("out*.json")
    (ours,) = evaluate_tasks(model, ["arc_easy"], data, batch=1).tasks
    of_task = json.loads(found.read_text())["results"]["local"]
    assert {metric: of_task[f"{metric},none"] for metric in ("acc", "acc_norm")} == ours.scores
    assert program == "python"


TEXTS = [
    "It is 3 + 4 = 7.\n#### 7", "#### 1,234\n", "#### -5.", "#### $12", "The answer is $1,000.50 of 3", "none", "",
    "5 apples and 12", "- 7", "##### 8", "#### 9 #### 10", "12,", "x.5", "...",
]  # fmt: skip


@pytest.mark.parametrize("right", ["7", "1,234", "-5", "12", "1000.50", "9", "10", "5", "8"])
def test_TSK_010_filters_and_comparisons_are_those_of_lm_eval(right):
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter
    from lm_eval.tasks._yaml_loader import load_yaml

    own = load_yaml(Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml")
    (metric,) = own["metric_list"]
    options = {name: metric[name] for name in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
    for of_filter, ours in zip(own["filter_list"], GSM8K.values(), strict=True):
        settings = {key: value for key, value in of_filter["filter"][0].items() if key != "function"}
        theirs = RegexFilter(**settings)
        for text in TEXTS:
            ((taken,),) = theirs.apply([[text]], [{}])
            assert ours.extracted(text) == taken, text
            same = exact_match_hf_evaluate([taken], [f"so\n#### {right}"], **options)["exact_match"]
            assert same_text(taken, right) == bool(same), (taken, right)


class Request:
    """A request as lm-eval makes it."""

    def __init__(self, *args, doc_id=0):
        self.args, self.task_name, self.doc_id = args, "t", doc_id


def test_TSK_013_an_empty_context_and_whole_texts(tmp_path):
    lm = SeftLM(str(sparse_folder(tmp_path / "m", CONFIG | {"max_position_embeddings": 256, "bos_token_id": 7})))
    text = "the quick brown fox"
    ((whole, _),) = lm.loglikelihood([Request("", text)])
    (rolling,) = lm.loglikelihood_rolling([Request(text)])
    assert rolling == pytest.approx(whole, rel=1e-5)
    # a text longer than the positions is divided, and each token is predicted once
    long = text * 20
    (rolling,) = lm.loglikelihood_rolling([Request(long)])
    assert rolling < 10 * whole < 0


def test_TSK_013_what_is_not_offered_is_refused(model):
    with pytest.raises(TaskError, match="TSK-013: device cuda"):
        SeftLM(str(model), device="cuda")
    with pytest.raises(TaskError, match="TSK-013: batch_size auto"):
        SeftLM(str(model), batch_size="auto")
    lm = SeftLM(str(model))
    with pytest.raises(TaskError, match="TSK-013: answers are generated greedily"):
        lm.generate_until([Request("a", {"do_sample": True, "temperature": 1.0, "until": []})])
    with pytest.raises(TaskError, match=r"TSK-013: config\.json names neither"):
        lm.loglikelihood([Request("", "a")])
    with pytest.raises(TaskError, match="TSK-003: a request of lm-eval has"):
        lm.loglikelihood([Request("a" * 300, " b")])
    assert json.dumps(lm.generate_until([Request("a", {"until": ["zz"], "max_gen_toks": 3})]))
