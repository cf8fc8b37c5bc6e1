"""Cases of settings at their limits and just beyond (TRN-008)."""

import math
from typing import Any

from conformance.gen import tiny, train_presets
from conformance.gen.numbers import Area, Numbers
from conformance.gen.train import described, run_answer
from conformance.oracle import train, update_choices

_GOOD = train_presets.SETTINGS | {"steps": 4, "rows": 1, "micro_batches": 1, "length": 4, "evolve_every": 2, "seed": 0}


def settings() -> Area:
    """Return cases of settings beyond a limit, which TRN-008 refuses, and of settings at the limit, which are good."""
    area = Area("setting", "binary64 run")
    world = tiny.world(Numbers(67, 0), tiny.SMALLEST)
    rule = dict(update_choices.RULE)
    bad: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("length-1", {"length": 1}, "TRN-008"),
        ("warmup", {"warmup": -1}, "TRN-008"),
        ("evolve-every", {"evolve_every": 0, "gradient_window": 0}, "TRN-008 TRN-005"),
        ("drop-negative", {"drop_fraction": -0.25}, "SCH-001"),
        ("drop-above", {"drop_fraction": 1.25}, "SCH-001"),
        ("drop-nan", {"drop_fraction": math.nan}, "SCH-001"),
        ("density-0", {"density": 0.0}, "DLT-002"),
        ("density-above", {"density": 1.25}, "DLT-002"),
        ("density-nan", {"density": math.nan}, "DLT-002"),
        ("lr-infinite", {"lr": math.inf}, "TRN-008"),
        ("lr-nan", {"lr": math.nan}, "TRN-008"),
        ("norm-negative", {"max_norm": -1.0}, "TRN-008"),
        ("norm-infinite", {"max_norm": math.inf}, "TRN-008"),
        ("decay-negative", {"weight_decay": -0.5}, "TRN-008"),
        ("decay-nan", {"weight_decay": math.nan}, "TRN-008"),
        ("beta1-one", {"beta1": 1.0}, "TRN-008"),
        ("beta1-negative", {"beta1": -0.5}, "TRN-008"),
        ("beta2-one", {"beta2": 1.0}, "TRN-008"),
        ("momentum-one", {"optimizer": "sgd", "momentum": 1.0}, "TRN-008"),
        ("momentum-negative", {"optimizer": "sgd", "momentum": -0.5}, "TRN-008"),
        ("eps-0", {"eps": 0.0}, "TRN-008"),
        ("eps-negative", {"eps": -1e-8}, "TRN-008"),
        ("eps-infinite", {"eps": math.inf}, "TRN-008"),
        ("seed-large", {"seed": 2**64}, "RNG-002"),
        ("lr-schedule", {"schedule": "step"}, "SCH-004"),
        ("start", {"start": "first"}, "DLT-004"),
        ("scope", {"initial_scope": "everywhere"}, "DLT-004"),
        ("budget", {"budget_by": "size"}, "DLT-002"),
        ("until-0", {"rule": rule | {"evolve_until": 0.0}}, "SCH-007"),
        ("until-above", {"rule": rule | {"evolve_until": 1.5}}, "SCH-007"),
        ("criterion", {"rule": rule | {"drop": "smallest"}}, "DROP-003"),
    )
    for name, change, clause in bad:
        inputs = described(_GOOD | {"preset": "seft"} | change, world, tiny.SMALLEST)
        linked = clause if "TRN-008" in clause else f"TRN-008 {clause}"
        text = "a setting outside its range is used"
        area.add(f"refuse-{name}", "train.run", linked, text, inputs, refused=clause)
    good: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("most", {"density": 1.0, "drop_fraction": 1.0, "warmup": 2}, "SCH-001 DLT-002 SCH-004"),
        ("least", {"lr": 0.0, "drop_fraction": 0.0, "max_norm": 0.0, "seed": 2**64 - 1}, "OPT-004 RNG-002"),
        ("window", {"gradient_window": 2}, "TRN-005"),
        ("no-momentum", {"optimizer": "sgd", "momentum": 0.0}, "OPT-007"),
        ("short", {"length": 2, "rule": rule | {"evolves": 0}}, "EVT-001"),
        ("warmup-beyond", {"warmup": 5, "schedule": "linear"}, "SCH-004"),
    )
    for name, change, clauses in good:
        for seed in range(200):
            mine = _GOOD | {"preset": "seft", "start": "random", "seed": seed} | change
            world = tiny.world(Numbers(68, seed), tiny.CONFIG)
            run = train.run(tiny.CONFIG, *world, mine)
            if run.gap >= 2e-4:
                break
        else:
            msg = f"no seed for {name}, {run.gap}"
            raise AssertionError(msg)
        text = "a setting at its limit refused, or taken for another"
        inputs = described(mine, world, tiny.CONFIG)
        area.add(name, "train.run", f"TRN-008 {clauses}", text, inputs, run_answer(run))
    return area


AREAS = (settings,)
