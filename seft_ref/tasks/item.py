"""The items of a task: an item is either a set of choices to compare, or a question to answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choices:
    """A question whose answer is the choice that the model finds most likely (TSK-004).

    Choice i is scored as `continuations[i]` behind `contexts[i]`.

    Attributes:
        contexts: one text a choice, the same one for most tasks.
        continuations: one text a choice; each begins with a space.
        choices: the texts whose numbers of characters acc_norm divides by.
        gold: the number of the right choice, counted from 0.
        part: the part of the task that the item belongs to, such as a subject; empty if the task has none.
    """

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    choices: tuple[str, ...]
    gold: int
    part: str = ""

    def shot(self) -> str:
        """Return the question with its right answer, as an example in front of another one (TSK-012)."""
        return self.contexts[self.gold] + self.continuations[self.gold]

    def question(self) -> tuple[str, ...]:
        """Return a key that is equal for equal items: the text of each choice, sorted, with single white space."""
        pairs = zip(self.contexts, self.continuations, strict=True)
        return tuple(sorted(f"{_single(context)}\n{_single(rest)}" for context, rest in pairs))


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose answer the model writes (TSK-009).

    Attributes:
        prompt: the text behind which the model writes its answer.
        answer: the right answer, as the data file has it.
        worked: the answer with its derivation, for examples; a space is put in front of it.
        part: as in `Choices`.
    """

    prompt: str
    answer: str
    worked: str
    part: str = ""

    def shot(self) -> str:
        """Return the question with its worked answer, as an example in front of another one (TSK-012)."""
        return f"{self.prompt} {self.worked}"

    def question(self) -> tuple[str, ...]:
        """Return a key that is equal for equal items: the prompt with single white space."""
        return (_single(self.prompt),)


Item = Choices | Question


def _single(text: str) -> str:
    return " ".join(text.split())
