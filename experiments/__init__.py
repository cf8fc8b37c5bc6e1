"""Experiments that compare update rules: python -m experiments NAME runs arms over several seeds and writes a page.

table       arms and experiments
run, results    one run of an arm with a seed; the file of finished runs
statistics, page, picture   the report on the runs
own         experiments without arms
docstrings  the text of a task shift

Nothing in this folder is installed, so run it from a checkout.

The rules themselves are in `seft_ref/update`. Start with `table.py`, then `run.py`.
"""
