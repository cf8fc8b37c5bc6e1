"""Thread settings. Import this before NumPy, because libraries read the settings when they load."""

import os
from collections.abc import Sequence
from itertools import pairwise

from conformance.threads import NAMES as NAMES
from conformance.threads import PASSIVE as PASSIVE

_NEIGHBOURS = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or os.environ.get("MPI_LOCALNRANKS") or "1"
if _NEIGHBOURS.isdigit() and int(_NEIGHBOURS) > 1:
    # processes that mpirun started on this machine share its cores
    for _name in NAMES:
        os.environ.setdefault(_name, str(max(1, (os.cpu_count() or 1) // int(_NEIGHBOURS))))


def obey(words: Sequence[str]) -> None:
    """Set the number of threads that the option --threads among some words names, for every library.

    This is done before the words are parsed, because parsing them loads the libraries. What is no number is refused
    then.
    """
    for word, following in pairwise([*words, ""]):
        option, _, value = word.partition("=")
        if option == "--threads":
            try:
                number = float(value or following)
            except ValueError:
                continue
            if number >= 1 and number.is_integer():
                os.environ.update(dict.fromkeys(NAMES, str(int(number))))
