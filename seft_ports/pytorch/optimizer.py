"""AdamW that counts the steps of each slot on its own (its age)."""

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.model import layers_of
from seft_ports.pytorch.rules import adamw
from seft_ports.pytorch.spiel import seeds, spiel_adamw
from seft_ports.pytorch.split import all_true, is_split, local, part

__all__ = ["SeftOptimizer"]

Kind = Literal["adamw", "spiel-adamw"]


class SeftOptimizer(torch.optim.Optimizer):
    """AdamW for a wrapped model: moments and age of a slot move with the slot (OPT-001 to OPT-003, OPT-006).

    Whatever else of the model is trained, such as `modules_to_save` of PEFT, is a second group of parameters.

    Attributes:
        kind: `adamw`, or SpIEL's variant of it, `spiel-adamw`.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        slot_warmup: int = 0,
        kind: Kind = "adamw",
    ) -> None:
        if kind not in ("adamw", "spiel-adamw"):
            raise SeftError("OPT-001", f"this port has no optimizer {kind!r}; it has adamw, spiel-adamw")
        if slot_warmup and kind != "adamw":
            raise SeftError("OPT-010", f"slot_warmup {slot_warmup} is for adamw; {kind} takes 0")
        self.kind: Kind = kind
        finite = all(torch.isfinite(torch.tensor(x)) for x in (lr, eps, weight_decay))
        if not finite or lr < 0 or weight_decay < 0 or eps <= 0 or not all(0 <= beta < 1 for beta in betas):
            raise SeftError(
                "TRN-008", f"lr {lr}, betas {betas}, eps {eps} or weight_decay {weight_decay} is out of range"
            )
        if slot_warmup < 0:
            raise SeftError("TRN-008", f"slot_warmup {slot_warmup} is below 0")
        if not isinstance(model, nn.Module):
            raise SeftError(
                "OPT-001",
                "SeftOptimizer takes a model, not parameters; in a Trainer optimizer_cls_and_kwargs="
                "(SeftOptimizer, {'model': model, 'lr': ...})",
            )
        self.layers = list(layers_of(model).values())
        if not self.layers:
            raise SeftError(
                "MDL-007",
                "the model has no sparse update to train: wrap it, give it a SeftConfig, or load the adapter with "
                "is_trainable=True",
            )
        kinds = {layer.values.dtype for layer in self.layers}
        if any(float(torch.tensor(eps, dtype=kind)) == 0.0 for kind in kinds):
            raise SeftError("TRN-008", f"eps {eps} is 0 in the dtype of the update; choose a larger one")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"slot_warmup": slot_warmup}
        own = [layer.values for layer in self.layers]
        mine = {id(values) for values in own}
        others = [x for x in model.parameters() if x.requires_grad and id(x) not in mine]
        groups = [{"params": own}, {"params": others}] if others else [{"params": own}]
        super().__init__(groups, defaults)

    def kept(self, values: Tensor) -> dict[str, Tensor]:
        """Return the optimizer's state of a layer's slots: `first_moment`, `second_moment` and `age`."""
        if not self.state[values]:
            self._begin(values, torch.zeros_like(values, dtype=torch.int64))
        kept: dict[str, Tensor] = self.state[values]
        return kept

    def _begin(self, values: Tensor, age: Tensor) -> None:
        """Give a parameter moments of 0, and this age."""
        # DLT-005
        moments = {name: torch.zeros_like(values) for name in ("first_moment", "second_moment")}
        self.state[values] = moments | {"age": age}

    def seeds(self, gradient: Tensor, square: Tensor, steps: int) -> dict[str, Tensor]:
        """Return what new slots start with, by the names of `kept`; see `spiel.seeds` (DLT-006)."""
        return seeds(gradient, square, steps, self.kind, self.param_groups[0]["betas"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of every slot that has a gradient.

        Raises:
            SeftError: TRN-007 for a NaN or infinite gradient, before anything is changed. Also for a value that the
                step made NaN or infinite; the model is then unusable.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # each process steps the slots that it holds; if one must stop, all stop
        trained = [
            (group, layer, values)
            for group in self.param_groups[:1]
            for layer, values in zip(self.layers, group["params"], strict=True)
            if values.grad is not None
        ]
        others = [(g, x) for g in self.param_groups[1:] for x in g["params"] if x.grad is not None]
        everywhere = any(is_split(values) for _, _, values in trained)
        gradients = [x.grad for _, _, x in trained] + [x.grad for _, x in others]
        # TRN-007
        if not all_true([torch.isfinite(local(x)).all() for x in gradients], everywhere=everywhere):
            raise SeftError("TRN-007", "a gradient is NaN or infinite; the last saved state is valid")
        finite = []
        for group, layer, values in trained:
            # slots come before the free places, in the whole tensor and in every part of it
            n = int((part(layer.positions, values) < layer.out_features * layer.in_features).sum())
            kept = self.kept(values)
            phi, first, second, age, gradient = (
                local(x)[:n] for x in (values, kept["first_moment"], kept["second_moment"], kept["age"], values.grad)
            )
            rate, betas = float(group["lr"]), group["betas"]
            decay, warmup = group["weight_decay"], group.get("slot_warmup", 0)
            if self.kind == "spiel-adamw":
                spiel_adamw(phi, first, second, age, gradient, rate, betas, group["eps"], decay)
            else:
                adamw(phi, first, second, age, gradient, rate, betas, group["eps"], decay, warmup)
            # DLT-003
            weight = (part(layer.held, values)[:n].to(phi.dtype) + phi).to(layer.held.dtype)
            finite += [torch.isfinite(x).all() for x in (phi, first, second, weight)]
        for group, x in others:
            if not self.state[x]:
                # one age for the whole tensor, because no slot of it is younger
                self._begin(x, torch.zeros((), dtype=torch.int64))
            kept = self.state[x]
            phi, first, second, age, gradient = (
                local(one) for one in (x, kept["first_moment"], kept["second_moment"], kept["age"], x.grad)
            )
            take = spiel_adamw if self.kind == "spiel-adamw" else adamw
            rate, decay = float(group["lr"]), group["weight_decay"]
            take(phi, first, second, age, gradient, rate, group["betas"], group["eps"], decay)
            finite.append(torch.isfinite(local(x)).all())
        # TRN-007
        if not all_true(finite, everywhere=everywhere):
            raise SeftError("TRN-007", "a step made a value NaN or infinite; the last saved state is valid")
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state from `state_dict`; ages stay integers, though torch casts states to the parameter's dtype."""
        # plain torch numbers the states by order; FSDP keys them by the parameters' names
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        ages = [copy.deepcopy(state_dict["state"].get(number, {}).get("age")) for number in saved]
        super().load_state_dict(state_dict)
        for age, values in zip(ages, (p for group in self.param_groups for p in group["params"]), strict=True):
            if age is not None:
                self.state[values]["age"] = age.to(values.device)
