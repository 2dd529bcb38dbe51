"""Two ways to hold the classes of a hyperbolic MLR, on the same problem, from the same start: normals and offsets with Adam, as
DiskHead does, or points on the Poincare ball with Riemannian Adam (geoopt), as the reference system does.

Prints one JSON line for each: mean and spread of the last losses over seeds, and the CPU time of a step. Needs geoopt.
"""

import argparse
import json
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sepstream_training.models.disk_head import DiskHead, hyperplanes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its use of torch.jit
    import geoopt

CLASSES, FEATURES, BINS = 7, 16, 2048


class BallHead(DiskHead):
    """The same head, of points and normals."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__(classes, dim)
        ball = geoopt.PoincareBall(c=1.0)
        self.points = geoopt.ManifoldParameter(torch.zeros(classes, dim), manifold=ball)
        self.normals = nn.Parameter(self.normal.detach().clone())
        del self.normal, self.offset

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        self.normal, self.offset = hyperplanes(self.points, self.normals, 1.0)
        return super().forward(v)


def problem(dim: int, generator: torch.Generator) -> Any:
    """Batches of features and of the classes that hyperplanes away from the centre give them."""
    teacher, mapping = DiskHead(CLASSES, dim), torch.randn(FEATURES, dim, generator=generator) / 8
    with torch.no_grad():
        teacher.normal.copy_(4 * torch.randn(CLASSES, dim, generator=generator))
        teacher.offset.copy_(2 * torch.rand(CLASSES, generator=generator) - 1)

    def batch() -> tuple[Tensor, Tensor]:
        x = torch.randn(BINS, FEATURES, generator=generator)
        with torch.no_grad():
            logits, _ = teacher((x @ mapping).T)
        return x, logits.argmax(dim=0)

    return batch


def learn(kind: str, dim: int, seed: int, steps: int, rate: float) -> tuple[float, float]:
    """-> mean loss of the last tenth of the steps, CPU microseconds of a step."""
    torch.manual_seed(seed)
    batch = problem(dim, torch.Generator().manual_seed(seed))
    below, head = nn.Linear(FEATURES, dim), (DiskHead if kind == "planes" else BallHead)(CLASSES, dim)
    parameters = [*below.parameters(), *(p for p in head.parameters() if p.requires_grad)]
    adam = torch.optim.Adam if kind == "planes" else geoopt.optim.RiemannianAdam
    optimizer, losses = adam(parameters, lr=rate), []
    began = time.thread_time()
    for _ in range(steps):
        x, wanted = batch()
        logits, _ = head(below(x).T)
        loss = nn.functional.cross_entropy(logits.T, wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-steps // 10 :])), 1e6 * (time.thread_time() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 8, 128])
    flags = parser.parse_args()
    torch.set_num_threads(1)
    for dim in flags.dims:
        for rate in (1e-3, 1e-2):
            for kind in ("planes", "points"):
                runs = np.array([learn(kind, dim, seed, flags.steps, rate) for seed in range(flags.seeds)])
                figures = {"loss": runs[:, 0].mean(), "spread": runs[:, 0].std(), "step_us": np.median(runs[:, 1])}
                rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
                print(json.dumps({"kind": kind, "dim": dim, "rate": rate, **rounded}), flush=True)


if __name__ == "__main__":
    main()
