"""Presets: scenes and bindings as TOML files, those that are shipped and the user's own.

selection.py describes buses, residual and regions, which files use, too. Live, a preset may also say

    [live]
    master_gain_db = -3.0      # and late_gain_db, bypass
    [midi]                     # midi_bindings.py reads it; here it is data that passes through

Files are written whole or not at all: nobody ever reads half a preset.
"""

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from ..disk import Region
from ..errors import ControlError, ExpressionError, nearest
from ..expression import quoted
from ..paths import data_dir, user_presets
from ..selection import BUS_NAME, Strip, parse_toml, preset_path, preset_paths, read_selection, read_toml
from .scene import OUTPUTS, Scene
from .table import find

LIVE = {field: control for control, field in OUTPUTS.items()}  # keys of [live] and their controls


@dataclass(frozen=True)
class Preset:
    """What a file says: the scene, and the table of its MIDI bindings as it stands there."""

    scene: Scene
    midi: Mapping[str, Any] = field(default_factory=dict)


class Listed(NamedTuple):
    name: str
    path: Path
    own: bool  # the user's, not shipped


def load(preset: str | Path) -> Preset:
    """By name (the user's own before the shipped), or a TOML file by path. Raises ControlError."""
    with about(""):
        path = preset_path(preset)
    with about(f"preset '{path.stem}': "):
        return read(read_toml(path))


def named(name: str) -> Path:
    """Where the preset of this name lies; no path gets through, so that names may come from anywhere. Raises ControlError."""
    known = preset_paths()
    if not isinstance(name, str) or name not in known:
        raise ControlError(f"unknown preset {quoted(name)}; {nearest(str(name)[:64], known)}")
    return known[name]


def listing() -> tuple[Listed, ...]:
    """All that ``named`` knows, by name."""
    shipped = data_dir("presets")
    return tuple(Listed(name, path, path.parent != shipped) for name, path in sorted(preset_paths().items()))


def read(table: Mapping[str, Any]) -> Preset:
    """A preset out of its tables. Raises ControlError or ExpressionError, unknown keys included."""
    live, midi = (_table(table, key) for key in ("live", "midi"))
    for key in live:
        if key not in LIVE:
            raise ControlError(f"[live]: unknown key {quoted(key)}; {nearest(key, LIVE)}")
    values: dict[str, Any] = {key: find(LIVE[key]).accept(value, name=f"[live]: {key}") for key, value in live.items()}
    return Preset(Scene(read_selection(table), **values), midi)


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = table.get(key, {})
    if not isinstance(found, dict):
        raise ControlError(f"{key} {quoted(found)}; expected a table [{key}]")
    return found


@contextmanager
def about(what: str) -> Iterator[None]:
    """Puts ``what`` before the errors that a file or a name gives rise to; they are ControlErrors then."""
    try:
        yield
    except (ControlError, ExpressionError) as error:
        raise ControlError(f"{what}{error}") from None


# Writing.


def save(name: str, scene: Scene, midi: Mapping[str, Any] | None = None) -> Path:
    """Keep the scene among the user's own presets, and return where. Raises ControlError; then nothing has changed."""
    if not (isinstance(name, str) and BUS_NAME.fullmatch(name)):
        raise ControlError(f"preset name {quoted(name)}; expected 1 to 64 letters, digits, _ and -")
    path = user_presets() / f"{name}.toml"
    text = dump(scene, midi)
    with about(f"preset '{name}' cannot be saved: "):
        if read(parse_toml(text.encode())).scene != scene:
            raise ControlError("its text does not read back as this scene; a bus whose select is shorter may help")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        wrong = f"preset '{name}' cannot be saved as '{path}': {error.strerror}"
        raise ControlError(f"{wrong}; free some space, or choose a folder by SEPSTREAM_PRESETS") from None
    return path


def write_whole(path: Path, text: str) -> None:
    """Replace the file at once; whatever goes wrong, the old one stands. Raises OSError."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("x", encoding="utf8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(FileNotFoundError):  # it has become the preset
            part.unlink()


def dump(scene: Scene, midi: Mapping[str, Any] | None = None) -> str:
    """The text of a preset that reads back as this scene, without what stands at its default. Raises ControlError for a
    table of bindings that TOML cannot hold."""
    selection = scene.selection
    parts: list[str] = []
    if selection.residual:
        strip = _settings(selection.residual)
        parts.append(_section("[residual]", strip) if strip else "residual = true\n")
    parts += [_section(f"[buses.{_key(b.name)}]", {"select": str(b.expression)} | _settings(b)) for b in selection.buses]
    parts += [_section(f"[regions.{_key(name)}]", {region.call: shape(region)}) for name, region in selection.regions]
    for target, weights in groupby(selection.conditions, key=lambda weight: weight.target):
        parts.append(_section(f"[conditions.{_key(target)}]", {weight.name: weight.value for weight in weights}))
    if live := _settings(scene):
        parts.append(_section("[live]", live))
    if midi:
        parts += _sections("midi", midi)
    return "\n".join(parts)


def _settings(value: Strip | Scene) -> dict[str, Any]:
    """The fields of a strip or a scene that are not at their default."""
    defaults = {field.name: field.default for field in fields(value) if field.default is not MISSING}
    return {name: getattr(value, name) for name, default in defaults.items() if getattr(value, name) != default}


def shape(region: Region) -> dict[str, Any]:
    """Its parameters by name, an edge that is hard left out."""
    values = {key: getattr(region, key) for key in region.parameters()}
    return values | ({"soft": region.soft} if region.soft else {})


def _sections(name: str, table: Mapping[str, Any]) -> list[str]:
    """[name] with its plain values, then [[name.key]] for every list of tables."""
    lists = {key: value for key, value in table.items() if _is_list_of_tables(value)}
    plain = {key: value for key, value in table.items() if key not in lists}
    sections = [_section(f"[{name}]", plain)] if plain else []
    return sections + [_section(f"[[{name}.{_key(key)}]]", entry) for key, entries in lists.items() for entry in entries]


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(entry, dict) for entry in value)


def _section(head: str, table: Mapping[str, Any]) -> str:
    return "".join([f"{head}\n", *(f"{_key(key)} = {_toml(value)}\n" for key, value in table.items())])


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _toml(value: Any, depth: int = 8) -> str:
    """A value on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            return repr(float(value))
        case str() if not any(0xD800 <= ord(character) < 0xE000 for character in value):
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple() if depth:
            return f"[{', '.join(_toml(item, depth - 1) for item in value)}]"
        case dict() if depth:
            inside = ", ".join(f"{_key(key)} = {_toml(item, depth - 1)}" for key, item in value.items())
            return f"{{{inside}}}"
    raise ControlError(f"{type(value).__name__} {quoted(value)}; expected what a preset can hold: text, numbers, lists, tables")
