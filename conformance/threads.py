"""Thread settings, which libraries read when they are loaded: imported before NumPy.

Two thread pools fight over the cores unless idle workers sleep. A tenth of a millisecond awake spares the next of a row
of short products the waking, which takes as long as they do.
"""

import os

PASSIVE = {"OPENBLAS_THREAD_TIMEOUT": "4", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}

for _name, _value in PASSIVE.items():
    os.environ.setdefault(_name, _value)
