"""Endless training batches and a fixed validation set, as torch data sets over the mixer."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ..recipe import Recipe
from .library import Library
from .mixing import draw_mixture


class TrainingMixtures(IterableDataset[torch.Tensor]):
    """(leaves, 2, samples) float32 stems, for ever; ``start`` mixtures were already seen, so a resumed run goes on."""

    def __init__(self, library: Library, recipe: Recipe, start: int = 0) -> None:
        self.library, self.recipe, self.start = library, recipe, start

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        index = self.start + first
        while True:
            yield _mixture(self.library, self.recipe, "train", index)
            index += stride


class FixedMixtures(Dataset[torch.Tensor]):
    """``count`` mixtures that are the same in every run with the same recipe."""

    def __init__(self, library: Library, recipe: Recipe, count: int) -> None:
        self.library, self.recipe, self.count = library, recipe, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return _mixture(self.library, self.recipe, "valid", index)


def _mixture(library: Library, recipe: Recipe, split: str, index: int) -> torch.Tensor:
    """Mixture number ``index``: its own generator, so that order and workers do not matter."""
    rng = np.random.default_rng([recipe.seed, split == "valid", index])
    families = {family: list(members) for family, members in recipe.classes.items()}
    return torch.from_numpy(draw_mixture(library, families, recipe.mix, recipe.training_rate_hz, rng))


def training_batches(library: Library, recipe: Recipe, start: int) -> DataLoader[torch.Tensor]:
    workers = recipe.data.workers
    data = TrainingMixtures(library, recipe, start)
    return DataLoader(data, batch_size=recipe.train.batch, num_workers=workers, persistent_workers=workers > 0)


def validation_batches(library: Library, recipe: Recipe) -> DataLoader[torch.Tensor]:
    return DataLoader(FixedMixtures(library, recipe, recipe.data.valid_mixtures), batch_size=recipe.train.batch)
