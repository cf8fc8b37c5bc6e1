"""How a support becomes sections, one file an encoding; `formats.encoding` is their table.

Compression is in `formats/compress.py`. Start with `code.py`, then `csr.py`.
"""
