"""The commands of how-to pages run as they stand, on tiny models in the place of those that the page names."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import conformance
import experiments.app
import formats
from formats.delta import diff
from formats.records import Dense
from seft_cli import console
from tests.formats.adapter_files import FIXTURES, fixture_base
from tests.seft_cli.calling import call
from tests.seft_ref.folders import CONFIG, TEXT, hf_folder
from tests.seft_ref.task_files import data_folder

PAGES = sorted((Path(__file__).resolve().parents[1] / "docs" / "how-to").glob("*.md"))
SECOND_READER = Path(conformance.__file__).parent / "oracle"
CODES = FIXTURES.parent / "int_codes" / "compressed-tensors-0.20.0-pack-quantized"
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 512}

PROGRAMS = ("seft", "python", "pip")
SHORTER = {"--steps": "2", "--epochs": "1", "--limit": "2", "--sample": "2", "--length": "128", "--shard-size": "1MB"}
"""Option -> the value that replaces that of the page, so that a page takes seconds."""
SHORTER_PYTHON = {"steps=80": "steps=2", "lines[20:]": "lines[2:]", "lines[:20]": "lines[:2]"}
STAND_FOR = {"FORMAT": "hf", "PATH": "pruned"}
ELSEWHERE = (
    "-m benchmarks gpu",
    "-m examples.rl_sync",
    "-m examples.peft_repair",
    "pip install",
    "import seft_ref.runs.lm_eval",
)
"""Commands that need a GPU or the network, or that other tests run."""
FOREIGN = ("from vllm", "import lm_eval", "from torch.nn.utils import prune")
"""Python that needs another program, or that the tests of the ports run."""
LANGUAGES = ("", "sh", "py", "python", "json", "js")
"""Languages of blocks; `test_readme` runs those of `python` and compares their output, one test here that of `js`."""
OUTPUT = {"prune": 1, "convert": 1, "finetune": 1, "diff": 2, "apply": -1}
"""Command -> the index of the argument that it writes; a page may write a name twice."""


def commands(block):
    """Return the commands of a block, each as a list of words; bash expands loops and quotes, and runs no programs."""
    tell = "".join(f"{name}() {{ printf '%s\\n' \"$(printf '%q ' {name} \"$@\")\" >&3; }}\n" for name in PROGRAMS)
    line = f"PATH=; exec 3>&1\n{tell}{block}"
    done = subprocess.run(["bash", "-uec", line], capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in done.stdout.splitlines()]


def adapted(words):
    """Return the words with shorter runs, and with the names of a page replaced by values."""
    words = [STAND_FOR.get(word, word) for word in words if word not in ("--device", "cuda")]
    return [SHORTER.get(before, word) for before, word in zip(["", *words], words, strict=False)]


def output_of(name, *words):
    """Return the path that a command writes, or None."""
    return Path(" ".join(words).split(" --")[0].split()[OUTPUT[name]]) if name in OUTPUT else None


def remove(place):
    """Remove a file or folder that the page wrote before, by a command or in Python, and writes again."""
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)


def models(folder, seft):
    """Write a dense model, a pruned one, texts, examples and tasks."""
    hf_folder(folder / "llama", CONFIG | SHAPE)
    for name in ("train", "valid"):
        (folder / f"{name}.txt").write_text(TEXT)
        lines = [f'{{"prompt": "{name} {i}?", "completion": " {i}."}}\n' for i in range(8)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    shutil.copy("valid.jsonl", "held.jsonl")
    seft("prune", "llama", "pruned-hf", "--method", "magnitude", "--sparsity", "0.6")
    seft("convert", "pruned-hf", "pruned", "--to", "sparse")
    shutil.copytree("pruned", "repaired")
    data_folder(folder / "data", 3)


def before_converting(folder, seft):
    """Write models with deltas between them, an adapter, a quantised model, and the folders of two published steps."""
    steps = [fixture_base()]
    rng = np.random.default_rng(0)
    for _ in range(2):
        tensors = {name: tensor.values.copy() for name, tensor in steps[-1].items()}
        for values in tensors.values():
            values.reshape(-1)[rng.integers(0, values.size, 3)] += 1
        steps.append({name: Dense(values) for name, values in tensors.items()})
    made = [formats.Checkpoint("model", tensors) for tensors in steps]
    for name, step in {"MODEL": 0, "BASE": 0, "TARGET": 1, "MODEL_OF_STEP_6": 0, "STEP_7": 1}.items():
        formats.write(folder / name, made[step])
    for number, base in ((1, "BASE"), (2, "STEP_7")):
        formats.write(folder / f"DELTA{number}", diff(*made[number - 1 : number + 1]))
        seft("convert", f"DELTA{number}", f"weight_v{6 + number:06}", "--to", "weight-sync", "--base", base)
    shutil.copytree(FIXTURES / "super-tuning", "ADAPTER")
    shutil.copytree("pruned", "SRC")
    shutil.copytree(CODES, "MODEL-W4A16")


def before_quantising(folder, seft):
    """Write a pruned model, and a quantised one in the format of another program."""
    shutil.copytree("pruned", "PRUNED")
    seft("prune", "pruned", "codes", "--quantize", "int4:g64", "--calibration", "train.txt")
    seft("convert", "codes", "LLAMA-W4A16", "--to", "compressed-tensors")


def before_scoring(folder, seft):
    """Put an item to score into two training files, because those that the authors publish have some, too."""
    for name in ("ARC-Easy", "openbookqa"):
        files = [folder / "data" / "commonsense" / name / f"{split}.json" for split in ("test", "train")]
        test, train = (json.loads(file.read_text()) for file in files)
        files[1].write_text(json.dumps([*train, test[0]]))


def before_reading(folder, seft):
    """Write the sparse model that a repair of another family leaves."""
    shutil.copytree("pruned", "tuned/sparse")


BEFORE = {"convert": before_converting, "quantise": before_quantising, "score-tasks": before_scoring}
BEFORE |= {"other-families": before_reading}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_says_to_type_runs(page, tmp_path, monkeypatch, capsys):
    def seft(*words):
        code, out, err = call(monkeypatch, capsys, *words)
        assert code == 0, f"seft {' '.join(words)}\n{out}{err}"

    monkeypatch.chdir(tmp_path)
    models(tmp_path, seft)
    BEFORE.get(page.stem, lambda *_: None)(tmp_path, seft)
    names: dict[str, object] = {}
    written = set()
    ran = 0
    for _, language, block in re.findall(
        r"^( *)```(\w*)\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        assert language in LANGUAGES
        if language == "py" and not any(words in block for words in FOREIGN):
            monkeypatch.syspath_prepend(SECOND_READER)
            for place in written:
                remove(place)
            for long, short in SHORTER_PYTHON.items():
                block = block.replace(long, short)
            exec(compile(block, page.name, "exec"), names)
            ran += 1
        for words in map(adapted, commands(textwrap.dedent(block)) if language in ("", "sh") else ()):
            line = " ".join(words)
            if any(other in line for other in ELSEWHERE):
                continue
            if words[:3] == ["python", "-m", "experiments"]:
                monkeypatch.setattr(sys, "argv", [*words[2:], "--plan"])
                with pytest.raises(SystemExit) as left:
                    console.run(experiments.app.main, "python -m experiments")
                assert not left.value.code, line + capsys.readouterr().err
            else:
                assert words[0] == "seft", line
                place = output_of(*words[1:])
                if place is not None:
                    remove(place)
                    written.add(place)
                seft(*words[1:])
            ran += 1
    assert bool(ran) == (page.stem != "ship-steps")


def test_the_loop_over_the_cases_of_a_reader_finds_wrong_verdicts(tmp_path, monkeypatch, capsys):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, capsys, "verify", "export", "files.tar.gz", "--only", "file.read")[0] == 0
    (page,) = (page for page in PAGES if page.stem == "read-the-format")
    (unpack,) = re.findall(r"`(tar [^`]*)`", page.read_text(encoding="utf-8"))
    subprocess.run(shlex.split(unpack), check=True)
    (block,) = re.findall(r"```js\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    refuses_all = 'const myReader = () => { throw new Error("FMT-063: too many bits"); };'
    Path("loop.mjs").write_text(f"{refuses_all}\n{block}")
    done = subprocess.run(["node", "loop.mjs"], capture_output=True, text=True, check=True)
    cases = json.loads(Path("cases", "file.read.json").read_text())
    wrong = [case["id"] for case in cases if "FMT-063" not in case.get("rejected", ())]
    assert sorted(re.findall(r"^(\S+) FMT-063: too", done.stdout, re.MULTILINE)) == sorted(wrong)
    assert 0 < len(wrong) < len(cases)
