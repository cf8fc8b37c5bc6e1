"""Check the command line of an experiment before anything is run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.own import OWN
from experiments.results import key_of
from experiments.run import Tasks
from experiments.table import EXPERIMENTS, Experiment, compared
from formats.index import is_sparse
from seft_cli import console
from seft_cli.settings import changes_of
from seft_ref.files.pruned import pattern_of_folder
from seft_ref.tasks.table import load_items, task_named

COMPARE = "compare"
"""The experiment whose arms come from the command line."""


def check_asked(
    name: str | None, folder: Path | None, train: Path | None, valid: Path | None
) -> tuple[str, Path, Path, Path]:
    """Return name, model and texts; raise Refused for an unknown experiment or a missing argument."""
    names_of_all = (*EXPERIMENTS, COMPARE, *OWN)
    if name is None or name not in names_of_all:
        names = ", ".join(names_of_all)
        raise console.Refused(f"there is no experiment {name}; choose one of {names}")
    if folder is None or train is None or valid is None:
        raise console.Refused("an experiment needs SPARSE_DIR, --train and --valid")
    if (train.suffix == ".jsonl") != (valid.suffix == ".jsonl"):
        raise console.Refused("--train and --valid are both texts, or both examples (.jsonl)")
    return name, folder, train, valid


def tasks_of(experiment: Experiment, names: str | None, data: Path | None, limit: int | None) -> Tasks | None:
    """Return the tasks that the command line names, or else those of the experiment; None if there are none."""
    chosen = tuple(names.split(",")) if names else experiment.tasks
    if not chosen and (data is not None or limit is not None):
        raise console.Refused("--data and --limit are for tasks; name some with --tasks")
    if not chosen:
        return None
    if data is None:
        raise console.Refused(f"{', '.join(chosen)}: give the folder of their files with --data DIR")
    loaded = [load_items(task_named(name), data, skip_trained=True) for name in chosen]
    return Tasks(chosen, data, limit, key_of({"items": repr([one.items for one in loaded])}))


def check_fitting(name: str, changes: Mapping[str, Any], *, of_arms: bool, of_tasks: bool) -> None:
    """Refuse a seed in --set, a setting that the experiment would not use, and options for arms if it has no arms.

    changes   the settings of --set alone
    of_arms   whether an option for arms is given
    of_tasks  whether an option for tasks is given, which experiments without arms do not score
    """
    if "seed" in changes:
        raise console.Refused("--set seed: the seeds are 0, 1, …; choose among them by --seeds and --seed")
    if of_arms and name in OWN:
        raise console.Refused(f"{name} has no arms: leave out --arm, --only-arm, --plan and --any-engine")
    if of_tasks and name in OWN:
        raise console.Refused(f"{name} scores no tasks: leave out --tasks, --data and --limit")
    takes = OWN[name].TAKES if name in OWN else None
    if takes is not None and (unused := [setting for setting in changes if setting not in takes]):
        raise console.Refused(f"{name} does not take {', '.join(unused)}; --set takes {', '.join(takes)}")


def experiment_of(name: str, arms: list[str]) -> Experiment:
    """Return an experiment of the table, or one that compares the arms of a command line: LABEL:KEY=VALUE,..."""
    if name != COMPARE:
        if arms:
            raise console.Refused(f"--arm is for {COMPARE}; {name} has its own")
        return EXPERIMENTS[name]
    own: dict[str, dict[str, Any]] = {}
    for text in arms:
        label, colon, rest = text.partition(":")
        words = [word.strip() for word in rest.split(",") if word.strip()]
        presets = [word.partition("=")[2] for word in words if word.startswith("preset=")]
        if not (label and colon and len(presets) == 1) or label in own:
            raise console.Refused(f"--arm {text}: write LABEL:preset=NAME,KEY=VALUE,... with a label of its own")
        own[label] = {"preset": presets[0], **changes_of({}, [w for w in words if not w.startswith("preset=")])}
        if "seed" in own[label]:
            raise console.Refused(f"--arm {text}: every arm runs the same seeds; leave seed out")
    if not own:
        raise console.Refused(f"{COMPARE} needs --arm LABEL:preset=NAME,KEY=VALUE,... once or more")
    return compared(own)


def check_chosen(name: str, experiment: Experiment, arms: Sequence[str], seeds: Sequence[int]) -> None:
    """Refuse an arm that the experiment lacks, and runs one by one if their times are to compare."""
    if experiment.of_cost and (arms or seeds):
        raise console.Refused(f"{name} runs all arms in turn, so that times compare; leave out --only-arm and --seed")
    for arm in arms:
        if arm not in experiment.arms():
            raise console.Refused(f"{name} has no arm {arm}; choose one of {', '.join(experiment.arms())}")


def check_model(folder: Path) -> None:
    """Refuse a folder that is not a sparse checkpoint."""
    if not is_sparse(folder):
        raise console.Refused(
            f"{folder} is not a sparse checkpoint; make one with seft convert {folder} DST --to sparse"
        )


def pattern_for(name: str, folder: Path, *, patterned: bool) -> dict[str, Any]:
    """Return the N:M pattern of the model as a setting, or no setting if it has none (EVT-007).

    Raises:
        Refused: the model has a pattern and the arms would all grow alike, or it has none and the experiment needs one.
    """
    pattern = pattern_of_folder(folder)
    if pattern is not None and not patterned:
        raise console.Refused(
            f"{folder} is pruned {pattern[0]}:{pattern[1]}, so that all arms grow alike; take a model without a "
            "pattern, or the experiment nm"
        )
    if pattern is None and patterned:
        raise console.Refused(f"{name} needs a model with an N:M pattern; make one with seft prune --pattern 2:4")
    return {} if pattern is None else {"pattern": pattern}
