"""Pruners: from a weight and a score to the support that stays. Pure: arrays in, a boolean mask out.

What an event prunes is in `update/adapt.py`. Start with `keep.py`, then `wanda.py`.
"""
