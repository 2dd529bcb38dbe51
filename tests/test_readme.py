"""The README is true: its commands run, its map is the repository, its first code comes early."""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import jack_server

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf8")
COMMANDS = re.findall(r"^(sep-[^\n#]+?) *(?:#.*)?$", "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S)), re.M)
ENTRIES = dict(re.findall(r'^(sep-\w+) = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf8"), re.M))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "demo").symlink_to(ROOT / "demo")
    return folder


def test_every_command_of_the_project_is_shown() -> None:
    assert {shlex.split(c)[0] for c in COMMANDS} == set(ENTRIES)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(command: str, workplace: Path) -> None:
    """In order, in one folder: later commands use what earlier ones made."""
    name, *arguments = shlex.split(command)
    with sound_card(name) as settings:
        done = (look if name == "sep-explore" else run)(name, arguments, workplace, settings)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def sound_card(command: str) -> Iterator[dict[str, str]]:
    """For sep-live: a server without a sound card, and where it is found."""
    if command != "sep-live":
        yield {}
        return
    with jack_server.server() as server:
        yield jack_server.environment(server.name)


def look(name: str, arguments: list[str], workplace: Path, settings: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """A page that is open until Ctrl-C, in no browser here."""
    program = subprocess.Popen([*line(name, arguments), "--no-browser", "--port", "0"], **place(workplace, settings))
    try:
        assert program.stdout is not None
        assert program.stdout.readline().startswith("http://127.0.0.1:")
    finally:
        program.send_signal(signal.SIGINT)
        said, complained = program.communicate(timeout=600)
    return subprocess.CompletedProcess(name, program.returncode, said, complained)


def run(name: str, arguments: list[str], workplace: Path, settings: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """What plays until it is stopped, plays for two seconds."""
    endless = name == "sep-live" and "--list" not in arguments
    command = [*line(name, arguments), *["--duration", "2"] * endless]
    return subprocess.run(command, timeout=600, check=False, **place(workplace, settings))


def line(name: str, arguments: list[str]) -> list[str]:
    module, function = ENTRIES[name].split(":")
    return [sys.executable, "-c", f"import sys; from {module} import {function}; sys.exit({function}(sys.argv[1:]))", *arguments]


def place(workplace: Path, settings: dict[str, str]) -> dict[str, Any]:
    """Where and how a command runs, and that it is listened to."""
    path = ":".join(str(ROOT / room) for room in ("engine", "training", "export"))
    own = {"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "PYTHONUNBUFFERED": "1"}
    return {"cwd": workplace, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": settings | own}


def test_the_first_code_comes_before_line_21() -> None:
    lines = README.splitlines()
    assert any(line.startswith("make demo") for line in lines[:20])
    assert any(line.startswith("make test") for line in lines[:20])


def test_the_map_names_what_is_there() -> None:
    for name in re.findall(r"^(\w[\w./]*)  +\S", README, re.M):
        assert (ROOT / name).exists(), name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
