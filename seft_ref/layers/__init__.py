"""The layers of the decoder, one file each: a forward, and directly below it its backward.

    plain       the set of these layers, which defines every other
    compiled    the set for NumPy arrays, compiled by numba
    sets        what a set has; a kernel set names the one that goes with it

The decoder that they make is in `model`. Start with `linear.py`.
"""
