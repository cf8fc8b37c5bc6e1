"""Writes the report and the expected failures of a run, and checks before the run that they can be written."""

import os
from pathlib import Path

from conformance import expect, report
from conformance.judge.judgement import Run
from formats.atomic import check_file, check_place

__all__ = ["check", "check_new", "check_page", "write"]

UNWRITABLE = (expect.ManifestError, report.ReportError, OSError)


def check(manifest: Path | None, folder: Path | None) -> str:
    """Return an error text if a manifest or a report cannot be written, else an empty text; nothing is written.

    manifest  path of the manifest of expected failures; None for no manifest
    folder    path of the folder of the report; None for no report
    """
    try:
        if manifest is not None:
            expect.check(manifest)
        if folder is not None:
            report.check_folder(folder)
    except UNWRITABLE as error:
        return str(error)
    return ""


def check_page(page: Path) -> str:
    """Return an error text if a page cannot be written, else an empty text."""
    try:
        check_file(page)
    except OSError as error:
        return str(error)
    return ""


def check_new(path: Path) -> str:
    """Return an error text if a file or folder exists or cannot be made, else an empty text."""
    if os.path.lexists(path):
        return f"{path} exists; name one that does not"
    try:
        check_place(path)
    except OSError as error:
        return str(error)
    return ""


def write(run: Run, manifest: Path | None, folder: Path | None) -> str:
    """Write the failures of a run into a manifest, and its report; return an error text, empty if both are written.

    If one of the two cannot be written, the other still is.
    """
    wrong = []
    try:
        if manifest is not None:
            expect.write(manifest, [*run.results, *run.properties], run.classes)
    except UNWRITABLE as error:
        wrong.append(str(error))
    try:
        if folder is not None:
            report.write(run, folder)
    except UNWRITABLE as error:
        wrong.append(str(error))
    return "; ".join(wrong)
