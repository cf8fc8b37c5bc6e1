"""Our engine as a port: each operation of `cases/ops.py` as a few calls into `seft_ref` or `formats`.

Mutants of the engine are in `wrong`. Start with `port.py`.
"""
