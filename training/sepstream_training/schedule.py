"""The learning rate of every step, as a callback whose state is in the checkpoint."""

import math
from typing import Any, NamedTuple

import lightning as L

from sepstream.errors import DataError

from .recipe import TrainSpec

RECURRENT = "recurrent"  # the mark of an optimiser's group of parameters that learn at a rate of their own


class Plateau(NamedTuple):
    """What the validation losses so far mean for the rate: torch's ReduceLROnPlateau (mode min) as a value.

    Lower is lower by ``delta`` where torch takes a share of the loss, which is wrong for losses below zero.
    """

    best: float = math.inf
    waited: int = 0  # validations without a lower loss, since the last one or since the last cut
    cuts: int = 0

    def after(self, loss: float, patience: int, delta: float = 0.0) -> "Plateau":
        if loss < self.best - delta:
            return Plateau(loss, 0, self.cuts)
        if self.waited == patience:
            return Plateau(self.best, 0, self.cuts + 1)
        return Plateau(self.best, self.waited + 1, self.cuts)


class Rate(L.Callback):
    """Rate and weight decay, set anew before every step: a resumed run obeys the recipe it is resumed with. Ends the run with
    the last plateau that it may have."""

    def __init__(self, spec: TrainSpec) -> None:
        self.spec, self.plateau = spec, Plateau()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        trainer.should_stop |= self._is_over  # it had ended already

    @property
    def _is_over(self) -> bool:
        return 0 < self.spec.max_plateaus <= self.plateau.cuts

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        for group in trainer.optimizers[0].param_groups:
            own = self.spec.recurrent_factor if group.get(RECURRENT) else 1.0
            group["lr"] = own * self.spec.rate * self.spec.rate_factor(trainer.global_step, self.plateau.cuts)
            group["weight_decay"] = self.spec.weight_decay

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics["valid/loss"])
        if not math.isfinite(loss):
            raise DataError(
                f"the validation loss is {loss} at step {trainer.global_step}; lower train.rate, and go on with --resume"
            )
        self.plateau = self.plateau.after(loss, self.spec.plateau_patience, self.spec.plateau_delta)
        trainer.should_stop |= self._is_over

    def state_dict(self) -> dict[str, Any]:
        return self.plateau._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plateau = Plateau(**state)
