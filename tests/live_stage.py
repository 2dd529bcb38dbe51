"""sep-live as the live tests start it: ``python -m live_stage ARGUMENTS``.

It is the command itself. Around it, the environment says where the folders of its session go (SEPSTREAM_STAGE), how long
the watchdog waits for a sound card that a test may hold up (SEPSTREAM_PATIENCE, seconds), and which module plays the
audio process (SEPSTREAM_AUDIO: live_fault.py, the one that fails when it is told to).
"""

import os
import sys
import tempfile
from pathlib import Path

from sepstream import cli_live, session, watchdog


def main() -> int:
    session.SHARED_MEMORY = Path(os.environ["SEPSTREAM_STAGE"])
    tempfile.tempdir = os.environ["SEPSTREAM_STAGE"]
    if patience := os.environ.get("SEPSTREAM_PATIENCE"):
        for name in ("AUDIO_SILENT_S", "MODEL_SILENT_S", "CONTROL_SILENT_S", "END_S"):
            setattr(watchdog, name, float(patience))
    if module := os.environ.get("SEPSTREAM_AUDIO"):
        ward = watchdog.Ward
        watchdog.Ward = lambda session, name, _, signs: ward(session, name, module if name == "audio" else _, signs)  # type: ignore[assignment, misc]
    return cli_live.live_main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
