"""Errors of the engine: one class per area, each message led by the number of the clause that was broken."""


class SeftError(Exception):
    """An input that breaks a numbered clause of SPEC.md.

    Attributes:
        clause: the clause id, for example ``"TOP-002"``.
        message: what is wrong and what to do, without the id.
    """

    def __init__(self, clause: str, message: str) -> None:
        super().__init__(f"{clause}: {message}")
        self.clause, self.message = clause, message

    def __reduce__(self) -> tuple[type["SeftError"], tuple[str, str]]:
        """Return the parts from which pickle rebuilds the error, so that every rank can raise it (TRN-015)."""
        return type(self), (self.clause, self.message)


class ConfigError(SeftError):
    """A model or training configuration that the engine cannot use."""


class TopologyError(SeftError):
    """Index arrays that are not a canonical topology."""


class KernelError(SeftError):
    """Arrays that a kernel cannot take: wrong shape, dtype or device."""


class LayerError(SeftError):
    """Tokens or targets that a layer cannot take."""


class LayerOverflow(LayerError):
    """A number inside a layer that its dtype does not hold (LYR-015, LYR-016); `message` names it, without advice."""

    def __init__(self, clause: str, message: str) -> None:
        super().__init__(
            clause,
            f"{message}; lower the learning rate if training has led here, else compute in float64 or look for a "
            "damaged weight",
        )
        self.message = message


class UpdateError(SeftError):
    """Arguments that an update rule refuses; nothing has been changed."""


class PruneError(SeftError):
    """A sparsity, pattern or weight that a pruner refuses."""


class QuantiseError(SeftError):
    """A grid, weight or code that a quantised matrix cannot have."""


class AdapterError(SeftError):
    """Factors or a pruner that do not fit the weight they are to change."""


class CheckpointError(SeftError):
    """A checkpoint whose content does not describe a model or a training state."""


class EvaluationError(SeftError):
    """A model whose loss on a text has no finite perplexity."""


class TaskError(SeftError):
    """A task that does not exist, or items of one that cannot be scored."""


class GenerateError(SeftError):
    """Tokens, logits or settings from which nothing can be generated."""


class TextError(SeftError):
    """Text that cannot be turned into the windows asked for."""
