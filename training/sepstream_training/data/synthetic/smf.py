"""Standard MIDI files, written only: one track, one instrument.

``programs`` hands the bytes to FluidSynth. Times are in beats, so the tempo lives in the file and nowhere else.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

TICKS_PER_BEAT = 480
DRUM_CHANNEL = 9  # General MIDI: channel 10, counted from 0


class Note(NamedTuple):
    """One note. ``pitch`` and ``velocity`` are MIDI numbers, 0..127 and 1..127; to a drum kit, a pitch names a drum."""

    start_beats: float
    length_beats: float
    pitch: int
    velocity: int


def encode(notes: Iterable[Note], *, tempo_bpm: float, program: int, channel: int = 0) -> bytes:
    """Notes, in any order -> the bytes of a format 0 file that plays them with General MIDI ``program`` (0..127)."""
    track = b"\x00\xff\x51\x03" + round(60e6 / tempo_bpm).to_bytes(3, "big")  # microseconds per beat
    track += bytes([0, 0xC0 | channel, program])
    now = 0
    for tick, message in sorted(_events(notes, channel)):
        track += _variable_length(tick - now) + message
        now = tick
    track += b"\x00\xff\x2f\x00"
    header = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, TICKS_PER_BEAT)
    return header + struct.pack(">4sI", b"MTrk", len(track)) + track


def _events(notes: Iterable[Note], channel: int) -> Iterator[tuple[int, bytes]]:
    """(tick, message) pairs. Sorted, a note-off (0x8n) precedes a note-on (0x9n): a repeated note is not cut short."""
    for note in notes:
        start = round(note.start_beats * TICKS_PER_BEAT)
        end = start + max(1, round(note.length_beats * TICKS_PER_BEAT))
        yield start, bytes([0x90 | channel, note.pitch, note.velocity])
        yield end, bytes([0x80 | channel, note.pitch, 0])


def _variable_length(value: int) -> bytes:
    """Seven bits a byte, the most significant first, bit 7 set on all but the last."""
    out = bytes([value & 0x7F])
    while value := value >> 7:
        out = bytes([0x80 | value & 0x7F]) + out
    return out
