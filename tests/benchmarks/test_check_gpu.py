"""tools/check_gpu.py with the GPU's kernels on a CPU: what it checks holds, what is broken is told, a page is kept."""

import importlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conformance.engine.on_cpu import on_cpu, without_gpp
from tests.backends import CUPY
from tests.kernels import cupy_on_cpu
from tests.mpirun import OPEN_MPI, needs_mpi

ROOT = Path(__file__).resolve().parents[2]
needs_gpp = pytest.mark.skipif(bool(without_gpp()), reason=without_gpp())


@pytest.fixture
def tools(monkeypatch):
    return importlib.import_module


def a_gpu(tools, kernels):
    """A CPU that says it is a GPU; its peers are NumPy's dense products."""
    gpu = tools("benchmarks.gpu_here")

    def peers(weight, topology, values, x, dy):
        return gpu.dense_peers(weight, tools("seft_ref.topology.csr").flat(topology), x, dy)

    def taken(work):
        work()
        return 0

    return gpu.Gpu({"GPU": "none"}, kernels, np.zeros(0), np, lambda: None, taken, peers)


@needs_gpp
def test_everything_holds_and_the_page_says_so(tools, tmp_path, monkeypatch, capsys):
    check, bench, checks = tools("benchmarks.check_gpu"), tools("benchmarks.gpu"), tools("benchmarks.gpu_checks")
    monkeypatch.setattr(bench, "PATTERNS", ("2:4", "90%"))
    monkeypatch.setattr(checks, "MATRICES", (((70, 52), "70%"), ((24, 64), "2:4")))  # test_gpu.py asks larger ones
    monkeypatch.setattr(checks, "TOKENS", (0, 1, 17))
    monkeypatch.setattr(checks, "TERMS", (512,))
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    monkeypatch.setattr(checks, "CONFIG", checks.CONFIG | small)
    monkeypatch.setattr(checks, "RUNS", {name: checks.RUNS[name] for name in ("seft", "2:4")})
    monkeypatch.setattr(bench, "BLOCK_SECONDS", 0.0)
    monkeypatch.setattr(check, "the_gpu", lambda: a_gpu(tools, on_cpu()))
    monkeypatch.setattr(check, "SHAPES", ((32, 48),))
    monkeypatch.setattr(check, "check_kit", lambda backend, n: iter([checks.Checked("kit", True, f"{backend} {n}")]))
    monkeypatch.setattr(check, "check_processes", lambda folder: iter([checks.Checked("two", True, folder.name)]))
    page = tmp_path / "gpu.md"
    page.write_text("# Kept\n" + check.MARK + "gone\n")
    monkeypatch.setattr(sys, "argv", ["check_gpu.py", "--page", str(page), "--quick"])
    with pytest.raises(SystemExit) as left:
        check.console.run(check.main)
    assert not left.value.code, capsys.readouterr().err
    text = page.read_text()
    assert text.startswith("# Kept\n" + check.MARK)
    assert "gone" not in text
    assert "**no**" not in text
    assert check.UNFINISHED not in text
    for said in (
        "| kit | yes | cupy 2 |",
        "| run 2:4, float64 | yes |",
        "| 70% in 16 bits | 6.",
        "| dx | 32 x 48 | 2:4 | 128 | ours |",
    ):
        assert said in text


def ends(tools, monkeypatch, page, fault):
    """The exit status and the page of a run whose memory cannot be measured and whose dx is wrong, unless cut short."""
    check, bench, checks = tools("benchmarks.check_gpu"), tools("benchmarks.gpu"), tools("benchmarks.gpu_checks")
    right = tools("seft_ref.kernels.reference")
    wrong = SimpleNamespace(**vars(right))
    wrong.matmul_transposed = lambda dy, packed: right.matmul_transposed(dy, packed) * 2
    held = [checks.Checked("check", True, "seen")]
    monkeypatch.setattr(check, "check_processes", lambda *given: iter(()))
    for name in ("check_kernels", "check_runs", "check_kit"):
        monkeypatch.setattr(check, name, lambda *given: iter(held))

    def memory(gpu, shape):
        yield "50%", 5.0, 1.0
        raise fault

    monkeypatch.setattr(check, "memory", memory)
    monkeypatch.setattr(check, "SHAPES", ((32, 48),))
    for name, value in (("BLOCK_SECONDS", 0.0), ("PATTERNS", ("70%",))):
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "by_rows_and_columns", lambda xp, topology, values: right.pack(topology, values))
    monkeypatch.setattr(check, "the_gpu", lambda: a_gpu(tools, wrong))
    monkeypatch.setattr(sys, "argv", ["check_gpu.py", "--page", str(page), "--quick"])
    with pytest.raises(SystemExit) as left:
        check.console.run(check.main)
    return left.value.code, page.read_text()


def test_what_breaks_off_late_leaves_what_was_found_before(tools, tmp_path, monkeypatch):
    code, text = ends(tools, monkeypatch, tmp_path / "gpu.md", RuntimeError("out of memory\nand more"))
    assert code == 1
    assert text.count("| check | yes | seen |\n") == 3
    assert "| 50% | 5.00 | 1.0 |\n\n**Broke off**: RuntimeError: out of memory\n\n## Speed" in text
    assert "| forward | 32 x 48 | 70% | 1 | ours |" in text
    assert text.splitlines()[-1].startswith("**Broke off**: SystemExit: dx by ours is off by ")
    assert tools("benchmarks.check_gpu").UNFINISHED not in text


def test_a_run_that_is_ended_leaves_a_page_that_says_so(tools, tmp_path, monkeypatch):
    code, text = ends(tools, monkeypatch, tmp_path / "gpu.md", KeyboardInterrupt())
    assert code == 130
    assert text.endswith(f"| 50% | 5.00 | 1.0 |\n\n{tools('benchmarks.check_gpu').UNFINISHED}\n")


def test_the_kit_waits_for_kernels_to_be_compiled_and_a_quick_run_draws_few_examples(tools, monkeypatch):
    checks, asked = tools("benchmarks.gpu_checks"), []
    told = SimpleNamespace(passed=3, failed=0, skipped=1)
    run = SimpleNamespace(verdict=lambda: told, results=[])
    monkeypatch.setattr(checks, "judge", lambda target, options: asked.append(options) or run)
    (found,) = checks.check_kit("cupy", 2)
    assert found.held
    assert [(options.timeout, options.examples) for options in asked] == [(300.0, 2)]


@needs_gpp
def test_bench_kernels_on_a_gpu_writes_every_row(tools, tmp_path, monkeypatch, capsys):
    bench = tools("benchmarks.gpu")
    for name, value in (("BLOCK_SECONDS", 0.0), ("PATTERNS", ("70%",)), ("SHAPES", ((32, 48),))):
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "the_gpu", lambda: a_gpu(tools, on_cpu()))
    bench.kernels(tmp_path / "rows.json", quick=True)
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {(r["product"], r["tokens"]) for r in rows} == {
        (p, n) for p in ("forward", "dx", "sample") for n in (1, 128)
    }
    assert len(capsys.readouterr().out.splitlines()) == 3 + len(rows)


@needs_gpp
def test_a_method_that_is_off_is_not_timed(tools):
    bench = tools("benchmarks.gpu")
    with pytest.raises(SystemExit, match="dx by ours is off by"):
        bench._check("dx", {"dense": lambda: np.ones(3), "ours": lambda: np.full(3, 1.001)})


@needs_gpp
def test_what_is_broken_is_told(tools, monkeypatch):
    checks = tools("benchmarks.gpu_checks")
    monkeypatch.setattr(checks, "MATRICES", checks.MATRICES[:2])
    right = on_cpu()
    wrong = SimpleNamespace(**vars(right))
    wrong.matmul_transposed = lambda dy, packed: right.matmul_transposed(dy, packed) * (1 + (dy.shape[0] == 17))
    monkeypatch.setattr(checks, "TOKENS", (3, 17))
    found = list(checks.check_kernels(a_gpu(tools, wrong)))
    assert not any(c.held for c in found if c.what.startswith("products, "))
    assert "differ: dx of 17 tokens" in found[0].seen
    assert all(c.held for c in checks.check_kernels(a_gpu(tools, right)))


@needs_gpp
def test_KRN_008_a_second_launch_with_other_bits_is_told(tools):
    checks, right, launches = tools("benchmarks.gpu_checks"), on_cpu(), []
    wrong = SimpleNamespace(**vars(right))

    def racing(x, packed):
        launches.append(0)
        return right.matmul(x, packed) * np.float32(1 + 2.0**-20 * (len(launches) % 2))

    wrong.matmul = racing
    found = checks._restless(a_gpu(tools, wrong), (64, 128), "70%", 3)
    assert found == ["forward of 3 tokens", "forward in float16 of 3 tokens", "forward in bfloat16 of 3 tokens"]
    assert not checks._restless(a_gpu(tools, right), (64, 128), "70%", 3)


@needs_gpp
def test_KRN_006_a_library_that_drifts_is_told(tools):
    checks, right = tools("benchmarks.gpu_checks"), on_cpu()
    wrong = SimpleNamespace(**vars(right))

    def drifting(x, packed):
        # one after the other, as a library may that does not cut a sum
        return np.cumsum(x[:, None, :] * packed.values.reshape(packed.shape), axis=2, dtype=np.float32)[:, :, -1]

    wrong.matmul = drifting
    found = checks._many_equal_terms(a_gpu(tools, wrong), 4096)
    assert not found.held
    assert found.seen.startswith("forward, dense is off by ")
    assert checks._many_equal_terms(a_gpu(tools, right), 4096).held
    tools("benchmarks.gpu_checks").WIDE_LAYER = (48, 4096, 3)
    assert not checks._a_wide_layer(a_gpu(tools, wrong)).held
    assert checks._a_wide_layer(a_gpu(tools, right)).held


@needs_gpp
@needs_mpi
def test_TRN_013_two_processes_on_gpus_are_compared_with_one(tools, tmp_path, monkeypatch):
    checks, stub = tools("benchmarks.gpu_checks"), tmp_path / "stub"
    stub.mkdir()
    cupy_on_cpu.install(stub)
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    (failed,) = checks.check_processes(tmp_path)
    assert not failed.held
    assert failed.seen.startswith("one: error: --device cuda: this needs CuPy") or CUPY is not None
    monkeypatch.setenv("PYTHONPATH", f"{stub}{os.pathsep}{ROOT}")
    (found,) = checks.check_processes(tmp_path / "again")
    assert found.held, found.seen
    assert found.seen.startswith("0 positions differ")
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert list(checks.check_processes(tmp_path / "without")) == []


@needs_gpp
def test_a_check_that_breaks_is_one_that_does_not_hold(tools):
    def broken():
        yield tools("benchmarks.gpu_checks").Checked("first", True, "")
        raise RuntimeError("no driver\nmore")

    found = list(tools("benchmarks.check_gpu")._guarded("products", broken))
    assert [(c.what, c.held, c.seen) for c in found] == [
        ("first", True, ""),
        ("products", False, "RuntimeError: no driver"),
    ]


@pytest.mark.skipif(CUPY is not None, reason="this machine has a GPU")
def test_without_a_gpu_one_line_and_nothing_is_written(tools, tmp_path, monkeypatch, capsys):
    check = tools("benchmarks.check_gpu")
    monkeypatch.setattr(sys, "argv", ["check_gpu.py", "--page", str(tmp_path / "gpu.md")])
    with pytest.raises(SystemExit) as left:
        check.console.run(check.main)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --device cuda: ")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_page_says_what_it_is(tools):
    kept, mark, results = (
        (ROOT / "docs" / "results" / "gpu.md").read_text(encoding="utf-8").partition(tools("benchmarks.check_gpu").MARK)
    )
    assert mark
    assert "without a GPU" in kept
    assert "**It has not run on hardware.**" in results or "## Speed" in results
