"""One training run, from seed to checkpoint. Lightning turns the crank; what is learned is below."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
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
    Diverged,
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
from .data.tagged import Tagged
from .hearing import Heard, Hearing
from .losses import Scene, Waves, classes_of, make_scene, total, total_of_spectra
from .models import Conditioned, Network, StreamingLaSaft, StreamingNetwork, build
from .parallel import trainer_arguments
from .processes import Machines
from .recipe import SHARE_TERMS, SPECTRA_TERMS, Recipe, changed, recipe_to_tree
from .schedule import RECURRENT, Rate
from .share import Share
from .tags import Answer, Tagger, TagScores, labels_of
from .views import Parameters, Scores, Views
from .wishes import draw, granted

ALONE = Machines()


class Spectra:
    """(B, leaves, C, samples) stems at the training rate -> the Scene of losses.py, frames ``stride`` hops apart."""

    def __init__(self, recipe: Recipe, stride: int) -> None:
        stft = recipe.training_stft
        self.frame_samples, self.step_samples = stft.analysis_samples, stride * stft.hop_samples
        self.bins = recipe.band_bins
        self.families, self.kept = recipe.families, recipe.kept
        self.window = torch.tensor(stft.windows().analysis * stft.magnitude_scale, dtype=torch.float32)

    def __call__(self, stems: Tensor) -> Scene:
        frames = stems.unfold(-1, self.frame_samples, self.step_samples)
        leaves = torch.fft.rfft(frames * self.window.to(stems))[..., : self.bins].permute(0, 2, 3, 1, 4)
        return make_scene(leaves, self.families, self.kept)

    def magnitude(self, mixture: Tensor) -> Tensor:
        """(B, C, samples) -> (B, T, F), what the network sees of it."""
        frames = mixture.unfold(-1, self.frame_samples, self.step_samples)
        spectra = torch.fft.rfft(frames * self.window.to(mixture))[..., : self.bins]
        magnitude: Tensor = spectra.abs().square().mean(dim=1).sqrt()
        return magnitude


class Separation(L.LightningModule):
    """The network and its losses.

    Frames are taken ``dilation`` hops apart: one chain of the network's recurrence. A loss of waveforms needs them all.
    A batch is stems (B, leaves, C, samples), or clips of which only the labels are known.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.save_hyperparameters({"recipe": recipe_to_tree(recipe)})
        self.recipe = recipe
        self.network = build(recipe.model.kind, len(recipe.class_names), recipe.model.options, recipe.tied)
        if self.network.bins != recipe.band_bins:
            raise DataError(f"model.options make a network of {self.network.bins} bins; expected band_bins, {recipe.band_bins}")
        _check_asked(recipe, self.network)
        self.levels = self.network.shares(recipe.levels)
        if recipe.loss.mask and not self.levels:
            wanted = f"0, for the masks of '{recipe.model.kind}' are independent; use another term, such as loss.spectrogram"
            raise DataError(f"recipe key 'loss.mask' is {recipe.loss.mask:g}; expected {wanted}")
        if recipe.targets and self.levels:
            wanted = f"none, for the masks of '{recipe.model.kind}' are shares of the whole; or another network or activation"
            raise DataError(f"recipe key 'targets' is {recipe.targets}; expected {wanted}")
        every_frame = recipe.loss.needs_waveforms
        stride = 1 if every_frame else self.network.dilation
        self.spectra = Spectra(recipe, stride)
        self.chains = None if every_frame else 1
        self.late = _late(recipe, self.network, stride)
        self.tagger = Tagger(recipe, self.network) if recipe.loss.tags else None
        self.waves = Waves(recipe.training_stft)
        self.hearing = Hearing(recipe)
        self.share, self.first_step = Share(), 0  # where this run begins
        self.step_losses: list[Tensor] = []  # of the step's batches

    # ---- what is learned

    def losses(self, batch: Tensor | Tagged) -> dict[str, Tensor]:
        if self.tagger is not None:
            return self.answer(batch)[0]
        scene = self.spectra(_stems(batch))
        if isinstance(self.network, Conditioned):
            return self._answers(self.network, scene)
        logits, embedding = (each[:, self.late :] for each in self.network(scene.magnitude, self.chains))
        scene = scene.until(-self.late) if self.late else scene
        decided = self.network.decided(embedding)
        own, self.network.own_terms = self.network.own_terms, {}
        return total(logits, scene, self.levels, self.recipe.loss, self.waves, decided=decided, own=own)

    def _answers(self, network: Conditioned, scene: Scene) -> dict[str, Tensor]:
        """Of a network that is asked: for something at random while it learns, for every class when it is examined."""
        batch, leaves = len(scene.leaves), scene.leaves
        wishes = draw(self.recipe.asked, batch, network.classes) if self.training else network.identity(batch)
        wishes = wishes.to(scene.magnitude)
        mix = leaves.sum(dim=3)
        answer, wanted = network.answer(mix, wishes), granted(classes_of(leaves, [], scene.kept, 3), wishes)
        if self.late:
            answer, wanted, mix = answer[:, :, self.late :], wanted[:, :, : -self.late], mix[:, :, : -self.late]
        return total_of_spectra(
            answer,
            wanted,
            mix,
            self.recipe.loss,
            self.waves,
            gain=network.gain,
            phases=network.is_complex,
            window_samples=round(self.recipe.loss.window_s * self.recipe.training_rate_hz),
        )

    def answer(self, batch: Tensor | Tagged) -> tuple[dict[str, Tensor], Answer]:
        """What a network with a tagger says of clips, and the losses of that."""
        assert self.tagger is not None
        if isinstance(batch, Tagged):
            return self.tagger(self.network, batch.magnitude[:, :: self.network.dilation], batch.labels)  # type: ignore[no-any-return]
        return self.tagger(self.network, self.spectra.magnitude(batch.sum(dim=1)), labels_of(batch))  # type: ignore[no-any-return]

    def training_step(self, batch: Tensor | Tagged, index: int) -> Tensor:
        """Dropout depends on the numbers of the mixtures alone: a resumed run is the same run."""
        torch.manual_seed((self.recipe.seed << 32) + self.numbers(len(self.step_losses))[0])
        losses = self.losses(batch)
        self.step_losses.append(losses["loss"].detach())
        self._log("train", losses, prog_bar=True)
        return losses["loss"]

    def validation_step(self, batch: Tensor | Tagged, index: int) -> Answer | None:  # type: ignore[override]  # for TagScores
        losses, answer = (self.losses(batch), None) if self.tagger is None else self.answer(batch)
        weight = float(len(batch.labels if isinstance(batch, Tagged) else batch))  # gloo cuts the mean of whole numbers
        self._log("valid", losses, batch_size=weight)
        return answer

    def _log(self, stage: str, losses: dict[str, Tensor], **options: Any) -> None:
        named = {f"{stage}/{name}": value for name, value in losses.items()}
        self.log_dict(named, sync_dist=self.trainer.world_size > 1, **options)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Rate and decay are set before each step, by schedule.py; recurrent layers have a rate of their own where they
        are told to."""
        layers = [module for module in self.modules() if isinstance(module, torch.nn.RNNBase)]
        own = {id(each) for layer in layers for each in layer.parameters()} if self.recipe.train.recurrent_factor != 1 else set()
        groups: list[dict[str, Any]] = [{"params": [each for each in self.parameters() if id(each) not in own]}]
        if own:
            groups.append({"params": [each for each in self.parameters() if id(each) in own], RECURRENT: True})
        return torch.optim.AdamW(groups, lr=self.recipe.train.rate, weight_decay=0.0)

    # ---- what is no number

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, *_: Any, **__: Any) -> None:
        """Clip, and stop here if there is no number: the weights are still those of the last good step."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        losses = torch.stack(self.step_losses)
        self.step_losses.clear()
        if not torch.isfinite(norm):
            self._explain(float(norm), losses)

    def _explain(self, norm: float, own_losses: Tensor) -> None:
        """Raise Diverged with the numbers of the mixtures; a gradient that 16 bits cannot hold is left to the scaler."""
        gathered: Any = self.all_gather(own_losses)
        losses = gathered.view(-1, len(own_losses))  # (processes, batches)
        bad = (~torch.isfinite(losses)).nonzero().tolist()
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler and not bad and scaler.get_scale() > 1:
            return
        what = f"loss is {float(losses[tuple(bad[0])])}" if bad else f"gradient is {norm}"
        ranks = [replace(self.share, rank=rank) for rank in range(self.share.count)]
        culprits = bad or [[rank, batch] for rank in range(len(losses)) for batch in range(losses.shape[1])]
        numbers = sorted(n for rank, batch in culprits for n in self.numbers(batch, ranks[rank]))
        raise Diverged(
            f"the {what} at step {self.global_step}, mixtures {', '.join(map(str, numbers))} of seed {self.recipe.seed}; "
            "lower train.rate, and go on from the last good state with --resume auto"
        )

    def numbers(self, batch: int, share: Share | None = None) -> range:
        """The mixtures of the step's ``batch``, counted from 0, in this process or in that of ``share``."""
        spec = self.recipe.train
        return (share or self.share).batch((self.global_step - self.first_step) * spec.accumulate + batch, spec.batch)

    # ---- where it goes on

    def begin(self, share: Share, first_step: int) -> None:
        """The run goes on after ``first_step`` steps, with the mixtures of ``share``."""
        self.share, self.first_step = share, first_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        spec = self.recipe.train
        new = (int(checkpoint["global_step"]) - self.first_step) * spec.accumulate * spec.batch * self.share.count
        checkpoint["mixtures"] = self.share.done + new

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A step is whole or it was not taken: Lightning counts batches, also of a step that was broken off."""
        batches = int(checkpoint["global_step"]) * self.recipe.train.accumulate
        for count in ("total", "current"):
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"][count]
            progress.update(dict.fromkeys(progress, batches))

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


def _stems(batch: Tensor | Tagged) -> Tensor:
    if isinstance(batch, Tagged):
        raise DataError("loss.tags is 0, but data.root holds clips of which only labels are known; set loss.tags above 0")
    return batch


def _late(recipe: Recipe, network: Network, stride: int) -> int:
    """The look-ahead in frames of training, ``stride`` hops apart."""
    hops = recipe.lookahead_hops
    if hops and not isinstance(network, StreamingNetwork | StreamingLaSaft):
        raise DataError(f"recipe key 'lookahead_hops' is {hops}; expected 0, for the network hears both ways: see window.future")
    own = network.lookahead if isinstance(network, StreamingNetwork) else None
    if own is not None and hops != own:
        raise DataError(f"recipe key 'lookahead_hops' is {hops}; expected {own}, the frames that the network hears ahead")
    if hops % stride:
        raise DataError(f"recipe key 'lookahead_hops' is {hops}; expected a multiple of {stride}, the network's dilation")
    return hops // stride


def _check_asked(recipe: Recipe, network: Network) -> None:
    """A network that is asked, and a recipe for one, go together."""
    loss = recipe.loss
    if not isinstance(network, Conditioned):
        for name in SPECTRA_TERMS:
            wanted = f"0: '{recipe.model.kind}' is not asked for classes; use another term, such as loss.waveform"
            if getattr(loss, name):
                raise DataError(f"recipe key 'loss.{name}' is {getattr(loss, name):g}; expected {wanted}")
        return
    if not recipe.is_flat:
        raise DataError(
            f"recipe key 'classes' is a tree; expected a list of names: '{recipe.model.kind}' is asked for blends of them"
        )
    for name in (*SHARE_TERMS, "best_permutation", "tags"):
        if getattr(loss, name):
            wanted = f"0, for '{recipe.model.kind}' is asked for classes; use a term of spectra, such as loss.spectra_mse"
            raise DataError(f"recipe key 'loss.{name}' is {getattr(loss, name):g}; expected {wanted}")


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
    module = Separation(recipe)
    if resume:
        checkpoints.load(module, recipe, resume)
    elif start:
        checkpoints.start_from(module, recipe, start)
    elif start_partly:
        checkpoints.start_partly(module, recipe, start_partly)
    stop = StopOnSignal()
    with quiet_lightning(), suppress(Stopped):
        trainer = _trainer(recipe, last, machines, progress=progress, stop=stop, seen=seen)
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


def _trainer(recipe: Recipe, last_path: Path, machines: Machines, *, progress: bool, stop: StopOnSignal, seen: int) -> L.Trainer:
    """Callbacks in this order: what a checkpoint must know of a validation comes before what writes it."""
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
            Scores(),
            *([TagScores()] if recipe.loss.tags else []),
            Views(spec.views, spec.views_every_s, spec.views_closely),
            *([Parameters(spec.parameters_every)] if spec.parameters_every else []),
            Progress() if progress else Report(),
            BestCheckpoints(out, spec.keep, last, "valid/loss" if recipe.loss.tags else "valid/sdr"),
        ],
        logger=[CSVLogger(out, name="csv", version=f"from_step_{seen}"), TensorBoardLogger(out, name="", version="tb")],
        val_check_interval=spec.validate_every * spec.accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )


def load_network(checkpoint: Path) -> tuple[Recipe, Network]:
    """The recipe and the trained (averaged) network of a checkpoint; nothing in it is executed."""
    module = load_separation(checkpoint)
    return module.recipe, module.network


def load_separation(checkpoint: Path, overrides: Sequence[str] = ()) -> Separation:
    """All that was trained, averaged, with a recipe that ``overrides`` change; nothing in the file is executed."""
    recipe = changed(checkpoints.recipe_of(checkpoints.read(checkpoint)), overrides)
    module = Separation(recipe)
    checkpoints.load(module, recipe, checkpoint)
    return module.eval()


def training_facts(checkpoint: Path) -> dict[str, Any]:
    """What a bundle says of its training: plain strings and numbers."""
    state = checkpoints.read(checkpoint)
    recipe = checkpoints.recipe_of(state)
    parameters = sum(value.numel() for value in Separation(recipe).network.parameters())
    return {
        "recipe": recipe.name,
        "steps": int(state["global_step"]),
        "hours_of_mixtures_heard": round(checkpoints.mixtures_heard(state) * recipe.mix.seconds / 3600, 1),
        "parameters": parameters,
        "seed": recipe.seed,
        **({"others": recipe.others} if recipe.others else {}),
    }
