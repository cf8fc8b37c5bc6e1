"""The command line of the kit: `app.py` defines the commands, the other files do their work.

Cases are run and compared in `judge`, reports are written in `report`. Start with `app.py`, then `runner.py`.
"""
