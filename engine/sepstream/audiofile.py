"""Sound files and sample rates: the only door to soundfile and soxr.

Called by render.py and record.py, one reader and some writers per thread. Audio is float32 (channels, samples), lengths
are in samples of the file's own rate. Files are read and written block by block, so memory does not grow with their length.
Every trouble with a file is an AudioFileError in one line.
"""

import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import gcd
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from .errors import AudioFileError

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

# What libsndfile can open. Not here: .raw says nothing about itself, .mat is rarely sound.
_OPENED = """
.wav .wave .bwf .rf64 .w64 .aif .aiff .aifc .au .snd .flac .ogg .oga .opus .mp3 .caf .voc .svx .8svx .iff
.paf .pvf .xi .htk .sds .avr .sd2 .wve .nist .sph .ircam .sf
"""
SUFFIXES = frozenset(_OPENED.split())
UNKNOWN_LENGTH = 2**62  # a FLAC written into a pipe promises about 2^63 samples
WAV_LIMIT_BYTES = 2**32 - 2**16  # sizes in a WAV header are 32 bits; the rest is room for the header
AUTO_DOWNGRADE = 0x1210  # SFC_RF64_AUTO_DOWNGRADE of sndfile.h: at the end, what fits into a WAV becomes one
LEAST_HZ, MOST_HZ = 100, 1_536_000  # a header may say anything, and memory follows it
LEAD_MS = 10  # silence on either side of a resampled signal: longer than the filters ring


class Encoding(NamedTuple):
    """How samples are stored; ``integer_bits`` 0 means as floats, that never clip."""

    container: str
    subtype: str
    integer_bits: int = 0
    float_bytes: int = 0

    @property
    def sample_bytes(self) -> int:
        """Bytes per sample, 0 where they vary."""
        return self.integer_bits // 8 or self.float_bytes


class Format(NamedTuple):
    """``encodings`` by --bits, the first is the default. Beyond the limits libsndfile crashes or says little."""

    encodings: dict[str | None, Encoding]
    most_channels: int
    highest_hz: int


FORMATS = {
    "wav": Format(
        {"32f": Encoding("WAV", "FLOAT", 0, 4), "24": Encoding("WAV", "PCM_24", 24), "16": Encoding("WAV", "PCM_16", 16)},
        most_channels=1024,
        highest_hz=2**31 - 1,
    ),
    "flac": Format({"24": Encoding("FLAC", "PCM_24", 24), "16": Encoding("FLAC", "PCM_16", 16)}, 8, 655_350),
    "ogg": Format({None: Encoding("OGG", "VORBIS")}, 255, 200_000),
}


def encoding(format: str, bits: str | None = None) -> Encoding:
    """The row of the table above; ``bits`` None is the format's default. Raises AudioFileError."""
    if format not in FORMATS:
        raise AudioFileError(f"unknown format '{format}'; expected {', '.join(FORMATS)}")
    known = FORMATS[format].encodings
    if bits is None:
        return next(iter(known.values()))
    if bits not in known:
        names = [name for name in known if name]
        expected = f"expected {' or '.join(names)}; choose one" if names else "its quality is its own; leave bits out"
        raise AudioFileError(f"{format} has no {bits} bits; {expected}, or use wav")
    return known[bits]


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that only runs forward. Where soundfile can seek it does so after each block, and fails at the end of
    a FLAC that is cut or of unknown length; it also stops at the promised length, even where an MP3 goes on."""

    def seekable(self) -> bool:
        return False


class AudioReader:
    """An open sound file. ``samples`` is the length its header promises, ``position`` how many have been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        self.rate_hz, self.channels, self.position = self._file.samplerate, self._file.channels, 0
        self.samples = self._file.frames if self._file.frames < UNKNOWN_LENGTH else _count(path)
        if not self.samples or not LEAST_HZ <= self.rate_hz <= MOST_HZ:
            self.close()
            raise self._silent() if not self.samples else self._odd_rate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def blocks(self, size: int) -> Iterator[F32]:
        """(channels, size) blocks to the real end of the file, the last one shorter. Raises on NaN and Inf."""
        while len(block := self._read(size)):
            self._check_finite(block)
            self.position += len(block)
            yield np.ascontiguousarray(block.T)
        if not self.position:
            raise self._silent()

    def _silent(self) -> AudioFileError:
        return AudioFileError(f"'{self.path}' holds no samples; expected at least one; record or export it again")

    def _odd_rate(self) -> AudioFileError:
        return AudioFileError(
            f"'{self.path}' says that its sample rate is {self.rate_hz} Hz; expected {LEAST_HZ} to {MOST_HZ} Hz; export it again"
        )

    def _read(self, size: int) -> F32:
        try:
            block: F32 = self._file.read(size, dtype="float32", always_2d=True)
            return block
        except soundfile.LibsndfileError as error:
            raise AudioFileError(f"'{self.path}' is damaged at {self._seconds(0)} ({_reason(error)}); export it again") from None

    def _check_finite(self, block: F32) -> None:
        good = np.isfinite(block)
        if good.all():
            return
        frame, channel = np.argwhere(~good)[0]
        raise AudioFileError(
            f"'{self.path}' holds {block[frame, channel]} at {self._seconds(int(frame))}; "
            "expected finite samples; export it again or cut that moment out"
        )

    def _seconds(self, ahead: int) -> str:
        return f"{(self.position + ahead) / self.rate_hz:.6f} s"


def _open(path: Path) -> soundfile.SoundFile:
    """The file, open for reading. libsndfile tells too little of what is wrong, so the plain reasons come first."""
    try:
        if not path.stat().st_size and path.is_file():
            raise AudioFileError(f"'{path}' is empty (0 bytes); expected a sound file; record or export it again")
        if path.is_dir():
            next(path.iterdir(), None)  # one that must not be looked into is told so
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "a device or pipe"
            raise AudioFileError(f"'{path}' is {kind}; expected a sound file, or a folder that holds some")
        path.open("rb").close()
    except FileNotFoundError:
        raise AudioFileError(f"'{path}' does not exist; expected a sound file; check the path") from None
    except OSError as error:
        raise AudioFileError(f"cannot read '{path}': {error.strerror}; check the path and its permissions") from None
    try:
        return _Stream(_native(path))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a .raw file wants to be told its format
        raise AudioFileError(
            f"'{path}' is not a sound file that libsndfile can read ({_reason(error)}); "
            "expected wav, flac, ogg, mp3, aiff or its like; convert it first"
        ) from None


def _native(path: Path) -> str | bytes:
    """The name as the system has it: POSIX names may hold bytes that are no text."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def _count(path: Path) -> int:
    """The length of a file whose header does not know it, by reading it once."""
    with _open(path) as file:
        return sum(iter(lambda: len(file.read(65536, dtype="float32", always_2d=True)), 0))


class AudioWriter:
    """A sound file under construction, ``hidden`` beside ``path`` until it is whole.

    A context manager: leaving it in peace gives the file its name, leaving it by any exception deletes it; ``open``, ``keep``
    and ``discard`` are the same by hand. ``samples`` is the expected length, None where nobody knows it (a WAV beyond 4 GiB
    becomes RF64). ``clipped`` counts samples beyond full scale, in integer formats.
    """

    def __init__(
        self, path: Path, rate_hz: int, channels: int, *, samples: int | None, format: str = "wav", bits: str | None = None
    ) -> None:
        self.path, self.position, self.clipped = path, 0, 0
        self._encoding = encoding(format, bits)
        _check_limits(path, format, rate_hz, channels)
        self._rate_hz, self._channels = rate_hz, channels
        self._unknown = format == "wav" and samples is None
        wide = format == "wav" and (samples or 0) * channels * self._encoding.sample_bytes > WAV_LIMIT_BYTES
        self._container = "RF64" if wide or self._unknown else self._encoding.container
        self.hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")

    def __enter__(self) -> Self:
        return self.open()

    def open(self) -> Self:
        """Make the hidden file. Raises AudioFileError."""
        try:
            self._file = self._create()
        except BaseException:
            self._remove()
            raise
        if self._unknown:
            soundfile._snd.sf_command(self._file._file, AUTO_DOWNGRADE, soundfile._ffi.NULL, 1)
        return self

    def _create(self) -> soundfile.SoundFile:
        shape = (self._rate_hz, self._channels, self._encoding.subtype)
        try:
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self.hidden.open("xb").close()  # tells why it cannot, where libsndfile does not
            return soundfile.SoundFile(_native(self.hidden), "w", *shape, format=self._container)
        except OSError as error:
            raise unwritable(self.path, error) from None
        except soundfile.LibsndfileError as error:
            raise self._failure(error) from None

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.keep()
        finally:
            self.discard()

    def keep(self) -> None:
        """Close the file and give it its name. Raises AudioFileError; it is then still there, hidden."""
        self.finish()
        self._publish()

    def write(self, block: F32) -> None:
        """Append (channels, n) samples. Integer formats round to the nearest code; beyond full scale they clip and count."""
        samples: F32 | I32 = np.ascontiguousarray(block.T)
        if bits := self._encoding.integer_bits:
            self.clipped += int(np.count_nonzero(np.abs(samples) > 1))
            samples = quantize(block.T, bits)
        try:
            self._file.write(samples)
        except (soundfile.LibsndfileError, AssertionError) as error:  # soundfile asserts that all was written
            raise self._failure(error) from None
        self.position += block.shape[1]

    def resize(self, samples: int) -> None:
        """Cut the end of a WAV off, or append silence: a hole, where the disk can have one. Also after a failed ``write``."""
        if samples and not self.position:  # libsndfile finds its place only behind a first sample
            self.write(np.zeros((self._channels, 1), np.float32))
        try:
            self._file.truncate(samples)
        except soundfile.LibsndfileError as error:
            raise self._failure(error) from None
        self.position = samples

    def finish(self) -> None:
        """Close the file and make sure that all of it is there; only renaming is left to do. Raises AudioFileError.

        A full disk may swallow the last block of a FLAC or OGG without a word.
        """
        if self._file.closed:
            return
        try:
            self._file.close()
            with soundfile.SoundFile(_native(self.hidden)) as written:
                written.seek(max(0, self.position - 1))
                whole = written.frames == self.position and len(written.read(1)) == min(1, self.position)
        except soundfile.LibsndfileError as error:
            raise self._failure(error) from None
        if not whole:
            raise self._failure(EOFError("it came out shorter than written"))

    def _publish(self) -> None:
        try:
            self.hidden.replace(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from None

    def discard(self) -> None:
        """Close and delete the file, unless it has its name already."""
        try:
            with suppress(soundfile.LibsndfileError):  # it is about to be deleted
                self._file.close()
        finally:
            self._remove()

    def _remove(self) -> None:
        with suppress(OSError):  # it was never made, or renamed, or nothing can be done
            self.hidden.unlink()

    def _failure(self, error: Exception) -> AudioFileError:
        """libsndfile only says 'System error'; writing on by hand brings out the real one."""
        try:
            with self.hidden.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(bytes(2**20))
        except OSError as real:
            return unwritable(self.path, real)
        return AudioFileError(f"cannot write '{self.path}': {_reason(error)}; choose another output folder or format")


def quantize(samples: F32, bits: int) -> I32:
    """Full scale 1.0 -> the nearest ``bits``-wide codes in the top bits of int32; ``bits`` at most 24.

    libsndfile would scale by 2^(bits-1) - 1 and round down; this way a 16-bit file comes back bit for bit.
    """
    full = 2.0 ** (bits - 1)
    codes: I32 = np.clip(np.rint(samples * np.float32(full)), -full, full - 1).astype(np.int32, order="C")
    return codes << np.int32(32 - bits)


def _check_limits(path: Path, format: str, rate_hz: int, channels: int) -> None:
    limits = FORMATS[format]
    if channels > limits.most_channels or rate_hz > limits.highest_hz:
        raise AudioFileError(
            f"cannot write '{path}': {format} holds up to {limits.most_channels} channels at up to {limits.highest_hz} Hz, "
            f"not {channels} at {rate_hz} Hz; use wav"
        )


def unwritable(path: Path, error: OSError) -> AudioFileError:
    """What an OSError on the way to ``path`` means to its user."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free some space or choose another output folder" if full else "choose an output folder that you may write to"
    return AudioFileError(f"cannot write '{path}': {error.strerror}; {advice}")


class Resampler:
    """A streaming sample rate converter without delay: output sample k is input time k * from_hz / to_hz.

    It gives what is certain so far and ``flush`` the rest; the total is the input's length times the ratio, rounded.
    Flat within 0.01 dB up to 90 % of the lower Nyquist frequency (soxr's VHQ), whatever the blocks. Lanes are independent.
    """

    def __init__(self, from_hz: int, to_hz: int, lanes: int) -> None:
        self._stream = soxr.ResampleStream(from_hz, to_hz, lanes, dtype="float32", quality="VHQ")
        self._lanes = lanes

    def process(self, block: F32) -> F32:
        """(lanes, n) -> (lanes, m)"""
        return self._convert(block, last=False)

    def flush(self) -> F32:
        """The end of the signal; use a fresh Resampler for the next one."""
        return self._convert(np.zeros((self._lanes, 0), np.float32), last=True)

    def _convert(self, block: F32, last: bool) -> F32:
        converted: F32 = self._stream.resample_chunk(np.ascontiguousarray(block.T), last=last)
        return converted.T


def resample(blocks: Iterable[F32], from_hz: int, to_hz: int, lanes: int) -> Iterator[F32]:
    """(lanes, n) blocks at ``from_hz`` -> (lanes, m) blocks at ``to_hz``; at equal rates the very same blocks."""
    if from_hz == to_hz:
        yield from blocks
        return
    resampler = Resampler(from_hz, to_hz, lanes)
    for block in blocks:
        yield resampler.process(block)
    yield resampler.flush()


def lead_samples(rate_hz: int, other_hz: int) -> int:
    """Silence to put around a signal before resampling there and back: its edges ring into it instead of being cut.

    A whole number of samples at both rates, at least LEAD_MS; 0 where nothing is resampled.
    """
    if rate_hz == other_hz:
        return 0
    period = rate_hz // gcd(rate_hz, other_hz)
    return period * -(-rate_hz * LEAD_MS // (1000 * period))
