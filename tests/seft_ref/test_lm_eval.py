"""lm-eval drives our engine on its own task files and gives what our evaluator gives (TSK-013)."""

import json
from pathlib import Path

import pytest

from seft_ref.errors import TaskError
from seft_ref.runs.tasks import evaluate_tasks
from seft_ref.tasks.scores import GSM8K, same_text
from tests.seft_ref.folders import CONFIG, sparse_folder
from tests.seft_ref.task_files import data_folder

lm_eval = pytest.importorskip("lm_eval")
from benchmarks import lm_eval_peer as peer  # noqa: E402  # needs lm-eval
from seft_ref.runs.lm_eval import SeftLM  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
SHORT = {"batch": 3, "max_tokens": 6}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("data"), 7)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sparse_folder(tmp_path_factory.mktemp("model") / "m", CONFIG | {"max_position_embeddings": 256})


def test_TSK_013_lm_eval_gives_the_same_item_by_item(model, data, tmp_path):
    ours = evaluate_tasks(model, [*peer.PEERS], data, **SHORT)
    theirs, totals = peer.peer_items(model, tmp_path, data, list(ours.items), "seft", *SHORT.values())
    for task, row in peer.differences(list(ours.items), theirs).items():
        assert (row["same_bits"], row["differ"], row["most_nats_apart"]) == (row["items"], 0, 0.0), task
        assert row["ours"] == row["theirs"]
    for of_task in ours.tasks:
        assert of_task.task == "mmlu_redux" or peer.same_totals(of_task, totals[f"peer_{of_task.task}"])


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
