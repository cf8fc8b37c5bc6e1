"""The folder of a report: written whole, or not at all."""

import json
import os
from pathlib import Path

from conformance.judge.judgement import Run
from conformance.report.junit import junit
from conformance.report.lines import VERSION, report_lines
from conformance.report.markdown import markdown
from conformance.report.page import page
from conformance.report.summary import as_summary, badge
from conformance.report.words import tidy
from formats.atomic import check_place, new_folder, write_bytes

__all__ = ["FILES", "ReportError", "check_folder", "write"]

FILES = ("report.jsonl", "summary.json", "summary.md", "junit.xml", "badge.json", "report.html")


class ReportError(Exception):
    """The folder for a report has other files, or is no folder."""


def write(run: Run, folder: Path) -> None:
    """Write a run as a folder of the files named in FILES.

    folder  path of the folder, which is created; an earlier report or an empty folder there is replaced

    Raises:
        ReportError: the folder has files that are no report; nothing is written.
    """
    clean = tidy(run)
    texts = {
        "report.jsonl": report_lines(clean),
        "summary.json": json.dumps(as_summary(clean, VERSION), indent=1, allow_nan=False) + "\n",
        "summary.md": markdown(clean),
        "junit.xml": junit(clean),
        "badge.json": json.dumps(badge(clean)) + "\n",
        "report.html": page(clean),
    }
    check_folder(folder)
    with new_folder(_absolute(folder), replaces=True) as new:
        for name in FILES:
            write_bytes(new / name, texts[name].encode())


def check_folder(folder: Path) -> None:
    """Verify that a report can be written there: its place has nothing, an empty folder or an earlier report.

    Raises:
        ReportError: its place has something else.
        OSError: nothing can be written there.
    """
    folder = _absolute(folder)
    check_place(folder)
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        msg = f"{folder} is no folder; name another for the report"
        raise ReportError(msg)
    others = sorted(path.name for path in folder.iterdir() if path.name not in FILES)
    if others:
        msg = f"{folder} holds {others[0]}, which is no part of a report; name another folder"
        raise ReportError(msg)


def _absolute(folder: Path) -> Path:
    return Path(os.path.abspath(folder))  # noqa: PTH100  resolve would follow a link that is to be refused
