"""Pages of benchmarks: tables from what a benchmark wrote, between the marks and nowhere else."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.page import filled, tables
from benchmarks.peft_methods import peft_page
from seft_cli.output import Refused

BENCH = Path(__file__).resolve().parents[2] / "tools" / "bench.py"
PAGE = "# A page\n\n<!-- table kernels-1 -->\nold\n<!-- end -->\n\n<!-- table memory -->\n<!-- end -->\n\nkept\n"
ROW = {"product": "dx", "shape": [2048, 2048], "pattern": "70%", "tokens": 16, "seconds": 0.5, "core": 1.0}
KERNELS = {
    "machine": {},
    "rows": [
        ROW | {"method": "numpy", "ratio": 1.0, "lowest": 1.0, "highest": 1.0},
        ROW | {"method": "ours", "ratio": 1.75, "lowest": 1.5, "highest": 2.0},
        ROW | {"method": "torch", "ratio": 0.5, "lowest": 0.25, "highest": 0.75},
    ],
}
MEMORY = {
    "machine": {},
    "rows": [
        {"who": "ours", "sparsity": 0.7, "held": {"weights": 2**20, "delta": 2**19}, "transient": {"a step": 2**21}}
        | {"peak": 2**23, "bytes_a_weight": 1.25, "formula": {"a step": 3 * 2**20}}
    ],
    "patterns": [{"pattern": "2:4", "packed": 2.5}],
}


@pytest.fixture
def bench(monkeypatch, capsys):
    """Run tools/bench.py in this process; return (exit status, stdout, stderr)."""
    app = importlib.import_module("benchmarks.app")
    monkeypatch.setenv("COLUMNS", "1000")  # so that no line is broken

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench.py", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            app.console.run_app(app.app)
        return left.value.code or 0, *capsys.readouterr()

    return run


def results(folder: Path, **told: object) -> Path:
    folder.mkdir()
    for name, content in told.items():
        (folder / f"{name.replace('_', '-')}.json").write_text(json.dumps(content))
    return folder


def test_tables_are_written_between_the_marks(bench, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    folder = results(tmp_path / "results", kernels_1=KERNELS, memory=MEMORY)
    for _ in range(2):  # the second writes over what the first wrote
        assert bench("page", page, folder)[0] == 0
        lines = page.read_text().splitlines()
        assert "| dx | 2048 x 2048 | 70% | 1.75 (1.50..2.00) |" in lines
        assert "| dx | 70% | 16 | 1.75 (1.50..2.00) | 0.50 (0.25..0.75) |" in lines
        assert "| this project | 70% | 1.0 |  | 0.5 |  | 2.0 (3.0) |  | 8 | 1.25 |" in lines
        assert "| 2:4 | 2.500 |" in lines
        assert (lines[0], lines[-1], "old" in lines) == ("# A page", "kept", False)
    for name in ("kernels-1.svg", "memory.svg"):
        assert (tmp_path / "page" / name).read_bytes().startswith(b"<?xml")


def product(threads, shape, method, ratio):
    row = ROW | {"product": "forward", "shape": [shape, shape], "tokens": 128, "method": method, "ratio": ratio}
    return row | {"lowest": ratio, "highest": ratio, "threads": threads}


def test_goals_are_met_by_all_rows_or_missed(bench, tmp_path):
    """The least row decides, matrices below 2048 columns do not count, and a goal without rows has no line."""
    page = tmp_path / "page.md"
    page.write_text("<!-- table goals -->\n<!-- end -->\n")
    kernels = {}
    for n, least in ((1, 2.9), (2, 2.7)):
        ratios = {576: 1.0, 2048: 3.0, 4096: least}
        rows = [
            product(n, shape, who, x) for shape, ours in ratios.items() for who, x in (("ours", ours), ("numpy", 1.0))
        ]
        kernels[f"kernels_{n}"] = {"rows": rows}
    steps = {
        f"step_{n}": {"rows": [{"what": "model", "sparsity": 0.7, "ratio": {"torch": x}}]}
        for n, x in ((1, 4.25), (2, 5.5))
    }
    none = {f"generate_{n}": {"rows": []} for n in (1, 2)}
    status, _, err = bench("page", page, results(tmp_path / "results", **kernels, **steps, **none))
    assert status == 0, err
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")][2:]
    assert lines == [
        "| forward at 70%, 128 tokens | dense NumPy | 2.90 to 3.00 | 2.70 to 3.00 | 2.8 | not on 2 threads |",
        "| a step of the model at 70% | PyTorch, dense | 4.25 | 5.50 | 4 and 5.5 | yes |",
    ]
    (tmp_path / "results/step-2.json").unlink()
    status, _, err = bench("page", page, tmp_path / "results")
    assert status == 2
    assert "step-2.json" in err


def test_parts_layers_and_growth_become_tables(bench, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- table {name}-1 -->\n<!-- end -->\n" for name in ("parts", "layers", "growth")))
    parts = [
        {"what": "sample", "seconds": 0.25, "billions": 0},
        {"what": "head dx", "seconds": 0.75, "billions": 30.0},
        {"what": "step", "seconds": 1.0, "billions": 0},
    ]
    layer = {"what": "cross_entropy", "plain": 4.0, "compiled": 2.0, "ratio": 2.0, "range": [1.5, 2.5]}
    grown = {
        "shape": [8, 4],
        "tokens": 512,
        "milliseconds": {"ours": 1.0, "numpy": 2.0, "torch": 3.0, "product": 0.5},
        "ratio": {"numpy": 2.0, "torch": 3.0},
        "ratio_range": {"numpy": [1.75, 2.25], "torch": [2.75, 3.25]},
        "peak": {"ours": 2**20, "numpy": 2**23},
    }
    told = {f"{name}_1": {"rows": rows} for name, rows in (("parts", parts), ("layers", [layer]), ("growth", [grown]))}
    assert bench("page", page, results(tmp_path / "results", **told))[0] == 0
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ") and "---" not in line]
    assert rows[1:4] == [
        "| head dx | 0.75 | 75% | 30 | 40 |",
        "| sample | 0.25 | 25% |  |  |",
        "| step | 1.00 | 100% |  |  |",
    ]
    assert rows[5] == "| cross entropy | 4.00 | 2.00 | 2.00 (1.50..2.50) |"
    assert rows[7] == "| 8 x 4 | 512 | 1.0 | 2.0 | 3.0 | 0.5 | 2.00 (1.75..2.25) | 3.00 (2.75..3.25) | 1.0, 8.0 |"


def test_a_result_that_is_missing_is_named_and_the_page_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    command = [sys.executable, BENCH, "page", page, results(tmp_path / "results", memory=MEMORY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "kernels-1.json" in done.stderr
    assert page.read_text() == PAGE


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("page", "{tmp}/nope.md", "{tmp}"), "does not exist"),
        (("page", "{tmp}", "{tmp}"), "is a directory"),
        (("page", "{tmp}/page.md", "{tmp}/nope"), "does not exist"),
        (("page", "{tmp}/page.md", "{tmp}/cut"), "cut/kernels-1.json is not JSON"),
        (("page", "{tmp}/page.md", "{tmp}/list"), "list/kernels-1.json is not a JSON object"),
        (("sizes", "{tmp}/nope"), "nope is not a folder"),
        *(((name, "--threads", "0"), "--threads") for name in ("kernels", "generate", "growth", "step", "memory")),
        (("large", "--threads", "0"), "--threads"),
    ],
)
def test_wrong_use_is_told_without_a_traceback(bench, tmp_path, line, said):
    (tmp_path / "page.md").write_text(PAGE)
    for name, content in (("cut", "{"), ("list", "[1]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kernels-1.json").write_text(content)
    status, out, err = bench(*(word.format(tmp=tmp_path) for word in line))
    assert (status, out, said in err) == (2, "", True), err
    assert (tmp_path / "page.md").read_text() == PAGE


def test_tables_of_bounds_of_what_is_held_and_of_tokens(bench, tmp_path):
    page = tmp_path / "page.md"
    names = ("bounds", "held", "tokens-135m-1")
    page.write_text("".join(f"<!-- table {name} -->\n<!-- end -->\n" for name in names))
    row = {"form": "int8:g64", "product": "dx", "bytes": 1.25}
    held = [row | {"tokens": n, "ratio": n / 2, "least": n / 4, "most": float(n)} for n in (1, 128)]
    tokens = {"method": "ours float32", "bytes": 2_400_000, "tokens a second": 12.34, "ratio": 2.5, "range": [2.0, 3.0]}
    folder = results(
        tmp_path / "results",
        bounds={"rows": [{"what": "multiply-adds", "billions": 172.04, "range": [169.0, 175.0]}]},
        held={"rows": held},
        tokens_135m_1={"rows": [tokens]},
    )
    assert bench("page", page, folder)[0] == 0
    lines = page.read_text().splitlines()
    assert "| multiply-adds | 172.0 (169.0..175.0) |" in lines
    assert "| int8:g64 | dx | 1.25 | 0.50 (0.25..1.00) | 64.00 (32.00..128.00) |" in lines
    assert "| ours float32 | 2 | 12.3 | 2.50 (2.00..3.00) |" in lines


RESULTS = BENCH.parents[1] / "docs" / "results"


def of_results(name):
    return {path.stem: json.loads(path.read_text()) for path in (RESULTS / name).glob("*.json")}


@pytest.mark.parametrize(
    "name", sorted({p.stem for p in RESULTS.glob("*.md") if "<!-- table" in p.read_text()} - {"peft", "ports"})
)
def test_a_page_shows_the_results_beside_it(name):
    text = (RESULTS / f"{name}.md").read_text()
    assert filled(text, of_results(name)) == text


def test_the_page_of_peft_shows_the_results_beside_it(tmp_path):
    page = tmp_path / "peft.md"
    page.write_text((RESULTS / "peft.md").read_text())
    peft_page(*(RESULTS / "peft" / f"{name}.json" for name in ("peft", "peft-speed", "peft-speed-dense")), page)
    assert page.read_text() == (RESULTS / "peft.md").read_text()


def test_a_page_of_peft_needs_lora_in_every_round(tmp_path):
    page = tmp_path / "peft.md"
    page.write_text((RESULTS / "peft.md").read_text())
    files = [RESULTS / "peft" / f"{name}.json" for name in ("peft", "peft-speed", "peft-speed-dense")]
    without = json.loads(files[1].read_text())
    without["runs"] = [run for run in without["runs"] if run["method"] != "lora"]
    files[1] = tmp_path / "speed.json"
    files[1].write_text(json.dumps(without))
    with pytest.raises(Refused, match="run lora as often"):
        peft_page(*files, page)
    assert page.read_text() == (RESULTS / "peft.md").read_text()


def test_the_runs_of_a_fuzzer_add_up():
    told_of = {name: told for name, told in of_results("fuzzing").items() if "executions" in told["columns"]}
    assert set(told_of) == {"singles", "folders", "foreign"}
    for told in told_of.values():
        at = told["columns"].index("executions")
        runs = [row[at] for row in told["rows"] if "`" in row[0]]
        sums = {row[0]: row[at] for row in told["rows"] if "`" not in row[0]}
        assert sums.pop("together") == sum(runs)
        assert sums in ({}, {"without the first run": sum(runs[1:])})


def test_a_result_with_columns_is_the_table_that_it_is():
    told = {"columns": ["what", "n", "share"], "rows": [["a", 12345, "0.5 %"], ["b", 7, ""]]}
    assert tables("made-up", told).splitlines() == [
        "| what | n | share |", "| --- | ---: | ---: |", "| a | 12,345 | 0.5 % |", "| b | 7 |  |",
    ]  # fmt: skip
