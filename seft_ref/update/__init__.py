"""The update rules: pure functions from arrays to a change of topology (chapter 8 of SPEC.md), and the optimizers.

The state of a matrix during a run is in `seft_ref.matrix`. Start with `evolve.py`, the whole event.
"""
