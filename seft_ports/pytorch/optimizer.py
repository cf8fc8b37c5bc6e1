"""AdamW with an age per slot."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.model import layers_of
from seft_ports.pytorch.rules import adamw

__all__ = ["SeftOptimizer"]


class SeftOptimizer(torch.optim.Optimizer):
    """The optimizer of a wrapped model: what it keeps of a slot moves with the slot (OPT-001 to OPT-003)."""

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        finite = all(torch.isfinite(torch.tensor(x)) for x in (lr, eps, weight_decay))
        if not finite or lr < 0 or weight_decay < 0 or eps <= 0 or not all(0 <= beta < 1 for beta in betas):
            raise SeftError(
                "TRN-008", f"lr {lr}, betas {betas}, eps {eps} or weight_decay {weight_decay} is out of range"
            )
        self.layers = {id(layer.values): layer for layer in layers_of(model).values()}
        kinds = {layer.values.dtype for layer in self.layers.values()}
        if any(float(torch.tensor(eps, dtype=kind)) == 0.0 for kind in kinds):
            raise SeftError("TRN-008", f"eps {eps} is 0 in the dtype of the update; choose a larger one")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__([layer.values for layer in self.layers.values()], defaults)

    def kept(self, values: Tensor) -> dict[str, Tensor]:
        """Return what is kept of the slots of a layer: `first_moment`, `second_moment` and `age`."""
        kept: dict[str, Tensor] = self.state[values]
        if not kept:
            # DLT-005
            kept["first_moment"] = torch.zeros_like(values)
            kept["second_moment"] = torch.zeros_like(values)
            kept["age"] = torch.zeros(values.shape, dtype=torch.int64, device=values.device)
        return kept

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of every slot that has a gradient.

        Raises:
            SeftError: TRN-007 for a gradient that is NaN or infinite, before anything is changed; or for a step that
                makes a value so, after which the model is spent.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [layer.values.grad for layer in self.layers.values() if layer.values.grad is not None]
        finite = [torch.isfinite(gradient).all() for gradient in gradients]
        # TRN-007
        if finite and not bool(torch.stack(finite).all()):
            raise SeftError("TRN-007", "a gradient is NaN or infinite; the last saved state is valid")
        for group in self.param_groups:
            for values in group["params"]:
                if values.grad is not None:
                    n = self.layers[id(values)].slots
                    kept = self.kept(values)
                    adamw(
                        values[:n],
                        kept["first_moment"][:n],
                        kept["second_moment"][:n],
                        kept["age"][:n],
                        values.grad[:n],
                        float(group["lr"]),
                        group["betas"],
                        group["eps"],
                        group["weight_decay"],
                    )
                    # TRN-007
                    if not all(bool(torch.isfinite(x[:n]).all()) for x in (values, *kept.values())):
                        raise SeftError("TRN-007", "a step made a value NaN or infinite; the last saved state is valid")
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave; ages stay integers, which torch would make floats of."""
        ages = {number: copy.deepcopy(kept["age"]) for number, kept in state_dict["state"].items()}
        super().load_state_dict(state_dict)
        for number, values in enumerate(p for group in self.param_groups for p in group["params"]):
            if number in ages:
                self.state[values]["age"] = ages[number].to(values.device)
