"""The learning rate of every step, as a callback whose state is in the checkpoint."""

import math
from typing import Any, NamedTuple

import lightning as L

from sepstream.errors import DataError

from .recipe import TrainSpec


class Plateau(NamedTuple):
    """What the validation losses so far mean for the rate: torch's ReduceLROnPlateau (mode min) as a value.

    With threshold 0 where torch has a relative one, which is wrong for losses below zero.
    """

    best: float = math.inf
    waited: int = 0  # validations without a lower loss, since the last one or since the last cut
    cuts: int = 0

    def after(self, loss: float, patience: int) -> "Plateau":
        if loss < self.best:
            return Plateau(loss, 0, self.cuts)
        if self.waited == patience:
            return Plateau(self.best, 0, self.cuts + 1)
        return Plateau(self.best, self.waited + 1, self.cuts)


class Rate(L.Callback):
    """Rate and weight decay, set anew before every step: a resumed run obeys the recipe it is resumed with."""

    def __init__(self, spec: TrainSpec) -> None:
        self.spec, self.plateau = spec, Plateau()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.spec.rate * self.spec.rate_factor(trainer.global_step, self.plateau.cuts)
            group["weight_decay"] = self.spec.weight_decay

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics["valid/loss"])
        if not math.isfinite(loss):
            raise DataError(
                f"the validation loss is {loss} at step {trainer.global_step}; lower train.rate, and go on with --resume"
            )
        self.plateau = self.plateau.after(loss, self.spec.plateau_patience)

    def state_dict(self) -> dict[str, Any]:
        return self.plateau._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plateau = Plateau(**state)
