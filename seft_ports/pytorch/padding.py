"""Which rows of a batch are padding, as the attention mask of the model's last forward pass says (GRD-006)."""

import inspect
from typing import Any

from torch import Tensor, nn

from seft_ports.pytorch.errors import SeftError

__all__ = ["Padding"]


class Padding:
    """Knows the attention mask that a model was last called with, because its layers do not see it.

    Attributes:
        mask: (rows, length), 0 where a token is padding; None if every row counts.
    """

    def __init__(self) -> None:
        self.mask: Tensor | None = None
        self._place = 0

    def watch(self, model: nn.Module) -> None:
        """Note the argument `attention_mask` of each forward pass of a model from now on."""
        names = list(inspect.signature(model.forward).parameters)
        self._place = names.index("attention_mask") if "attention_mask" in names else len(names)
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        mask = named.get("attention_mask", args[self._place] if len(args) > self._place else None)
        self.mask = mask if isinstance(mask, Tensor) else None

    def add_squares(self, total: Tensor, x: Tensor) -> None:
        """Add the inputs of one backward pass, (rows, in), to the sum of their squares and the count of rows.

        total  (in + 1,), the sum for each column and, last, the number of rows

        Raises:
            SeftError: GRD-006 if the mask does not say which of these rows are padding.
        """
        # GRD-006
        x = x.to(total.dtype)
        if self.mask is None:
            total[:-1] += x.square().sum(0)
            total[-1] += len(x)
            return
        if self.mask.numel() != len(x):
            raise SeftError(
                "GRD-006",
                f"an attention mask of shape {tuple(self.mask.shape)} does not say which of the {len(x)} rows of a "
                "layer are padding; give a mask of shape (rows, length), 0 at padding, or none",
            )
        counts = (self.mask.reshape(-1) != 0).to(x)
        # a product with 0 would keep a NaN of padding
        total[:-1] += x.masked_fill(counts[:, None] == 0, 0).square().sum(0)
        total[-1] += counts.sum()
