"""One training run, from seed to checkpoint. Lightning turns the crank; what is learned is the task's."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

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
from .latent import TASKS
from .models import Network
from .parallel import trainer_arguments
from .processes import Machines
from .recipe import Recipe, changed
from .schedule import Rate
from .separation import Separation
from .share import Share
from .task import Task
from .views import Hears, Parameters, Scores, Views

ALONE = Machines()


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
    before = checkpoints.read_run(resume) if resume else None
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
        checkpoints.start_partly(module, recipe, start_partly)
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
        **trainer_arguments(machines, spec),
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
            *([Scores(), Views(spec.views, spec.views_every_s, spec.views_closely)] if isinstance(module, Hears) else []),
            *module.callbacks(),
            *([Parameters(spec.parameters_every)] if spec.parameters_every else []),
            Progress() if progress else Report(),
            BestCheckpoints(out, spec.keep, last, module.monitor),
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


def load_task(checkpoint: Path, overrides: Sequence[str] = ()) -> Task:
    """What a checkpoint holds, with its trained (averaged) weights, of a recipe that ``overrides`` change; nothing in the file
    is executed."""
    state = checkpoints.read(checkpoint)
    module = task(changed(checkpoints.recipe_of(state), overrides))
    checkpoints.load(module, module.recipe, checkpoint)
    module.restore(state)
    return module.eval()


def load_separation(checkpoint: Path, overrides: Sequence[str] = ()) -> Separation:
    """As ``load_task``. Raises DataError where what was trained makes no masks or spectra."""
    module = load_task(checkpoint, overrides)
    if not isinstance(module, Separation):
        kind = module.recipe.model.kind
        raise DataError(f"checkpoint '{checkpoint}' is of kind {kind}; expected one of a network that separates in one go")
    return module


def load_network(checkpoint: Path) -> tuple[Recipe, Network]:
    """The recipe and the trained (averaged) network of a checkpoint; nothing in it is executed."""
    module = load_separation(checkpoint)
    return module.recipe, module.network


def training_facts(checkpoint: Path) -> dict[str, Any]:
    """What a bundle says of its training: plain strings and numbers."""
    state = checkpoints.read(checkpoint)
    recipe = checkpoints.recipe_of(state)
    parameters = sum(value.numel() for value in task(recipe).shipped().parameters())
    return {
        "recipe": recipe.name,
        "steps": int(state["global_step"]),
        "hours_of_mixtures_heard": round(checkpoints.mixtures_heard(state) * recipe.mix.seconds / 3600, 1),
        "parameters": parameters,
        "seed": recipe.seed,
        **({"others": recipe.others} if recipe.others else {}),
    }
