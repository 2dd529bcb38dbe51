"""What each part of the live model is worth: the same short run again and again, with one thing changed.

    python tests/bench/bench_ablation.py FOLDER [--steps 200] [--only NAME ...] [--reference] [KEY=VALUE ...]

Every run begins anew from one seed, hears the same mixtures of FOLDER/{train,valid}, and is scored on the same 24. Prints one
JSON line a run: mean SI-SDR improvement over the classes, SDR loss, parameters, seconds. Short runs tell what learns soon; what
pays in the end may differ. ``--reference``: the six rows of the reference system's table of results, with a network of 2 x 128
units in the place of 4 x 600. training/RESULTS.md has what was seen.
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from sepstream_training.recipe import load_recipe
from sepstream_training.train import train, training_facts

SHORT = ["mix.seconds=3", "train.batch=4", "train.ema=0.98", "train.views=0", "train.warmup_steps=30", "seed=4"]
CHANGES: Mapping[str, list[str]] = {
    "as it is": [],
    "bands: 12, twice as wide": ["model.options.bands=[[5, 6], [3, 16], [3, 30], [1, 174]]"],
    "bands: 42, half as wide": ["model.options.bands=[[20, 1], [8, 5], [6, 14], [8, 25]]", "band_bins=344"],
    "width 32": ["model.options.width=32", "model.options.units=32"],
    "blocks 1": ["model.options.blocks=1"],
    "blocks 5": ["model.options.blocks=5"],
    "memory of the whole spectrum": ["model.options.whole=192"],
    "head: the disk alone": ["model.options.detail=0"],
    "head: 8 dimensions": ["model.options.dim=8", "model.options.detail=0"],
    "head: Euclidean": ["model.options.curvature=0"],
    "head: leaves are shares of their parents": ["model.tied=true"],
    "loss: decisions alone": ["loss={mask: 1}"],
    "loss: SDR alone": ["loss={mask: 0, sdr: 1}"],
    "loss: no decisions": ["loss.mask=0"],
    "loss: no scale-invariant SDR": ["loss.spectral_si_sdr=0"],
    "augmentation: none": ["mix.speech_speed=0", "mix.music_speed=0", "mix.filtered=0"],
    "look-ahead: 6 hops, 32 ms more": ["lookahead_hops=6"],
    "window: 10.7 ms, as short as the latency": [
        "geometry={analysis: 512, synthesis: 512, hop: 256}",
        "band_bins=86",
        "model.options.bands=[[10, 1], [6, 2], [4, 4], [3, 16]]",
    ],
}
REFERENCE = ["", "_spectrogram", "_waveform", "_euclid", "_wide", "_euclid_wide"]
SMALL = ["model.options.units=128", "model.options.layers=2", "train.rate=2e-3"]


def run(recipe_name: str, name: str, overrides: list[str]) -> dict[str, object]:
    recipe = load_recipe(recipe_name, overrides)
    with tempfile.TemporaryDirectory(prefix="sepstream-bench-") as folder:
        start = time.monotonic()
        done = train(recipe, Path(folder) / "run", progress=False)
        seconds = time.monotonic() - start
        table = next((Path(folder) / "run").glob("csv/*/metrics.csv")).read_text()
        scores = [row for row in csv.DictReader(table.splitlines()) if row.get("valid/si_sdri")][-1]
        parameters = training_facts(done.checkpoint)["parameters"]
    return {
        "bench": "ablation", "change": name, "steps": done.steps, "si_sdri_db": round(float(scores["valid/si_sdri"]), 2),
        "sdr_loss_db": round(float(scores["valid/sdr"]), 2), "parameters": parameters, "seconds": round(seconds),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", nargs="+", default=list(CHANGES), choices=list(CHANGES), metavar="NAME")
    parser.add_argument("--reference", action="store_true")
    args = parser.parse_intermixed_args()
    length = [f"train.steps={args.steps}", f"train.validate_every={args.steps}", f"train.decay_steps={args.steps // 2}"]
    common = [f"data.root={args.folder}", *SHORT, *length]
    runs = [("live_small", name, CHANGES[name]) for name in args.only]
    if args.reference:
        runs = [(f"hyper_unmix{end}", f"hyper_unmix{end}", SMALL) for end in REFERENCE]
    for recipe, name, changes in runs:
        print(json.dumps(run(recipe, name, [*common, *changes, *args.overrides])), flush=True)


if __name__ == "__main__":
    main()
