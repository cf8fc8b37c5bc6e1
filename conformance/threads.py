"""Thread settings, which libraries read when they are loaded, so this is imported before NumPy.

Two thread pools compete for the cores unless idle workers sleep. OpenBLAS's sleep at once. OpenMP's stay awake for
about a millisecond, because waking a worker takes as long as a short product, and products come in a row. With a tenth
of that, two threads generated text no faster than one.
"""

import os

NAMES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables from which libraries read the number of threads."""
PASSIVE = {"OPENBLAS_THREAD_TIMEOUT": "4", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}

for _name, _value in PASSIVE.items():
    os.environ.setdefault(_name, _value)
