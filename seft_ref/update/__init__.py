"""The update rules: pure functions from arrays to a change of topology.

What a run knows of a matrix is in `matrix`. Start with `evolve.py`, the whole event.
"""
