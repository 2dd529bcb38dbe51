"""What happens around the steps of a run: checkpoints that survive, signals, a line of progress, and silence."""

import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar

log = logging.getLogger(__name__)


MEANT = (
    "Checkpoint directory .* exists and is not empty",  # the logs are in it, and a resumed run's checkpoints
    "The dirpath has changed from",  # a run may go on in another folder
    "Experiment logs directory .* exists and is not empty",  # the same steps once more: their log is written anew
    ".*does not have many workers",  # data.workers says how many
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
)


class Stopped(Exception):
    """The run was asked to stop, and did so after a whole step."""


class LastCheckpoint(L.Callback):
    """``last.ckpt``: after every validation, at the end, and when the run stops or breaks in between.

    Stands before the averaging callback, which at the end replaces the weights that a longer run would need.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first_step = math.inf

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.first_step = trainer.global_step

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Only a state that is worth keeping: after a step, all numbers, and not amid the averages of a validation."""
        finite = all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())
        if trainer.training and trainer.global_step > self.first_step and finite:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            part.replace(self.path)  # a run that is killed while it writes leaves the old file whole


class StopOnSignal(L.Callback):
    """Ctrl-C or a polite kill ends the run after the step it is in; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.asked:
            raise Stopped

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _ask(self, *_: Any) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())


class Progress(RichProgressBar):
    """A bar with the time left. There is one endless epoch, so nothing is said of epochs."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"

    def get_metrics(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


class Report(L.Callback):
    """One line after each validation, for logs that are no terminal."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.began, self.first_step = time.monotonic(), trainer.global_step

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        rate = (trainer.global_step - self.first_step) / (time.monotonic() - self.began)
        values = ", ".join(f"{name} {float(value):.3f}" for name, value in sorted(trainer.callback_metrics.items()))
        log.info("step %d of %d: %s, %.2f steps/s", trainer.global_step, trainer.max_steps, values, rate)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's tips and hardware report, and without the warnings whose causes are known and meant."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in MEANT:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)
