"""Small trainings for tests: what they are, how they are run in this process, and what they leave behind."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from sepstream_training.cli import train_main

Capture = pytest.CaptureFixture[str]

SMALL = ["data.synthetic_seconds=2", "data.valid_mixtures=2", "mix.seconds=0.5", "train.batch=2", "train.views=0"]
SHORT = [*SMALL, "train.steps=6", "train.validate_every=2"]
NETWORKS = {
    "band_split": [],
    "hyper_unmix": ["model.kind=hyper_unmix", "model.options={bins: 342, units: 6, layers: 2, dilation: 3, dropout: 0.5}"],
}

torch.set_num_threads(1)


def run(out: Path, *arguments: str) -> int:
    return train_main(["tiny", *arguments, "--quiet", "--out", str(out)])


def read(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return state


def log(out: Path) -> list[dict[str, str]]:
    files = sorted(out.glob("csv/*/metrics.csv"), key=lambda path: int(path.parent.name.rpartition("_")[2]))
    return [row for path in files for row in csv.DictReader(path.read_text().splitlines())]


def same_state(one: Path, other: Path) -> None:
    """Weights, averages and optimiser, bit for bit."""
    a, b = read(one), read(other)
    assert a["global_step"] == b["global_step"]
    for key in ("current_model_state", "state_dict", "averaging_state"):
        assert a[key].keys() == b[key].keys()
        for name in a[key]:
            assert torch.equal(a[key][name], b[key][name]), f"{key} {name}"
    moments = [state["optimizer_states"][0]["state"] for state in (a, b)]
    for index, values in moments[0].items():
        for name, value in values.items():
            assert torch.equal(value, moments[1][index][name]), f"optimizer {index} {name}"


def one_line(capsys: Capture) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("sep-train: ")
    return err
