"""sep-train as one of several processes that something else has started (torchrun, srun); it leaves its weights behind.

python tests/train_rank.py FOLDER ARGUMENTS OF SEP-TRAIN ...
"""

import os
import sys
from pathlib import Path

import lightning as L
import torch

from sepstream_training.callbacks import LastCheckpoint
from sepstream_training.cli import train_main


def keep(self: LastCheckpoint, trainer: L.Trainer, module: L.LightningModule) -> None:
    torch.save(module.state_dict(), Path(sys.argv[1]) / f"rank{os.environ['RANK']}.pt")
    original(self, trainer, module)


original = LastCheckpoint.on_train_end
LastCheckpoint.on_train_end = keep  # type: ignore[method-assign]
sys.exit(train_main(sys.argv[2:]))
