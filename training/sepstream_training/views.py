"""What TensorBoard shows of a run beside its losses, as callbacks for any module that can ``hear``.

Scores are taken by every process, on its own share of the validation mixtures; pictures and sounds by the first only.
None of it draws a random number or touches a weight: a run with views is the run without them.
"""

import time
from typing import Any, Protocol, runtime_checkable

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from . import draw
from .hearing import Heard
from .metrics import si_sdr_improvement

FLOOR_DB, CEILING_DB = -30.0, 100.0  # of an improvement: silence in the place of a source is -inf


@runtime_checkable
class Hears(Protocol):
    """What a module offers to be viewed."""

    @property
    def class_names(self) -> list[str]: ...
    @property
    def parents(self) -> int: ...
    @property
    def rate_hz(self) -> int: ...
    def hear(self, stems: Tensor) -> Heard: ...
    def disk(self) -> tuple[Tensor, float] | None:
        """(classes, 3) geodesics and curvature, of an embedding that has two dimensions."""


class Scores(L.Callback):
    """``valid/si_sdri_CLASS``: mean SI-SDR improvement in dB over the validation mixtures in which the class counts."""

    def on_validation_epoch_start(self, trainer: L.Trainer, module: Any) -> None:
        self.sums = np.zeros((2, len(module.class_names)))  # of dB, and of mixtures

    def on_validation_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Tensor, *_: Any) -> None:
        for stems in batch:
            heard = module.hear(stems)
            mixture = heard.mixture.cpu().numpy()
            pairs = zip(heard.estimates.cpu().numpy(), heard.targets.cpu().numpy(), strict=True)
            gains = np.array([si_sdr_improvement(estimate, target, mixture) for estimate, target in pairs])
            counts = ~np.isnan(gains)
            self.sums += np.stack([np.where(counts, gains, 0.0).clip(FLOOR_DB, CEILING_DB), counts])

    def on_validation_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        both = torch.tensor(self.sums, dtype=torch.float32, device=module.device)
        total, count = trainer.strategy.reduce(both, reduce_op="sum")
        means = {f"valid/si_sdri_{name}": total[k] / count[k] for k, name in enumerate(module.class_names) if count[k]}
        if count.any():
            means["valid/si_sdri"] = (total[count > 0] / count[count > 0]).mean()
        module.log_dict(means, sync_dist=trainer.world_size > 1)  # the same in all processes; Lightning warns otherwise


class Views(L.Callback):
    """Sounds, spectrograms and the disk of the first ``examples`` validation mixtures, within one batch.

    At the first and the last validation, and between them when ``pause_s`` seconds have passed.
    """

    def __init__(self, examples: int, pause_s: float) -> None:
        self.examples, self.pause_s = examples, pause_s
        self.shown = -float("inf")

    def on_validation_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Tensor, index: int, *_: Any) -> None:
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        last = trainer.global_step >= trainer.max_steps
        if index or not boards or not trainer.is_global_zero or not (last or time.monotonic() - self.shown >= self.pause_s):
            return
        self.shown = time.monotonic()
        for number, stems in enumerate(batch[: self.examples]):
            heard = module.hear(stems)
            for board in boards:
                show(board, heard, module, f"example_{number}", trainer.global_step)


def show(board: Any, heard: Heard, module: Hears, name: str, step: int) -> None:
    """Write the views of one mixture to the TensorBoard writer ``board``."""
    names = ["mixture", *module.class_names]
    for label, sound in zip(names, [heard.mixture, *heard.estimates], strict=True):
        board.add_audio(f"{name}/{label}", sound.mean(dim=0, keepdim=True).cpu().clamp(-1, 1), step, module.rate_hz)
    board.add_image(f"{name}/spectrograms", spectrograms(heard, names), step, dataformats="HWC")
    if geometry := module.disk():
        board.add_image(f"{name}/disk", disk(heard, module, *geometry), step, dataformats="HWC")


def spectrograms(heard: Heard, names: list[str]) -> draw.U8:
    """The mixture above its estimates, as masks make them of it."""
    magnitude, masks = heard.magnitude.cpu().numpy(), heard.masks.cpu().numpy()
    pictures = [draw.spectrogram(magnitude, "#9aa4b2")]
    pictures += [draw.spectrogram(magnitude * masks[:, k], draw.colour(k)) for k in range(masks.shape[1])]
    return draw.stack(list(zip(names, pictures, strict=True)))


def disk(heard: Heard, module: Hears, vectors: Tensor, curvature: float) -> draw.U8:
    """Every bin of the mixture where the network has put it, in the colour of the leaf that is loudest there."""
    embedding = heard.embedding.transpose(1, 2).reshape(-1, 2).cpu().numpy()
    labels, weights = (value.reshape(-1).cpu().numpy() for value in (heard.dominant, heard.magnitude))
    names, lines = module.class_names, vectors.cpu().numpy()
    return draw.disk(embedding, labels, weights, vectors=lines, curvature=curvature, names=names, first=module.parents)
