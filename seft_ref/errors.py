"""Errors of the engine: one class per area, each message led by the number of the clause that was broken."""


class SeftError(Exception):
    """An input that breaks a numbered clause of SPEC.md.

    Attributes:
        clause: the clause id, for example ``"TOP-002"``.
    """

    def __init__(self, clause: str, message: str) -> None:
        super().__init__(f"{clause}: {message}")
        self.clause = clause


class ConfigError(SeftError):
    """A model or training configuration that the engine cannot use."""


class TopologyError(SeftError):
    """Index arrays that are not a canonical topology."""


class KernelError(SeftError):
    """Arrays that a kernel cannot take: wrong shape, dtype or device."""


class LayerError(SeftError):
    """Tokens or targets that a layer cannot take."""


class UpdateError(SeftError):
    """Arguments that an update rule refuses; nothing has been changed."""


class PruneError(SeftError):
    """A sparsity, pattern or weight that a pruner refuses."""


class AdapterError(SeftError):
    """Factors or a pruner that do not fit the weight they are to change."""


class CheckpointError(SeftError):
    """A checkpoint whose content does not describe a model or a training state."""


class EvaluationError(SeftError):
    """A model whose loss on a text gives no perplexity."""


class GenerateError(SeftError):
    """Tokens, logits or settings from which nothing can be generated."""


class TextError(SeftError):
    """Text that cannot be turned into the windows asked for."""
