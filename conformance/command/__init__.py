"""The command line of the kit: one file a command, and the table of them in `app.py`.

What a run is made of is in `judge`, what it prints in `report`. Start with `app.py`, then `runner.py`.
"""
