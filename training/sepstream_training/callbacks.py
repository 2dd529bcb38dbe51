"""What happens around the steps of a run: checkpoints that survive, ends of several kinds, figures of progress, silence."""

import logging
import math
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar

from sepstream.errors import DataError

log = logging.getLogger(__name__)


MEANT = (
    "Checkpoint directory .* exists and is not empty",  # the logs are in it, and a resumed run's checkpoints
    "The dirpath has changed from",  # a run may go on in another folder
    "Experiment logs directory .* exists and is not empty",  # the same steps once more: their log is written anew
    ".*does not have many workers",  # data.workers says how many
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"torch\.distributed\.nn\.functional\..* is deprecated",  # and this
    "`broadcast_buffers` is deprecated",  # what replaces it came with torch 2.13
)


class Stopped(Exception):
    """The run was asked to stop, and did so after a whole step."""


class Diverged(DataError):
    """The loss or its gradient is no number. Like ``Stopped``, it ends all processes after the same step."""


class LastCheckpoint(L.Callback):
    """``last.ckpt``: after every validation, at the end, and when the run stops or breaks in between.

    Stands before the averaging callback, which at the end replaces the weights that a longer run would need.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first_step = math.inf

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.first_step = trainer.global_step

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.save(trainer)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Only a state that is worth keeping: after a step, all numbers, not amid the averages of a validation, and not of a
        process that breaks alone: saving takes all of them."""
        finite = all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())
        together = trainer.world_size == 1 or isinstance(exception, Stopped | Diverged)
        if trainer.training and trainer.global_step > self.first_step and finite and together:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            part.replace(self.path)  # a run that is killed while it writes leaves the old file whole


class BestCheckpoints(ModelCheckpoint):
    """The ``keep`` best, of the lowest ``monitor``. Then ``last`` is saved, after all other callbacks: it knows the best ones."""

    def __init__(self, folder: Path, keep: int, monitor: str, last: LastCheckpoint) -> None:
        super().__init__(folder, "{step}", monitor=monitor, save_top_k=keep)
        self.last = last

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_validation_end(trainer, module)
        self.last.save(trainer)


class Patience(EarlyStopping):
    """Ends the run after ``patience`` validations in a row without a lower loss; a resumed run obeys its own recipe."""

    def __init__(self, patience: int) -> None:
        super().__init__("valid/loss", patience=patience, check_on_train_epoch_end=False)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict({**state, "patience": self.patience})

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience  # it had ended already


class StopOnSignal(L.Callback):
    """Ctrl-C or a polite kill ends the run after the step it is in; a second one ends it at once.

    The run stops where the next step would begin, when a validation that is due has been: nothing is left out.
    """

    def __init__(self) -> None:
        self.asked = False
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
        if index % trainer.accumulate_grad_batches == 0 and trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            self.asked = True  # all processes together, or the others would wait for this one
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


class Throughput(L.Callback):
    """``train/hours_a_minute``, of audio heard by all processes, and ``train/waiting``, the share of the time in which
    the first process waits for data; over the last ``WINDOW`` batches, without validations."""

    WINDOW = 100

    def __init__(self, batch_s: float) -> None:
        self.batch_s = batch_s  # seconds of audio in a batch of one process
        self.spent: deque[tuple[float, float]] = deque(maxlen=self.WINDOW)  # seconds waited, seconds worked, of each batch

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.since = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.since = time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.began = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        now = time.monotonic()
        self.spent.append((self.began - self.since, now - self.began))
        self.since = now
        waited, worked = map(sum, zip(*self.spent, strict=True))
        heard_hours = len(self.spent) * self.batch_s * trainer.world_size / 3600
        module.log("train/hours_a_minute", 60 * heard_hours / (waited + worked), prog_bar=True)
        module.log("train/waiting", waited / (waited + worked), prog_bar=True)


class Progress(RichProgressBar):
    """A bar with the time left. There is one endless epoch, so nothing is said of epochs."""

    @property
    def total_train_batches(self) -> int:
        return int(self.trainer.max_steps * self.trainer.accumulate_grad_batches)

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"

    def get_metrics(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


class Report(L.Callback):
    """One line after each validation, for logs that are no terminal: every figure, steps/s, and the time left."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.began, self.first_step = time.monotonic(), trainer.global_step

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        rate = (trainer.global_step - self.first_step) / (time.monotonic() - self.began)
        values = ", ".join(f"{name} {float(value):.3f}" for name, value in sorted(trainer.callback_metrics.items()))
        left = timedelta(seconds=round((trainer.max_steps - trainer.global_step) / rate))
        if trainer.is_global_zero:
            log.info("step %d of %d: %s, %.2f steps/s, %s left", trainer.global_step, trainer.max_steps, values, rate, left)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's tips and hardware report, and without the warnings whose causes are known and meant."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in MEANT:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
