"""Converters from and to foreign formats, one module for each format.

The format of chapter 12 itself is in the folder above. Start with `sources.py`, then `hf.py`.
"""
