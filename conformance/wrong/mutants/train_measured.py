"""Mutants of losses of examples, and of the measurements of a run with validation data (EVL-004, TRN-022)."""

from conformance.engine.parts import batch, evaluate, examples, outcome, training
from conformance.wrong.mutants.base import Mutant, Rows, Values, changed, edited, mutant, mutants, right


def _mean_of_means(a: Values) -> Values:
    """Return the mean of the losses of the examples."""
    out = right("evaluate.examples")(a)
    pairs = zip(a["tokens"], a["labels"], strict=True)
    alone = [right("evaluate.examples")(a | {"tokens": [row], "labels": [labels], "rows": 1}) for row, labels in pairs]
    return out | {"loss": sum(one["loss"] for one in alone) / len(alone)}


def _whole_runs(a: Values) -> Values:
    return right("run.measured")(a | {"patience": None})


def _last_model(a: Values) -> Values:
    """Return the model of the last step of a whole run."""
    out, last = right("train.measured")(a), right("train.run")(a)
    return out | {name: last[name] for name in ("support", "weights")}


def _last_in_a_row(a: Values) -> Values:
    """Return the last step of a run that counts measurements which were not smaller than the one before them."""
    out, patience = right("run.measured")(a | {"patience": None}), a.get("patience")
    losses, worse, before = a["losses"], 0, None
    for step in out["measured"].tolist():
        worse = worse + 1 if before is not None and losses[step - 1] >= losses[before - 1] else 0
        before = step
        if worse == patience:
            return right("run.measured")(a | {"losses": losses[:step], "patience": None})
    return out


_EDITS: Rows = (
    (
        "evaluate.examples",
        "EVL-004",
        evaluate.evaluate_examples,
        "total / sum(example.targets() for example in examples.items)",
        "total / sum(len(example.tokens) - 1 for example in examples.items)",
        "a mean over all tokens",
    ),
    (
        "evaluate.examples",
        "EVL-004",
        evaluate.evaluate_examples,
        "range(0, len(examples.items), rows)",
        "range(0, max(1, len(examples.items) - rows + 1), rows)",
        "a last batch left out",
    ),
    (
        "evaluate.examples",
        "EVL-004",
        examples.Example.targets,
        "self.labels[1:]",
        "self.labels",
        "the first token counted",
    ),
    (
        "evaluate.examples",
        "EVL-004",
        batch.batch_of_examples,
        "*[IGNORE] * (longest",
        "*[0] * (longest",
        "padding learned",
    ),
    (
        "evaluate.examples",
        "EVL-004",
        batch.batch_of_examples,
        "[*e.tokens, *[0] * (longest - n)]",
        "[*[0] * (longest - n), *e.tokens]",
        "tokens padded at their beginning",
    ),
    (
        "train.measured",
        "TRN-022 EVT-008",
        training.finish,
        "final | adapt_last(state.targets, over, windows, settings, state.step, kernels)",
        "final",
        "a model without its last pass",
    ),
    (
        "train.measured",
        "TRN-022 EVT-008",
        training.finish,
        "step_batches(settings, data, state.step,",
        "step_batches(settings, data, settings.steps,",
        "a last pass on the data of the last step",
    ),
    ("train.measured", "TRN-022", outcome.BestModel._loss, ".nats_per_token", ".perplexity", "perplexities"),
    ("train.measured", "TRN-022", outcome.BestModel._loss, "length=length", "length=length, windows=20", "20 windows"),
    (
        "train.measured",
        "TRN-022",
        outcome.BestModel._loss,
        "length=length",
        "length=length, windows=None",
        "windows side by side",
    ),
    ("train.measured", "TRN-022", outcome.BestModel.is_due, "step % ", "(step - 1) % ", "a run measured a step late"),
    (
        "train.measured",
        "TRN-022",
        outcome.BestModel.is_over,
        "loss < self",
        "loss > self",
        "the model of the worst step",
    ),
    (
        "run.measured",
        "TRN-022",
        outcome.BestModel.is_due,
        " or step == self.settings.steps",
        "",
        "the last step left out",
    ),
    ("run.measured", "TRN-022", outcome.BestModel.is_due, "step % ", "(step - 1) % ", "steps counted from the first"),
    ("run.measured", "TRN-022", outcome.BestModel.is_over, "loss < self", "loss <= self", "the last of equal losses"),
    ("run.measured", "TRN-022", outcome.BestModel.is_over, "loss < self", "loss > self", "the largest loss"),
    (
        "run.measured",
        "TRN-022",
        outcome.BestModel.is_over,
        "loss < self.best.loss",
        "loss < self.best.loss - 1e-9",
        "losses that are nearly equal",
    ),
    ("run.measured", "TRN-022", outcome.BestModel._has_ended, ">= patience", "> patience", "one measurement late"),
    (
        "run.measured",
        "TRN-022",
        outcome.BestModel._has_ended,
        "step // every - self.best.step // every",
        "step - self.best.step",
        "patience in steps",
    ),
    (
        "run.measured",
        "TRN-022",
        outcome.BestModel._has_ended,
        "self.best.step // every >= patience",
        "1 >= patience",
        "patience from the first measurement",
    ),
)

MUTANTS: list[Mutant] = [
    *mutants("evaluate.examples", unchecked="TRN-017 TRN-018 EVL-003"),
    mutant("EVL-004", "evaluate.examples", _mean_of_means, "a mean of means"),
    mutant(
        "EVL-004",
        "evaluate.examples",
        changed("evaluate.examples", labels=lambda a: a["tokens"]),
        "all tokens learned",
    ),
    *mutants("train.measured", unchecked="EVL-002 TRN-018"),
    mutant("TRN-022", "train.measured", _last_model, "the model of the last step"),
    mutant(
        "TRN-022", "train.measured", changed("train.measured", patience=lambda a: None), "a whole run without patience"
    ),
    mutant("TRN-022", "run.measured", _last_in_a_row, "losses compared with the one before"),
    mutant("TRN-022", "run.measured", _whole_runs, "no patience"),
    mutant(
        "TRN-022",
        "run.measured",
        changed("run.measured", patience=lambda a: None if a.get("patience") is None else a["patience"] + 1),
        "a patience of one more",
    ),
    *(edited(clauses, op, function, old, new, flaw) for op, clauses, function, old, new, flaw in _EDITS),
]
