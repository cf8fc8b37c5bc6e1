"""The experiments as data: which arms each one compares. A new experiment is a new entry here and nothing else.

An arm is a set of choices on top of the settings of the command line. It has the same name in all experiments, because
they share its runs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from seft_ref import TrainSettings, settings_of
from seft_ref.train.settings import has_setting


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a result table: an arm, evaluated after its end or just before its last adapt pass."""

    label: str
    arm: str
    before_last_pass: bool = False
    against: str | None = None
    """label of the row that it is compared with; None for the first"""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A question and the rows that are compared with the first one."""

    title: str
    question: str
    expected: str
    """the result that the published texts about the paper let one expect, and nothing else"""
    rows: tuple[Row, ...]
    shows_density: bool = False
    """whether the picture shows the number of stored weights over the steps"""
    before: str = ""
    """the findings of an earlier version of the page, and why they have changed"""
    of_cost: bool = False
    """whether the page is on time and memory, and not on perplexity"""
    tasks: tuple[str, ...] = ()
    """the tasks that final models are scored on unless a command names others"""
    patterned: bool = False
    """whether it is for models with an N:M pattern, and for no others"""
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """the choices of arms that are not in ARMS"""
    more: tuple[tuple[str, str], ...] = ()
    """pairs of an arm and a sentence, which the question has in addition if the arm was run"""

    def asked(self, arms: Collection[str]) -> str:
        """Return the question of a page that has runs of these arms."""
        return " ".join((self.question, *(sentence for arm, sentence in self.more if arm in arms)))

    def arms(self) -> tuple[str, ...]:
        """Return the arms, each once."""
        return tuple(dict.fromkeys(row.arm for row in self.rows))

    def settings(self, arm: str, given: Mapping[str, Any], seed: int) -> TrainSettings:
        """Return the settings of an arm: its own choices, and those of `given` that its preset has.

        Its own choices replace those of `given`.

        Raises:
            SeftError: for choices that the engine refuses.
        """
        own = self.own.get(arm) or ARMS[arm]
        taken = {name: value for name, value in given.items() if has_setting(own["preset"], name)}
        return settings_of(**{**taken, **own, "seed": seed})


STATIC, ACTIVE_ONLY = Row("static", "static"), Row("active-only", "active-only")
OTHERS = (ACTIVE_ONLY, STATIC)
"""the rows that `seft` is compared with wherever it comes first"""
PERIODS = (10, 25, 50, 100)
FRACTIONS = (0.1, 0.2, 0.5)
DENSITIES = (0.005, 0.02, 0.08)
RISE = 10
"""steps over which the rate of a new slot rises in `newborns`"""
RANK = 8
"""rank of the low-rank changes in `recovery`; sparse updates have as many slots as such a change has parameters"""

ARMS: dict[str, dict[str, Any]] = {
    "seft": {"preset": "seft"},
    "sensitivity": {"preset": "seft", "adapt": "sensitivity"},
    "active-only": {"preset": "active-only"},
    "static": {"preset": "static"},
    "no-adapt": {"preset": "no-adapt"},
    "mean-5": {"preset": "seft", "gradient_window": 5},
    "absolute-5": {"preset": "seft", "grow": "absolute", "gradient_window": 5},
    **{f"{arm}-random": {"preset": arm, "initial_positions": "random"} for arm in ("static", "active-only", "seft")},
    **{f"every-{n}": {"preset": "seft", "evolve_every": n} for n in PERIODS},
    **{f"drop-{x}": {"preset": "seft", "drop_fraction": x} for x in FRACTIONS},
    **{f"static-{x}": {"preset": "static", "density": x} for x in DENSITIES},
    **{f"active-only-{x}": {"preset": "active-only", "density": x} for x in DENSITIES},
    **{f"seft-{x}": {"preset": "seft", "density": x} for x in DENSITIES},
    **{
        f"{name}-rank": {"preset": name, "budget_by": "rank", "rank": RANK}
        for name in ("seft", "active-only", "static")
    },
    "seft-groups-rank": {"preset": "seft", "budget_by": "rank", "rank": RANK, "scope": "group"},
    **{
        name: {"preset": name, "rank": RANK, "alpha": 2.0 * RANK, "lr": lr}
        for name, lr in (("lora", 6e-3), ("lora-star", 6e-3), ("sparse-peft", 3e-3), ("spp", 3e-2))
    },
    "sparse-full": {"preset": "sparse-full", "lr": 1e-3},
    "shira-fast": {"preset": "shira", "budget_by": "rank", "rank": RANK, "lr": 8e-3},
    **{
        f"{name}-rank": {"preset": name, "budget_by": "rank", "rank": RANK, "lr": lr, "evolve_every": 25}
        for name, lr in (("spiel-ag", 2e-3), ("spiel-ma", 1e-2))
    },
    "rigl": {"preset": "rigl", "optimizer": "adamw", "lr": 1e-3},
    **{f"{arm}-rise": {"preset": arm, "slot_warmup": RISE} for arm in ("static", "active-only", "seft")},
    **{
        f"{arm}-often-rise": {"preset": arm, "slot_warmup": RISE, "evolve_every": PERIODS[0]}
        for arm in ("active-only", "seft")
    },
}

METHODS = (
    *(Row(name, f"{name}-rank") for name in ("seft", "active-only", "static")),
    *(Row(name, name) for name in ("lora-star", "sparse-peft", "spp", "lora", "sparse-full")),
)
"""The paper's method, two variants without some of its parts, and the methods that they are compared with."""

RULES = (
    Row("shira", "shira-fast"),
    Row("spiel-ag", "spiel-ag-rank"),
    Row("spiel-ma", "spiel-ma-rank"),
    Row("rigl", "rigl"),
)
"""Other sparse methods: a fixed set of slots, SpIEL's two rules, and a rule that moves the weights themselves."""

EXPERIMENTS: dict[str, Experiment] = {
    "mask-ablation": Experiment(
        "May pruned weights come back?",
        """`seft` grows anywhere, pruned positions included. `active-only` grows among stored weights only, so that
        the mask never changes and nothing is pruned. `static` has no events, and is what both are compared with.""",
        """A summary of the paper reports an ablation (Table 7) in which allowing updates at pruned positions was better
        than not allowing them, on other models and tasks. If that carries over, `active-only` ends with a higher
        perplexity than `seft`. About a fixed set of slots (`static`) nothing that could be read says anything.""",
        (Row("seft", "seft"), *OTHERS),
        before="""Until 2026-11-27 `seft` lost on the repair text: 79.63, `active-only` 76.28 and `static` 76.65 (150
        steps at a constant rate of 1e-3, five seeds, another pruned model; the differences, 3.35 and 2.98, had
        intervals that exclude 0). `seft` then pruned by |ḡ · W|, which is the preset `sensitivity` now (SPEC.md, D84),
        and its events went on to the last step at a rate that did not fall.""",
    ),
    "criteria": Experiment(
        "What should an event prune by?",
        """`seft` prunes by W² times the squared gradients of the single tokens of the event's batch (GRD-008).
        `sensitivity` differs in one choice: it prunes by |ḡ · W| of that batch, as the paper words it. `active-only`
        prunes nothing, for nothing comes back; `static` has no events at all.""",
        """A gradient that averages to zero does not mean an unimportant weight (SPEC.md, D82), and pruning 1 % at once
        costs four times as much by |ḡ · W| (docs/results/experiments/pruning-cost.md). So `sensitivity` should end
        higher than `seft`; whether `seft` passes `active-only` nothing that could be read says.""",
        (
            Row("seft", "seft"),
            Row("sensitivity", "sensitivity"),
            *OTHERS,
        ),
    ),
    "update-frequency": Experiment(
        "How often should slots move?",
        """Each arm is `seft` with an event every so many steps; `active-only` grows among stored weights, as often as
        the settings below say, and `static` has no events. An event drops the same share
        of slots whatever the period, so that a short period moves more slots in all.""",
        """Nothing that could be read says which period is best. A slot that has just grown starts at zero and needs
        steps to become useful, so that a very short period should lose; a very long one comes near `static`.""",
        (STATIC, ACTIVE_ONLY, *(Row(f"every {n} steps", f"every-{n}") for n in PERIODS)),
    ),
    "newborns": Experiment(
        "Should a new slot start slowly?",
        """A new slot starts at zero, and its first steps have the size of the learning rate whatever its gradient
        (OPT-005). With `rising` the rate of a slot rises over its first ten steps (`slot_warmup`, OPT-010); `often` has
        an event every ten steps as well.""",
        """Some hundred thousand slots that all start with a full step in the direction of one gradient move the model
        far. Runs of gradient-reliability fell behind four to seven steps after an event, so a slow start should help
        where slots move, and do little for a fixed set.""",
        (
            STATIC,
            Row("static, rising", "static-rise"),
            ACTIVE_ONLY,
            Row("active-only, rising", "active-only-rise"),
            Row("active-only, rising, often", "active-only-often-rise"),
            Row("seft", "seft"),
            Row("seft, rising", "seft-rise"),
            Row("seft, rising, often", "seft-often-rise"),
        ),
    ),
    "drop-rate": Experiment(
        "How many slots should an event move?",
        """Each arm is `seft` and drops this share of its slots at the first event, less at each later one, by a cosine;
        `active-only` grows among stored weights and drops what the settings below say, and `static` has no events.""",
        """Nothing that could be read says which share is best.""",
        (STATIC, ACTIVE_ONLY, *(Row(f"drop {x:.0%}", f"drop-{x}") for x in FRACTIONS)),
    ),
    "budget": Experiment(
        "For how many slots does evolution pay?",
        """Three budgets, as a share of each matrix, and for each a fixed set of slots, slots that move among stored
        weights, and `seft`, whose slots move anywhere.""",
        """Fewer slots leave more to be found, so that evolution should gain most where the budget is small. Nothing
        that could be read says so.""",
        tuple(
            Row(f"{told} {x:.1%}", f"{arm}-{x}", against=f"static {x:.1%}")
            for x in DENSITIES
            for told, arm in (("static", "static"), ("active-only", "active-only"), ("seft", "seft"))
        ),
    ),
    "drift-control": Experiment(
        "Does the model stay as sparse as it was, and what does that cost?",
        """`seft` adapts at every event: it prunes what exceeds the stored weights at load. `no-adapt` differs in one
        choice: it prunes once, after the last step. It is evaluated before that pass, when it is denser than it may be,
        and after it.""",
        """The paper's abstract gives adaptation the purpose of keeping the target sparsity. So the support of
        `no-adapt` should exceed the stored weights at load during the run, and that of `seft` never. What adaptation
        costs in quality nothing that could be read says for a model of this size.""",
        (
            Row("seft", "seft"),
            Row("no-adapt, after the last pass", "no-adapt"),
            Row("no-adapt, before the last pass", "no-adapt", before_last_pass=True),
            *OTHERS,
        ),
        shows_density=True,
        before="""Until 2026-11-27 the arms of this page pruned by |ḡ · W| (SPEC.md, D84). `no-adapt` then ended at
        79.09 after the pass and at 77.28 before it, at 1.0131 times the stored weights; `seft` at 79.63 (150 steps at a
        constant rate of 1e-3, five seeds).""",
    ),
    "gradient-reliability": Experiment(
        "Is the gradient of one step good enough to grow by?",
        """`instantaneous` is `seft`: an event looks at the gradient of its own step. `mean of 5` looks at the mean over
        the last five steps, for growth and for adaptation. `sum of abs of 5` adapts as that one does and grows where
        the sum of |g| over five steps is largest.""",
        """The summaries do not say which gradient the paper uses; a reviewer asks. SpIEL, which SEFT descends from,
        adds gradients up over some steps. Nothing that could be read says which of them is better.""",
        (
            Row("instantaneous", "seft"),
            Row("mean of 5", "mean-5"),
            Row("sum of abs of 5", "absolute-5"),
            *OTHERS,
        ),
        before="""Until 2026-11-27 the arms of this page pruned by |ḡ · W| (SPEC.md, D84), and none was told from
        another: 79.63, 79.23 and 79.85 in the order of the first table (150 steps at a constant rate of 1e-3, five
        seeds).""",
    ),
    **{
        name: Experiment(
            title,
            """The arms of `recovery` train on instructions: the training items of the tasks, or others. The final
            models are scored on the tasks, with the prompts of SPEC.md's chapter 18; perplexity is that of held-out
            answers.""",
            expected,
            METHODS,
            tasks=tasks,
        )
        for name, title, expected, tasks in (
            (
                "commonsense",
                "Which method repairs a model best for questions of common sense?",
                """Reviews of the paper tell of margins of 0.2 to 1 point over the other methods, without seeds, on
                models of 7 billion weights.""",
                ("boolq", "piqa", "social_iqa", "winogrande", "arc_easy", "arc_challenge", "openbookqa"),
            ),
            (
                "arithmetic",
                "Which method repairs a model best for arithmetic?",
                """The paper's summary says: up to 2 points of GSM8K more than the other methods, on models of 7 billion
                weights.""",
                ("gsm8k", "addsub", "multiarith", "singleeq", "svamp", "aqua"),
            ),
        )
    },
    "recovery": Experiment(
        "Which method repairs a pruned model best?",
        """Most arms train as many numbers: a change of rank 8 beside every matrix, or as many slots; `spp` has 4 %
        more. `seft` and `active-only` move their slots, and `static` keeps those that it starts from, where gradients
        are largest. `lora` ends dense, and `sparse-full` trains every stored weight: they are there for orientation.
        Every arm has its own learning rate, the best of a sweep on the same held-out text with seed 0, which is one of
        the seeds here, and at 70 % sparsity; `sparse-peft` has a lower one, because at the best of its sweep another
        seed diverged. Runs had others beside them, which seconds and memory show; `cost` measures both with nothing
        beside.""",
        """The abstract of the paper says that SEFT does better than the methods it is compared with, in less memory and
        time. `lora-star` loses at the end what its pruning takes away; `spp` can scale weights and no more.""",
        (*METHODS, *RULES),
        more=(
            ("shira-fast", "`shira` keeps slots that are drawn."),
            ("spiel-ag-rank", "`spiel-ag` and `spiel-ma` never prune, so they end denser."),
            ("rigl", "`rigl` trains every stored weight, for orientation too."),
        ),
    ),
    "cost": Experiment(
        "What do the methods take in time and memory?",
        """The arms of `recovery`, which train as many numbers, run one after the other in each round. `seft` comes
        first and is the measure of the others.""",
        """The paper's summary says that SEFT takes half the memory of SQFT and is two to three times as fast as the
        methods it is compared with, on models of 7 billion parameters and a GPU. SQFT without quantisation is
        `sparse-peft` here. All methods run in one engine on a CPU: ratios of algorithms, not of programs.""",
        METHODS,
        of_cost=True,
    ),
    "nm": Experiment(
        "Which method repairs a model with an N:M pattern best?",
        """The model keeps N of every M neighbours, and so does each arm but `lora`. `active-only` moves its slots among
        the stored weights, which is all that `seft` may do here (SPEC.md, EVT-007). `seft in groups` moves weights
        within their groups.""",
        """Reviews of the paper say that growth is restricted to the active weights under N:M, so that the mask does not
        move. Whether a mask that moves within groups does better was not asked there.""",
        (
            *(Row(name, f"{name}-rank") for name in ("active-only", "static")),
            Row("shira", "shira-fast"),
            Row("seft in groups", "seft-groups-rank"),
            *(Row(name, name) for name in ("lora-star", "sparse-peft", "spp", "lora")),
        ),
        patterned=True,
    ),
    "start-positions": Experiment(
        "Where should slots start, and what can events make up for?",
        """With `random` the first slots are drawn from the stored weights. With `gradient`, the default, they are the
        stored weights whose gradient is largest on the data of the first step, which costs one backward pass. From each
        start a fixed set of slots, slots that move among stored weights, and `seft`, whose slots move anywhere.""",
        """Nothing that could be read says where the slots start (SPEC.md, D15); SpIEL, which SEFT descends from, draws
        them. Events should gain more where the start is worse.""",
        tuple(
            Row(f"{arm} from {start}", arm if start == "gradient" else f"{arm}-random", against=f"static from {start}")
            for start in ("random", "gradient")
            for arm in ("static", "active-only", "seft")
        ),
    ),
    "random-start": Experiment(
        "What can events make up for where the slots start at random?",
        """The arms of `start-positions` whose first slots are drawn from the stored weights: a fixed set of slots,
        slots that move among stored weights, and `seft`, whose slots move anywhere.""",
        """Events ended 14 % below a fixed set in `start-positions`, on the text of which the calibration text was. On
        another text they should do as well.""",
        tuple(Row(arm, f"{arm}-random") for arm in ("static", "active-only", "seft")),
    ),
}


def compared(arms: Mapping[str, Mapping[str, Any]]) -> Experiment:
    """Return the experiment that compares the arms of a command line with the first of them."""
    return Experiment(
        "Arms of one's own",
        "Each arm is the preset and the settings that the command names.",
        "Nothing was written down before these runs were made.",
        tuple(Row(arm, arm) for arm in arms),
        own=arms,
    )
