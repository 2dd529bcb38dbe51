"""How fast mixtures are made of every layout of a data set, by one worker: in hours of mixtures a minute.

    python tests/bench/bench_data.py [--tracks 12] [--seconds 20] [--mixtures 60]

Writes the same generated tracks (five classes, 48 kHz) in each layout, reads them as the recipe ``live`` does, and draws
mixtures in this process, at random and as they are. Prints one JSON line; ``prepare`` is how many hours of sounds a minute are
decoded and resampled into the cache, on all cores (of shards: until the first mixture, on one).
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from numpy.typing import NDArray

from sepstream_training.data.loader import Mixtures, StreamedMixtures, training_sounds
from sepstream_training.data.shards import convert
from sepstream_training.data.stream import Stream
from sepstream_training.recipe import Recipe, load_recipe
from sepstream_training.share import Share

RATE_HZ = 48000
FAMILIES = {"speech": ["male", "female"], "music": ["bass", "drums", "guitar"]}
LEAVES = [leaf for members in FAMILIES.values() for leaf in members]
SONGS = {"voice": ["vocals"], "accompaniment": ["drums", "bass", "other"]}
BAND = {"rhythm": ["bass", "drums"], "harmony": ["guitar"]}

Parts = dict[str, NDArray[np.float64]]
Write = Callable[[Path, int, Parts], None]


def parts(number: int, names: list[str], seconds: float, channels: int) -> Parts:
    """Pink-ish noise: it compresses about as well as music."""
    rng = np.random.default_rng(number)
    noise = rng.standard_normal((len(names), round(seconds * RATE_HZ), channels))
    return {
        name: 0.05 * (each + np.roll(each, 1, axis=0) + np.roll(each, 2, axis=0)) for name, each in zip(names, noise, strict=True)
    }


def save(path: Path, samples: NDArray[np.float64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE_HZ, subtype="PCM_16")


def write_folders(root: Path, number: int, track: Parts) -> None:
    for name, samples in track.items():
        save(root / "train" / name / f"{number}.flac", samples)


def write_manifest(root: Path, number: int, track: Parts) -> None:
    with (root / "manifest.csv").open("a") as table:
        for name, samples in track.items():
            save(root / f"{name}-{number}.flac", samples)
            table.write("" if table.tell() else "path,split,cls,group\n")
            table.write(f"{name}-{number}.flac,train,{name},{number}\n")


def write_stems(root: Path, number: int, track: Parts) -> None:
    for name, samples in track.items():
        save(root / "train" / f"song {number}" / f"{name}.flac", samples)


def write_lsx(root: Path, number: int, track: Parts) -> None:
    sums = {f"{parent}_mix": sum(track[leaf] for leaf in members) for parent, members in FAMILIES.items()}
    for name, samples in {**track, **sums, "mix": sum(sums.values())}.items():
        save(root / "tr" / str(number) / f"{f'speech_{name}' if name in FAMILIES['speech'] else name}.wav", samples)


def write_musdb18(root: Path, number: int, track: Parts) -> None:
    for name, samples in {**track, "mixture": sum(track.values())}.items():
        save(root / "train" / f"Band - Song {number}" / f"{name}.wav", samples)


def write_slakh(root: Path, number: int, track: Parts) -> None:
    folder = root / "train" / f"Track{number:05d}"
    facts = {f"S{n:02d}": {"inst_class": name.title()} for n, name in enumerate(track)}
    for stem, samples in zip(facts, track.values(), strict=True):
        save(folder / "stems" / f"{stem}.flac", samples)
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"stems": facts}))


LAYOUTS: dict[str, tuple[Write, dict[str, list[str]], int]] = {  # how, which classes, how many channels
    "folders": (write_folders, FAMILIES, 1),
    "manifest": (write_manifest, FAMILIES, 1),
    "stems": (write_stems, FAMILIES, 2),
    "lsx": (write_lsx, FAMILIES, 1),
    "musdb18": (write_musdb18, SONGS, 2),
    "slakh": (write_slakh, BAND, 1),
}
PREMIXED = ("stems", "lsx", "musdb18", "slakh", "shards")


def drawn(recipe: Recipe) -> Iterator[torch.Tensor]:
    found = training_sounds(recipe)
    if isinstance(found, Stream):
        return iter(StreamedMixtures(found, recipe, Share()))
    mixtures = Mixtures(found, recipe, "train")
    return (mixtures[number] for number in itertools.count())


def measure(recipe: Recipe, count: int, hours: float) -> dict[str, Any]:
    start = time.perf_counter()
    mixtures = drawn(recipe)
    next(mixtures)
    ready = time.perf_counter()
    busy = time.process_time()
    for _ in range(count):
        next(mixtures)
    done, busy = time.perf_counter(), time.process_time() - busy
    made = count * recipe.mix.seconds / 3600
    return {
        "hours_per_minute": round(made / (done - ready) * 60, 2),
        "hours_per_cpu_minute": round(made / busy * 60, 2),
        "prepare_hours_per_minute": round(hours / (ready - start) * 60, 2),
    }


def row(root: Path, layout: str, count: int, hours: float) -> dict[str, Any]:
    _, families, channels = LAYOUTS.get(layout, LAYOUTS["lsx"])
    recipe = load_recipe(
        "live",
        [f"data.root={json.dumps(str(root))}", f"data.channels={channels}", f"classes={json.dumps(families)}", "data.folders={}"],
    )
    result: dict[str, Any] = {"layout": layout, "channels": channels, "random": measure(recipe, count, hours)}
    if layout in PREMIXED:
        result["as_is"] = measure(replace(recipe, data=replace(recipe.data, as_is=1.0)), count, hours)
        result["as_is"].pop("prepare_hours_per_minute")  # all is in the cache
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tracks", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--mixtures", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SEPSTREAM_CACHE"] = f"{scratch}/cache"
        for layout, (write, families, channels) in LAYOUTS.items():
            root = Path(scratch) / layout
            root.mkdir()
            names = [leaf for members in families.values() for leaf in members]
            for number in range(args.tracks):
                write(root, number, parts(number, names, args.seconds, channels))
            hours = args.tracks * args.seconds * len(names) / 3600
            rows.append(row(root, layout, args.mixtures, hours))
        spec = load_recipe("live", [f"data.root={scratch}/lsx"])
        list(convert(spec, Path(scratch) / "shards", seconds=30, mib=8))
        rows.append(row(Path(scratch) / "shards", "shards", args.mixtures, args.tracks * args.seconds * len(LEAVES) / 3600))
    print(
        json.dumps({"bench": "data", "mixture_seconds": spec.mix.seconds, "layouts": rows, "load": round(os.getloadavg()[0], 2)})
    )


if __name__ == "__main__":
    main()
