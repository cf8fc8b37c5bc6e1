"""Pruners of a dense model: pure functions from a weight to a mask of the weights that stay (chapter 11 of SPEC.md).

`update/adapt.py` prunes at an event. Start with `keep.py`, then `wanda.py`.
"""
