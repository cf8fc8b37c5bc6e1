"""The command line of the kit: one file a command, and the table of them in `app.py`.

Judging is in `judge`, reports in `report`. Start with `app.py`, then `runner.py`.
"""
