"""`SeftOptimizer`: the optimizers of chapter 9 as a torch optimizer, for a model with sparse updates."""

import copy
import math
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from seft_ports.pytorch import presets
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.model import layers_of
from seft_ports.pytorch.slot_step import KEEPS, STEPS, Hyper, Place, fresh, seeds
from seft_ports.pytorch.split import all_true, is_split, local, part
from seft_ports.pytorch.update import SparseUpdate

__all__ = ["SPLIT_SM3", "SeftOptimizer"]

SPLIT_SM3 = "sm3 keeps one number for a row, and FSDP splits rows; use DistributedDataParallel, or another optimizer"
"""The error message for a split model with `sm3`."""

_KINDS = get_args(presets.Optimizer)


class SeftOptimizer(torch.optim.Optimizer):
    """An optimizer of a wrapped or adapted model: the state of a slot moves with the slot (chapter 9).

    Other trained parameters of the model, such as `modules_to_save` of PEFT, are a second group.

    lr           learning rate; the default is low: the runs of this project did best near 2e-3
    kind         `adamw`, `spiel-adamw`, `sgd` or `sm3`; None is the one that the model's settings name
    momentum     μ of `sgd`
    slot_warmup  steps over which the rate of a slot rises, with `adamw` (OPT-010)

    Attributes:
        kind: the name of the optimizer.
        has_events: whether its steps make the events of a run (`Evolution.attach`).

    Raises:
        SeftError: OPT-001 for an unknown kind or a model without sparse updates, TRN-008 for a number out of range.
    """

    _step_supports_amp_scaling = True
    """Lets torch's GradScaler show itself to `step`, which refuses it."""

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        slot_warmup: int = 0,
        kind: presets.Optimizer | None = None,
        momentum: float = 0.9,
    ) -> None:
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
        named = [layer.settings.optimizer for layer in self.layers if layer.settings is not None]
        self.kind: presets.Optimizer = kind or (named[0] if named else "adamw")
        self._check(lr, betas, eps, weight_decay, slot_warmup, momentum)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"slot_warmup": slot_warmup, "momentum": momentum}
        own = [layer.values for layer in self.layers]
        mine = {id(values) for values in own}
        others = [x for x in model.parameters() if x.requires_grad and id(x) not in mine]
        groups = [{"params": own}, {"params": others}] if others else [{"params": own}]
        super().__init__(groups, defaults)
        self.has_events = False

    def _check(
        self, lr: float, betas: tuple[float, float], eps: float, decay: float, slot_warmup: int, momentum: float
    ) -> None:
        if self.kind not in _KINDS:
            raise SeftError("OPT-001", f"there is no optimizer {self.kind!r}; there are {', '.join(_KINDS)}")
        if slot_warmup and self.kind != "adamw":
            raise SeftError("OPT-010", f"slot_warmup {slot_warmup} is for adamw; {self.kind} takes 0")
        refused = {
            f"lr is {lr}; it is finite and at least 0": not 0 <= lr < math.inf,
            f"betas are {betas}; both lie in [0, 1)": not all(0 <= x < 1 for x in betas),
            f"eps is {eps}; it is finite and above 0": not 0 < eps < math.inf,
            f"weight_decay is {decay}; it is finite and at least 0": not 0 <= decay < math.inf,
            f"momentum is {momentum}; it lies in [0, 1)": not 0 <= momentum < 1,
            f"slot_warmup is {slot_warmup}; it is at least 0": slot_warmup < 0,
        }
        for reason, is_refused in refused.items():
            if is_refused:
                raise SeftError("TRN-008", reason)
        kinds = {layer.values.dtype for layer in self.layers}
        if any(float(torch.tensor(eps, dtype=kind)) == 0.0 for kind in kinds):
            raise SeftError("TRN-008", f"eps {eps} is 0 in the dtype of the update; choose a larger one")

    def kept(self, layer: SparseUpdate) -> dict[str, Tensor]:
        """Return the state of a layer's slots, name -> array; an event moves the entries with the slots."""
        state = self._state(layer.values, layer.shape)
        names = (*KEEPS[self.kind], "origin")
        if "origin" not in state and layer.settings is not None and layer.settings.drop == "change":
            # DROP-003: every slot entered with φ = 0
            state["origin"] = torch.zeros_like(layer.values)
        return {name: state[name] for name in names if name in state}

    def follow(self) -> None:
        """Adopt the new parameters of layers that an event or a checkpoint enlarged (`SparseUpdate.make_room`)."""
        params = self.param_groups[0]["params"]
        for i, layer in enumerate(self.layers):
            if params[i] is not layer.values and not is_split(layer.values):
                self.state[layer.values] = self.state.pop(params[i], {})
                params[i] = layer.values

    def accumulators(self, layer: SparseUpdate) -> dict[str, Tensor]:
        """Return the accumulators of `sm3`, by the names of `criteria`: row, (out,), and column, (in,)."""
        state = self._state(layer.values, layer.shape)
        return {"row": state["rows"], "column": state["columns"]}

    def _state(self, values: Tensor, shape: tuple[int, int], *, one_age: bool = False) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[values]
        if not state:
            if self.kind == "sm3" and is_split(values):
                raise NotImplementedError(SPLIT_SM3)
            state |= fresh(self.kind, values.detach(), shape)
            if one_age and "age" in state:
                state["age"] = torch.zeros((), dtype=torch.int64, device=values.device)
        return state

    def seeds(self, gradient: Tensor, square: Tensor, steps: int) -> dict[str, Tensor]:
        """Return the initial state of new slots, by the names of `kept`; see `slot_step.seeds` (DLT-006)."""
        return seeds(self.kind, gradient, square, steps, _hyper(self.param_groups[0]))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of every slot that has a gradient.

        Raises:
            SeftError: TRN-007 for a NaN or infinite gradient, before anything is changed. Also for a value that the
                step made NaN or infinite; the model is then unusable.
        """
        if getattr(self, "grad_scale", None) is not None:
            msg = "GradScaler scales the gradients that events sum up; compute in bfloat16 (autocast) or float32"
            raise NotImplementedError(msg)
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
            finite += self._step_slots(group, layer, values)
        for group, x in others:
            finite += self._step_all(group, x)
        # TRN-007
        if not all_true(finite, everywhere=everywhere):
            raise SeftError("TRN-007", "a step made a value NaN or infinite; the last saved state is valid")
        return loss

    def _step_slots(self, group: dict[str, Any], layer: SparseUpdate, values: Tensor) -> list[Tensor]:
        """Take a step of the slots of a layer that this process holds, and return whether the results are finite."""
        # slots come before the free places, in the whole tensor and in every part of it
        positions = part(layer.positions, values)
        n = int((positions < layer.out_features * layer.in_features).sum())
        state = self._state(values, layer.shape)
        local_state = {name: local(one)[:n] for name, one in state.items() if name not in ("rows", "columns")}
        local_state |= {name: one for name, one in state.items() if name in ("rows", "columns")}
        phi, gradient = local(values)[:n], local(values.grad)[:n]
        STEPS[self.kind](phi, local_state, gradient, _hyper(group), self._place(positions[:n], layer.in_features))
        # DLT-003
        weight = (part(layer.held, values)[:n].to(phi.dtype) + phi).to(layer.held.dtype)
        return [torch.isfinite(x).all() for x in (phi, *local_state.values(), weight)]

    def _step_all(self, group: dict[str, Any], x: Tensor) -> list[Tensor]:
        """Take a step of a parameter that is trained as a whole, and return whether the results are finite."""
        rows = x.shape[0] if x.ndim else 1
        width = x.numel() // max(rows, 1)
        # the whole tensor has one age, because no part of it is younger
        local_state = {name: local(one) for name, one in self._state(x, (rows, width), one_age=True).items()}
        values, gradient = local(x), local(x.grad)
        place = self._place(torch.arange(values.numel() if self.kind == "sm3" else 0, device=x.device), width)
        if self.kind == "sm3":
            values, gradient = values.view(-1), gradient.reshape(-1)
        STEPS[self.kind](values, local_state, gradient, _hyper(group), place)
        return [torch.isfinite(one).all() for one in (values, *local_state.values())]

    def _place(self, positions: Tensor, width: int) -> Place:
        """Return the places of slots; they are empty but for `sm3`, because they take more memory than the slots."""
        return Place.of(positions if self.kind == "sm3" else positions[:0], width)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state from `state_dict`; ages stay integers, though torch casts states to the parameter's dtype."""
        self.follow()
        # plain torch numbers the states by order; FSDP keys them by the parameters' names
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        ages = [copy.deepcopy(state_dict["state"].get(number, {}).get("age")) for number in saved]
        super().load_state_dict(state_dict)
        for age, values in zip(ages, (p for group in self.param_groups for p in group["params"]), strict=True):
            if age is not None:
                self.state[values]["age"] = age.to(values.device)


def _hyper(group: dict[str, Any]) -> Hyper:
    (beta1, beta2), lr = group["betas"], float(group["lr"])
    eps, decay = group["eps"], group["weight_decay"]
    return Hyper(lr, beta1, beta2, eps, decay, group.get("momentum", 0.9), group.get("slot_warmup", 0))
