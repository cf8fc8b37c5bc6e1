"""Converters from and to the files of others, one module a foreign format.

The format of chapter 12 itself is in the folder above. Start with `sources.py`, then `hf.py`.
"""
