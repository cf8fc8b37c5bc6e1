"""Inputs made to break readers of checkpoint files, and three readers that judge each other (FMT-096, FMT-097).

Files that a run of the kit asks about are in `vectors`; the readers are in `formats`, `oracle` and `seft_ports/c`.
Start with `loop.py`, then `judge.py`.
"""
