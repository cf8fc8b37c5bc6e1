"""What a run of fine-tuning says at its end: the content of --json, and lines that sum it up."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from seft_cli import console
from seft_ref import Finetuned, StepRecord, TrainSettings
from seft_ref.files.state import settings_text

SCHEMA = "seft.finetune/1"


def told(record: StepRecord) -> dict[str, Any]:
    """Return a step and the sums of its event as JSON."""
    return {name: getattr(record, name) for name in ("step", "loss", "lr", "gradient_norm", "event")}


def totals(
    done: Finetuned,
    settings: TrainSettings,
    records: list[dict[str, Any]],
    measurements: list[dict[str, Any]],
    n_stored: int | None = None,
) -> dict[str, Any]:
    """Return the content of --json for a run that ended or stopped.

    records       of the steps since the start or the resumption
    measurements  of --valid
    n_stored      the weights that are stored at the end; None for a run that stopped
    """
    seconds = sorted(r["seconds"] for r in records)
    measured = {"validation": measurements, "best": done.best and asdict(done.best)} if measurements else {}
    ended: dict[str, Any] = {} if n_stored is None else {"stored_weights": n_stored}
    if n_stored is not None and done.merged is not None and done.merged.changed:
        ended["merged"] = asdict(done.merged)
    return {
        "schema": SCHEMA,
        "settings": json.loads(settings_text(settings)),
        "stored_weights_at_load": done.stored,
        "trained_parameters": sum(target.delta_budget for target in done.state.targets.values()),
        "median_seconds_a_step": seconds[len(seconds) // 2] if seconds else None,
        "records": records,
        **measured,
        "peak_memory_bytes": console.peak_memory_bytes(),
        **ended,
    }


def summary(records: list[dict[str, Any]], done: Finetuned, settings: TrainSettings) -> Iterator[str]:
    """Yield lines that sum up the steps since the start or the resumption, the merge, and the model that was kept."""
    if records:
        first, last = records[0], records[-1]
        events = sum(record["event"] is not None for record in records)
        steps = f"steps {first['step']} to {last['step']}, {events} event{'s' * (events != 1)}"
        yield f"{settings.label}: {steps}, loss {first['loss']:.3f} to {last['loss']:.3f}"
        yield from _of_events([record["event"] for record in records if record["event"] is not None], done.stored)
    if done.merged is not None and done.merged.changed:
        yield f"quantised: {done.merged}"
    if done.best is not None:
        early = f"; ended after step {done.state.step} by --patience" * (done.state.step < settings.steps)
        yield f"kept: the model of step {done.best.step}, validation loss {done.best.loss:.4f}{early}"


def _of_events(events: list[dict[str, Any]], n_stored: int) -> Iterator[str]:
    """Yield lines that say how far slots and mask have moved, if there was an event.

    events    the sums over all matrices of each event (TRN-009)
    n_stored  the weights that were stored at load
    """
    if not events:
        return
    names = ("dropped", "cancelled", "grown", "reactivated")
    dropped, cancelled, grown, back = (sum(event[name] for event in events) for name in names)
    # a position that is dropped and grown again in one event has stayed
    yield f"slots: {dropped - cancelled:,} dropped, {grown:,} grown, {back:,} of them where no weight was stored"
    kept = events[-1]["start"]
    yield f"mask: {kept:,} of the {n_stored:,} weights stored at load are stored after the last event"
