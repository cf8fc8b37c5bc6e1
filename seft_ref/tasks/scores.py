"""How items are scored: accuracy of choices, answers extracted from text, and standard errors (TSK-004, TSK-010)."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seft_ref.tasks.item import Choices

INVALID = "[invalid]"
"""The answer that a filter returns for a text in which it finds none."""
TOLERANCE = 1e-3
"""Largest difference from the right number at which a number counts as right."""


@dataclass(frozen=True, slots=True)
class Filter:
    """How an answer is extracted from a text (TSK-010).

    Attributes:
        pattern: a regular expression; the answer is its first group that is not empty.
        which: which match counts: 0 for the first, -1 for the last.
    """

    pattern: str
    which: int

    def extracted(self, text: str) -> str:
        """Return the answer in a text without white space around it, INVALID if there is none."""
        matches = list(re.finditer(self.pattern, text))
        if not matches:
            return INVALID
        return next((group for group in matches[self.which].groups() if group), INVALID).strip()


_NUMBER = Filter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1)
GSM8K = {"strict_match": Filter(r"#### (-?[0-9.,]+)", 0), "flexible_extract": _NUMBER}
"""Filters of a text that ends with #### and a number, as lm-eval's gsm8k has them."""
PROBLEM = {"strict_match": Filter(r"The answer is (-?[0-9.,]+).", 0), "flexible_extract": _NUMBER}
"""Filters of a text that ends with "The answer is" and a number, as lm-eval's gsm8k_cot has them."""
LETTER = {
    "strict_match": Filter(r"The answer is \(?([A-E])\b", 0),
    "flexible_extract": Filter(r"\b([A-E])\b", -1),
}
"""Filters of a text that names the letter of a choice."""


def choice_scores(nats: Sequence[float], item: Choices) -> dict[str, float]:
    """Return acc and acc_norm of one item: 1 if the likeliest choice is the right one, else 0 (TSK-004).

    nats  the log-probability of each continuation
    """
    normed = [total / len(choice) for total, choice in zip(nats, item.choices, strict=True)]
    return {"acc": float(_largest(nats) == item.gold), "acc_norm": float(_largest(normed) == item.gold)}


def _largest(values: Sequence[float]) -> int:
    """Return the index of the largest value, the lowest index of equals."""
    return max(range(len(values)), key=lambda i: values[i])


def same_text(answer: str, right: str) -> bool:
    """Return whether two answers are the same text after removing commas, dollar signs and a full stop at the end."""
    return _bare(answer) == _bare(right)


def _bare(answer: str) -> str:
    """Return an answer in the form in which lm-eval's gsm8k compares answers."""
    for pattern in (r",", r"\$", r"(?s).*#### ", r"\.$"):
        answer = re.sub(pattern, "", answer)
    return answer.lower()


def same_number(answer: str, right: str) -> bool:
    """Return whether two answers are numbers at most TOLERANCE apart after removing commas and dollar signs."""
    try:
        difference = float(_bare(answer)) - float(_bare(right))
    except ValueError:
        return False
    return abs(difference) <= TOLERANCE


def answer_scores(text: str, right: str, filters: Mapping[str, Filter], *, numbers: bool) -> dict[str, float]:
    """Return the score of each filter: 1 if the answer that it extracts is right, else 0 (TSK-010).

    numbers  whether answers are compared as numbers and not as texts
    """
    same = same_number if numbers else same_text
    return {name: float(same(one.extracted(text), right)) for name, one in filters.items()}


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return sum(values) / len(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean, from the sample variance; None for one value (TSK-004)."""
    n = len(values)
    if n < 2:
        return None
    center = mean(values)
    return math.sqrt(sum((value - center) ** 2 for value in values) / (n - 1)) / math.sqrt(n)
