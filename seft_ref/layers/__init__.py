"""The layers of the decoder, one file each: a forward, and directly below it its backward.

The decoder that they make is in `model`. Start with `linear.py`.
"""
