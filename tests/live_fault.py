"""The audio process of sep-live with a fault that strikes when the file of its name appears in SEPSTREAM_STAGE.

slow    as long as the file is there, a hop takes three times as long as it may
broken  the worker's thread meets an exception, once
hung    the model does not come back
nan     the model gives numbers that are none, for one hop
gil     a thread keeps the interpreter to itself for a second
"""

import ctypes
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from sepstream import live
from sepstream.pipeline import Pipeline
from sepstream.session import Session

FOLDER = Path(os.environ["SEPSTREAM_STAGE"])
HOP_S = 256 / 48000
HELD_S = 1


def main(session: Session) -> None:
    Pipeline.step = _faulty(Pipeline.step)  # type: ignore[method-assign]
    threading.Thread(target=_hold_the_interpreter, daemon=True).start()
    live.main(session)


def _faulty(step: Any) -> Any:
    def faulty(pipeline: Pipeline, block: np.ndarray) -> Any:
        if (FOLDER / "slow").exists():
            time.sleep(3 * HOP_S)
        if _strikes("broken"):
            raise RuntimeError("broken on purpose")
        if _strikes("hung"):
            threading.Event().wait()
        buses = step(pipeline, block)
        return buses * np.float32(np.nan) if _strikes("nan") else buses

    return faulty


def _hold_the_interpreter() -> None:
    sleep = ctypes.PyDLL(None).sleep  # of all ways to call C this one keeps the lock
    while True:
        time.sleep(0.02)
        if _strikes("gil"):
            sleep(HELD_S)


def _strikes(name: str) -> bool:
    """Once for each time that the file is put there."""
    try:
        (FOLDER / name).unlink()
    except FileNotFoundError:
        return False
    return True
