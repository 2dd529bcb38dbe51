"""Devices and channels as people ask for them, on machines that are made up."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepstream import board as b
from sepstream import device
from sepstream.board import MAX_CHANNELS, Board
from sepstream.device import Device, Route, announce, find, route
from sepstream.errors import DeviceError
from sepstream.wanted import Wanted, read_wanted


def refusal(what: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(DeviceError) as refused:
        what(*arguments)
    message = str(refused.value)
    assert message and "\n" not in message and len(message) < 600
    return message


# What is asked for.

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(lambda name: ":" not in name)
numbers = st.lists(st.integers(1, MAX_CHANNELS), min_size=1, max_size=MAX_CHANNELS).map(tuple)


@given(st.one_of(st.none(), names), numbers)
def test_a_device_and_channels_are_read_as_they_are_written(name: str | None, channels: tuple[int, ...]) -> None:
    assert read_wanted(f"{name or ''}:{','.join(map(str, channels))}") == Wanted(name, channels)


@given(names, st.integers(1, MAX_CHANNELS), st.integers(0, MAX_CHANNELS - 1))
def test_a_span_is_all_its_channels(name: str, first: int, more: int) -> None:
    last = min(first + more, MAX_CHANNELS)
    assert read_wanted(f"{name}:{first}-{last}") == read_wanted(f"{name}:{','.join(map(str, range(first, last + 1)))}")
    assert read_wanted(f"{name}: {first} - {last}".replace(" - ", "-")).channels == tuple(range(first, last + 1))


@given(names)
def test_a_name_alone_leaves_the_channels_open(name: str) -> None:
    assert read_wanted(name) == Wanted(name)


@pytest.mark.parametrize("text", [None, ""])
def test_nothing_is_the_default(text: str | None) -> None:
    assert read_wanted(text) == Wanted(None)


@pytest.mark.parametrize("name", ["JACK: system", "USB Audio: - (hw:1,0)", "ALSA: pulse", "a:b:c"])
def test_a_colon_within_a_name_is_a_part_of_it(name: str) -> None:
    assert read_wanted(name) == Wanted(name)
    assert read_wanted(f"{name}:3,4") == Wanted(name, (3, 4))


@pytest.mark.parametrize(
    "numbers", ["0", "65", "3-1", "1,,2", "1,", "-3", "1-2-3", "1-65", "999", "1000", "", "0-1", "1-64,1", ",".join(["1"] * 65)]
)
def test_channels_that_cannot_be_are_refused_before_anything_is_opened(numbers: str) -> None:
    assert refusal(read_wanted, f"usb:{numbers}").startswith(f"channels '{numbers}' in 'usb:{numbers}'; expected ")


@given(st.text("ab:,-0169 \n٣", max_size=12))
def test_any_text_is_a_wish_that_the_board_has_room_for_or_one_line(text: str) -> None:
    try:
        wanted = read_wanted(text)
    except DeviceError as error:
        assert "expected" in str(error)
        return
    assert len(wanted.channels) <= MAX_CHANNELS and all(1 <= channel <= MAX_CHANNELS for channel in wanted.channels)
    assert wanted.pattern is None or wanted.pattern in text


# What there is.


class PortAudioError(Exception):
    """As sounddevice's."""


class Machine:
    """A sounddevice module over devices (name, host, inputs, outputs, rate in Hz); ``rates``: what each can do beside it."""

    PortAudioError = PortAudioError

    def __init__(self, *devices: tuple[str, str, int, int, int], rates: dict[str, set[int]] | None = None) -> None:
        self.devices, self.rates = devices, rates or {}
        self.hosts = list(dict.fromkeys(host for _, host, *_ in devices))
        self.default = SimpleNamespace(device=[-1, -1])
        self.host_defaults: dict[str, tuple[int, int]] = {}

    def query_devices(self) -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "name": name,
                "hostapi": self.hosts.index(host),
                "max_input_channels": inputs,
                "max_output_channels": outputs,
                "default_samplerate": float(rate_hz),
            }
            for index, (name, host, inputs, outputs, rate_hz) in enumerate(self.devices)
        ]

    def query_hostapis(self) -> list[dict[str, Any]]:
        ends = [self.host_defaults.get(host, (-1, -1)) for host in self.hosts]
        return [
            {"name": host, "default_input_device": given, "default_output_device": played}
            for host, (given, played) in zip(self.hosts, ends, strict=True)
        ]

    def check_input_settings(self, index: int, channels: int, dtype: str, samplerate: int) -> None:
        self._check(index, channels, samplerate, 2)

    def check_output_settings(self, index: int, channels: int, dtype: str, samplerate: int) -> None:
        self._check(index, channels, samplerate, 3)

    def _check(self, index: int, channels: int, rate_hz: int, side: int) -> None:
        name, own = self.devices[index][0], self.devices[index][4]
        assert channels <= self.devices[index][side]  # type: ignore[operator]
        if rate_hz not in self.rates.get(name, {own}):
            raise PortAudioError("Invalid sample rate")


JACK = "JACK Audio Connection Kit"
STAGE = (
    ("HDA Intel", "ALSA", 2, 2, 44100),
    ("Scarlett 18i20 USB", "ALSA", 18, 20, 48000),
    ("Scarlett 2i2 USB", "ALSA", 2, 2, 48000),
    ("system", JACK, 2, 2, 48000),
    ("scarlett", JACK, 4, 4, 48000),
    ("microphone", "ALSA", 1, 0, 16000),
    ("speakers", "ALSA", 0, 2, 96000),
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    def install(*devices: tuple[str, str, int, int, int], **form: Any) -> Machine:
        made = Machine(*devices, **form)
        monkeypatch.setattr(device, "sd", made)
        monkeypatch.setattr(device, "MISSING", "")
        return made

    return install


def found(text: str | None, kind: str = "output") -> int:
    return find(read_wanted(text), kind).index


def test_every_device_is_found_by_its_whole_name_and_by_its_label(machine: Callable[..., Machine]) -> None:
    machine(*STAGE)
    for entry in device.devices():
        for kind, able in (("input", entry.inputs), ("output", entry.outputs)):
            if able:
                assert find(Wanted(entry.name), kind) == find(Wanted(entry.label.upper()), kind) == entry


@pytest.mark.parametrize(
    ("text", "index"), [("scarlett", 4), ("SCARLETT 2", 2), ("Scarlett ", 1), ("2i2", 2), ("jack", 3), ("alsa: sc", 1), ("s", 1)]
)
def test_the_whole_name_comes_before_its_beginning_and_that_before_its_middle(
    machine: Callable[..., Machine], text: str, index: int
) -> None:
    machine(*STAGE)
    assert found(text) == index


def test_only_what_can_is_found(machine: Callable[..., Machine]) -> None:
    machine(*STAGE)
    assert found("microphone", "input") == 5 and found("speakers") == 6
    assert refusal(found, "microphone", "output").startswith("unknown output device 'microphone'; known: HDA Intel, ")
    assert "did you mean 'speakers'?" in refusal(found, "speakrs", "output")
    assert "speakers" not in refusal(found, "speakrs", "input")


def test_without_any_device_the_next_step_is_named(machine: Callable[..., Machine]) -> None:
    machine(("speakers", "ALSA", 0, 2, 48000))
    assert refusal(found, None, "input") == "no input device; plug one in or start the sound server, then see sep-live --list"


def test_a_jack_server_that_runs_comes_before_any_other_default(machine: Callable[..., Machine]) -> None:
    stage = machine(*STAGE)
    stage.host_defaults = {"ALSA": (5, 6), JACK: (3, 4)}
    stage.default.device = [2, 1]
    assert [found(None, "input"), found(None, "output")] == [3, 4]
    stage.host_defaults[JACK] = (-1, -1)
    assert [found(None, "input"), found(None, "output")] == [2, 1]
    stage.default.device = [6, 5]  # neither can what is asked of it
    assert [found(None, "input"), found(None, "output")] == [0, 0]


def test_a_machine_without_portaudio_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MISSING", "PortAudio library not found")
    monkeypatch.setattr(device, "sd", None)
    assert "apt-get install libportaudio2" in refusal(find, Wanted(None), "input")
    device.look_again()


# The way through.


def test_without_channels_it_is_stereo_in_and_room_for_more_out(machine: Callable[..., Machine]) -> None:
    machine(*STAGE)
    way = route(Wanted("18i20"), Wanted("18i20"), 48000)
    assert (way.input_channels, way.output_channels, way.rate_hz) == ((0, 1), tuple(range(8)), 48000)
    way = route(Wanted("scarlett 2i2"), Wanted("scarlett 2i2"), 48000)
    assert (way.input_channels, way.output_channels) == ((0, 1), (0, 1))


def test_channels_are_counted_from_one_by_people_and_kept_in_their_order(machine: Callable[..., Machine]) -> None:
    machine(*STAGE)
    way = route(read_wanted("18i20:18,3"), read_wanted("18i20:19-20,1"), 48000)
    assert (way.input_channels, way.output_channels) == ((17, 2), (18, 19, 0))


@pytest.mark.parametrize(("wish", "last"), [("18i20:19", 18), ("2i2:1,3", 2), ("microphone:2", 1)])
def test_a_channel_that_the_device_does_not_have_is_refused(machine: Callable[..., Machine], wish: str, last: int) -> None:
    machine(*STAGE)
    message = refusal(route, read_wanted(wish), Wanted(None), 48000)
    assert message.startswith("channel ") and message.endswith(f"; expected 1 to {last}")


@pytest.mark.parametrize(
    ("inputs", "outputs", "rate_hz"),
    [
        ({44100, 48000, 96000}, {44100, 48000}, 48000),  # the model's own
        ({44100, 96000}, {44100, 96000}, 96000),  # the output's default
        ({44100, 96000}, {44100}, 44100),  # the input's default
    ],
    ids=["model", "output", "input"],
)
def test_the_rate_is_the_models_where_both_can_and_else_one_of_theirs(
    machine: Callable[..., Machine], inputs: set[int], outputs: set[int], rate_hz: int
) -> None:
    machine(("in", "ALSA", 2, 0, 44100), ("out", "ALSA", 0, 2, 96000), rates={"in": inputs, "out": outputs})
    assert route(Wanted("in"), Wanted("out"), 48000).rate_hz == rate_hz


def test_devices_without_a_common_rate_are_refused(machine: Callable[..., Machine]) -> None:
    machine(*STAGE)
    message = refusal(route, Wanted("microphone"), Wanted("speakers"), 48000)
    assert message == "'ALSA: microphone' and 'ALSA: speakers' share no sample rate; expected 48000 Hz, or 16000 Hz at both"


# On the board.

channels = st.lists(st.integers(0, MAX_CHANNELS - 1), min_size=1, max_size=MAX_CHANNELS).map(tuple)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return Board(tmp_path_factory.mktemp("device") / "board", create=True)


@given(channels, channels, st.sampled_from([44100, 48000, 192000]))
def test_what_is_announced_is_what_the_callback_finds(
    page: Board, inputs: tuple[int, ...], outputs: tuple[int, ...], rate_hz: int
) -> None:
    words, before = page.words[: b.HEADER], page.words[: b.HEADER].copy()
    card = Device(0, "card", "ALSA", MAX_CHANNELS, MAX_CHANNELS, rate_hz)
    announce(page, Route(card, card, inputs, outputs, rate_hz))
    assert words[b.INPUT_MAP : b.INPUT_MAP + int(words[b.INPUTS])].tolist() == list(inputs)
    assert words[b.OUTPUT_MAP : b.OUTPUT_MAP + int(words[b.OUTPUTS])].tolist() == list(outputs)
    assert words[b.INPUT_WIDTH] > max(inputs) and words[b.OUTPUT_WIDTH] > max(outputs)  # what it is opened with
    assert words[b.RATE_HZ] == rate_hz and words[b.SHAPE] == before[b.SHAPE] + 1
    ours = [b.RATE_HZ, b.INPUTS, b.OUTPUTS, b.INPUT_WIDTH, b.OUTPUT_WIDTH, b.SHAPE]
    before[ours], before[b.INPUT_MAP : b.MAIL_SIZE] = words[ours], words[b.INPUT_MAP : b.MAIL_SIZE]
    assert (words == before).all()  # and nothing else has changed


def test_the_same_device_found_again_is_another_shape(machine: Callable[..., Machine], tmp_path: Path) -> None:
    machine(*STAGE)
    board, way = Board(tmp_path / "board", create=True), route(Wanted("2i2"), Wanted("2i2"), 48000)
    for times in (1, 2):
        announce(board, way)
        assert board.words[b.SHAPE] == times


def test_looking_again_starts_portaudio_anew(machine: Callable[..., Machine]) -> None:
    stage, steps = machine(*STAGE), []
    stage._terminate = lambda: steps.append("end")  # type: ignore[attr-defined]
    stage._initialize = lambda: steps.append("begin")  # type: ignore[attr-defined]
    device.look_again()
    assert steps == ["end", "begin"]
