"""Encodings store a support as sections; each has a module here, and `formats.encoding` has the table of them.

Compression is in `formats/compress.py`. Start with `code.py`, then `csr.py`.
"""
