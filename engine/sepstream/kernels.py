"""The loops of the hot path, compiled by Numba: no Python objects in, no GIL held, results into given arrays.

Each kernel is a plain function first; ``kernel`` compiles it and keeps the plain one as ``.py_func``, which the
tests compare. All kernels and their helpers live in this file: Numba's cache does not see edits across files.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
C64 = NDArray[np.complex64]


def _cache_is_writable() -> bool:
    """Point Numba at a per-user cache; where none can be written, kernels are compiled anew in each process."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or caches / "sepstream" / "numba")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]  # made at run time
            return True
    except (OSError, RuntimeError):
        return False


_CACHE = _cache_is_writable()


def kernel(function: Callable[..., Any]) -> Any:
    return numba.njit(nogil=True, cache=_CACHE, fastmath={"contract", "arcp", "nsz"})(function)


@kernel
def clean(audio: F32, faintest: float, loudest: float) -> int:
    """Samples of (channels, samples) that are no sound become 0, in place; returns how many were NaN, infinite or beyond
    ``loudest``. What is fainter than ``faintest`` is silence: arithmetic on denormal numbers takes five times as long."""
    faults = 0
    for c in range(audio.shape[0]):
        for i in range(audio.shape[1]):
            size = abs(audio[c, i])
            if not size <= loudest:
                faults += 1
                audio[c, i] = 0.0
            elif size < faintest:
                audio[c, i] = 0.0
    return faults


@kernel
def cut_frames(history: F32, block: F32, window: F32, frames: F32, newest: F32) -> None:
    """(channels, analysis - hop) history, (channels, hops * hop) block -> windowed (hops, channels, analysis) ``frames``,
    and ``newest``, the history of the next call."""
    hops, channels, length = frames.shape
    past = history.shape[1]
    hop = length - past
    for c in range(channels):
        for h in range(hops):
            at = h * hop
            old = max(0, past - at)  # samples of this frame that are history
            for i in range(old):
                frames[h, c, i] = history[c, at + i] * window[i]
            for i in range(old, length):
                frames[h, c, i] = block[c, at + i - past] * window[i]
        fed = hops * hop
        for i in range(past):
            newest[c, i] = history[c, i + fed] if i + fed < past else block[c, i + fed - past]


@kernel
def magnitude(spectra: C64, scale: float, out: F32) -> None:
    """(hops, channels, bins) spectra -> (hops, band bins): root mean square over channels, times ``scale``."""
    hops, channels, _ = spectra.shape
    square = np.float32(scale * scale / channels)
    for h in range(hops):
        out[h] = 0.0
        for c in range(channels):
            for f in range(out.shape[1]):
                z = spectra[h, c, f]
                out[h, f] += z.real * z.real + z.imag * z.imag
        for f in range(out.shape[1]):
            out[h, f] = np.sqrt(out[h, f] * square)


@kernel
def apply_masks(spectra: C64, masks: F32, follow_low: int, follow_high: int, out: C64) -> None:
    """(hops, channels, bins) spectra, (hops, buses, band bins) masks -> (hops, buses, channels, bins).

    Bins above the band take the mean mask over [follow_low, follow_high).
    """
    hops, channels, bins = spectra.shape
    buses, band = masks.shape[1:]
    for h in range(hops):
        for b in range(buses):
            above = np.float32(0.0)
            for f in range(follow_low, follow_high):
                above += masks[h, b, f]
            above /= np.float32(follow_high - follow_low)
            for c in range(channels):
                for f in range(band):
                    out[h, b, c, f] = spectra[h, c, f] * masks[h, b, f]
                for f in range(band, bins):
                    out[h, b, c, f] = spectra[h, c, f] * above


@kernel
def spectra_to_signal(spectra: C64, scale: float, out: F32) -> None:
    """(hops, channels, bins) -> (hops, channels or more, band bins, 2) times ``scale``; the last channel stands in for others."""
    hops, channels, _ = spectra.shape
    factor = np.float32(scale)
    for h in range(hops):
        for c in range(out.shape[1]):
            for f in range(out.shape[2]):
                z = spectra[h, min(c, channels - 1), f]
                out[h, c, f, 0] = factor * z.real
                out[h, c, f, 1] = factor * z.imag


@kernel
def spectra_to_rows(mix: C64, found: F32, scale: float, follow_low: int, follow_high: int, unity: F32, rows: F32) -> None:  # noqa: PLR0917
    """(hops, channels, bins) mix, (hops, classes, channels or more, band bins, 2) found -> ``unity`` (channels, hops, n) of the
    mix, ``rows`` (channels, hops, classes, n), n = 2 * band bins + 1: real and imaginary parts in turn, then the gain of the bins
    above the band. ``found`` is divided by ``scale``.

    That gain is the class's share of the mix over [follow_low, follow_high): Re<mix, class> / |mix|^2, within 0 and 1.
    """
    hops, classes, _, band, _ = found.shape
    back = np.float32(1.0 / scale)
    for c in range(mix.shape[1]):
        for h in range(hops):
            energy = np.float32(1e-30)
            for f in range(band):
                z = mix[h, c, f]
                unity[c, h, 2 * f] = z.real
                unity[c, h, 2 * f + 1] = z.imag
                if follow_low <= f < follow_high:
                    energy += z.real * z.real + z.imag * z.imag
            unity[c, h, 2 * band] = 1.0
            for k in range(classes):
                common = np.float32(0.0)
                for f in range(band):
                    re, im = found[h, k, c, f, 0] * back, found[h, k, c, f, 1] * back
                    rows[c, h, k, 2 * f] = re
                    rows[c, h, k, 2 * f + 1] = im
                    if follow_low <= f < follow_high:
                        common += re * mix[h, c, f].real + im * mix[h, c, f].imag
                rows[c, h, k, 2 * band] = min(max(common / energy, np.float32(0.0)), np.float32(1.0))


@kernel
def rows_to_spectra(rows: F32, mix: C64, out: C64) -> None:
    """(channels, hops, buses, 2 * band bins + 1), (hops, channels, bins) mix -> (hops, buses, channels, bins)."""
    channels, hops, buses, width = rows.shape
    band, bins = width // 2, mix.shape[2]
    for h in range(hops):
        for b in range(buses):
            for c in range(channels):
                for f in range(band):
                    out[h, b, c, f] = complex(rows[c, h, b, 2 * f], rows[c, h, b, 2 * f + 1])
                gain = rows[c, h, b, 2 * band]
                for f in range(band, bins):
                    out[h, b, c, f] = mix[h, c, f] * gain


@kernel
def overlap_add(frames: F32, window: F32, overlap: F32, out: F32) -> None:
    """(hops, lanes, analysis) frames -> (lanes, hops * hop): the last window.size samples of each are windowed and added.

    ``overlap`` (lanes, window.size - hop) holds what earlier frames still owe, and is brought up to date.
    """
    hops, lanes, length = frames.shape
    tail = overlap.shape[1]
    hop = window.size - tail
    first = length - window.size
    for n in range(lanes):
        for h in range(hops):
            at = h * hop
            for i in range(hop):
                out[n, at + i] = frames[h, n, first + i] * window[i]
            for i in range(tail):
                out[n, at + i] += overlap[n, i]
                overlap[n, i] = frames[h, n, first + hop + i] * window[hop + i]


@kernel
def ramp_gains(audio: F32, gain: F32, target: F32, slope: float) -> None:
    """Scale (buses, channels, samples) in place; each bus's ``gain`` walks to its ``target`` by ``slope`` per sample."""
    buses, channels, samples = audio.shape
    for b in range(buses):
        goal, g = target[b], gain[b]
        if g == goal == 1.0:
            continue
        step = np.float32(slope)
        for c in range(channels):
            g = gain[b]
            for i in range(samples):
                g = min(g + step, goal) if g < goal else max(g - step, goal)
                audio[b, c, i] *= g
        gain[b] = g


# The selection: what a bus takes, as a postfix program on a stack of masks (selection.py writes it). Instructions are
# rows of ``code`` (op, a, b); their numbers stand in the same row of ``numbers``.
CLASS, MIX, BAND, CELL, ELLIPSE, LASSO = range(6)  # push: class a; ones; distance row a; rows a to b; outline rows a to b
NOT, GAIN, BOTH, EITHER, WITHOUT, SUM = range(6, 12)  # 1-x, g x; x y, x+y-xy, x(1-y), x+y
BUS, RESIDUAL = range(12, 14)  # into output a: the mask on the stack, through its one-pole; 1 - all outputs before it
POINT, LINE, FLAT = range(3)  # a row of ``forms`` measures from a point, a geodesic, a straight line (Euclid)


@kernel
def run_program(  # noqa: PLR0917  # flat: a tuple of arrays costs 2 us more per call
    code: I32, numbers: F64, forms: F64, outlines: F64, limit: float,
    masks: F32, unity: F32, embedding: F32, before: F32, lifted: F64, distances: F64, stack: F32, out: F32,
) -> None:  # fmt: skip
    """(hops, classes, bins) masks, (hops, dim, bins) embedding -> (hops, buses, bins); ``before`` (buses, bins) is hop -1.

    ``unity`` (hops, bins) is all there is: ones, for masks; for rows of spectra, those of the mix.

    ``forms`` (rows, 2 + dim + 1): kind, factor, linear form. ``outlines`` (points, 2). ``limit`` clips |u|; 0 is Euclid.
    Room to work in: ``lifted`` (dim + 1, bins), or (0, bins) where nothing needs it, ``distances`` (rows, bins), ``stack``.
    """
    for h in range(masks.shape[0]):
        if lifted.shape[0] > 0:
            _lift(embedding[h], limit, lifted)
            _measure(lifted, forms, distances)
        last = before if h == 0 else out[h - 1]
        top = -1
        for i in range(code.shape[0]):
            op, a, b, n = code[i, 0], code[i, 1], code[i, 2], numbers[i]
            if op < NOT:
                top += 1
                if op == CLASS:
                    stack[top] = masks[h, a]
                else:
                    _region(op, a, b, n, unity[h], lifted, distances, outlines, stack[top])
            elif op < BOTH:
                _scale(op == NOT, n[0], unity[h], stack[top])
            elif op < BUS:
                top -= 1
                _combine(op, stack[top], stack[top + 1])
            elif op == BUS:
                _follow(stack[top], n[0], last[a], out[h, a])
                top -= 1
            else:
                _rest(unity[h], out[h, :a], out[h, a])


@kernel
def _lift(u: F32, limit: float, lifted: F64) -> None:
    """(dim, bins) embedding -> (dim + 1, bins); in float64, because near the rim forms subtract numbers of 10^6."""
    for f in range(u.shape[1]):
        square = 0.0
        for d in range(u.shape[0]):
            square += np.float64(u[d, f]) * np.float64(u[d, f])
        radius = np.sqrt(square)
        grow = np.exp(2.0 * min(radius, limit))
        lifted[0, f] = 0.5 * (grow + 1.0 / grow)
        stretch = 0.5 * (grow - 1.0 / grow) / radius if limit > 0.0 and radius > 1e-12 else 1.0
        for d in range(u.shape[0]):
            lifted[d + 1, f] = stretch * u[d, f]


@kernel
def _measure(lifted: F64, forms: F64, distances: F64) -> None:
    """(dim + 1, bins), (rows, 2 + dim + 1) -> (rows, bins) signed distances, times the row's factor."""
    for r in range(forms.shape[0]):
        kind, factor = int(forms[r, 0]), forms[r, 1]
        for f in range(lifted.shape[1]):
            x = 0.0
            for d in range(lifted.shape[0]):
                x += forms[r, 2 + d] * lifted[d, f]
            if kind == POINT:  # acosh
                x = np.log(x + np.sqrt(x * x - 1.0)) if x > 1.0 else 0.0
            elif kind == LINE:  # asinh
                size = np.log(abs(x) + np.sqrt(x * x + 1.0))
                x = size if x > 0.0 else -size
            distances[r, f] = factor * x


@kernel
def _region(op: int, a: int, b: int, n: F64, unity: F32, lifted: F64, distances: F64, outlines: F64, out: F32) -> None:  # noqa: PLR0917
    """The mask (bins,) of one region; ``n`` holds its numbers, its soft edge among them."""
    if op == MIX:
        out[:] = unity
    elif op == BAND:
        for f in range(out.size):
            out[f] = _step(min(distances[a, f] - n[0], n[1] - distances[a, f]), n[2])
    elif op == CELL:
        _cell(distances[a:b], int(n[0]), n[1], out)
    elif op == ELLIPSE:
        _ellipse(lifted, n, out)
    else:
        _lasso(lifted, outlines[a:b], n[0], out)


@kernel
def _step(inside: float, soft: float) -> float:
    """0 outside to 1 inside, 0.5 on the boundary; smooth over ``soft``; the steps of x and of -x add up to one."""
    if soft == 0.0:
        return 1.0 if inside >= 0.0 else 0.0
    t = min(max(inside / soft + 0.5, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@kernel
def _cell(logits: F64, own: int, soft: float, out: F32) -> None:
    """(classes, bins) -> (bins,): where row ``own`` is the greatest; of equals, the first. Soft cells add up to one, too."""
    for f in range(out.size):
        best = 0
        rival = -np.inf
        for k in range(1, logits.shape[0]):
            if logits[k, f] > logits[best, f]:
                best, rival = k, logits[best, f]
            else:
                rival = max(rival, logits[k, f])
        if soft == 0.0 or logits.shape[0] == 1:
            out[f] = 1.0 if best == own else 0.0
            continue
        total, mine = _step(logits[best, f] - rival, soft), 0.0
        if own == best:
            mine = total
        for k in range(logits.shape[0]):
            if k != best:
                share = _step(logits[k, f] - logits[best, f], soft)
                total += share
                if k == own:
                    mine = share
        out[f] = mine / total


@kernel
def _ellipse(lifted: F64, n: F64, out: F32) -> None:
    """``n``: x, y, cos, sin, a, b, soft. Distance to first order at the edge: (1 - q)/|grad q| on the screen, in disk units."""
    for f in range(out.size):
        deep = 1.0 + lifted[0, f]  # 2/(1 - |x|^2), the disk's unit of length
        dx, dy = lifted[1, f] / deep - n[0], lifted[2, f] / deep - n[1]
        p, s = (n[2] * dx + n[3] * dy) / n[4], (n[2] * dy - n[3] * dx) / n[5]
        q, steep = np.hypot(p, s), np.hypot(p / n[4], s / n[5])
        near = (1.0 - q) * q / steep if steep > 0.0 else min(n[4], n[5])
        out[f] = _step(near * deep, n[6])


@kernel
def _lasso(lifted: F64, corners: F64, soft: float, out: F32) -> None:
    """Even-odd rule; distance is that to the point of the outline nearest on the screen."""
    for f in range(out.size):
        deep = 1.0 + lifted[0, f]
        x, y = lifted[1, f] / deep, lifted[2, f] / deep
        inside, chord = False, np.inf
        x0, y0 = corners[-1, 0], corners[-1, 1]
        for k in range(corners.shape[0]):
            x1, y1 = corners[k, 0], corners[k, 1]
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
                inside = not inside
            if soft > 0.0:
                chord = min(chord, _chord(x, y, x0, y0, x1 - x0, y1 - y0))
            x0, y0 = x1, y1
        near = 2.0 * np.arcsinh(np.sqrt(0.5 * deep * chord)) if soft > 0.0 else 1.0
        out[f] = _step(near if inside else -near, soft)


@kernel
def _chord(x: float, y: float, x0: float, y0: float, dx: float, dy: float) -> float:  # noqa: PLR0917
    """|p - e|^2 / (1 - |e|^2) for the point e of a side that is nearest to p on the screen; inf beyond the rim."""
    length = dx * dx + dy * dy
    along = min(max(((x - x0) * dx + (y - y0) * dy) / length, 0.0), 1.0) if length > 0.0 else 0.0
    ex, ey = x0 + along * dx, y0 + along * dy
    room = 1.0 - ex * ex - ey * ey
    return ((x - ex) ** 2 + (y - ey) ** 2) / room if room > 0.0 else np.inf


@kernel
def _scale(invert: bool, gain: float, unity: F32, x: F32) -> None:
    factor = np.float32(gain)
    for f in range(x.size):
        x[f] = unity[f] - x[f] if invert else factor * x[f]


@kernel
def _combine(op: int, x: F32, y: F32) -> None:
    """x becomes x op y."""
    one = np.float32(1.0)
    for f in range(x.size):
        if op == BOTH:
            x[f] *= y[f]
        elif op == EITHER:
            x[f] += y[f] - x[f] * y[f]
        elif op == WITHOUT:
            x[f] *= one - y[f]
        else:
            x[f] += y[f]


@kernel
def _follow(mask: F32, keep: float, last: F32, out: F32) -> None:
    """A one-pole from ``last`` towards ``mask``; a ``last`` of NaN (nothing yet, or a fault) is forgotten."""
    kept = np.float32(keep)
    for f in range(mask.size):
        pull = kept * (last[f] - mask[f])
        out[f] = mask[f] + pull if keep > 0.0 and not np.isnan(pull) else mask[f]


@kernel
def _rest(unity: F32, others: F32, out: F32) -> None:
    out[:] = unity
    for b in range(others.shape[0]):
        for f in range(out.size):
            out[f] -= others[b, f]


@kernel
def route(sources: F32, now: F32, target: F32, slope: float, out: F32) -> None:
    """(sources, inputs, n) through the matrix ``now`` (outputs, sources, inputs) -> (n, outputs) interleaved. Each entry
    moves towards ``target`` by ``slope`` a sample, and ``now`` ends where they are."""
    step = np.float32(slope)
    out[:] = 0.0
    for o in range(now.shape[0]):
        for s in range(now.shape[1]):
            for c in range(now.shape[2]):
                gain, end = now[o, s, c], target[o, s, c]
                if gain == 0.0 and end == 0.0:
                    continue
                for i in range(out.shape[0]):
                    if gain != end:
                        gap = end - gain
                        gain = end if abs(gap) <= step else gain + (step if gap > 0.0 else -step)
                    out[i, o] += gain * sources[s, c, i]
                now[o, s, c] = gain


@kernel
def levels(lanes: F32, decay: float, follow: float, out: F32) -> None:
    """(lanes, n) -> (lanes, 2) in place: the peak, falling by ``decay`` a call, and the mean square, a one-pole."""
    for k in range(lanes.shape[0]):
        peak, square = np.float32(0.0), 0.0
        for i in range(lanes.shape[1]):
            peak = max(peak, abs(lanes[k, i]))
            square += lanes[k, i] * lanes[k, i]
        out[k, 0] = max(peak, out[k, 0] * np.float32(decay))
        out[k, 1] += np.float32(follow) * (np.float32(square / lanes.shape[1]) - out[k, 1])


@kernel
def read_ring(ring: F32, at: int, out: F32) -> None:
    """(frames, lanes) ring, its length a power of two, from frame ``at`` -> (lanes, n)."""
    mask = ring.shape[0] - 1
    for i in range(out.shape[1]):
        for k in range(out.shape[0]):
            out[k, i] = ring[(at + i) & mask, k]


@kernel
def write_ring(frames: F32, at: int, ring: F32) -> None:
    """(n, lanes) into the (frames, lanes) ring from frame ``at`` on."""
    mask = ring.shape[0] - 1
    for i in range(frames.shape[0]):
        for k in range(frames.shape[1]):
            ring[(at + i) & mask, k] = frames[i, k]


# What the audio callback needs of the machine, without the interpreter: a barrier, a clock, a way to wake a thread.
# With NUMBA_DISABLE_JIT there is no callback to compile, and their plain twins stand in.

_numba: Any = numba  # whose own types are stricter than its practice
_build: Any = cgutils

if _numba.config.DISABLE_JIT:

    def fence() -> None:
        """Nothing to order: the interpreter's own locks do."""

    now_ns = time.monotonic_ns

    def wake(descriptor: int) -> None:
        os.write(descriptor, (1).to_bytes(8, "little"))

    def pa_callback(function: Any) -> Any:
        return function

    view: Any = _numba.carray

else:

    @intrinsic
    def fence(typing: Any) -> Any:
        """What was stored before is seen by others before what is stored after."""

        def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), generate

    @intrinsic
    def now_ns(typing: Any) -> Any:
        """The monotonic clock; 0 where the C library has no clock_gettime."""

        def generate(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
            long = ir.IntType(64)
            if not hasattr(time, "CLOCK_MONOTONIC"):
                return long(0)
            spec = _build.alloca_once(builder, ir.ArrayType(long, 2))
            form = ir.FunctionType(ir.IntType(32), (ir.IntType(32), spec.type))
            clock = _build.get_or_insert_function(builder.module, form, "clock_gettime")
            builder.call(clock, (ir.IntType(32)(time.CLOCK_MONOTONIC), spec))
            seconds, rest = (builder.load(_build.gep_inbounds(builder, spec, 0, k)) for k in range(2))
            return builder.add(builder.mul(seconds, long(1_000_000_000)), rest)

        return types.int64(), generate

    @intrinsic
    def wake(typing: Any, descriptor: Any) -> Any:
        """Write the number 1, 8 bytes of it, to an eventfd or a pipe."""

        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            long = ir.IntType(64)
            one = _build.alloca_once_value(builder, long(1))
            form = ir.FunctionType(long, (ir.IntType(32), one.type, long))
            write = _build.get_or_insert_function(builder.module, form, "write")
            builder.call(write, (builder.trunc(arguments[0], ir.IntType(32)), one, long(8)))
            return _build.get_null_value(ir.LiteralStructType(()).as_pointer())

        return types.void(types.int64), generate

    view = _numba.carray
    _pointer = types.voidptr
    pa_callback = _numba.cfunc(
        types.int32(_pointer, _pointer, types.ulong, _pointer, types.ulong, _pointer), nopython=True, cache=_CACHE
    )


def summing_kernel(function: Callable[..., Any]) -> Any:
    """A kernel whose sums may be taken in any one order, always the same: vector units make them five times as fast."""
    return numba.njit(nogil=True, cache=_CACHE, fastmath={"contract", "arcp", "nsz", "reassoc"})(function)


@summing_kernel
def resample(audio: F32, table: F32, advance: int, at: int, row: int, out: F32) -> None:  # noqa: PLR0917
    """(channels, past + n) audio -> (channels, m): each sample is a row of (phases, taps) ``table`` times as many samples.

    The first is ``row``, laid on the samples from ``at`` on; each next one lies ``advance`` phases later.
    """
    phases, taps = table.shape
    whole, rest = advance // phases, advance % phases
    for c in range(audio.shape[0]):
        start, phase = at, row
        for k in range(out.shape[1]):
            heard, weights = audio[c, start : start + taps], table[phase]  # slices: indices that cannot wrap vectorize
            total = np.float32(0.0)
            for j in range(taps):
                total += heard[j] * weights[j]
            out[c, k] = total
            start, phase = start + whole, phase + rest
            if phase >= phases:
                start, phase = start + 1, phase - phases


@kernel
def barrier() -> None:
    """``fence`` for the interpreter's side."""
    fence()


@kernel
def nearest_sums(costs: F64, same: float, out: I32) -> None:
    """(codes, codes) costs -> (codes, codes): the k with the least costs[k, i] + costs[k, j]; the first of those that are less
    than ``same`` apart."""
    codes = costs.shape[0]
    least, nearest = np.empty(codes), np.empty(codes, np.int32)
    for i in range(codes):
        least[:] = np.inf
        for k in range(codes):
            own, row = costs[k, i], costs[k]
            for j in range(i + 1):  # innermost, so that vector units take several pairs at a time
                cost = own + row[j]
                if cost < least[j] - same:
                    least[j], nearest[j] = cost, k
        for j in range(i + 1):
            out[i, j] = out[j, i] = nearest[j]


@kernel
def draw_listed(first: F64, second: F64, pairs: I32, weights: F64, chances: F64, out: I32) -> None:  # noqa: PLR0917
    """Draw a pair for each row of (rows, codes) probabilities ``first`` and ``second``: (rows, 2) ``out``.

    ``pairs`` (n, 2) are those that can be drawn, with probability in proportion to first * second * ``weights`` (n,);
    ``chances`` (rows,) lie in [0, 1). A row in which all of these are zero gets -1, -1.
    """
    for row in range(first.shape[0]):
        total = 0.0
        for n in range(len(pairs)):
            total += first[row, pairs[n, 0]] * second[row, pairs[n, 1]] * weights[n]
        out[row] = -1
        left = chances[row] * total
        for n in range(len(pairs)):
            share = first[row, pairs[n, 0]] * second[row, pairs[n, 1]] * weights[n]
            if share > 0.0:
                out[row, 0], out[row, 1] = pairs[n]
                left -= share
                if left < 0.0:
                    break
