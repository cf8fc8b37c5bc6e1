"""seft_ports.pytorch: judged by the kit, its autograd function against definitions, and wrong versions of it."""

import math
import sys
from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conformance.cases.case import load_all  # noqa: E402
from conformance.engine.port import EnginePort  # noqa: E402
from conformance.judge.harness import Variant, run  # noqa: E402
from conformance.judge.judgement import cases_of  # noqa: E402
from conformance.properties import run_properties  # noqa: E402
from conformance.protocol.child import Child  # noqa: E402
from seft_ports.pytorch import (  # noqa: E402
    SeftError,
    SeftLinear,
    SeftOptimizer,
    Settings,
    delta,
    kernels,
    mask_zeros,
    model,
    schedule,
    select,
    slot_step,
    wrap,
)
from seft_ports.pytorch import update as update_file  # noqa: E402
from seft_ports.pytorch.decide import decide  # noqa: E402
from seft_ports.pytorch.port import Port, Runs  # noqa: E402
from seft_ports.pytorch.product import product  # noqa: E402

ALL = load_all()
CORE = cases_of(["core", "rules"], ALL)
CLASSES = {"exact64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

pytestmark = pytest.mark.filterwarnings("default")


def variant(port, offered, cls):
    offers = frozenset(op for op, classes in offered.items() if cls in classes)
    return Variant(port, CLASSES[cls], offers=offers, deterministic=True)


def judged(port, cases=CORE, classes=("exact64", "fp32")):
    offered = port.describe()["ops"]
    return run(cases, [variant(port, offered, cls) for cls in classes])


def failures(results):
    return {f"{r.case.id} {f.variant} {f.output}: {f.detail}" for r in results for f in r.failures}


def test_the_kit_passes_every_case_of_core_and_rules():
    with Child([sys.executable, "-m", "conformance.protocol.serve", "seft_ports.pytorch.port:Port"]) as child:
        offered = child.hello().ops
        results = run(CORE, [variant(child, offered, cls) for cls in ("exact64", "fp32")])
        reduced = [run(CORE, [variant(child, offered, cls)]) for cls in ("bf16", "fp16")]
    assert failures(results) == set()
    assert {r.outcome for r in results} == {"pass"}
    for found in reduced:
        assert failures(found) == set()
        passed = Counter(r.case.op for r in found if r.outcome == "pass")
        assert set(passed) == {"kernel.sparse", "kernel.store", "gradient.whole", "gradient.at"}


def test_the_kit_passes_whole_runs_of_transformers_in_float32():
    pytest.importorskip("transformers")
    # one case is for float64 alone
    offered = ("train.run", "train.step", "evaluate.perplexity")
    fitting = [c for c in ALL if c.op in offered and c.id != "last-pass.no-evidence-float64"]
    results = judged(Runs(), fitting, ("fp32",))
    assert failures(results) == set()
    assert {r.outcome for r in results} == {"pass"}
    assert Counter(r.case.op for r in results) == {"train.run": 102, "train.step": 13, "evaluate.perplexity": 9}


def by_topk(scores, k):
    return torch.topk(scores, k, largest=False, sorted=False).indices.sort().values


def by_value(layer):
    return layer.weight != 0


def forgetful(array, where, fill=0.0):
    return torch.full(where.shape, fill, dtype=array.dtype)


def summed_in_type(a, b):
    return sum((a[:, k : k + 1] * b[k] for k in range(a.shape[1])), torch.zeros(len(a), b.shape[1], dtype=a.dtype))


@pytest.mark.parametrize(
    ("where", "name", "wrong", "refused"),
    [
        (select, "smallest", by_topk, {"select.smallest", "select.largest"}),
        (SeftLinear, "support", by_value, {"delta.effective"}),
        (update_file, "realign", forgetful, {"update.evolve"}),
        (schedule, "SLACK", 0.0, {"count.drop"}),
        (delta, "SLACK", 0.0, {"count.budget"}),
    ],
)
def test_the_kit_refuses_a_wrong_version(where, name, wrong, refused, monkeypatch):
    monkeypatch.setattr(where, name, wrong)
    ops = dict(Port().operations())
    if wrong is by_topk:
        from seft_ports.pytorch.port import _select

        ops |= {"select.smallest": _select(wrong), "select.largest": _select(lambda scores, k: wrong(-scores, k))}
    monkeypatch.setattr(Port, "operations", lambda self: ops)
    cases = [case for case in CORE if case.op in refused]
    assert refused == {r.case.op for r in judged(Port(), cases) if r.failures}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_prt_011_sums_of_16_bit_operands_are_taken_in_float32(dtype, monkeypatch):
    # the kit's cases that 16 bits hold have sums too short to tell
    dice = torch.Generator().manual_seed(4)
    x, w = (torch.rand(n, 600, generator=dice).to(dtype) for n in (3, 4))
    exact = x.double() @ w.double().T
    bound = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[dtype] * exact * 1.001
    assert bool(((kernels.matmul(x, w).double() - exact).abs() <= bound).all())
    assert bool(((kernels.matmul_transposed(x, w.T.contiguous()).double() - exact).abs() <= bound).all())
    found = kernels.whole(w.T.contiguous(), x.T.contiguous()).to(dtype).double()
    assert bool(((found - exact.T).abs() <= bound.T).all())
    monkeypatch.setattr(kernels, "_product", summed_in_type)
    assert bool(((kernels.matmul(x, w).double() - exact).abs() > bound).any())


def layer_of(out=5, width=7, dtype=torch.float64, seed=0, bias=False):
    """A layer with an empty row, an empty column, a stored zero, and slots on and off its base."""
    dice = torch.Generator().manual_seed(seed)
    mask = torch.rand(out, width, generator=dice) < 0.6
    mask[2], mask[:, 3] = False, False
    weight = torch.randn(out, width, generator=dice).to(dtype)
    weight[0, 0], mask[0, 0] = 0.0, True
    made = SeftLinear(weight, mask, 6, torch.nn.Parameter(torch.randn(out, generator=dice).to(dtype)) if bias else None)
    made.place(torch.tensor([0, 3, 8, 16, 30]))
    made.values.data[:5] = torch.randn(5, generator=dice).to(made.values.dtype)
    made.refresh()
    return made, (weight * mask), dice


@pytest.mark.parametrize("bias", [False, True])
def test_gradcheck_of_the_autograd_function(bias):
    layer, _, dice = layer_of(bias=bias)
    x = torch.randn(2, 3, 7, generator=dice, dtype=torch.float64, requires_grad=True)

    def of_values(x, values):
        return product(x, layer, torch.float64, (values,))

    assert torch.autograd.gradcheck(of_values, (x, layer.values.detach().requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_grd_001_the_layer_against_a_dense_definition(dtype):
    layer, base, dice = layer_of(dtype=dtype, bias=True)
    x = torch.randn(2, 3, 7, generator=dice).to(dtype).requires_grad_()
    dy = torch.randn(2, 3, 5, generator=dice).to(dtype)
    layer.watch(["gradient"])
    layer(x).backward(dy)
    other, whole = x.detach().double().requires_grad_(), base.double()
    whole.view(-1)[layer.positions[:5]] += layer.values.detach().double()[:5]
    whole.requires_grad_()
    want = torch.nn.functional.linear(other, whole, layer.bias.detach().double())
    want.backward(dy.double())
    close = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    assert torch.allclose(layer(x).double(), want, **close)
    assert torch.allclose(x.grad.double(), other.grad, **close)
    assert torch.allclose(layer.values.grad.double()[:5], whole.grad.view(-1)[layer.positions[:5]], **close)
    assert layer.values.grad[5] == 0
    assert torch.allclose(layer.evidence(1)["gradient"].double(), whole.grad, **close)


def test_the_whole_gradient_is_formed_only_in_a_window_and_sums_micro_batches(monkeypatch):
    layer, _, dice = layer_of()
    formed = []
    honest = kernels.whole
    monkeypatch.setattr(kernels, "whole", lambda dy, x: formed.append(1) or honest(dy, x))
    x = torch.randn(4, 7, generator=dice, dtype=torch.float64)
    layer(x).sum().backward()
    assert formed == []
    assert layer.sum_gradient.numel() == 0
    layer.watch(["gradient"])
    for part in x.split(2):
        layer(part).sum().backward()
    assert torch.allclose(layer.evidence(1)["gradient"], x.sum(0).expand(5, 7))
    assert len(formed) == 2


def test_row_blocks_give_what_the_sampled_product_gives(monkeypatch):
    dice = torch.Generator().manual_seed(3)
    dy, x = (torch.randint(-4, 5, (9, n), generator=dice).double() for n in (300, 5))
    positions = torch.nonzero(torch.rand(1500, generator=dice) < 0.3).flatten()
    want = (dy.T @ x).flatten()[positions]
    assert torch.equal(kernels.sample(dy, x, positions), want)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert torch.equal(kernels.sample(dy, x, positions), want)


def test_a_backward_after_the_values_changed_is_refused():
    layer, _, dice = layer_of()
    y = layer(torch.randn(4, 7, generator=dice, dtype=torch.float64, requires_grad=True))
    with torch.no_grad():
        layer.values += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_autocast_computes_in_its_dtype_and_keeps_gradients_of_the_values_in_float32():
    layer, _, dice = layer_of(dtype=torch.float32)
    x = torch.randn(4, 7, generator=dice, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert (y.dtype, x.grad.dtype, layer.values.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert torch.allclose(y.float(), torch.nn.functional.linear(x, layer.weight), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("k", [0, 1, 2, 3, 5, 8])
def test_sel_001_ties_go_to_the_lower_index(k):
    scores = torch.tensor([1.0, 0.0, -0.0, 1.0, 0.0, 2.0, 2.0, -0.0])
    order = sorted(range(8), key=lambda i: (float(scores[i]), i))
    assert select.smallest(scores, k).tolist() == sorted(order[:k])
    order = sorted(range(8), key=lambda i: (-float(scores[i]), i))
    assert select.largest(scores, k).tolist() == sorted(order[:k])


def test_an_event_that_is_refused_changes_nothing():
    layer, _, _ = layer_of()
    before = {name: x.clone() for name, x in layer.state_dict().items()}
    with pytest.raises(SeftError, match="EVT-005"):
        decide([layer.part({"gradient": torch.full((5, 7), torch.nan)})], SETTINGS, torch.tensor([2]))
    assert all(torch.equal(x, before[name]) for name, x in layer.state_dict().items())


SETTINGS = Settings(density=0.1, evolve_every=3, drop_fraction=0.5)


@pytest.mark.parametrize(
    ("clause", "change"),
    [
        ("DLT-002", {"density": 0.0}),
        ("SCH-001", {"drop_fraction": 1.5}),
        ("TRN-008", {"evolve_every": 0}),
        ("TRN-005", {"gradient_window": 4}),
        ("EVT-011", {"preset": "adam"}),
        ("DLT-004", {"initial_positions": "first"}),
        ("GROW-004", {"grow": "most"}),
        ("GROW-005", {"regrow": 1}),
        ("EVT-012", {"grow": "moments"}),
        ("EVT-012", {"scope": "group"}),
        ("EVT-012", {"preset": "rigl", "pattern": (2, 4)}),
        ("EVT-012", {"rank": 4}),
        ("EVT-007", {"pattern": (2, 4), "grow_scope": "anywhere"}),
        ("TOP-005", {"pattern": (4, 2)}),
        ("TRN-008", {"evolve_every": 2.5}),
        ("TRN-008", {"evolve_until": "x"}),
        ("TRN-008", {"seed": True}),
        ("TRN-008", {"drop_fraction": "a"}),
        ("RNG-002", {"seed": -1}),
    ],
)
def test_settings_out_of_range_are_refused_by_clause(clause, change):
    with pytest.raises(SeftError, match=clause):
        Settings(**{"density": 0.1, "evolve_every": 3, "drop_fraction": 0.5} | change)


def block(dtype=torch.float32):
    """The smallest thing with a target: layers.0.q_proj."""
    made = torch.nn.Module()
    made.layers = torch.nn.ModuleList([torch.nn.Module()])
    made.layers[0].q_proj = torch.nn.Linear(4, 3, dtype=dtype)
    return made


def test_wrap_refuses_what_it_cannot_take():
    with pytest.raises(SeftError, match="MDL-007"):
        wrap(torch.nn.Linear(2, 2), SETTINGS)
    with pytest.raises(SeftError, match="TOP-004"):
        wrap(block(), SETTINGS)
    half = block(torch.bfloat16)
    with pytest.raises(SeftError, match="CKP-001"):
        wrap(half, SETTINGS, mask_zeros(half))
    asked = Settings(density=0.5, evolve_every=3, drop_fraction=0.5, keep_dtype=True)
    assert wrap(half, asked, mask_zeros(half)).layers[0].q_proj.values.dtype == torch.float32
    broken = block()
    broken.layers[0].q_proj.weight.data[1, 2] = torch.nan
    with pytest.raises(SeftError, match="CKP-003"):
        wrap(broken, SETTINGS, mask_zeros(broken))


def loss_of_large_scores(family, attention, query, key):
    """The loss of a model whose first token has positive multiples of `query` and `key`, and the others zeros."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 7, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
    config = transformers.AutoConfig.for_model(family, **sizes, num_attention_heads=2, num_key_value_heads=1)
    made = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    made.model.embed_tokens.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    made.model.embed_tokens.weight.data[2:, 0] = 0
    block = made.model.layers[0].self_attn
    for projection, norm, factor in ((block.q_proj, "q_norm", query), (block.k_proj, "k_norm", key)):
        # the norms of qwen3 bound what they get: their weights make it large
        weight = getattr(block, norm, projection).weight
        projection.weight.data[:] = torch.tensor([0.5] + 7 * [0.0])
        weight.data[weight.data != 0] = factor
    wrap(made, SETTINGS, mask_zeros(made))
    tokens = torch.tensor([[1, 2, 3]])
    return float(made(input_ids=tokens, labels=tokens).loss.detach())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_lyr_016_scores_and_keys_that_overflow_make_the_loss_nan(attention, family, monkeypatch):
    assert math.isfinite(loss_of_large_scores(family, attention, -1e10, 1e10))
    for query, key in ((-1e25, 1e25), (1.0, 3e38), (3e38, 1.0)):
        assert math.isnan(loss_of_large_scores(family, attention, query, key))
    # without the hooks the first query, whose one score is -inf, attends to keys behind it, or gives 0
    monkeypatch.setattr(model._Scores, "_show", lambda *given: None)
    assert math.isfinite(loss_of_large_scores(family, attention, -1e25, 1e25))


def test_trn_007_a_step_that_makes_an_effective_weight_infinite_is_refused():
    # b and φ are finite, and their sum is not
    made = block()
    made.layers[0].q_proj.weight.data.fill_(3.35e38)
    wrap(made, Settings(density=1.0, evolve_every=3, drop_fraction=0.5, initial_positions="random"), mask_zeros(made))
    optimizer = SeftOptimizer(made, lr=1e37)
    (values,) = optimizer.param_groups[0]["params"]
    values.grad = torch.full_like(values, -1.0)
    with pytest.raises(SeftError, match="TRN-007"):
        optimizer.step()
    assert bool(torch.isfinite(values).all())


def test_top_004_the_mask_of_torch_prune_counts_and_not_the_values():
    from torch.nn.utils import prune

    plain = block()
    linear = plain.layers[0].q_proj
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    linear.weight.data[2] = 0
    prune.custom_from_mask(linear, "weight", mask)
    layer = next(iter(model.layers_of(wrap(plain, SETTINGS)).values()))
    assert torch.equal(layer.mask, mask == 1)
    assert layer.budget == 7


@pytest.mark.parametrize("rise", [0, 1, 4])
def test_opt_010_the_rate_of_a_slot_rises_as_in_the_engine(rise):
    rng = np.random.default_rng(3)
    given = {
        "values": rng.normal(size=5),
        "m": rng.normal(size=5),
        "v": rng.random(5),
        "age": np.array([0, 1, 2, 3, 9]),
    }
    gradient = rng.normal(size=5)
    values, first, second, age = (torch.from_numpy(x.copy()) for x in given.values())
    kept = {"first_moment": first, "second_moment": second, "age": age}
    rate = slot_step.Hyper(0.1, weight_decay=0.2, slot_warmup=rise)
    slot_step.STEPS["adamw"](values, kept, torch.from_numpy(gradient), rate, slot_step.Place(age, age))
    hyper = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.2, "momentum": 0.9, "slot_warmup": rise}
    matrix = {"kind": "adamw", "out": 1, "in": 5, "positions": np.arange(5), "gradient": gradient, "lr": 0.1}
    step = EnginePort().call("optimizer.step", given | matrix | hyper, "float64")
    np.testing.assert_allclose(values.numpy(), step["values"], rtol=1e-12)


@pytest.mark.parametrize(
    ("reason", "choice"),
    [
        ("lr is -1; it is finite and at least 0", {"lr": -1}),
        ("lr is nan", {"lr": float("nan")}),
        (r"betas are \(0.9, 1.0\)", {"betas": (0.9, 1.0)}),
        ("eps is 0; it is finite and above 0", {"eps": 0}),
        ("weight_decay is inf", {"weight_decay": float("inf")}),
        ("momentum is 1; it lies in", {"momentum": 1}),
        ("slot_warmup is -1; it is at least 0", {"slot_warmup": -1}),
    ],
)
def test_trn_008_names_the_choice_of_an_optimizer_that_is_out_of_range(reason, choice):
    with pytest.raises(SeftError, match=f"TRN-008: {reason}"):
        SeftOptimizer(wrap(block(), SETTINGS, mask_zeros(block())), **choice)


def test_PRT_018_the_kit_finds_no_example_that_fails(tmp_path):
    pytest.importorskip("transformers")
    port = Runs()
    offered = port.describe()["ops"]
    profiles = ["core", "rules"]
    results = run_properties([variant(port, offered, "fp32")], profiles, "5eed", examples=1, artifacts=tmp_path)
    assert {f"{r.name}: {r.failure}" for r in results if r.status != "passed"} == set()
    assert len(results) > 50
