"""The layers of the decoder, one file each: a forward, and directly below it its backward.

    plain       the set of these layers, which defines every other
    compiled    the set for NumPy arrays, compiled by numba
    sets        the interface of a layer set, and the look-up of the set that goes with a kernel set

The decoder that is built from them is in `model`. Start with `linear.py`.
"""
