"""Every mutant is refused by a case linked to each clause it breaks, and so is every port that does nothing."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.case import load_all
from conformance.cases.clauses import read_clauses
from conformance.cases.coverage import elsewhere
from conformance.cases.ops import OPS
from conformance.cases.signatures import signatures
from conformance.engine.parts import slots
from conformance.engine.sums import reduced
from conformance.judge import conduct
from conformance.judge.harness import Variant, run
from conformance.protocol.port import Refused, Unsupported
from conformance.wrong.kills import clauses_of_properties, killing, unproven, variants_of
from conformance.wrong.mutants import CONTROLS, MUTANTS
from conformance.wrong.mutants.base import ENGINE, REFUSALS, Mutant, mutants, rewritten, right
from seft_ref.kernels import reference

CASES = load_all()
BY_OP = {op: [case for case in CASES if case.op == op] for op in OPS}


SIGNATURES = signatures()


def unrefused(mutant):
    """The clauses of a mutant of which no case refuses it, and no property that it names.

    A case counts for all of its clauses. Known ones are run first, of those the ones that show most of its clauses, and
    the small ones among these.
    """
    left = set(mutant.clauses)
    for kill in killing(mutant, []):
        left -= set(clauses_of_properties()[kill.case])
    cases = [
        (mutant.name not in SIGNATURES.get(case.id, ()), -len(left & set(case.clauses)), conduct._bytes(case.inputs), i)
        for i, case in enumerate(BY_OP[mutant.op])
    ]
    for *_, i in sorted(cases):
        case = BY_OP[mutant.op][i]
        if left & set(case.clauses) and killing(replace(mutant, shown_by=""), [case]):
            left -= set(case.clauses)
    return left


@pytest.mark.parametrize("op", sorted({m.op for m in MUTANTS}))
def test_each_mutant_is_refused_by_a_case_of_each_of_its_clauses(op):
    assert {m.name: left for m in MUTANTS if m.op == op and (left := unrefused(m))} == {}


def test_names_are_unique_and_clauses_exist():
    assert [name for name, n in Counter(m.name for m in MUTANTS).items() if n > 1] == []
    assert {c for m in MUTANTS for c in m.clauses} <= set(read_clauses())
    assert [m.name for m in MUTANTS if not m.clauses] == []


def test_a_mutant_of_large_inputs_is_refused_by_its_property_and_by_no_case():
    large = [m for m in MUTANTS if m.shown_by]
    assert len(large) >= 10
    for mutant in large:
        assert [kill.case for kill in killing(mutant, [])] == [f"property.{mutant.shown_by}"]
        # a mutant that a case refuses needs no property
        assert [case for case, names in SIGNATURES.items() if mutant.name in names] == [f"property.{mutant.shown_by}"]
    right_one = replace(large[0], call=right(large[0].op))
    assert killing(right_one, []) == []
    with pytest.raises(ValueError, match="not seeded"):
        killing(replace(large[0], shown_by="kernel.sparse"), [])


def test_an_edited_mutant_may_refuse_good_input_and_leaves_the_engine_as_it_was():
    cases = [case for case in BY_OP["select.largest"] if case.inputs["k"] == len(case.inputs["ids"]) > 0]
    cases = [case for case in cases if not case.refused]
    found = next(m for m in MUTANTS if m.name == "select.largest: edited, all refused")
    assert [kill.case for kill in killing(found, cases)] == [case.id for case in cases]
    assert killing(replace(found, refuses_good=False), cases) == []
    assert all(not result.failures for result in run(cases, [Variant(ENGINE, "float64")]))


def test_a_row_of_mutants_is_an_operation_a_change_of_outputs_changed_inputs_or_an_edit():
    made = mutants(
        "count.budget",
        ("DLT-002 SEL-006", lambda a: {"n": 1}, "one"),
        ("DLT-002", lambda out, a: {"n": out["n"] + a["out"]}, "more"),
        ("DLT-002", {"density": lambda a: 2 * a["density"]}, "twice"),
        ("DLT-002", slots.budget_by_numel, "return ", "return 3 * ", "edited"),
        unchecked="DLT-001 DLT-002",
    )
    quarter = {"density": 0.25, "out": 4, "in": 5, "stored": 20}
    assert [m.call(quarter)["n"] for m in made] == [1, 9, 10, 15, 5, 5]
    assert [m.flaw for m in made[-2:]] == ["DLT-001 not checked", "DLT-002 not checked"]
    assert made[0].clauses == ("DLT-002", "SEL-006")
    assert [m.only_refusals for m in made] == [False] * 4 + [True] * 2
    assert [m.refuses_good for m in made] == [False] * 3 + [True] + [False] * 2


def test_an_edit_that_no_longer_fits_its_function_says_so():
    with pytest.raises(LookupError, match="write the mutant anew"):
        rewritten(rewritten.__wrapped__, "no such text", "")


def test_every_must_has_a_mutant_or_a_reason():
    named = {c for m in MUTANTS for c in m.clauses}
    for clause in read_clauses().values():
        if clause.level == "MUST":
            reason = clause.id in elsewhere() or clause.id in unproven() or clause.untestable
            assert clause.id in named or reason, clause.id
    assert named & set(unproven()) == set()


def test_a_mutant_that_only_raises_or_refuses_proves_nothing():
    def raises(a):
        raise RuntimeError("not now")

    def refuses(a):
        raise Refused("SEL-004")

    for call in (raises, refuses):
        found = killing(Mutant("topology.of", "nonsense", ("TOP-001",), call), BY_OP["topology.of"])
        by_id = {case.id: case for case in BY_OP["topology.of"]}
        assert all(by_id[kill.case].refused for kill in found)


@pytest.mark.parametrize("control", CONTROLS, ids=[f"{c.op} {c.dtype}".strip() for c in CONTROLS])
def test_without_a_flaw_nothing_is_refused(control):
    ways = variants_of(control)
    asked = [case for case in BY_OP[control.op] if any(way.takes(case) for way in ways)]
    assert asked
    for result in run(asked, ways):
        assert result.status == "passed", (result.case.id, result.failures)


def test_PRT_011_sums_in_sixteen_bits_lie_far_outside_and_sums_in_float32_inside():
    """What a right port of a 16-bit class uses of the bounds of long sums, and the nearest of the wrong ones."""
    short = [m for m in MUTANTS if m.dtype and "sums" in m.flaw]
    assert {(m.op, m.dtype) for m in short} == {(c.op, c.dtype) for c in CONTROLS if c.dtype}
    for mutant in short:
        # other cases refuse it too, by what it rounds in a sum of a few terms
        long = [kill.ratio for kill in killing(mutant, BY_OP[mutant.op]) if "sums" in kill.case]
        assert long, mutant.name
        assert min(long) > 50, mutant.name
    ways = [Variant(reduced(), dtype) for dtype in ("bfloat16", "float16")]
    right = [r for op in {m.op for m in short} for r in run(BY_OP[op], ways) if r.ran]
    assert len(right) > 30
    assert not any(r.failures for r in right)
    assert max(r.ratio for r in right if "sums" in r.case.id) <= 0.5


def test_mutants_that_check_nothing_are_otherwise_the_engine():
    mutant = next(m for m in MUTANTS if m.only_refusals and m.op == "text.training")
    for result in run([c for c in BY_OP[mutant.op] if not c.refused], variants_of(mutant)):
        assert result.status == "passed"
    with pytest.raises(REFUSALS):
        right("text.training")({"tokens": 4, "length": 9, "seed": 0, "step": 1, "rows": 1})


def test_most_operations_have_a_mutant():
    assert set(OPS) - {m.op for m in MUTANTS} == set()


def test_a_port_that_writes_to_its_inputs_is_refused():
    def op(a):
        out = right("layer.swiglu")(a | {"kernels": reference})
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
        # no pattern is an answer of `prune.record`, which says so by null
        asked = [r for r in found if r.case.refused or any(value is not None for value in r.case.expected.values())]
        assert {result.status for result in asked if result.ran or result.failures} == {"failed"}


def test_a_port_that_offers_nothing_passes_nothing():
    class Modest:
        name = "modest"

        def call(self, op, inputs, dtype):
            raise Unsupported(op)

    found = run(CASES[:20], [Variant(Modest(), "float64")])
    assert {result.status for result in found} == {"skipped"}
    assert all("does not offer" in result.skipped for result in found)
