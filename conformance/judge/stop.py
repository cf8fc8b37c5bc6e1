"""The number of failed cases at which a run stops (`verify.py --max-failures`)."""

from dataclasses import dataclass

__all__ = ["Stop"]


@dataclass(slots=True)
class Stop:
    """Counts failed cases; the run stops when there are `most` of them, and 0 means no limit."""

    most: int
    failed: int = 0

    @property
    def reached(self) -> bool:
        """Whether the limit is reached, so that the remaining cases are not run."""
        return 0 < self.most <= self.failed

    @property
    def reason(self) -> str:
        """A text that says why the remaining cases are not run."""
        return f"the run stopped after {self.most} failures (--max-failures)"
