"""What a run is expected to hold, against what it holds, and a run that does not fit (TRN-012)."""

import importlib
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import seft_ref
from formats.dialects.hf import to_sparse
from seft_ref import initial_state, load_model, read_tokens, settings_of, step_batches
from seft_ref.kernels import cpu
from seft_ref.kernels.cpu import packed as layout
from seft_ref.kernels.cpu import panels, tiles
from seft_ref.kernels.cpu import transposed as two_copies
from seft_ref.matrix import bases
from seft_ref.matrix.bases import PackedBase
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import matrix_of
from seft_ref.topology.csr import from_flat
from seft_ref.train.loop import train_step
from seft_ref.train.memory import DENSE_FROM, PANEL, memory_of_run
from tests.seft_cli.calling import call
from tests.seft_ref.folders import BF16, CONFIG, TEXT, hf_folder, parameters, pruned, sparse_folder

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SHORT = {"steps": 6, "batch": 2, "length": 8, "density": 0.1, "evolve_every": 3}


def held_by(state, config):
    """Bytes of the arrays of a state, part by part."""
    sizes = dict.fromkeys(("weights", "base", "delta", "moments"), 0)
    for name, target in state.targets.items():
        packed, delta = matrix_of(state.weights, name), target.delta
        compact = target.base.held_in is not None
        sizes["weights"] += packed.frozen.nbytes if compact else packed.nbytes
        arrays = [delta.topology.indptr, delta.topology.indices, delta.values, target.where, target.under]
        if isinstance(target.base, PackedBase):
            assert target.base.packed is (packed.frozen if compact else packed)
            assert target.base.under is target.under
            arrays.append(target.base.inside)
        else:
            topology = target.base.topology
            sizes["base"] += target.base.values.nbytes + topology.indices.nbytes + topology.indptr.nbytes
        sizes["delta"] += sum(a.nbytes for a in arrays) + (packed.live.nbytes if compact else 0)
        sizes["moments"] += sum(a.nbytes for a in delta.kept.values())
    return sizes


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}, {"drop": "change"}], ids=str)
@pytest.mark.parametrize("keep", [0.4, 0.7])
@pytest.mark.parametrize("how", ["plain", "transposed", "bfloat16"])
def test_TRN_012_the_formula_counts_what_a_state_holds(tmp_path, compact, dtype, changes, keep, how):
    if compact and dtype == "float64":
        pytest.skip("16-bit weights are computed with in float32")
    source = hf_folder(tmp_path / "hf", tensors=pruned(parameters(CONFIG, dtype=BF16), keep=keep), dtype=BF16)
    folder = tmp_path / "model"
    to_sparse(source, folder)
    (tmp_path / "text.txt").write_text(TEXT)
    settings = settings_of("seft", **SHORT, **changes)
    if how == "bfloat16" and (tiles.without_tiles() or dtype == "float64"):
        pytest.skip("needs AMX, and float32")
    kernels = {"plain": cpu, "transposed": two_copies, "bfloat16": tiles}[how]
    model = load_model(folder, kernels, dtype, compact=compact)
    stored = {name: base.nnz for name, base in model.bases.items()}
    first = step_batches(settings, read_tokens(tmp_path / "text.txt", folder), 1, model.weights)
    state = initial_state(settings, model.config, model.weights, model.bases, kernels, first)
    if how == "bfloat16":
        for name in state.targets:
            packed = matrix_of(state.weights, name)
            tiles.matmul(np.zeros((tiles.FROM, packed.shape[1]), np.float32), packed)  # this makes the masks
    itemsize = 8 if dtype == "float64" else 4
    options = {"itemsize": itemsize, "compact": compact, "transposed": how == "transposed"}
    options["bfloat16"] = how == "bfloat16"
    found = memory_of_run(model.config, settings, stored, **options)
    assert " ".join(found) == "program embeddings weights base delta moments step activations logits event"
    for part, size in held_by(state, model.config).items():
        assert found[part] == size, part
    assert importlib.import_module("seft_cli.memory").memory_of(folder, settings, **options) == found


@pytest.mark.parametrize("grid", ["int4", "int8:g16:asym"])
@pytest.mark.parametrize("transposed", [False, True])
def test_TRN_012_KRN_018_the_formula_counts_codes(tmp_path, grid, transposed):
    config = CONFIG | {"hidden_size": 64, "intermediate_size": 160}
    tensors = pruned(parameters(config, dtype=BF16), config, keep=0.4)
    to_sparse(hf_folder(tmp_path / "hf", config, tensors, dtype=BF16), tmp_path / "sparse")
    folder = tmp_path / "model"
    seft_ref.quantise(tmp_path / "sparse", folder, grid)
    (tmp_path / "text.txt").write_text(TEXT)
    settings, kernels = settings_of("seft", **SHORT), two_copies if transposed else cpu
    model = load_model(folder, kernels, compact=True)
    first = step_batches(settings, read_tokens(tmp_path / "text.txt", folder), 1, model.weights)
    state = initial_state(settings, model.config, model.weights, model.bases, kernels, first)
    found = importlib.import_module("seft_cli.memory").memory_of(folder, settings, compact=True, transposed=transposed)
    held = held_by(state, model.config)
    # codes of 4 bits end half a byte before that of some rows of a panel
    assert held["weights"] <= found["weights"] <= 1.04 * held["weights"]
    seft_ref.finetune(folder, tmp_path / "tuned", tmp_path / "text.txt", settings, kernels=kernels)
    again = load_model(tmp_path / "tuned", kernels, compact=True)
    beside = sum(base.beside.size for base in again.bases.values())
    memory = importlib.import_module("seft_cli.memory").memory_of
    more = memory(tmp_path / "tuned", settings, compact=True, transposed=transposed)["delta"] - found["delta"]
    assert more == beside * (5 * (2 if transposed else 1) + 17) > 0
    assert {part: found[part] for part in ("base", "delta", "moments")} == {
        k: v for k, v in held.items() if k != "weights"
    }


WIDE = CONFIG | {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 8}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    tensors = pruned(parameters(WIDE, dtype=BF16), WIDE, keep=0.3)
    to_sparse(hf_folder(folder / "hf", WIDE, tensors, dtype=BF16), folder / "model")
    return folder / "model"


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {"initial_positions": "gradient"},
        {"initial_positions": "random"},
        {"scope": "row"},
        {"scope": "model"},
        {"grow_scope": "active"},
        {"adapt": "token-fisher"},
    ],
    ids=lambda more: "-".join(map(str, more.values())),
)
def test_TRN_012_the_formula_counts_what_a_start_and_an_event_work_in(wide, compact, more):
    changes = {"length": 16, "batch": 1, "density": 0.005, "initial_positions": "random"} | more
    settings = settings_of("seft", **SHORT | changes | {"evolve_every": 2})
    tokens = list(range(250)) * 8
    # what is compiled, or imported when it is first used, is there the second time, which is traced
    for traced in (False, True):
        model = load_model(wide, cpu, compact=compact)
        config, stored = model.config, {name: base.nnz for name, base in model.bases.items()}
        first = step_batches(settings, tokens, 1, model.weights)
        if traced:
            tracemalloc.start()
        state = initial_state(settings, config, model.weights, model.bases, cpu, first)
        start = tracemalloc.get_traced_memory()[1]
        del model
        state, _ = train_step(state, first, settings, config, cpu)
        before = tracemalloc.get_traced_memory()[0]
        if traced:
            tracemalloc.reset_peak()
        state, record = train_step(state, step_batches(settings, tokens, 2, state.weights), settings, config, cpu)
        event = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    assert record.event is not None
    found = memory_of_run(config, settings, stored, compact=compact)
    work = found["event"] + found["activations"] + found["logits"]
    assert start < work
    # of two blocks the second has little left of what the gradients of the first took
    assert 0.6 * work < event < work


def test_TRN_012_a_compact_start_looks_at_one_matrix_at_a_time():
    config = ModelConfig.from_json(WIDE | {"num_hidden_layers": 40})
    stored = {matrix.name: matrix.shape[0] * matrix.shape[1] // 3 for matrix in config.targets()}
    by_gradient, random = (
        [
            memory_of_run(
                config, settings_of("sensitivity", **SHORT, initial_positions=start), stored, compact=compact
            )["event"]
            for compact in (False, True)
        ]
        for start in ("gradient", "random")
    )
    assert by_gradient[1] == random[1] == random[0]
    assert by_gradient[0] == max(4 * sum(stored.values()), random[0]) > random[0]


def test_TRN_012_what_makes_a_run_smaller_or_larger():
    config = ModelConfig.from_json(CONFIG)
    stored = {m.name: int(0.3 * m.shape[0] * m.shape[1]) for m in config.targets()}

    def total(**changes):
        options = {key: changes.pop(key) for key in ("compact", "recompute", "itemsize") if key in changes}
        return sum(memory_of_run(config, settings_of("seft", **(SHORT | changes)), stored, **options).values())

    plain = total()
    assert plain < total(itemsize=8)
    settings = settings_of("seft", **SHORT)
    of_weights = [memory_of_run(config, settings, stored, compact=c)["weights"] for c in (True, False)]
    assert of_weights[0] < of_weights[1]
    assert total(recompute=True) < plain == total(recompute=False)
    assert plain < total(batch=4) < total(batch=4, length=16)
    bases = [memory_of_run(config, settings, stored, dense_from=share)["base"] for share in (0.25, 0.55)]
    assert bases[0] > bases[1] == 0
    few = {"batch": 1, "length": 2}
    assert total(**few) < total(**few, gradient_window=2) == total(**few, event_batches=2)
    # GRD-009, GRD-007: sums on the support, with candidates or without
    few["gradient_window"] = 2
    assert max(total(**few, grow_scope="active"), total(**few, candidates="first-step")) < total(**few)
    assert total(density=0.05) < plain
    assert total(evolve_every=100, initial_positions="random") < plain


def test_TRN_012_a_run_that_does_not_fit_is_told_before_it_starts(tmp_path, monkeypatch, capsys):
    folder = sparse_folder(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    memory = importlib.import_module("seft_cli.memory")
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 20)
    out = tmp_path / "out"
    arguments = ("finetune", folder, out, "--text", tmp_path / "text.txt", "--steps", "2", "--length", "8")
    arguments = tuple(map(str, arguments))
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    words = " ".join(err.split())
    assert "TRN-012: the run needs about" in words
    assert "0.00 GiB are free" in words
    assert "--compact" in words
    assert "--ignore-memory" in words
    parts = memory.memory_of(folder, settings_of("seft", steps=2, length=8))
    assert [part for part, size in parts.items() if size and f"{part} 0." not in words] == []
    assert "base" not in words  # all of it is held in what is multiplied
    assert not out.exists()
    code, _, err = call(monkeypatch, capsys, *arguments, "--ignore-memory")
    assert code == 0, err
    assert out.is_dir()


@pytest.mark.parametrize("stored", [np.float64, np.float32, BF16], ids=["float64", "float32", "bfloat16"])
def test_TRN_012_numbers_are_as_wide_as_the_run_makes_them(tmp_path, monkeypatch, capsys, stored):
    folder = sparse_folder(tmp_path / "model", dtype=stored)
    (tmp_path / "text.txt").write_text(TEXT)
    memory, settings = importlib.import_module("seft_cli.memory"), settings_of("seft", steps=2, length=8)
    for dtype in (None, "float32", "float64"):
        wide = load_model(folder, cpu, dtype).weights.embed_tokens.dtype.itemsize
        assert memory.itemsize_of(folder, dtype) == wide
    narrow, wide = (sum(memory.memory_of(folder, settings, itemsize=n).values()) for n in (4, 8))
    monkeypatch.setattr(memory, "available_bytes", lambda: (narrow + wide) // 2)
    arguments = (folder, tmp_path / "out", "--text", tmp_path / "text.txt", "--steps", 2, "--length", 8)
    code, _, err = call(monkeypatch, capsys, "finetune", *arguments)
    assert (code, "TRN-012" in err) == ((2, True) if stored is np.float64 else (0, False))


def test_TRN_012_the_limit_of_a_group_counts(tmp_path, monkeypatch):
    memory = importlib.import_module("seft_cli.memory")
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "CGROUP", (limit, used))
    free = memory.available_bytes()
    assert free > 0
    used.write_text("1000\n")
    limit.write_text("5000\n")
    assert memory.available_bytes() == 4000
    limit.write_text("max\n")
    assert memory.available_bytes() > 4000


def test_CKP_008_the_command_lines_hold_16_bits(tmp_path, monkeypatch, capsys):
    folder = str(sparse_folder(tmp_path / "model", dtype=BF16))
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    out = str(tmp_path / "out")
    options = ("--text", str(text), "--steps", "4", "--length", "8", "--evolve-every", "2", "--density", "0.1")
    code, _, err = call(monkeypatch, capsys, "finetune", folder, out, *options, "--compact", "--recompute")
    assert code == 0, err
    found = []
    for more in ((), ("--compact",)):
        code, told, err = call(
            monkeypatch, capsys, "eval", out, "--text", str(text), "--length", "8", "--windows", "3", *more
        )
        assert code == 0, err
        found.append(told.split()[1])
    assert found[0] == found[1]
    single = str(sparse_folder(tmp_path / "single"))
    code, _, err = call(monkeypatch, capsys, "finetune", single, str(tmp_path / "no"), *options, "--compact")
    assert code != 0
    assert "CKP-008" in err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "8:16", "3:7"])
def test_TOP_005_a_matrix_of_a_pattern_holds_its_share_of_the_dense_values(pattern):
    n_keep, width = map(int, pattern.split(":"))
    told = importlib.import_module("benchmarks.memory")._pattern(n_keep, width)
    share = n_keep / width
    # panels: a value and a byte each, and 32 bits for every 64 columns of a row
    assert told["packed"] == pytest.approx(share * 5 + 4 / 64, rel=1e-3)
    assert told["packed in 16 bits"] == pytest.approx(share * 3 + 4 / 64, rel=1e-3)
    assert told["positions of the base"] == {4: 1 / 4, 16: 1 / 8, 7: 1 / 7}[width]


def test_KRN_015_a_stored_weight_takes_what_the_pages_say():
    rng = np.random.default_rng(0)
    topology = from_flat((1024, 1024), np.flatnonzero(rng.random(1024 * 1024) >= 0.7))
    values = rng.standard_normal(topology.nnz).astype(np.float32)
    plain, twice = cpu.pack(topology, values).nbytes, two_copies.pack(topology, values).nbytes
    compact = (cpu.compact(topology, values.astype(BF16)), two_copies.compact(topology, values.astype(BF16)))
    told = [plain, twice - plain, compact[0].nbytes, compact[1].nbytes - compact[0].nbytes]
    assert [round(n / topology.nnz, 1) for n in told] == [5.2, 5.2, 3.2, 3.2]
    root = TOOLS.parent
    texts = {name: (root / name).read_text(encoding="utf-8") for name in ("SPEC.md", "CHANGELOG.md")}
    texts |= {module.__name__: module.__doc__ for module in (bases, two_copies)}
    for name, text in texts.items():
        said = re.findall(r"([\d.]+) (?:more )?bytes (?:more )?a (?:stored )?weight", text)
        assert "5.2" in said, name
        assert not {"5", "3"} & {*said}, name


def test_KRN_015_a_position_takes_what_the_readme_says():
    topology = from_flat((1024, 1024), np.flatnonzero(np.random.default_rng(0).random(1024 * 1024) < 0.3))
    values = np.ones(topology.nnz, dtype=np.float32)
    plain = cpu.pack(topology, values).nbytes / topology.numel
    compact = cpu.compact(topology, values.astype(BF16)).nbytes / topology.numel
    readme = (TOOLS.parent / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if "weights in memory at 70 %" in line)
    assert row.endswith(f" {plain:.1f}; `--compact` {compact:.1f} |")


def test_TRN_012_the_estimate_knows_how_the_compiled_kernels_hold_a_matrix():
    assert (DENSE_FROM, PANEL) == (layout.PANELS_BELOW, panels.WIDTH)
