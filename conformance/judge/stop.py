"""When a run stops because enough has failed (`verify.py --max-failures`)."""

from dataclasses import dataclass

__all__ = ["Stop"]


@dataclass(slots=True)
class Stop:
    """Counts failed cases; the run stops when there are `most`, and 0 is no limit."""

    most: int
    failed: int = 0

    @property
    def reached(self) -> bool:
        """Tell whether the rest is not run."""
        return 0 < self.most <= self.failed

    @property
    def reason(self) -> str:
        """Why the rest is not run."""
        return f"the run stopped after {self.most} failures (--max-failures)"
