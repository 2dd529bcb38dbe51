"""One training run, from seed to checkpoint. Lightning turns the crank; what is learned is below."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from sepstream.errors import DataError

from .callbacks import LastCheckpoint, Progress, Report, StopOnSignal, Stopped, quiet_lightning
from .data.library import Library, blend, generate_library, load_library
from .data.loader import training_batches, validation_batches
from .losses import Scene, Waves, make_scene, total
from .models import Network, build
from .recipe import Recipe, recipe_from_tree, recipe_to_tree


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


class Separation(L.LightningModule):
    """The network and its losses.

    Frames are taken ``dilation`` hops apart: one chain of the network's recurrence. A loss of waveforms needs them all.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.save_hyperparameters({"recipe": recipe_to_tree(recipe)})
        self.recipe = recipe
        self.network = build(recipe.model.kind, len(recipe.class_names), recipe.model.options, recipe.tied)
        if self.network.bins != recipe.band_bins:
            raise DataError(f"model.options make a network of {self.network.bins} bins; expected band_bins, {recipe.band_bins}")
        every_frame = recipe.loss.needs_waveforms
        self.spectra = Spectra(recipe, 1 if every_frame else self.network.dilation)
        self.chains = None if every_frame else 1
        self.waves = Waves(recipe.training_stft)

    def losses(self, stems: Tensor) -> dict[str, Tensor]:
        scene = self.spectra(stems)
        logits, _ = self.network(scene.magnitude, self.chains)
        return total(logits, scene, self.recipe.levels, self.recipe.loss, self.waves)

    def on_train_batch_start(self, batch: Tensor, index: int) -> None:
        """Rate and dropout depend on the number of the step alone: a resumed run is the same run."""
        torch.manual_seed((self.recipe.seed << 32) + self.global_step)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.recipe.train.rate * self.recipe.train.rate_factor(self.global_step)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        losses = self.losses(batch)
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, prog_bar=True)
        return losses["loss"]

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log_dict({f"valid/{name}": value for name, value in self.losses(batch).items()}, batch_size=len(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.recipe.train.rate)

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, *_: Any, **__: Any) -> None:
        """Clip, and stop here if there is no number: the weights are still those of the last good step."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        if not torch.isfinite(norm):
            raise DataError(
                f"the gradient is {float(norm)} at step {self.global_step}; lower train.rate, "
                "and go on from the last good state with --resume auto"
            )


class Trained(NamedTuple):
    """Where a run ended: its last checkpoint, and the steps taken; fewer than the recipe's if it was interrupted."""

    checkpoint: Path
    steps: int


def train(recipe: Recipe, out: Path, resume: Path | None = None, progress: bool = True) -> Trained:
    """Run ``recipe``, from the start or from the checkpoint ``resume``; checkpoints and logs go to ``out``.

    Raises DataError for data or a checkpoint that do not fit, and for a loss that is no number. An interrupt
    (Ctrl-C) ends the run after the current step; ``out/last.ckpt`` goes on from there.
    """
    last = _prepare(out, resume)
    seen = _steps_done(resume) if resume else 0
    if resume and seen >= recipe.train.steps:
        return Trained(resume, seen)
    L.seed_everything(recipe.seed, verbose=False)
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    module = Separation(recipe)
    if resume:
        _load(module, resume)
    train_sounds, valid_sounds = sounds(recipe, "train"), sounds(recipe, "valid")
    with quiet_lightning(), suppress(Stopped):
        trainer = _trainer(recipe, last, seen, progress)
        trainer.fit(
            module,
            training_batches(train_sounds, recipe, seen),
            validation_batches(valid_sounds, recipe),
            ckpt_path=resume,
            weights_only=True,
        )
    return Trained(last, trainer.global_step)


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


def _trainer(recipe: Recipe, last: Path, seen: int, progress: bool) -> L.Trainer:
    out, spec = last.parent, recipe.train
    best = ModelCheckpoint(out, "{step}", monitor="valid/sdr", save_top_k=2)
    averages = EMAWeightAveraging(decay=spec.ema)
    return L.Trainer(
        default_root_dir=out,
        max_steps=spec.steps,
        accelerator="auto",
        gradient_clip_val=spec.clip,
        callbacks=[LastCheckpoint(last), averages, StopOnSignal(), Progress() if progress else Report(), best],
        logger=[CSVLogger(out, name="csv", version=f"from_step_{seen}"), TensorBoardLogger(out, name="", version="tb")],
        val_check_interval=spec.validate_every,
        check_val_every_n_epoch=None,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )


def sounds(recipe: Recipe, split: str) -> Library:
    """The clips of ``split`` that the recipe names. Raises DataError like ``load_library`` and ``generate_library``."""
    spec, rate_hz = recipe.data, recipe.training_rate_hz

    def generated() -> Library:
        count, seconds, engine = spec.synthetic_clips, spec.synthetic_seconds, spec.synthetic_engine
        return generate_library(recipe.leaves, split, rate_hz, count=count, seconds=seconds, engine=engine)

    if spec.root == "synthetic":
        return generated()
    folders = {leaf: spec.folders.get(leaf, leaf) for leaf in recipe.leaves}
    own = load_library(Path(spec.root).expanduser(), split, folders, rate_hz)
    return blend(own, generated(), spec.synthetic_share) if spec.synthetic_share and split == "train" else own


def load_network(checkpoint: Path) -> tuple[Recipe, Network]:
    """The recipe and the trained (averaged) network of a checkpoint; nothing in it is executed."""
    recipe = recipe_from_tree(_read(checkpoint)["hyper_parameters"]["recipe"])
    module = Separation(recipe)
    _load(module, checkpoint)
    return recipe, module.network.eval()


def training_facts(checkpoint: Path) -> dict[str, Any]:
    """What a bundle says of its training: plain strings and numbers."""
    state = _read(checkpoint)
    recipe = recipe_from_tree(state["hyper_parameters"]["recipe"])
    steps = int(state["global_step"])
    heard = steps * recipe.train.batch * recipe.mix.seconds / 3600
    parameters = sum(value.numel() for value in Separation(recipe).network.parameters())
    return {
        "recipe": recipe.name,
        "steps": steps,
        "hours_of_mixtures_heard": round(heard, 1),
        "parameters": parameters,
        "seed": recipe.seed,
    }


def _steps_done(checkpoint: Path) -> int:
    return int(_read(checkpoint)["global_step"])


def _load(module: Separation, checkpoint: Path) -> None:
    """The checkpoint's (averaged) weights into ``module``. Raises DataError where they are another network's."""
    try:
        module.load_state_dict(_read(checkpoint)["state_dict"])
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()  # the first says only that there are errors
        raise DataError(
            f"checkpoint '{checkpoint}' is another network's ({reason}); use the recipe it was trained with"
        ) from None


def _read(checkpoint: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if not {"state_dict", "hyper_parameters", "global_step"} <= state.keys() or "recipe" not in state["hyper_parameters"]:
            raise ValueError("no recipe in it")
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"checkpoint '{checkpoint}' cannot be read ({reason}); expected one written by sep-train") from None
    return state
