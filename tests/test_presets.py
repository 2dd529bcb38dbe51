"""Presets: what is saved is what loads, files are whole or not there, names lead nowhere else, strangers are named."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import small_disk
from scenes import scenes
from sepstream import selection
from sepstream.contract import load_bundle
from sepstream.control.presets import Preset, dump, listing, load, named, read, save, write_whole
from sepstream.control.scene import Scene, dry, matrix, names, put, unrouted
from sepstream.control.table import Change
from sepstream.errors import ControlError
from sepstream.expression import Mix
from sepstream.paths import data_dir
from sepstream.selection import Bus, Selection, compile, load_preset, read_toml

SHIPPED = sorted(path.stem for path in data_dir("presets").glob("*.toml"))
PLAIN = Scene(Selection((Bus("a", Mix()),)), master_gain_db=-3.0)


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own presets, not there yet."""
    monkeypatch.setenv("SEPSTREAM_PRESETS", str(tmp_path / "config" / "presets"))
    return tmp_path / "config" / "presets"


def refusal(what: Any, *arguments: Any) -> str:
    with pytest.raises(ControlError) as refused:
        what(*arguments)
    message = str(refused.value)
    assert message and "\n" not in message and len(message) < 600
    return message


def inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# There and back.

plain_values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text('ab." é', max_size=5), inner, max_size=3))


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
tables = st.dictionaries(keys, st.recursive(plain_values, containers, max_leaves=5), max_size=4)


@given(scenes, tables)
def test_what_is_dumped_loads_as_the_same(tmp_path_factory: pytest.TempPathFactory, scene: Scene, midi: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("dumped") / "p.toml"
    path.write_text(dump(scene, midi), encoding="utf8", newline="\n")
    assert load(path) == Preset(scene, midi)
    assert load_preset(path) == scene.selection  # a file renders what was played


def test_bindings_are_written_as_people_write_them() -> None:
    midi = {"programs": ["a", "b"], "bind": [{"cc": 7, "control": "bus/a/gain_db"}, {"note": 60, "control": "bypass"}]}
    text = dump(PLAIN, midi)
    assert '[midi]\nprograms = ["a", "b"]\n' in text
    assert '[[midi.bind]]\nnote = 60\ncontrol = "bypass"\n' in text
    assert "gain_db" not in text.partition("[live]")[0]  # what stands at its default is not written


def test_what_toml_cannot_hold_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value in (None, "\ud800", endless, object()):
        assert "expected what a preset can hold" in refusal(dump, PLAIN, {"x": value})


def test_a_saved_preset_is_there_by_name_and_wins_over_a_shipped_one(own: Path) -> None:
    assert load("karaoke").scene != PLAIN
    assert save("karaoke", PLAIN, {"programs": []}) == own / "karaoke.toml" == named("karaoke")
    assert load("karaoke") == load(own / "karaoke.toml") == load(str(own / "karaoke.toml")) == Preset(PLAIN, {"programs": []})
    entry = next(entry for entry in listing() if entry.name == "karaoke")
    assert entry.own and not any(other.own for other in listing() if other.name != "karaoke")
    assert [entry.name for entry in listing()] == SHIPPED
    later = put(PLAIN, Change("bus/a/mute", True))
    save("karaoke", later)
    assert load("karaoke").scene == later
    assert inside(own) == ["karaoke.toml"]


# Names.


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "/tmp/a", "a\\b", "a.toml", "a b", "a\0", "a\n", "~", "ä", "x" * 65]
)
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert refusal(save, name, PLAIN).startswith("preset name ")
    assert refusal(named, name).startswith("unknown preset ")
    assert sorted(tmp_path.rglob("*")) == before


@given(st.text(alphabet="ab./\\~\0\n-_ ", max_size=12))
def test_any_name_stays_in_the_folder_or_is_refused(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("presets")
        patch.setenv("SEPSTREAM_PRESETS", str(folder / "own"))
        try:
            assert save(name, PLAIN).parent == folder / "own"
        except ControlError:
            assert inside(folder) == []
        else:
            assert inside(folder / "own") == [f"{name}.toml"]


def test_an_unknown_preset_names_the_nearest_one(own: Path) -> None:
    save("evening", PLAIN)
    assert refusal(named, "evenin").startswith("unknown preset 'evenin'; did you mean 'evening'? known: ")
    assert refusal(load, "karaoki").startswith("preset 'karaoki' is neither shipped nor a .toml file; did you mean 'karaoke'?")


# Whole or not at all.


def test_a_full_disk_leaves_the_old_preset(own: Path) -> None:
    save("mine", PLAIN)
    big = put(PLAIN, Change("bus/a/select", "lasso(" + ", ".join(f"0.{n} 0.5" for n in range(200)) + ")"))
    with small_disk.room(500):
        assert "cannot be saved" in refusal(save, "mine", big)
        assert "cannot be saved" in refusal(save, "other", big)
    assert load("mine").scene == PLAIN
    assert inside(own) == ["mine.toml"]


def test_a_write_that_dies_half_way_leaves_the_old_preset(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save("mine", PLAIN)

    def die(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        save("mine", put(PLAIN, Change("bypass", True)))
    assert load("mine").scene == PLAIN
    assert inside(own) == ["mine.toml"]


def test_nobody_reads_half_a_preset(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the very last step, the rename, the old text stands under the name."""
    save("mine", PLAIN)
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(load("mine").scene))
    save("mine", put(PLAIN, Change("bypass", True)))
    assert seen == [PLAIN]


def test_a_folder_that_cannot_be_made_is_one_line(own: Path) -> None:
    own.parent.parent.mkdir(exist_ok=True)
    own.parent.write_text("not a folder")
    assert "choose a folder by SEPSTREAM_PRESETS" in refusal(save, "mine", PLAIN)


def test_a_scene_that_would_not_load_is_not_saved(own: Path) -> None:
    endless = put(PLAIN, Change("bus/a/select", "lasso(" + ", ".join(["0 0"] * 256) + ")"))
    many = Scene(Selection(tuple(Bus(f"b{n}", Mix()) for n in range(64))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "MAX_PRESET_BYTES", 1000)
        assert refusal(save, "mine", many).startswith("preset 'mine' cannot be saved: ")
    save("mine", endless)
    assert inside(own) == ["mine.toml"]


def test_a_link_is_replaced_and_not_followed(own: Path, tmp_path: Path) -> None:
    own.mkdir(parents=True)
    (tmp_path / "else").write_text("untouched")
    (own / "mine.toml").symlink_to(tmp_path / "else")
    save("mine", PLAIN)
    assert (tmp_path / "else").read_text() == "untouched" and not (own / "mine.toml").is_symlink()
    write_whole(own / "mine.toml", "x = 1\n")
    assert stat.S_ISREG((own / "mine.toml").lstat().st_mode)


# What a file may say.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[live]\nmaster = 3",
            "preset 'p': [live]: unknown key 'master'; did you mean 'master_gain_db'? known: master_gain_db, byp",
        ),
        ("[live]\nmaster_gain_db = 24", "preset 'p': [live]: master_gain_db 24; expected a number from -90 to 12 dB"),
        ("[live]\nbypass = 'yes'", "preset 'p': [live]: bypass 'yes'; expected true or false, or 1 or 0"),
        ("live = 3", "preset 'p': live 3; expected a table [live]"),
        ("midi = 3", "preset 'p': midi 3; expected a table [midi]"),
        (
            "midy = 3",
            "preset 'p': unknown key 'midy'; did you mean 'midi'? known: residual, buses, ",
        ),
        ("[buses.a]\nselect = 'mix'\ngain = 3", "preset 'p': bus 'a': unknown key 'gain'; did you mean 'gain_db'?"),
        ("[buses.a]\nselect = 'mix'\npan = 2", "preset 'p': bus 'a': pan 2; expected a number from -1 to 1"),
        ("", "preset 'p': 0 buses; expected 1 to 64"),
        ("[", "preset 'p': it is not TOML: "),
    ],
)
def test_a_preset_that_cannot_be_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text, encoding="utf8")
    assert refusal(load, path).startswith(message)


@pytest.mark.parametrize("key", ["midi", "live", "buses.a.select", "regions.r.disc.x", "residual.gain_db"])
def test_a_bottomless_table_is_one_line_or_passes_through(key: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    bus = "" if key.startswith("buses") else "[buses.b]\nselect = 'mix'\n"
    path.write_text(f"{key}{'.x' * 1500} = 1\n{bus}", encoding="utf8")
    try:
        midi = load(path).midi
    except ControlError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
    else:
        assert key == "midi"
        assert "expected what a preset can hold" in refusal(dump, PLAIN, midi)


def test_all_values_of_a_preset_arrive(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        "[live]\nmaster_gain_db = -3\nlate_gain_db = -6.0\nbypass = true\n[buses.a]\nselect = 'mix'\n", encoding="utf8"
    )
    assert load(path).scene == Scene(Selection((Bus("a", Mix()),)), -3.0, True, -6.0)


# Those that are shipped.


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_preset_plays_on_the_shipped_model(name: str) -> None:
    preset = load(name)
    program = compile(preset.scene.selection, load_bundle("default"))
    assert program.buses == preset.scene.selection.names
    assert dry(preset.scene, 2, 8).any() and matrix(preset.scene, 2, 8)[:, :-1].any()
    assert read(read_toml(named(name))) == preset
    assert load_preset(name) == preset.scene.selection


def test_the_presets_that_a_performer_expects_are_shipped() -> None:
    assert {"karaoke", "voice", "drumless", "speech-cleanup", "six-outputs", "disk-explorer", "stems", "disk"} <= set(SHIPPED)


def test_six_stems_have_an_output_each_and_the_rest_the_sixth() -> None:
    scene = load("six-outputs").scene
    assert [strip.outputs for strip in scene.selection.strips] == [(1,), (2,), (3,), (4,), (5,), (6,)]
    assert scene.selection.names[-1] == "residual"
    assert unrouted(scene, 6) == () and len(unrouted(scene, 2)) == 4


def test_the_explorer_has_regions_to_sweep() -> None:
    assert {"region/1/x", "region/1/y", "region/1/r", "region/2/x", "region/line/angle"} <= set(
        names(load("disk-explorer").scene)
    )
