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
from .data.tagged import Tagged
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

    def on_validation_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Tensor | Tagged, *_: Any) -> None:
        for stems in [] if isinstance(batch, Tagged) else batch:  # without stems there is nothing to score
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
    """Sounds, spectrograms and the disk of the first ``examples`` validation mixtures, within one batch; ``closely``, each
    class beside the truth, and what is left without it.

    At the first and the last validation, and between them when ``pause_s`` seconds have passed.
    """

    def __init__(self, examples: int, pause_s: float, closely: bool = False) -> None:
        self.examples, self.pause_s, self.closely = examples, pause_s, closely
        self.shown = -float("inf")

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Tensor | Tagged, index: int, *_: Any
    ) -> None:
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        last = trainer.global_step >= trainer.max_steps
        if (
            isinstance(batch, Tagged)
            or index
            or not boards
            or not trainer.is_global_zero
            or not (last or time.monotonic() - self.shown >= self.pause_s)
        ):
            return
        self.shown = time.monotonic()
        for number, stems in enumerate(batch[: self.examples]):
            heard = module.hear(stems)
            for board in boards:
                show(board, heard, module, f"example_{number}", trainer.global_step)
                if self.closely:
                    show_closely(board, heard, module, f"example_{number}", trainer.global_step)


class Parameters(L.Callback):
    """Every ``every`` steps a histogram of each parameter and of its gradient, and the norms of both as curves.

    Gradients are those before clipping. A parameter or gradient that holds NaN or Inf is left out: the run ends for it.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if trainer.global_step % self.every or not trainer.is_global_zero:
            return
        for name, parameter in module.named_parameters():
            for kind, values in (("weights", parameter.detach()), ("gradients", parameter.grad)):
                if values is None or not values.isfinite().all():
                    continue
                for board in boards:
                    board.add_histogram(f"{kind}/{name}", values.float().cpu(), trainer.global_step)
                    board.add_scalar(f"norm_of_{kind}/{name}", float(values.norm()), trainer.global_step)


def show(board: Any, heard: Heard, module: Hears, name: str, step: int) -> None:
    """Write the views of one mixture to the TensorBoard writer ``board``."""
    names = ["mixture", *module.class_names]
    for label, sound in zip(names, [heard.mixture, *heard.estimates], strict=True):
        board.add_audio(f"{name}/{label}", sound.mean(dim=0, keepdim=True).cpu().clamp(-1, 1), step, module.rate_hz)
    board.add_image(f"{name}/spectrograms", spectrograms(heard, names), step, dataformats="HWC")
    if geometry := module.disk():
        board.add_image(f"{name}/disk", disk(heard, module, *geometry), step, dataformats="HWC")


def show_closely(board: Any, heard: Heard, module: Hears, name: str, step: int) -> None:
    """Write, for each class, the estimate beside the truth: what is left of the mixture without either, spectra, waves."""
    for label, estimate, target in zip(module.class_names, heard.estimates, heard.targets, strict=True):
        sounds = {"true": target, "residual": heard.mixture - estimate, "residual_true": heard.mixture - target}
        for kind, sound in sounds.items():
            board.add_audio(f"{name}/{label}/{kind}", sound.mean(dim=0, keepdim=True).cpu().clamp(-1, 1), step, module.rate_hz)
    board.add_image(f"{name}/spectrogram_pairs", spectrogram_pairs(heard, module.class_names), step, dataformats="HWC")
    board.add_image(f"{name}/waveforms", waveforms(heard, module.class_names), step, dataformats="HWC")


def spectrogram_pairs(heard: Heard, names: list[str]) -> draw.U8:
    """Each class, as the masks make it and as it is."""
    estimates = (heard.magnitude[:, None] * heard.masks).cpu().numpy()
    pairs = [(estimates, ""), (heard.sources.cpu().numpy(), ", true")]
    return draw.stack(
        [(name + kind, draw.spectrogram(each[:, k], draw.colour(k))) for k, name in enumerate(names) for each, kind in pairs]
    )


def waveforms(heard: Heard, names: list[str]) -> draw.U8:
    """Each class: the estimate, the truth, and one over the other."""
    panels = []
    for k, name in enumerate(names):
        estimate, truth = (sounds[k].mean(dim=0).cpu().numpy() for sounds in (heard.estimates, heard.targets))
        ours, theirs = (estimate, draw.colour(k)), (truth, draw.INK)
        panels += [(name, draw.waveform([ours])), (f"{name}, true", draw.waveform([theirs]))]
        panels.append((f"{name}, both", draw.waveform([theirs, ours])))
    return draw.stack(panels)


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
