"""Numbered mixtures in batches: endless for training, a fixed few for validation.

Mixture n depends on the recipe's seed and on n alone, so neither the number of workers nor a restart changes what
is heard when.
"""

import signal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..recipe import Recipe
from ..share import Share
from .library import Library
from .mixing import draw_mixture

ALL = Share()


class Mixtures(Dataset[torch.Tensor]):
    """Number -> (leaves, 2, samples) float32 stems of ``split``."""

    def __init__(self, library: Library, recipe: Recipe, split: str) -> None:
        self.library, self.recipe, self.split = library, recipe, split

    def __getitem__(self, number: int) -> torch.Tensor:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, self.split == "valid", number])
        return torch.from_numpy(draw_mixture(self.library, recipe.classes, recipe.mix, recipe.training_rate_hz, rng))


def training_batches(library: Library, recipe: Recipe, share: Share) -> DataLoader[torch.Tensor]:
    """(batch, leaves, 2, samples) for ever: the mixtures of ``share``, in order."""
    return DataLoader(
        Mixtures(library, recipe, "train"),
        batch_size=recipe.train.batch,
        sampler=share,
        num_workers=recipe.data.workers,
        persistent_workers=recipe.data.workers > 0,
        worker_init_fn=_leave_ctrl_c_to_the_main_process,
    )


def validation_batches(library: Library, recipe: Recipe, share: Share = ALL) -> DataLoader[torch.Tensor]:
    """The same mixtures in every run of the same recipe, dealt out to the processes."""
    return DataLoader(
        Mixtures(library, recipe, "valid"), batch_size=recipe.train.batch, sampler=share.of(recipe.data.valid_mixtures)
    )


def _leave_ctrl_c_to_the_main_process(_: int) -> None:
    """A terminal sends it to every process; a worker that dies of it would take the last step along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
