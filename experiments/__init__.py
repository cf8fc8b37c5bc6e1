"""Experiments that compare update rules: python -m experiments NAME runs its arms over several seeds, writes a page.

table       arms and experiments
run, results    one arm with one seed; the file of finished runs
statistics, page, picture   the report about them
docstrings  the text of a task shift

Nothing in this folder is installed, so run it from a checkout.

The rules themselves are in `seft_ref/update`. Start with `table.py`, then `run.py`.
"""
