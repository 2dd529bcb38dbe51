"""What networks that separate learn from a batch: of stems, what the losses ask; of clips, which classes are in them."""

import lightning as L
import torch
from torch import Tensor, nn

from sepstream.errors import DataError

from .data.tagged import Tagged
from .hearing import Heard, Hearing
from .losses import Scene, Waves, classes_of, make_scene, total, total_of_spectra
from .models import Conditioned, Network, StreamingLaSaft, StreamingNetwork, build
from .recipe import SHARE_TERMS, SPECTRA_TERMS, Recipe
from .tags import Answer, Tagger, TagScores, labels_of
from .task import Task
from .wishes import draw, granted


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


class Separation(Task):
    """The network and its losses.

    Frames are taken ``dilation`` hops apart: one chain of the network's recurrence. A loss of waveforms needs them all.
    A batch is stems (B, leaves, C, samples), or clips of which only the labels are known.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
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

    def validation_step(self, batch: Tensor | Tagged, index: int) -> Answer | None:  # type: ignore[override]  # for TagScores
        losses, answer = (self.losses(batch), None) if self.tagger is None else self.answer(batch)
        weight = len(batch.labels if isinstance(batch, Tagged) else batch)
        self.log_losses("valid", losses, batch_size=float(weight))
        return answer

    @property
    def monitor(self) -> str:
        return "valid/sdr" if self.tagger is None else "valid/loss"

    def callbacks(self) -> list[L.Callback]:
        return [] if self.tagger is None else [TagScores()]

    def shipped(self) -> nn.Module:
        return self.network

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
