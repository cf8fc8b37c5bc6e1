"""Ways to store a support as sections, one module an encoding; `formats.encoding` has the table of them.

Compression is in `formats/compress.py`. Start with `code.py`, then `csr.py`.
"""
