"""The direction of imports, the one door per heavy dependency, and what the runtime must never load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sepstream

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"sepstream": ROOT / "engine", "sepstream_training": ROOT / "training", "sepstream_export": ROOT / "export"}

DOORS = {  # heavy dependency -> the one file of the runtime that may import it
    "onnxruntime": "separator.py",
    "numba": "kernels.py",
    "soundfile": "audiofile.py",
    "soxr": "audiofile.py",
    "sounddevice": "device.py",
    "rtmidi": "midi_ports.py",
    "starlette": "server.py",
    "uvicorn": "server.py",
    "segno": "address.py",
}
FORBIDDEN = {  # package -> top-level packages it must not import
    "sepstream": {"torch", "lightning", "onnx", "sepstream_training", "sepstream_export"},
    "sepstream_training": {"sepstream_export", "onnxruntime"},
    "sepstream_export": set(),
}
LAYERS: dict[str, set[str]] = {  # runtime file, in the order of the signal -> those above it that it may import, beside ANYONE
    "errors": set(),
    "paths": set(),
    "onnxfile": set(),
    "contract": {"onnxfile"},
    "kernels": set(),
    "spectral": {"kernels"},
    "disk": set(),
    "expression": {"disk"},
    "program": {"disk", "kernels"},
    "selection": {"disk", "expression", "kernels", "program"},
    "separator": set(),
    "pipeline": {"kernels", "spectral", "separator", "program", "selection"},
    "sampler": {"kernels"},
    "latent": {"kernels", "pipeline", "sampler", "selection", "separator", "spectral"},
    "audiofile": set(),
    "render": {"audiofile", "latent", "pipeline", "selection"},
    "batch": {"audiofile", "render", "selection"},
    "tape": set(),
    "analysis": {"audiofile", "kernels", "pipeline", "render", "separator", "spectral", "tape"},
    "explorer": {"analysis", "audiofile", "disk", "expression", "kernels", "program", "render", "selection", "spectral"},
    "cli": {"batch", "render"},
    "describe": {"disk"},
    "cli_bundle": {"cli", "describe", "render", "selection"},
    "board": set(),
    "session": {"board"},
    "telemetry": {"board"},
    "wanted": {"board"},
    "callback": {"board", "kernels"},
    "device": {"board", "callback", "wanted"},
    "bridge": {"kernels"},
    "worker": {"board", "bridge", "expression", "kernels", "pipeline", "program", "selection"},
    "live": {"board", "callback", "device", "pipeline", "selection", "session", "wanted", "worker"},
    "latency": {"board", "expression", "kernels", "live", "selection"},
    "child": {"batch", "cli", "session"},
    "watchdog": {"board", "cli", "session"},
    "record": {"audiofile", "board"},
    "screen": {"session", "telemetry"},
    "cli_live": {
        *("board", "cli", "device", "expression", "latency", "live", "record", "screen", "selection", "session", "telemetry"),
        *("batch", "wanted", "watchdog"),
    },
    "explore": {"analysis", "batch", "explorer", "expression", "render", "selection"},
    "cli_explore": {"batch", "cli", "explore"},
}
ANYONE = {"contract", "errors", "paths"}
MEETS_CONTROL = {
    "worker",
    "live",
    "cli_live",
    "batch",
    "explore",
}  # what takes or gives orders
MEETS_SURFACE = {"cli_live", "explore", "cli_explore"}
CONTROL: dict[str, set[str]] = {  # file of control/ -> those above it there that it may import, beside BELOW_CONTROL
    "table": set(),
    "scene": {"table"},
    "history": {"scene"},
    "presets": {"scene", "table"},
    "mailbox": set(),
    "desk": {"mailbox", "scene"},
    "midi": set(),
    "midi_bindings": {"midi", "table"},
    "midi_ports": {"midi", "midi_bindings"},
    "midi_surface": {"midi", "midi_bindings", "table"},
    "osc": set(),
    "osc_server": {"osc"},
    "osc_protocol": {"osc", "table"},
    "osc_clients": {"osc", "osc_protocol", "table"},
    "osc_touchosc": {"osc_clients", "osc_protocol", "table"},
    "osc_layout": {"osc_clients", "osc_protocol", "osc_touchosc", "table"},
    "reference": {"midi_bindings", "osc_protocol", "table"},
    "player": {"history", "midi_bindings", "presets", "scene", "table"},
    "host": {
        *("desk", "midi", "midi_bindings", "midi_ports", "midi_surface", "osc", "osc_clients", "osc_protocol", "osc_server"),
        *("player", "presets", "scene", "table"),
    },
}
SURFACE: dict[str, set[str]] = {  # file of surface/ -> those above it there that it may import, beside BELOW_CONTROL
    "protocol": set(),
    "address": set(),
    "page": {"protocol"},
    "watch": {"protocol"},
    "questions": set(),
    "server": {"address", "protocol"},
}
BELOW_SURFACE = {"page": {"midi_bindings", "player", "presets", "scene", "table"}}  # of control/
BELOW_CONTROL = {"board", "disk", "expression", "kernels", "selection", "session", "telemetry"}  # and nothing that touches audio


def imports(file: Path) -> set[str]:
    """Absolute dotted names of everything that ``file`` imports, relative ones resolved."""
    package = file.relative_to(next(r for r in ROOMS.values() if r in file.parents)).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *(node.module.split(".") if node.module else [])])
            found |= {stem} if node.module else {f"{stem}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    return sorted((ROOMS[package] / package).rglob("*.py"))


@pytest.mark.parametrize("package", ROOMS)
def test_packages_depend_in_one_direction(package: str) -> None:
    wrong = {f.name: bad for f in files(package) if (bad := {i.split(".")[0] for i in imports(f)} & FORBIDDEN[package])}
    assert not wrong


def test_training_knows_only_the_contract_of_the_runtime() -> None:
    known = {"sepstream.contract", "sepstream.errors"}
    wrong = {
        f.name: bad
        for f in files("sepstream_training")
        if (bad := {i for i in imports(f) if i.split(".")[0] == "sepstream"} - known)
    }
    assert not wrong


@pytest.mark.parametrize("dependency", DOORS)
def test_a_heavy_dependency_has_one_door(dependency: str) -> None:
    users = {f.name for f in files("sepstream") if any(i.split(".")[0] == dependency for i in imports(f))}
    assert users == {DOORS[dependency]}


@pytest.mark.parametrize("name", LAYERS)
def test_runtime_files_import_only_what_comes_before_them(name: str) -> None:
    inside = {i.split(".")[1] for i in imports(ROOMS["sepstream"] / "sepstream" / f"{name}.py") if i.startswith("sepstream.")}
    assert inside - ANYONE - {"control", *(["surface"] if name in MEETS_SURFACE else [])} <= LAYERS[name]
    assert "control" not in inside or name in MEETS_CONTROL


def test_every_runtime_file_has_its_layer_and_leans_on_those_above() -> None:
    above: set[str] = set()
    for name, allowed in LAYERS.items():
        assert allowed <= above, name
        above.add(name)
    assert {f.stem for f in (ROOMS["sepstream"] / "sepstream").glob("*.py")} - {"__init__"} == above


@pytest.mark.parametrize("name", CONTROL)
def test_control_files_touch_no_audio_and_import_only_what_comes_before_them(name: str) -> None:
    parts = [i.split(".") for i in imports(ROOMS["sepstream"] / "sepstream" / "control" / f"{name}.py")]
    inside = [part for part in parts if part[0] == "sepstream"]
    assert {part[1] for part in inside} - {"control", *(["surface"] if name == "host" else [])} <= ANYONE | BELOW_CONTROL
    assert {part[2] for part in inside if part[1] == "control"} <= CONTROL[name]


@pytest.mark.parametrize("name", SURFACE)
def test_surface_files_touch_no_audio_and_import_only_what_comes_before_them(name: str) -> None:
    parts = [i.split(".") for i in imports(ROOMS["sepstream"] / "sepstream" / "surface" / f"{name}.py")]
    inside = [part for part in parts if part[0] == "sepstream"]
    assert {part[1] for part in inside} - {"control", "surface"} <= ANYONE | BELOW_CONTROL
    assert {part[2] for part in inside if part[1] == "surface"} <= SURFACE[name]
    assert {part[2] for part in inside if part[1] == "control" and len(part) > 2} <= BELOW_SURFACE.get(name, set())


def test_every_surface_file_has_its_layer_and_leans_on_those_above() -> None:
    above: set[str] = set()
    for name, allowed in SURFACE.items():
        assert allowed <= above, name
        above.add(name)
    assert {f.stem for f in (ROOMS["sepstream"] / "sepstream" / "surface").glob("*.py")} - {"__init__"} == above


def test_every_control_file_has_its_layer_and_leans_on_those_above() -> None:
    above: set[str] = set()
    for name, allowed in CONTROL.items():
        assert allowed <= above, name
        above.add(name)
    assert {f.stem for f in (ROOMS["sepstream"] / "sepstream" / "control").glob("*.py")} - {"__init__"} == above


@pytest.mark.parametrize("modules", ["sepstream.batch, sepstream.cli, sepstream.cli_bundle", "sepstream_export.evaluate"])
def test_running_and_scoring_a_bundle_loads_no_torch(modules: str) -> None:
    code = f"import {modules}, sys; print(sorted({{'torch', 'onnx', 'lightning'}} & set(sys.modules)))"
    env = {"PYTHONPATH": ":".join(map(str, ROOMS.values())), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "[]"


def test_every_test_file_is_collected() -> None:
    for file in (ROOT / "tests").rglob("*.py"):
        holds_tests = any(
            isinstance(n, ast.FunctionDef) and n.name.startswith("test_") for n in ast.walk(ast.parse(file.read_text()))
        )
        assert not holds_tests or file.name.startswith("test_"), f"{file} holds tests that pytest does not see"


def test_the_public_names_are_there() -> None:
    assert {name: callable(getattr(sepstream, name)) for name in sepstream.__all__} == dict.fromkeys(sepstream.__all__, True)
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        sepstream.Pipelin  # noqa: B018
