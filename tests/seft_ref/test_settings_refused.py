"""Settings that a run refuses, each under the clause that it breaks."""

import math

import pytest

from seft_ref.errors import SeftError
from seft_ref.train.settings import settings_of
from seft_ref.update.optimizers import AdamW, Sgd, Sm3, SpielAdamW
from tests.seft_ref.tiny import tiny_settings


@pytest.mark.parametrize(
    ("clause", "changes"),
    [
        ("EVT-011", {"preset": "best"}),
        ("EVT-011", {"colour": "red"}),
        ("EVT-011", {"optimizer": AdamW(), "beta1": 0.5}),
        ("EVT-001", {"evolves": "yes"}),
        ("DROP-003", {"drop": "gradient"}),
        ("DROP-004", {"drops": "base"}),
        ("GROW-004", {"grow": "magnitude"}),
        ("GROW-005", {"regrow": 1}),
        ("GROW-006", {"candidates": "first"}),
        ("DLT-006", {"moments": "kept"}),
        ("ADPT-005", {"adapt": "gradient"}),
        ("EVT-008", {"adapts": True}),
        ("ADPT-006", {"counts": "slots"}),
        ("ADPT-007", {"exempt": "all"}),
        ("EVT-009", {"scope": "layer"}),
        ("SCH-003", {"events": "steps"}),
        ("SCH-001", {"drop_schedule": "square"}),
        ("SCH-008", {"first_event": "none"}),
        ("EVT-010", {"event_replaces_step": "no"}),
        ("SCH-007", {"evolve_until": 0.0}),
        ("SCH-007", {"evolve_until": 1.01}),
        ("SCH-007", {"evolve_until": math.nan}),
        ("SCH-005", {"events": "phases", "gradient_window": 3}),
        ("DLT-002", {"budget_by": "blocks"}),
        ("DLT-004", {"initial_scope": "base"}),
        ("OPT-001", {"optimizer": "adam"}),
        ("TRN-008", {"optimizer": "sgd", "beta1": 0.5}),
        ("EVT-007", {"pattern": (2, 4), "grow_scope": "anywhere"}),
        ("EVT-012", {"pattern": (2, 4), "preset": "spiel-ag", "initial_scope": "active", "evolve_every": 8}),
        ("EVT-012", {"initial_scope": "anywhere"}),
        ("EVT-012", {"grow": "moments"}),
        ("EVT-012", {"moments": "seeded", "optimizer": "sm3"}),
        ("EVT-012", {"candidates": "first-step", "grow": "random"}),
        ("EVT-012", {"candidates": "first-step", "grow_scope": "active"}),
        ("EVT-012", {"candidates": "first-step", "scope": "row"}),
        ("EVT-012", {"scope": "group", "pattern": (2, 4), "adapts": "end"}),
        ("EVT-012", {"scope": "group", "pattern": (2, 4), "counts": "values"}),
        ("EVT-012", {"scope": "group", "pattern": (2, 4), "exempt": "none"}),
        ("EVT-012", {"scope": "group", "pattern": (2, 4), "drops": "weight"}),
        ("EVT-012", {"scope": "group", "pattern": (2, 4), "grow_scope": "active"}),
        ("EVT-012", {"scope": "row", "exempt": "slots"}),
        ("EVT-012", {"budget_by": "count"}),
        ("EVT-012", {"budget_by": "rank"}),
        ("EVT-012", {"slots": 3}),
        ("EVT-012", {"start_batches": 2, "initial_positions": "random"}),
        ("TRN-008", {"start_batches": 0}),
        ("TRN-008", {"event_batches": 0}),
        ("EVT-012", {"rank": 3, "budget_by": "nnz"}),
        ("RNG-002", {"seed": -1}),
        ("RNG-002", {"seed": 2**64}),
        ("TRN-008", {"steps": 0}),
        ("TRN-008", {"batch": 0}),
        ("TRN-008", {"micro_batches": 0}),
        ("TRN-008", {"length": 1}),
        ("TRN-008", {"evolve_every": 0}),
        ("TRN-008", {"warmup_steps": -1}),
        ("DLT-002", {"density": 0.0}),
        ("DLT-002", {"density": 1.0001}),
        ("DLT-002", {"density": math.nan}),
        ("SCH-001", {"drop_fraction": -0.1}),
        ("SCH-001", {"drop_fraction": 1.1}),
        ("SCH-001", {"drop_fraction": math.nan}),
        ("GROW-001", {"grow_scope": "base"}),
        ("TRN-005", {"gradient_window": 0}),
        ("TRN-005", {"gradient_window": 5}),
        ("DLT-004", {"initial_positions": "first"}),
        ("TRN-008", {"lr": math.nan}),
        ("TRN-008", {"lr": -1.0}),
        ("TRN-008", {"max_norm": math.inf}),
        ("TRN-008", {"max_norm": -1.0}),
        ("TRN-008", {"optimizer": AdamW(beta1=1.0)}),
        ("TRN-008", {"optimizer": AdamW(beta2=-0.1)}),
        ("TRN-008", {"optimizer": AdamW(eps=0.0)}),
        ("TRN-008", {"optimizer": AdamW(weight_decay=-1.0)}),
        ("TRN-008", {"beta1": 1.0}),
        ("TRN-008", {"beta2": -0.1}),
        ("TRN-008", {"eps": 0.0}),
        ("TRN-008", {"eps": math.inf}),
        ("TRN-008", {"weight_decay": -1.0}),
        ("TRN-008", {"weight_decay": math.nan}),
        ("TRN-008", {"optimizer": SpielAdamW(beta2=1.0)}),
        ("TRN-008", {"optimizer": Sgd(momentum=1.0)}),
        ("TRN-008", {"optimizer": "sgd", "momentum": -0.1}),
        ("TRN-008", {"optimizer": Sm3(eps=-1.0)}),
        ("TRN-008", {"optimizer": "sm3", "weight_decay": math.inf}),
        ("TRN-008", {"steps": 2.5}),
        ("TRN-008", {"batch": True}),
        ("TRN-008", {"slots": "3", "budget_by": "count"}),
        ("TRN-008", {"rank": None}),
        ("TRN-008", {"lr": "x"}),
        ("TRN-008", {"density": "0.5"}),
        ("TRN-008", {"optimizer": 5}),
        ("TRN-008", {"optimizer": AdamW}),
        ("EVT-007", {"pattern": "2:4"}),
        ("EVT-007", {"pattern": (2,)}),
        ("EVT-007", {"pattern": (2, 4.0)}),
        ("SCH-004", {"lr_schedule": "square"}),
        ("SCH-004", {"lr_schedule": "square", "warmup_steps": 3}),
    ],
)
def test_settings_that_break_a_clause_are_refused(clause, changes):
    with pytest.raises(SeftError) as refused:
        tiny_settings(**changes)
    assert refused.value.clause == clause


def test_EVT_012_on_a_pattern_spiel_hears_all_it_must_set_at_once():
    with pytest.raises(SeftError, match="set candidates all and initial_scope active"):
        settings_of("spiel-ag", pattern=(2, 4))
    settings_of("spiel-ag", pattern=(2, 4), candidates="all", initial_scope="active")
