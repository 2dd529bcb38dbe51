"""A process of sep-live from within: ``python -m sepstream.child MODULE NAME FOLDER PARENT`` runs MODULE.main(session).

What goes wrong is said in one line, and the parent decides: it ends the session if that could not begin, and starts the
process anew if it could.
"""

import importlib
import sys
from pathlib import Path

from .cli import FAILED, USAGE
from .errors import SepstreamError
from .session import Session, become_child


def run(module: str, name: str, folder: str, parent: str) -> int:
    """0 the session is over, 1 a fault of ours, 2 what was asked for cannot be. ``name`` is what the user calls it,
    ``parent`` the number of the process that started it."""
    become_child()
    session = Session(Path(folder), int(parent))
    try:
        importlib.import_module(module).main(session)
    except SepstreamError as error:
        session.refuse(name, str(error))
        return USAGE
    except Exception as error:
        from .batch import defect  # noqa: PLC0415

        session.say(name, defect(error))
        return FAILED
    finally:
        if session.orphaned:
            session.remove()
    return 0


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
