"""Reports of a run: on the terminal, and as a folder of files for people and for programs.

`write` makes the folder.
`judge` decides what may be claimed. Start with `folder.py`, then `tables.py`.
"""

from conformance.report.folder import FILES, ReportError, check_folder, write
from conformance.report.shown import whole_text
from conformance.report.tables import as_json, counts, explain, matches, shown_value, table_rows, texts_of

__all__ = [
    "FILES",
    "ReportError",
    "as_json",
    "check_folder",
    "counts",
    "explain",
    "matches",
    "shown_value",
    "table_rows",
    "texts_of",
    "whole_text",
    "write",
]
