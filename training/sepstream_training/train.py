"""One training run, from seed to checkpoint. Lightning turns the crank; what is learned is below."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from sepstream.errors import DataError

from . import checkpoints
from .callbacks import (
    BestCheckpoints,
    LastCheckpoint,
    Patience,
    Progress,
    Report,
    StopOnSignal,
    Stopped,
    Throughput,
    quiet_lightning,
)
from .data.loader import sounds, training_batches, training_sounds, validation_batches
from .hearing import Heard, Hearing
from .latent import TASKS
from .losses import Scene, Waves, make_scene, total
from .models import Network, StreamingNetwork, build
from .parallel import trainer_arguments
from .processes import Machines
from .recipe import Recipe
from .schedule import Rate
from .share import Share
from .task import Task
from .views import Hears, Scores, Views

ALONE = Machines()


class Spectra:
    """(B, leaves, C, samples) stems at the training rate -> the Scene of losses.py, frames ``stride`` hops apart."""

    def __init__(self, recipe: Recipe, stride: int) -> None:
        stft = recipe.training_stft
        self.frame_samples, self.step_samples = stft.analysis_samples, stride * stft.hop_samples
        self.bins = recipe.band_bins
        self.families = recipe.families
        self.window = torch.tensor(stft.windows().analysis * stft.magnitude_scale, dtype=torch.float32)

    def __call__(self, stems: Tensor) -> Scene:
        frames = stems.unfold(-1, self.frame_samples, self.step_samples)
        leaves = torch.fft.rfft(frames * self.window.to(stems))[..., : self.bins].permute(0, 2, 3, 1, 4)
        return make_scene(leaves, self.families)


class Separation(Task):
    """The network and its losses.

    Frames are taken ``dilation`` hops apart: one chain of the network's recurrence. A loss of waveforms needs them all.
    """

    monitor = "valid/sdr"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.network = build(recipe.model.kind, len(recipe.class_names), recipe.model.options, recipe.tied)
        if self.network.bins != recipe.band_bins:
            raise DataError(f"model.options make a network of {self.network.bins} bins; expected band_bins, {recipe.band_bins}")
        self.levels = self.network.shares(recipe.levels)
        if recipe.loss.mask and not self.levels:
            wanted = f"0, for the masks of '{recipe.model.kind}' are independent; use another term, such as loss.spectrogram"
            raise DataError(f"recipe key 'loss.mask' is {recipe.loss.mask:g}; expected {wanted}")
        every_frame = recipe.loss.needs_waveforms
        stride = 1 if every_frame else self.network.dilation
        self.spectra = Spectra(recipe, stride)
        self.chains = None if every_frame else 1
        self.late = _late(recipe, self.network, stride)
        self.waves = Waves(recipe.training_stft)
        self.hearing = Hearing(recipe)

    def losses(self, stems: Tensor) -> dict[str, Tensor]:
        scene = self.spectra(stems)
        logits, _ = self.network(scene.magnitude, self.chains)
        if self.late:
            logits, scene = logits[:, self.late :], scene.until(-self.late)
        return total(logits, scene, self.levels, self.recipe.loss, self.waves)

    # ---- what is heard (views.Hears)

    def hear(self, stems: Tensor) -> Heard:
        """(leaves, C, samples) -> one mixture taken apart as a listener would hear it."""
        return self.hearing(self.network, stems)

    @property
    def class_names(self) -> list[str]:
        return self.recipe.class_names

    @property
    def parents(self) -> int:
        return len(self.recipe.parents)

    @property
    def rate_hz(self) -> int:
        return self.recipe.training_rate_hz

    def disk(self) -> tuple[Tensor, float] | None:
        head = self.network.head
        vectors = None if head is None else head.vectors().detach()
        return (vectors, head.curvature()) if head is not None and vectors is not None and vectors.shape[1] == 3 else None


def _late(recipe: Recipe, network: Network, stride: int) -> int:
    """The look-ahead in frames of training, ``stride`` hops apart."""
    hops = recipe.lookahead_hops
    if hops and not isinstance(network, StreamingNetwork):
        raise DataError(f"recipe key 'lookahead_hops' is {hops}; expected 0, for the network hears both ways: see window.future")
    if hops % stride:
        raise DataError(f"recipe key 'lookahead_hops' is {hops}; expected a multiple of {stride}, the network's dilation")
    return hops // stride


class Sounds(L.LightningDataModule):
    """The clips of a recipe, prepared by one process of each node, and mixed by all."""

    def __init__(self, recipe: Recipe, share: Share) -> None:
        super().__init__()
        self.recipe, self.share = recipe, share

    def prepare_data(self) -> None:
        self._load()

    def setup(self, stage: str) -> None:
        if not hasattr(self, "valid"):
            self._load()

    def _load(self) -> None:
        self.train, self.valid = training_sounds(self.recipe), sounds(self.recipe, "valid")

    def train_dataloader(self) -> Any:
        return training_batches(self.train, self.recipe, self.share)

    def val_dataloader(self) -> Any:
        return validation_batches(self.valid, self.recipe, self.share)


class Trained(NamedTuple):
    """Where a run ended: its last checkpoint, the steps taken, and whether it was asked to stop before its time."""

    checkpoint: Path
    steps: int
    interrupted: bool = False


def train(
    recipe: Recipe,
    out: Path,
    resume: Path | None = None,
    *,
    start: Path | None = None,
    start_partly: Path | None = None,
    machines: Machines = ALONE,
    progress: bool = True,
) -> Trained:
    """Run ``recipe``, anew, from the weights of ``start`` or from what fits of ``start_partly``, or on from the checkpoint
    ``resume``; everything goes to ``out``.

    Raises DataError for data or a checkpoint that do not fit, and for a loss that is no number. An interrupt
    (Ctrl-C) ends the run after the current step; ``out/last.ckpt`` goes on from there. With more than one process
    in ``machines``, this is one of them (processes.py).
    """
    last = _prepare(out, resume)
    before = checkpoints.read(resume) if resume else None
    seen, heard = (int(before["global_step"]), checkpoints.mixtures_heard(before)) if before else (0, 0)
    if resume and seen >= recipe.train.steps:
        return Trained(resume, seen)
    L.seed_everything(recipe.seed, verbose=False)
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    module = task(recipe)
    if resume:
        checkpoints.load(module, recipe, resume)
    elif start:
        checkpoints.start_from(module, recipe, start)
    elif start_partly:
        checkpoints.start_partly(module, start_partly)
    module.check_start()
    stop = StopOnSignal()
    with quiet_lightning(), suppress(Stopped):
        trainer = _trainer(module, last, machines, progress=progress, stop=stop, seen=seen)
        share = Share(heard, trainer.global_rank, trainer.world_size)
        _check_validation(recipe, share)
        module.begin(share, seen)
        trainer.fit(module, datamodule=Sounds(recipe, share), ckpt_path=resume, weights_only=True)
    return Trained(last, trainer.global_step, stop.asked and trainer.global_step < recipe.train.steps)


def _prepare(out: Path, resume: Path | None) -> Path:
    """Make ``out``, which holds one run and no other -> the path of its last checkpoint."""
    last = out / "last.ckpt"
    if last.exists() and not resume:
        raise DataError(f"'{out}' holds a run already; go on with --resume auto, or choose another folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"'{out}' cannot be made ({error.strerror}); choose another folder with --out") from None
    return last


def _check_validation(recipe: Recipe, share: Share) -> None:
    count = recipe.data.valid_mixtures
    if count < share.count:
        raise DataError(f"recipe key 'data.valid_mixtures' is {count}; expected {share.count} or more, one for each process")


def _trainer(module: Task, last_path: Path, machines: Machines, *, progress: bool, stop: StopOnSignal, seen: int) -> L.Trainer:
    """Callbacks in this order: what a checkpoint must know of a validation comes before what writes it."""
    recipe = module.recipe
    out, spec = last_path.parent, recipe.train
    last = LastCheckpoint(last_path)
    return L.Trainer(
        **trainer_arguments(machines, spec.precision),
        precision=spec.precision,  # type: ignore[arg-type]  # the recipe has checked it
        accumulate_grad_batches=spec.accumulate,
        default_root_dir=out,
        max_steps=spec.steps,
        gradient_clip_val=spec.clip,
        callbacks=[
            last,
            EMAWeightAveraging(decay=spec.ema),
            stop,
            Rate(spec),
            *([Patience(spec.patience)] if spec.patience else []),
            Throughput(spec.batch * recipe.mix.seconds),
            *([Scores(), Views(spec.views, spec.views_every_s)] if isinstance(module, Hears) else []),
            Progress() if progress else Report(),
            BestCheckpoints(out, spec.keep, module.monitor, last),
        ],
        logger=[CSVLogger(out, name="csv", version=f"from_step_{seen}"), TensorBoardLogger(out, name="", version="tb")],
        val_check_interval=spec.validate_every * spec.accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )


def task(recipe: Recipe) -> Task:
    """What the recipe trains."""
    return TASKS.get(recipe.model.kind, Separation)(recipe)


def load_task(checkpoint: Path) -> Task:
    """What a checkpoint holds, with its trained (averaged) weights; nothing in it is executed."""
    state = checkpoints.read(checkpoint)
    module = task(checkpoints.recipe_of(state))
    checkpoints.load(module, module.recipe, checkpoint)
    module.restore(state)
    return module.eval()


def is_latent(checkpoint: Path) -> bool:
    """Whether it is of a task of latent.py, and not of a network that makes masks."""
    return checkpoints.recipe_of(checkpoints.read(checkpoint)).model.kind in TASKS


def load_network(checkpoint: Path) -> tuple[Recipe, Network]:
    """The recipe and the trained (averaged) network of a checkpoint; nothing in it is executed."""
    recipe = checkpoints.recipe_of(checkpoints.read(checkpoint))
    module = Separation(recipe)
    checkpoints.load(module, recipe, checkpoint)
    return recipe, module.network.eval()


def training_facts(checkpoint: Path) -> dict[str, Any]:
    """What a bundle says of its training: plain strings and numbers."""
    state = checkpoints.read(checkpoint)
    recipe = checkpoints.recipe_of(state)
    parameters = sum(value.numel() for value in task(recipe).parameters())
    return {
        "recipe": recipe.name,
        "steps": int(state["global_step"]),
        "hours_of_mixtures_heard": round(checkpoints.mixtures_heard(state) * recipe.mix.seconds / 3600, 1),
        "parameters": parameters,
        "seed": recipe.seed,
    }
