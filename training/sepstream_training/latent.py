"""Separation in the latent domain, in two runs: an autoencoder whose codes add up, then what either source's codes are like.

    sep-train lqvae --out runs/lqvae
    sep-train lqvae_priors --start runs/lqvae/last.ckpt --out runs/lqvae_priors

The second run begins with the autoencoder of the first and leaves it as it is; its checkpoint holds both, and is what
sep-export takes. Meanwhile it counts which code the mixture of two codes has, for the likelihood from counts.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sepstream.contract import LatentSpec, SamplingSpec
from sepstream.errors import BundleError, DataError, nearest

from .hearing import Heard, Hearing
from .models.lqvae import Autoencoder
from .models.prior import Prior
from .recipe import Recipe
from .task import Task

WEIGHTS = {"recon": 1.0, "spectra": 1.0, "commit": 1.0, "sum": 1.0}
MERGE_EVERY = 50  # batches of counts
MOST_COUNTS = 1 << 20  # triples in a checkpoint, the most frequent ones
SOURCES = 2


class Options(NamedTuple):
    """``model.options``, as groups."""

    codec: Mapping[str, Any]  # arguments of Autoencoder
    weights: Mapping[str, float]  # of its losses
    prior: Mapping[str, Any]  # arguments of Prior
    sampling: Mapping[str, Any]  # fields of SamplingSpec
    chunk_codes: int  # how many codes are drawn before the best draws are chosen, and gone on with
    fade_codes: int  # over so many, one chunk's sound fades into the next one's
    draws: int  # made side by side


class LatentTask(Task):
    """What both runs have in common: the autoencoder, and the two sources of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        if len(recipe.leaves) != SOURCES:
            raise DataError(
                f"recipe key 'classes' has {len(recipe.leaves)} leaves, {', '.join(recipe.leaves)}; expected {SOURCES}: sums of "
                "codes are of pairs; for more sources, use one of the models with masks"
            )
        self.options = _options(recipe.model.options)
        self.codec = _built("codec", Autoencoder, self.options.codec)
        self.hearing = Hearing(recipe)

    def sources(self, stems: Tensor) -> tuple[Tensor, Tensor]:
        """(B, leaves, C, samples) -> two of (B, samples), the mean of the channels, whole codes long."""
        mono = stems.mean(dim=2)[..., : stems.shape[-1] // self.codec.hop * self.codec.hop]
        return mono[:, 0], mono[:, 1]


class Compression(LatentTask):
    """The first run. Scores are those of the sources through the autoencoder: better than that no separation can be."""

    def losses(self, stems: Tensor) -> dict[str, Tensor]:
        terms = self.codec.losses(*self.sources(stems), self.recipe.training_rate_hz)
        loss = torch.stack([self.options.weights[name] * term for name, term in terms.items()]).sum()
        used = (self.codec.quantiser.counts >= 1.0).float().mean()
        return {"loss": loss, **terms, "used": used}

    @torch.no_grad()
    def hear(self, stems: Tensor) -> Heard:
        """(leaves, C, samples) -> the leaves as the autoencoder gives them back, and the masks that follow from that."""
        hop, samples = self.codec.hop, stems.shape[-1]
        leaves = stems.mean(dim=1, keepdim=True)
        padded = nn.functional.pad(leaves[:, 0], (0, -samples % hop))
        found = self.codec.decode(self.codec.encode(padded))[:, None, :samples]
        mixture, bins = leaves.sum(dim=0), self.recipe.band_bins
        magnitude = self.hearing.spectra(mixture)[0, :, :bins].abs() * self.hearing.scale
        power = self.hearing.spectra(found)[:, 0, :, :bins].abs().square() + 1e-12
        masks = (power / power.sum(dim=0)).transpose(0, 1)
        targets, sources, dominant = self.hearing.truth(leaves)
        return Heard(mixture, targets, found, magnitude, masks, sources, masks[:, :0], dominant)

    @property
    def class_names(self) -> list[str]:
        return self.recipe.leaves

    @property
    def parents(self) -> int:
        return 0

    @property
    def rate_hz(self) -> int:
        return self.recipe.training_rate_hz

    def disk(self) -> None:
        """There is none."""


class Continuation(LatentTask):
    """The second run: a prior of each source; the loss is the bits that a code of either takes, in sum."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.codec.requires_grad_(False)
        codes, dim = self.codec.quantiser.codebook.shape
        self.priors = nn.ModuleList(_built("prior", Prior, self.options.prior, codes, dim) for _ in recipe.leaves)
        self.context = min(prior.context for prior in self.priors if isinstance(prior, Prior))
        self.counts = torch.zeros((0, 4), dtype=torch.int64)  # codes of both sources and of their mixture, how often
        self.fresh: list[Tensor] = []  # triples that are not counted yet
        self.latent()

    def latent(self) -> LatentSpec:
        """How a bundle will be run. Raises DataError for options that do not fit together."""
        options, codec, hop = self.options, self.codec, self.recipe.training_stft.hop_samples
        for name in ("chunk_codes", "fade_codes"):
            if getattr(options, name) * codec.hop % hop:
                what = f"whole hops of {hop} samples, each code being {codec.hop}"
                raise DataError(f"recipe key 'model.options.{name}' is {getattr(options, name)}; expected {what}")
        try:
            return LatentSpec(
                hop_samples=codec.hop,
                codes=len(codec.quantiser.codebook),
                chunk_codes=options.chunk_codes,
                margin_codes=codec.reach,
                lead_codes=codec.reach + options.fade_codes,
                fade_codes=options.fade_codes,
                context_codes=self.context,
                draws=options.draws,
                sampling=_built("sampling", SamplingSpec, options.sampling),
            )
        except BundleError as error:
            raise DataError(f"recipe key 'model.options': {error}") from None

    def train(self, mode: bool = True) -> "Continuation":
        super().train(mode)
        self.codec.eval()
        return self

    def check_start(self) -> None:
        if not self.codec.quantiser.ready:
            raise DataError(
                "the autoencoder is untrained; expected --start CHECKPOINT, the last.ckpt of a run of the recipe lqvae"
            )

    def losses(self, stems: Tensor) -> dict[str, Tensor]:
        sounds = self.sources(stems)
        with torch.no_grad():
            codes = [self.codec.encode(sound) for sound in sounds]
            if self.training:
                self._count(codes[0], codes[1], self.codec.encode(0.5 * sounds[0] + 0.5 * sounds[1]))
        bits = [self._bits(prior, each) for prior, each in zip(self.priors, codes, strict=True)]
        named = {f"bits_{leaf}": value for leaf, value in zip(self.recipe.leaves, bits, strict=True)}
        return {"loss": torch.stack(bits).sum(), **named}

    def _bits(self, prior: nn.Module, codes: Tensor) -> Tensor:
        logits = prior(codes, self.codec.quantiser.codebook)
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), codes.flatten()) / math.log(2)

    # ---- counts

    def _count(self, first: Tensor, second: Tensor, mixture: Tensor) -> None:
        self.fresh.append(torch.stack([first.flatten(), second.flatten(), mixture.flatten()], dim=1).cpu())
        if len(self.fresh) >= MERGE_EVERY:
            self._merge()

    def _merge(self) -> None:
        if self.fresh:
            once = [torch.cat([each, torch.ones_like(each[:, :1])], dim=1) for each in self.fresh]
            self.fresh.clear()
            both = torch.cat([self.counts, *once])
            triples, places = torch.unique(both[:, :3], dim=0, return_inverse=True)
            amounts = torch.zeros(len(triples), dtype=torch.int64).index_add_(0, places, both[:, 3])
            self.counts = torch.cat([triples, amounts[:, None]], dim=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Counts are those of the process that writes."""
        super().on_save_checkpoint(checkpoint)
        self._merge()
        kept = self.counts[:, 3].topk(min(MOST_COUNTS, len(self.counts))).indices.sort().values
        checkpoint["counts"] = self.counts[kept].clone()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.restore(checkpoint)

    def restore(self, checkpoint: dict[str, Any]) -> None:
        self.counts = checkpoint["counts"]


TASKS: dict[str, type[Task]] = {"lqvae": Compression, "lqvae_priors": Continuation}  # by model.kind


def _options(tree: Mapping[str, Any]) -> Options:
    """Raises DataError for a group or a loss that is not there."""
    usual = Options({}, {}, {}, {}, chunk_codes=128, fade_codes=4, draws=16)._asdict()
    for key in tree:
        if key not in usual:
            raise DataError(f"model.options key '{key}' is unknown; {nearest(key, usual)}")
    groups = {key: _group(key, tree.get(key, value), value) for key, value in usual.items()}
    for name, weight in groups["weights"].items():
        if name not in WEIGHTS or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise DataError(f"model.options key 'weights.{name}' is {weight!r}; expected numbers of {', '.join(WEIGHTS)}")
    return Options(**{**groups, "weights": {**WEIGHTS, **groups["weights"]}})


def _group(key: str, value: Any, usual: Any) -> Any:
    if isinstance(usual, Mapping) and not isinstance(value, Mapping):
        raise DataError(f"model.options key '{key}' is {value!r}; expected keys and values")
    if isinstance(usual, int) and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise DataError(f"model.options key '{key}' is {value!r}; expected a whole number from 1 up")
    return value


def _built(group: str, make: Callable[..., Any], options: Mapping[str, Any], *fixed: Any) -> Any:
    try:
        return make(*fixed, **options)
    except (TypeError, ValueError, RuntimeError, BundleError) as error:  # an option that is unknown, or of no use
        raise DataError(f"model.options.{group}: {error}") from None
