"""What the choices of a rule are worth: python -m experiments NAME runs its arms over several seeds and writes a page.

table       arms and experiments
run         one arm with one seed; results, where finished runs are kept
statistics, page, picture   what is said of them

Nothing here is installed: run it from a checkout.

The rules themselves are in `seft_ref/update`. Start with `table.py`, then `run.py`.
"""
