"""Settings of tiny experiments, and what their files hold."""

import importlib
import json

SETTINGS = {"steps": 6, "evolve_every": 5, "batch": 2, "length": 16, "density": 0.2, "drop_fraction": 1, "lr": 0.01}
OPTIONS = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
EVALUATION = ("--eval-length", 32, "--eval-windows", 2)


def part(name):
    return importlib.import_module(f"experiments.{name}")


def one_line(page):
    """A page whose commands are not broken into lines."""
    return page.replace(" \\\n   ", "")


def runs_in(work):
    return [json.loads(line) for line in (work / "results.jsonl").read_text().splitlines()]
