"""How fast a recipe trains: steps/s, hours of audio a minute, and the share of the time spent waiting for data.

    python tests/bench/bench_train.py RECIPE [KEY=VALUE ...] [--steps 100] [--accelerator auto]

Prints one JSON line, over the last 100 batches at most: the first steps, which warm up, are among them only in a short run.
Nothing is validated. The recipe's sounds are prepared first, and not timed. Run it alone.
"""

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from sepstream_training.processes import Machines
from sepstream_training.recipe import load_recipe
from sepstream_training.train import train


def last_figures(out: Path) -> Mapping[str, str]:
    """The last row of the run's log that holds the throughput."""
    rows = csv.DictReader(next(out.glob("csv/*/metrics.csv")).read_text().splitlines())
    return [row for row in rows if row["train/hours_a_minute"]][-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")
    args = parser.parse_intermixed_args()
    steps = -(-args.steps // 10) * 10  # the log has every tenth
    recipe = load_recipe(args.recipe, [*args.overrides, f"train.steps={steps}", f"train.validate_every={steps + 1}"])
    with tempfile.TemporaryDirectory(prefix="sepstream-bench-") as folder:
        train(recipe, Path(folder) / "run", machines=Machines(accelerator=args.accelerator), progress=False)
        figures = last_figures(Path(folder) / "run")
    hours_a_minute, heard_s = (
        float(figures["train/hours_a_minute"]),
        recipe.train.batch * recipe.train.accumulate * recipe.mix.seconds,
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() and args.accelerator != "cpu" else None
    print(json.dumps({
        "bench": "train", "recipe": recipe.name, "steps": steps, "steps_per_s": round(60 * hours_a_minute / heard_s, 3),
        "hours_a_minute": round(hours_a_minute, 4), "waiting": round(float(figures["train/waiting"]), 3),
        "batch": recipe.train.batch, "accumulate": recipe.train.accumulate, "mixture_s": recipe.mix.seconds,
        "workers": recipe.data.workers, "precision": recipe.train.precision, "device": gpu or "cpu",
        "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
