"""tools/generate.py as a person types it: what comes out, when it comes, and what is refused."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import seft_ref
from seft_ref import generate_tokens, load_model, read_tokenizer, written
from seft_ref.kernels import cpu
from seft_ref.text.sampling import Sampling
from tests.seft_ref.folders import CONFIG, sparse_folder

TOOL = Path(__file__).resolve().parents[2] / "tools" / "generate.py"
PROMPT = "the quick brown "
GREEDY = ("--temperature", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sparse_folder(tmp_path_factory.mktemp("model") / "s", CONFIG | {"max_position_embeddings": 4096})


def expected(folder, prompt=PROMPT, **how):
    model, tokenizer = load_model(folder, cpu), read_tokenizer(folder)
    tokens = generate_tokens(tokenizer.encode(prompt).ids, model.weights, model.config, cpu, **how)
    return "".join(written(tokens, tokenizer))


def test_the_text_of_the_engine_and_how_fast_it_was(cli, folder):
    code, out, err = cli("generate", folder, PROMPT, "--max-tokens", 30, *GREEDY)
    assert code == 0
    assert out == expected(folder, max_tokens=30) + "\n"
    assert f"prompt of {len(PROMPT)} tokens" in err
    assert "30 new" in err
    assert "tokens/s" in err


@pytest.mark.parametrize("max_tokens", [48, 49, 50, 200])
def test_GEN_007_a_text_that_ends_because_the_positions_are_full_says_so(cli, tmp_path, max_tokens):
    model = sparse_folder(tmp_path / "s")  # of 64 positions, 16 for the prompt; the last token needs none
    code, _, err = cli("generate", model, PROMPT, "--max-tokens", max_tokens)
    assert code == 0
    assert f"{min(max_tokens, 49)} new" in err
    assert ("64 positions of the model are full" in err) == (max_tokens > 49)


def test_a_draw_repeats_and_another_seed_differs(cli, folder):
    drawn = ("--temperature", 0.8, "--top-k", 40, "--top-p", 0.95, "--max-tokens", 20)
    texts = [cli("generate", folder, PROMPT, *drawn, "--seed", seed)[1] for seed in (5, 5, 6)]
    assert texts[0] == texts[1] == expected(folder, max_tokens=20, sampling=Sampling(0.8, 40, 0.95, 5)) + "\n"
    assert texts[2] != texts[0]


def test_a_text_is_short_and_drawn_and_that_of_the_python_call(cli, folder):
    texts = [cli("generate", folder, PROMPT)[1] for _ in range(2)]
    sampling = Sampling(temperature=0.9, top_p=0.95)
    assert texts[0] == texts[1] == expected(folder, max_tokens=60, sampling=sampling) + "\n"
    assert texts[0] == "".join(seft_ref.generate(folder, PROMPT)) + "\n"
    assert texts[0] != cli("generate", folder, PROMPT, *GREEDY)[1]


def test_a_stop_token_ends_the_text_and_is_not_shown(cli, tmp_path):
    model = sparse_folder(tmp_path / "s")
    tokenizer = read_tokenizer(model)
    loaded = load_model(model, cpu)
    tokens = list(generate_tokens(tokenizer.encode("ab").ids, loaded.weights, loaded.config, cpu, max_tokens=20))
    stop = next(t for t in tokens if tokens.index(t) >= 2)
    config = CONFIG | {"eos_token_id": [stop]}
    stopping = sparse_folder(tmp_path / "stopping", config)
    code, out, err = cli("generate", stopping, "ab", "--max-tokens", 20, *GREEDY)
    assert code == 0
    assert out == "".join(written(tokens[: tokens.index(stop)], tokenizer)) + "\n"
    assert f"{tokens.index(stop) + 1} new" in err


def test_a_prompt_from_standard_input_and_threads(cli, folder, monkeypatch):
    command = [sys.executable, str(TOOL), str(folder), "-", "--max-tokens", "5", "--threads", "1", *GREEDY]
    done = subprocess.run(command, input="ü語\n".encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == expected(folder, "ü語", max_tokens=5) + "\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    code, out, err = cli("generate", folder, "-", "--max-tokens", 5)
    assert (code, out) == (2, "")
    assert "not UTF-8" in err


def test_an_interrupt_ends_the_text_with_what_was_said(folder):
    command = [sys.executable, str(TOOL), str(folder), PROMPT, "--max-tokens", "4000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        # as soon as something was said; that it is said before the end is the point of it
        assert child.stdout.read(1)
        child.send_signal(signal.SIGINT)
        started = time.monotonic()
        out, err = child.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert child.returncode == 130
    assert out.endswith(b"\n")
    assert b"interrupted" in err
    assert b"Traceback" not in err


def test_a_prompt_in_the_words_of_the_chat_template(cli, tmp_path):
    pytest.importorskip("jinja2")
    model = sparse_folder(tmp_path / "s")
    file = model / "tokenizer_config.json"
    for content, wanted in (
        ("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}\n<a>", "<user>hello\n<a>"),
        ([{"name": "tool", "template": "no"}, {"name": "default", "template": "{{ bos_token }}!"}], "B!"),
    ):
        file.write_text(json.dumps({"chat_template": content, "bos_token": {"content": "B"}}))
        code, out, err = cli("generate", model, "hello", "--chat", "--max-tokens", 5, *GREEDY)
        assert code == 0, err
        assert out == expected(model, wanted, max_tokens=5) + "\n"
    (model / "chat_template.jinja").write_text("{{ raise_exception('one turn only') }}")
    code, out, err = cli("generate", model, "hello", "--chat")
    assert (code, out) == (2, "")
    assert "one turn only" in err
    (model / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}")
    assert cli("generate", model, "hello", "--chat")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--chat",), "no chat template"),
        (("--top-p", "2"), "GEN-006"),
        (("--temperature", "-1"), "GEN-006"),
        (("--seed", "-1"), "RNG-002"),
    ],
)
def test_what_cannot_be_done_is_one_line(cli, folder, arguments, told):
    code, out, err = cli("generate", folder, PROMPT, *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.strip().splitlines()) == 1


def test_GEN_002_an_empty_and_a_long_prompt_are_refused(cli, folder):
    assert "GEN-002" in cli("generate", folder, "")[2]
    code, out, err = cli("generate", folder, "a" * 4097)
    assert (code, out) == (2, "")
    assert "4096" in err
