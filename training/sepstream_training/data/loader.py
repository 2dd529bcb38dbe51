"""Mixtures in batches: endless for training, a fixed few for validation.

Of data that is read like files, mixture n depends on the recipe's seed and on n alone, so neither the number of workers
nor a restart changes what is heard when. What holds for shards, is in ``stream``.
"""

import itertools
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from sepstream.errors import DataError

from ..recipe import Recipe
from ..share import Share
from .layouts import layout_of, read_library, wanted_by
from .library import Library, Track, blend, generate_library
from .mixing import draw_excerpt, draw_mixture
from .stream import Stream, open_stream
from .tagged import TaggedClips, open_cache
from .tagged import found as is_cache

Source = Library | Stream | TaggedClips
ALL = Share()


def training_sounds(recipe: Recipe) -> Source:
    """What training draws from: shards are streamed, anything else is read. Raises DataError like ``sounds``."""
    spec = recipe.data
    if (
        spec.root == "synthetic"
        or is_cache(wanted_by(recipe, "train"))
        or layout_of(wanted_by(recipe, "train"), spec.layout) != "shards"
    ):
        return sounds(recipe, "train")
    stream = open_stream(wanted_by(recipe, "train"), recipe.training_rate_hz, spec.channels, recipe.seed)
    _check_tracks(recipe, stream.holds_tracks())
    share = spec.synthetic_share
    return replace(stream, beside=_generated(recipe, "train"), share=share) if share else stream


def sounds(recipe: Recipe, split: str) -> Library | TaggedClips:
    """All clips of ``split`` that the recipe names, in the cache; or of a cache of clips with labels, these.

    Raises DataError like ``read_library``, ``generate_library`` and ``open_cache``, and where tracks are asked for that are
    not there.
    """
    spec = recipe.data
    if spec.root == "synthetic":
        return _generated(recipe, split)
    if is_cache(wanted_by(recipe, split)):
        return open_cache(recipe, split)
    own = read_library(wanted_by(recipe, split), recipe.training_rate_hz, layout=spec.layout, channels=spec.channels)
    _check_tracks(recipe, bool(own.tracks))
    return blend(own, _generated(recipe, split), spec.synthetic_share) if spec.synthetic_share and split == "train" else own


def _check_tracks(recipe: Recipe, there: bool) -> None:
    root, as_is = recipe.data.root, recipe.data.as_is
    if as_is and not there:
        raise DataError(f"data.as_is is {as_is:g}, but '{root}' holds no tracks; expected 0, or another data.layout")


def _generated(recipe: Recipe, split: str) -> Library:
    spec = recipe.data
    count, seconds, engine = spec.synthetic_clips, spec.synthetic_seconds, spec.synthetic_engine
    return generate_library(recipe.leaves, split, recipe.training_rate_hz, count=count, seconds=seconds, engine=engine)


class Mixtures(Dataset[torch.Tensor]):
    """Number -> (leaves, 2, samples) float32 stems of ``split``.

    Training mixtures are drawn at random, or (with probability ``data.as_is``) are excerpts of the data set's own tracks, each
    track in its turn; validation is of those tracks alone where there are any.
    """

    def __init__(self, library: Library, recipe: Recipe, split: str) -> None:
        self.library, self.recipe, self.split = library, recipe, split

    def __getitem__(self, number: int) -> torch.Tensor:
        recipe, tracks = self.recipe, self.library.tracks
        rng = np.random.default_rng([recipe.seed, self.split == "valid", number])
        if tracks and (self.split == "valid" or rng.random() < recipe.data.as_is):
            epoch, place = divmod(number, len(tracks))
            return excerpt(tracks[_order(len(tracks), recipe.seed, epoch)[place]], recipe, rng)
        return mixture(self.library, recipe, rng)


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def mixture(library: Library, recipe: Recipe, rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(draw_mixture(library, recipe.classes, recipe.mix, recipe.training_rate_hz, rng))


def excerpt(track: Track, recipe: Recipe, rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(draw_excerpt(track, recipe.leaves, round(recipe.mix.seconds * recipe.training_rate_hz), rng))


class StreamedMixtures(IterableDataset[torch.Tensor]):
    """(leaves, 2, samples) float32 stems for ever, of one process's ``share``, from where it was left off.

    ``data.draws`` mixtures are drawn from each window; as they are, they are of the track that leaves it, so each track has its
    turn once an epoch.
    """

    def __init__(self, stream: Stream, recipe: Recipe, share: Share) -> None:
        self.stream, self.recipe, self.share = stream, recipe, share

    def __iter__(self) -> Iterator[torch.Tensor]:
        recipe, share = self.recipe, self.share
        batch, draws = recipe.train.batch, recipe.data.draws
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        batches = share.done // (share.count * batch)
        turn = (batches + worker) % workers  # workers take turns, and the first is asked for the next batch
        done = (batches - turn + workers - 1) // workers * batch
        reader = share.rank * workers + turn
        windows = self.stream.windows(reader, share.count * workers, done // draws, recipe.data.window)
        several = itertools.chain.from_iterable(itertools.repeat(window, draws) for window in windows)
        for number, (library, leaving) in enumerate(itertools.islice(several, done % draws, None), done):
            rng = np.random.default_rng([recipe.seed, 2, reader, number])
            as_is = leaving is not None and rng.random() < recipe.data.as_is
            yield excerpt(leaving, recipe, rng) if leaving and as_is else mixture(library, recipe, rng)


def training_batches(source: Source, recipe: Recipe, share: Share) -> DataLoader[torch.Tensor]:
    """(batch, leaves, 2, samples), or batches of Tagged, for ever: the mixtures of ``share``, in order."""
    streamed = isinstance(source, Stream)
    mixtures: Any = source
    if isinstance(source, Stream):
        mixtures = StreamedMixtures(source, recipe, share)
    elif isinstance(source, Library):
        mixtures = Mixtures(source, recipe, "train")
    return DataLoader(
        mixtures,
        batch_size=recipe.train.batch,
        sampler=None if streamed else share,
        num_workers=recipe.data.workers,
        persistent_workers=recipe.data.workers > 0,
        worker_init_fn=_leave_ctrl_c_to_the_main_process,
    )


def validation_batches(source: Library | TaggedClips, recipe: Recipe, share: Share = ALL) -> DataLoader[torch.Tensor]:
    """The same mixtures, or clips (at most as many as there are), in every run of a recipe, dealt out to the processes."""
    count = recipe.data.valid_mixtures
    if isinstance(source, TaggedClips):
        return DataLoader(source, batch_size=recipe.train.batch, sampler=share.of(min(count, len(source))))  # type: ignore[arg-type]
    return DataLoader(Mixtures(source, recipe, "valid"), batch_size=recipe.train.batch, sampler=share.of(count))


def _leave_ctrl_c_to_the_main_process(_: int) -> None:
    """A terminal sends it to every process; a worker that dies of it would take the last step along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
