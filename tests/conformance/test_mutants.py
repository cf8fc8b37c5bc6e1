"""Every mutant is refused by a case linked to a clause it breaks, and so is every port that does nothing."""

import math

import numpy as np
import pytest

from conformance.cases import load_all
from conformance.harness import Variant, run
from conformance.ops import OPS
from conformance.oracle import rules
from conformance.port import Refused, Unsupported
from tests.conformance import mutant_adapters, mutant_prune
from tests.conformance import mutants as m
from tests.conformance.mutant_events import event

CASES = load_all()
BY_OP = {op: [case for case in CASES if case.op == op] for op in OPS}


def flipped(op, name):
    """The operation with one output transposed and brought back to its shape."""

    def f(a):
        out = m.right(op)(a)
        return out | {name: np.ascontiguousarray(out[name].T).reshape(out[name].shape)}

    return f


MUTANTS = [
    ("SEL-001", "select.largest", m.higher_id_wins(-1), "ties to the higher id"),
    ("SEL-002", "select.smallest", m.higher_id_wins(1), "ties to the higher id"),
    ("SEL-003", "select.largest", m.in_order_of_score, "returned in order of score"),
    ("SEL-004", "select.smallest", m.nan_ranked, "NaN ranked"),
    ("SEL-005", "select.smallest", m.nan_ranked, "impossible counts answered"),
    ("SEL-006", "count.drop", lambda a: {"n": round(m.rate(a))}, "round"),
    ("SEL-006", "count.drop", lambda a: {"n": int(m.rate(a))}, "floor without the nudge"),
    ("SEL-006", "count.drop", lambda a: {"n": math.ceil(m.rate(a))}, "ceil"),
    ("DLT-002", "count.budget", lambda a: {"n": rules.count(m.budget_before_the_cap(a))}, "no cap at K"),
    ("SEL-006", "count.budget", lambda a: {"n": min(int(m.budget_before_the_cap(a)), a["stored"])}, "int()"),
    (
        "SCH-001",
        "schedule.fraction",
        m.changed("schedule.fraction", steps=lambda a: a["steps"] + 1),
        "period T + 1",
    ),
    (
        "SCH-003",
        "schedule.events",
        lambda a: {"at": m.ids(range(a["evolve_every"], a["steps"] + 1, a["evolve_every"]))},
        "an event at step T",
    ),
    (
        "SCH-004",
        "schedule.learning_rate",
        m.changed("schedule.learning_rate", step=lambda a: a["step"] - 1),
        "steps from 0",
    ),
    (
        "SCH-005",
        "schedule.spiel",
        m.changed("schedule.spiel", steps=lambda a: a["steps"] - 1),
        "the last phase lost",
    ),
    ("RNG-001", "rng.draws", m.changed("rng.draws", numbers=lambda a: a["numbers"] - 1), "draws from −1"),
    ("RNG-002", "rng.draws", m.changed("rng.draws", words=lambda a: a["words"][::-1]), "words reversed"),
    (
        "TOP-003",
        "topology.positions",
        lambda a: {"positions": m.ids(a["indices"])},
        "columns for flat positions",
    ),
    ("CHG-001", "change.source", lambda a: {"source": m.ids(range(len(a["new"])))}, "slots kept in place"),
    ("CHG-002", "change.realign", m.changed("change.realign", fill=lambda a: 0.0), "new slots always zero"),
    (
        "CHG-002",
        "change.realign",
        lambda a: {"values": m.right("change.realign")(a)["values"] + 0.0},
        "−0 becomes +0",
    ),
    (
        "TOP-004",
        "delta.effective",
        lambda a: (lambda out: {k: v[out["weights"] != 0] for k, v in out.items()})(m.right("delta.effective")(a)),
        "zeros leave the support",
    ),
    (
        "DLT-004",
        "delta.initial_random",
        lambda a: {
            "positions": a["base"][
                m.right("delta.initial_random")(a | {"base": m.ids(range(len(a["base"])))})["positions"]
            ]
        },
        "draws numbered by slot",
    ),
    (
        "DROP-001",
        "update.drop",
        m.changed("update.drop", delta_values=lambda a: a["delta_values"] - 100),
        "φ for |φ|",
    ),
    (
        "DROP-001",
        "update.drop",
        lambda a: {"dropped": np.sort(a["delta"][np.argsort(-np.abs(a["delta_values"]), kind="stable")[: a["n"]]])},
        "the largest dropped",
    ),
    (
        "GROW-001",
        "update.grow",
        m.changed("update.grow", dropped=lambda a: a["dropped"][:0]),
        "no just-dropped",
    ),
    ("GROW-001", "update.grow", m.changed("update.grow", scope=lambda a: "active"), "never off the base"),
    ("GROW-001", "update.evolve", event("dropped not candidates"), "no just-dropped"),
    ("GROW-001", "update.evolve", event("scope ignored"), "scope ignored"),
    ("EVT-007", "update.evolve", event("scope ignored"), "the pattern broken"),
    ("GROW-002", "update.evolve", event("no refill"), "no refill"),
    ("GROW-002", "update.evolve", event("signed gradient"), "ḡ for |ḡ|"),
    ("GROW-003", "update.evolve", event("cancelled loses moments"), "moments of cancelled pairs lost"),
    ("GROW-003", "update.evolve", event("cancelled starts anew"), "cancelled pairs start anew"),
    ("DLT-005", "update.evolve", event("new slot keeps an age"), "ages not reset"),
    ("DLT-005", "update.evolve", event("new slot steps at once"), "a new slot is not 0"),
    ("DROP-002", "update.evolve", event("folded"), "dropped values folded into the base"),
    ("EVT-001", "update.evolve", event("adapt first"), "adapt before drop"),
    ("ADPT-001", "update.evolve", event("filled up to K"), "one too many pruned"),
    ("ADPT-001", "update.evolve", event("values counted"), "values counted instead of support"),
    ("TOP-004", "update.evolve", event("values counted"), "values counted instead of support"),
    ("ADPT-002", "update.evolve", event("by magnitude"), "|W| for |g·W|"),
    ("ADPT-002", "update.evolve", event("by gradient"), "|g| for |g·W|"),
    ("ADPT-002", "update.evolve", event("without phi"), "the base weight alone"),
    ("ADPT-003", "update.evolve", event("new slots not exempt"), "new slots not exempt"),
    ("ADPT-003", "update.evolve", event("cancelled exempt"), "cancelled pairs exempt"),
    ("ADPT-003", "update.evolve", event("whole delta exempt"), "the whole delta exempt"),
    ("ADPT-004", "update.evolve", event("slot kept after pruning"), "the slot stays"),
    ("ADPT-004", "update.evolve", event("base kept after pruning"), "the base stays"),
    ("EVT-001", "update.evolve", event("always adapts"), "adapt where it is left out"),
    ("DLT-001", "update.event", m.n_for_the_budget_of_a_group, "N for what a group stored at load"),
    ("EVT-009", "update.event", m.n_for_the_budget_of_a_group, "N for what a group stored at load"),
    ("EVT-005", "update.event", m.looked_at_where_it_is_scored, "NaN off what is scored"),
    ("SEL-008", "select.pools", m.gaps_in_the_dtype_of_scores, "gaps in binary32"),
    ("TRN-009", "gradient.norm", m.norm_in_the_dtype, "a norm that overflows"),
    ("OPT-001", "adamw.step", m.adamw("global step"), "one step counter"),
    ("OPT-001", "adamw.step", m.adamw("decay after"), "decay after the update"),
    ("OPT-001", "adamw.step", m.adamw("coupled decay"), "decay through the gradient"),
    ("OPT-001", "adamw.step", m.adamw("eps inside the root"), "eps inside the root"),
    ("OPT-001", "adamw.step", m.adamw("eps before the correction"), "eps before the correction"),
    ("OPT-002", "adamw.step", m.adamw("corrections in the run's dtype"), "corrections in binary32"),
    ("OPT-002", "adamw.step", m.adamw("1 - beta in the run's dtype"), "1 − β₂ in binary32"),
    (
        "OPT-004",
        "adamw.clip",
        lambda a: {"factor": a["max_norm"] / (a["norm"] + 1e-6)},
        "small gradients scaled up",
    ),
    ("LYR-001", "layer.embedding", m.overwritten_rows, "repeated tokens overwrite"),
    ("LYR-002", "layer.rmsnorm", m.eps_outside_the_root, "eps outside the root"),
    ("LYR-003", "layer.linear", m.bias_twice, "the bias twice"),
    ("NUM-002", "layer.linear", m.linear_in_ten_bits, "ten-bit products"),
    ("GRD-001", "gradient.whole", flipped("gradient.whole", "gradient"), "the gradient transposed"),
    (
        "GRD-002",
        "gradient.at",
        lambda a: {"values": m.right("gradient.at")(a)["values"][::-1]},
        "another order",
    ),
    ("GRD-004", "gradient.candidates", m.absolute_sums, "|g| before the mean"),
    ("LYR-004", "layer.rope", m.interleaved, "neighbours paired"),
    ("LYR-004", "layer.rope", m.coarse_angles, "angles in binary32"),
    ("LYR-007", "layer.attention", m.attention("heads in turns"), "key heads in turns"),
    ("LYR-007", "layer.attention", m.attention("no scale"), "no 1/sqrt(D)"),
    ("LYR-008", "layer.attention", m.attention("sees the next"), "the mask a position off"),
    ("LYR-008", "layer.attention", m.attention("window too wide"), "the window a key too wide"),
    ("LYR-009", "layer.attention", m.attention("empty rows average"), "empty rows average"),
    ("LYR-010", "layer.swiglu", m.silu_overflows, "exp overflows"),
    ("LYR-011", "layer.cross_entropy", m.no_largest_taken_off, "the largest logit not taken off"),
    ("LYR-011", "layer.cross_entropy", m.mean_over_all_rows, "ignored rows counted"),
    ("MDL-003", "config.describe", m.windows_everywhere, "windows everywhere"),
    ("MDL-006", "config.describe", m.refuses_nothing, "nothing refused"),
    ("MDL-007", "config.describe", m.targets_by_name, "targets in order of name"),
    ("MDL-005", "model.step", m.untied, "one use of a tied table"),
    ("TRN-001", "model.step", m.loss_over_padding, "the loss averaged over padding"),
    ("TRN-002", "model.step", m.mean_of_means, "a mean of means"),
    ("TRN-003", "text.training", m.changed("text.training", step=lambda a: a["step"] + 1), "steps from 0"),
    (
        "PRN-007",
        "text.calibration",
        lambda a: m.right("text.training")(a | {"step": 1, "rows": a["n"]}),
        "stream 2",
    ),
    (
        "EVL-001",
        "text.evaluation",
        lambda a: {"starts": m.ids(i * a["tokens"] // a["windows"] for i in range(a["windows"]))},
        "n / windows",
    ),
    (
        "EVL-001",
        "evaluate.perplexity",
        lambda a: m.right("evaluate.perplexity")(a | {"windows": a["windows"] - 1}),
        "one short",
    ),
    ("EVL-003", "evaluate.perplexity", m.any_perplexity, "an infinite perplexity"),
    ("PRN-001", "prune.magnitude", m.no_nudge, "int(ρ n)"),
    ("KRN-001", "kernel.sparse", m.last_of_a_row_lost, "the last entry of a row lost"),
    ("KRN-002", "kernel.sparse", flipped("kernel.sparse", "dx"), "dx transposed"),
    ("KRN-003", "kernel.sparse", m.zeros_without_gradient, "stored zeros get no gradient"),
    ("KRN-004", "kernel.sparse", m.zeros_without_gradient, "stored zeros get no gradient"),
    ("KRN-006", "kernel.sparse", m.kernel_in_ten_bits, "ten-bit products"),
    ("KRN-009", "kernel.sparse", m.takes_anything, "shapes not checked"),
    ("KRN-010", "kernel.sparse", m.changed("kernel.sparse", odd=lambda a: None), "operands cast"),
    ("KRN-012", "kernel.store", m.changed("kernel.store", new=lambda a: a["new"][::-1]), "values in another order"),
    ("FMT-090", "file.read", m.unverified, "digests not looked at"),
    ("FMT-091", "file.read", m.unverified, "digests not looked at"),
    ("FMT-003", "file.read", m.stored_zeros_lost, "stored zeros lost"),
    ("FMT-035", "file.read", m.trailing_bytes_cut, "bytes at the end ignored"),
    ("FMT-080", "file.write", m.written_with_spaces, "another spelling"),
    ("FMT-081", "file.write", m.changed("file.write", encoding=lambda a: "csr"), "always csr"),
    (
        "PRN-002",
        "prune.magnitude",
        m.changed("prune.magnitude", weights=lambda a: a["weights"] + 100),
        "W for |W|",
    ),
    (
        "PRN-003",
        "prune.wanda",
        m.changed("prune.wanda", square_sums=lambda a: a["square_sums"] * 0 + 1),
        "no norms",
    ),
    (
        "PRN-004",
        "prune.pattern",
        m.changed("prune.pattern", scores=lambda a: -a["scores"]),
        "the smallest kept",
    ),
    *mutant_prune.MUTANTS,
    ("EVT-004", "update.adapt", lambda a: {"pruned": m.ids([])}, "no last pass"),
    ("TRN-005", "train.run", m.settings(gradient_window=1), "the last gradient alone"),
    ("OPT-004", "train.run", m.settings(max_norm=0.0), "no clipping"),
    ("DLT-004", "train.run", m.settings(seed=99), "another seed"),
    ("EVT-004", "train.run", m.settings(preset="static"), "no events"),
    ("SCH-004", "train.run", m.settings(warmup=0, schedule="constant"), "a constant rate"),
    *mutant_adapters.MUTANTS,
]


def judge(op, mutant, name):
    port = m.ENGINE.with_ops(name, **{op.replace(".", "__"): mutant})
    return run(BY_OP[op], [Variant(port, "float64"), Variant(port, "float32")])


@pytest.mark.parametrize(
    ("clause", "op", "mutant", "name"),
    MUTANTS,
    ids=[f"{c}-{op}-{n}".replace(" ", "_") for c, op, _, n in MUTANTS],
)
def test_a_mutant_is_refused_by_a_case_of_its_clause(clause, op, mutant, name):
    refused = [
        r.case
        for r in judge(op, mutant, name)
        if any("it raised" not in f.detail and "got the refusal" not in f.detail for f in r.failures)
    ]
    assert refused, "every case passes"
    assert any(clause in case.clauses for case in refused), {c for case in refused for c in case.clauses}


@pytest.mark.parametrize(
    ("op", "control"), [("update.evolve", event()), ("adamw.step", m.adamw()), mutant_adapters.CONTROL]
)
def test_without_a_flaw_nothing_is_refused(op, control):
    for result in judge(op, control, "control"):
        assert result.status == "passed", (result.case.id, result.failures)


def test_sparsegpt_without_a_flaw_gives_every_answer():
    for result in judge("prune.sparsegpt", mutant_prune.sparsegpt(), "control"):
        assert result.status == "passed" or result.case.refused, (result.case.id, result.failures)


def test_at_least_one_mutant_for_most_operations():
    assert len({op for _, op, _, _ in MUTANTS}) > 30


def test_a_port_that_writes_to_its_inputs_is_refused():
    def op(a):
        out = m.right("layer.swiglu")(a)
        a["gate"][...] = 0
        return out

    class Careless:
        name = "careless"

        def call(self, op_name, inputs, dtype):
            return op(inputs)

    found = run(BY_OP["layer.swiglu"], [Variant(Careless(), "float64")])
    assert any("wrote to its input" in f.detail for r in found for f in r.failures)


# --- ports that do nothing ---


def like(value, fill):
    if isinstance(value, np.ndarray):
        return np.full_like(value, fill) if value.dtype.kind == "f" else np.zeros_like(value)
    if isinstance(value, dict):
        return {k: like(v, fill) for k, v in value.items()}
    if isinstance(value, list):
        return [like(v, fill) for v in value]
    return fill if isinstance(value, float) else 0 if isinstance(value, int) else value


class Null:
    """A port that knows the shapes of the answers, but not the answers."""

    def __init__(self, name):
        self.name = name
        self.case = None

    def call(self, op, inputs, dtype):
        outputs = OPS[op].outputs
        if self.name == "nothing":
            return {}
        if self.name == "none":
            return dict.fromkeys(outputs)
        if self.name == "empty":
            return {name: np.zeros(0, dtype=dtype) for name in outputs}
        if self.name == "echo":
            return dict(zip(outputs, [*inputs.values(), *inputs.values()], strict=False))
        if self.name == "refuses":
            raise Refused("SEL-004")
        if self.name == "raises":
            raise RuntimeError("not now")
        fill = math.nan if self.name == "nan" else 0.0
        known = self.case.expected or dict.fromkeys(outputs, 0)
        return {name: like(known[name], fill) for name in outputs}


@pytest.mark.parametrize("name", ["nothing", "none", "empty", "echo", "refuses", "raises", "nan", "zeros"])
def test_a_port_that_does_nothing_fails_every_operation(name):
    port = Null(name)
    found = run(CASES, [Variant(port, "float64")], lambda case: setattr(port, "case", case))
    by_op = {}
    for result in found:
        by_op.setdefault(result.case.op, []).append(result.outcome)
    assert [op for op, outcomes in by_op.items() if not {"fail", "error", "blocked"} & set(outcomes)] == []
    assert len([op for op, outcomes in by_op.items() if "blocked" not in outcomes]) > 50
    if name in ("nothing", "none", "raises"):
        assert {result.status for result in found if result.ran or result.failures} == {"failed"}


def test_a_port_that_offers_nothing_passes_nothing():
    class Modest:
        name = "modest"

        def call(self, op, inputs, dtype):
            raise Unsupported(op)

    found = run(CASES[:20], [Variant(Modest(), "float64")])
    assert {result.status for result in found} == {"skipped"}
    assert all("does not offer" in result.skipped for result in found)


def test_the_engine_passes_on_every_library():
    from conformance.command import variants_of_engine

    assert [r.case.id for r in run(CASES, variants_of_engine()) if r.status != "passed"] == []
