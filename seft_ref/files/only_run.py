"""One run at a time works at a place; a second one is refused before it computes anything (CKP-012)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from formats.atomic import locked
from seft_ref.arrays.ranks import ALONE, Ranks
from seft_ref.errors import CheckpointError


@contextmanager
def only_run(state: Path | None, ranks: Ranks = ALONE) -> Iterator[None]:
    """Hold the place of a state while the block runs.

    state   a file or folder, which need not exist; None for a run that keeps no state
    ranks   the processes of the run, of which the first holds the place; all of them call this
    Raises  in all processes CheckpointError CKP-012 if another run holds the place
    """
    with ExitStack() as stack:
        is_taken = False
        if state is not None and ranks.rank == 0:
            try:
                stack.enter_context(locked(state))
            except BlockingIOError:
                is_taken = True
        # CKP-012
        if ranks.every(is_taken)[0]:
            raise CheckpointError(
                "CKP-012", f"another run is at work and keeps {state}; wait until it has ended, or choose another place"
            )
        yield
