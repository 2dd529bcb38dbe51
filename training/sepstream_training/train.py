"""One training run, from seed to checkpoint. Lightning turns the crank; what is learned is below."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from sepstream.contract import StftSpec
from sepstream.errors import DataError

from .data.library import load_library
from .data.loader import training_batches, validation_batches
from .losses import Scene, class_masks, make_scene, mask_loss, sdr_loss
from .models import build
from .recipe import Recipe, recipe_from_tree, recipe_to_tree


class Spectra:
    """Stems (B, leaves, C, samples) -> the Scene of losses.py, at the training rate, frames ``stride`` hops apart."""

    def __init__(self, recipe: Recipe, stride: int) -> None:
        stft: StftSpec = recipe.training_stft
        self.frame_samples, self.step_samples = stft.analysis_samples, stride * stft.hop_samples
        self.bins = recipe.band_bins
        self.families = [[recipe.leaves.index(leaf) for leaf in members] for members in recipe.classes.values()]
        self.window = torch.tensor(stft.windows().analysis * stft.magnitude_scale, dtype=torch.float32)

    def __call__(self, stems: Tensor) -> Scene:
        frames = stems.unfold(-1, self.frame_samples, self.step_samples)
        leaves = torch.fft.rfft(frames * self.window.to(stems))[..., : self.bins].permute(0, 2, 3, 1, 4)
        return make_scene(leaves, self.families)


class Separation(L.LightningModule):
    """The network and its losses. Frames are taken ``dilation`` hops apart: one chain of the network's recurrence."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.save_hyperparameters({"recipe": recipe_to_tree(recipe)})
        self.recipe = recipe
        self.network: Any = build(recipe.model.kind, len(recipe.class_names), recipe.model.options)
        self.spectra = Spectra(recipe, getattr(self.network, "dilation", 1))

    def losses(self, stems: Tensor) -> dict[str, Tensor]:
        scene = self.spectra(stems)
        logits, _ = self.network(scene.magnitude, chains=1)
        weights, levels = self.recipe.loss, self.recipe.levels
        mask = mask_loss(logits, scene, levels)
        sdr = sdr_loss(class_masks(logits, levels), scene)
        return {"loss": weights.mask * mask + weights.sdr * sdr, "mask": mask, "sdr": sdr}

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        losses = self.losses(batch)
        if not torch.isfinite(losses["loss"]):
            raise DataError(f"loss is {float(losses['loss'])} at step {self.global_step}; the last checkpoint is good, lower train.rate")
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, prog_bar=True)
        return losses["loss"]

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log_dict({f"valid/{name}": value for name, value in self.losses(batch).items()}, batch_size=len(batch))

    def configure_optimizers(self) -> Any:
        spec = self.recipe.train
        optimizer = torch.optim.Adam(self.parameters(), lr=spec.rate)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / spec.warmup_steps, max(0.0, spec.steps - step) / spec.decay_steps)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(recipe: Recipe, out: Path, resume: Path | None = None, progress: bool = True) -> Path:
    """Run ``recipe``; checkpoints, logs and last.ckpt go to ``out``. Returns the last checkpoint."""
    L.seed_everything(recipe.seed, verbose=False)
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    libraries = {split: sounds(recipe, split) for split in ("train", "valid")}
    seen = _steps_done(resume) * recipe.train.batch if resume else 0
    keep = ModelCheckpoint(out, "{step}", monitor="valid/sdr", save_top_k=2, save_last=True, save_on_exception=True)
    trainer = L.Trainer(
        max_steps=recipe.train.steps,
        accelerator="auto",
        gradient_clip_val=recipe.train.clip,
        callbacks=[keep, EMAWeightAveraging(decay=recipe.train.ema), *([RichProgressBar()] if progress else [])],
        logger=[CSVLogger(out, name="", version="csv"), TensorBoardLogger(out, name="", version="tb")],
        val_check_interval=recipe.train.validate_every,
        check_val_every_n_epoch=None,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    trainer.fit(
        Separation(recipe),
        training_batches(libraries["train"], recipe, seen),
        validation_batches(libraries["valid"], recipe),
        ckpt_path=resume,
        weights_only=True,
    )
    trainer.save_checkpoint(out / "last.ckpt")
    return out / "last.ckpt"


def sounds(recipe: Recipe, split: str) -> Any:
    """The clips of ``split`` that the recipe names."""
    folders = {leaf: recipe.data.folders.get(leaf, leaf) for leaf in recipe.leaves}
    return load_library(Path(recipe.data.root).expanduser(), split, folders, recipe.training_rate_hz)


def load_network(checkpoint: Path) -> tuple[Recipe, Any]:
    """The recipe and the trained (averaged) network of a checkpoint; nothing in it is executed."""
    state = _read(checkpoint)
    recipe = recipe_from_tree(state["hyper_parameters"]["recipe"])
    module = Separation(recipe)
    module.load_state_dict(state["state_dict"])
    return recipe, module.network.eval()


def training_facts(checkpoint: Path) -> dict[str, Any]:
    """What a bundle says of its training: plain strings and numbers."""
    state = _read(checkpoint)
    recipe = recipe_from_tree(state["hyper_parameters"]["recipe"])
    steps = int(state["global_step"])
    heard = steps * recipe.train.batch * recipe.mix.seconds / 3600
    parameters = sum(value.numel() for value in Separation(recipe).network.parameters())
    return {"recipe": recipe.name, "steps": steps, "hours_of_mixtures_heard": round(heard, 1), "parameters": parameters, "seed": recipe.seed}


def _steps_done(checkpoint: Path) -> int:
    return int(_read(checkpoint)["global_step"])


def _read(checkpoint: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if not {"state_dict", "hyper_parameters", "global_step"} <= state.keys():
            raise KeyError("no state_dict")
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        reason = str(error).splitlines()[0]
        raise DataError(f"checkpoint '{checkpoint}' cannot be read ({reason}); expected one written by sep-train") from None
    return state
