"""The network on ONNX Runtime: signal, condition and state in, masks or spectra, embedding and state out. The only door to
onnxruntime.

One session, bound once: two sets of state buffers take turns as input and output, so a call allocates nothing. Masks are found
for all channels at once; spectra for as many as the graph takes, and sound of more channels goes through it in several lanes,
each with a memory of its own. Called by pipeline.py on the worker thread.
"""

import contextlib
import importlib.util
import io
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .contract import Bundle, GraphSpec
from .errors import BundleError, ProviderError

F32 = NDArray[np.float32]

SILENT = 4  # ONNX Runtime's log level that leaves only fatal lines
WARM_UP_CALLS = 3


class ModelState(NamedTuple):
    """The network's memory after some call. A running state is a view of the separator's buffers and lives until the
    second call after it; ``Separator.keep`` turns it into a value that lasts."""

    arrays: tuple[Any, ...]  # numpy arrays (kept) or bound buffers (running), lane by lane in the order of the graph's states
    call: int  # number of the call that wrote it; -1 for a kept state


class Separation(NamedTuple):
    """``masks`` (hops, classes, band bins) and ``embedding`` (hops, dim, band bins), dim 0 where the model has no disk; good
    until the next call. A model of spectra gives these in the place of masks: (hops, classes, channels, band bins, 2)."""

    masks: F32
    embedding: F32


class Separator:
    """Runs the graph of ``bundle`` that takes ``hops`` frames per call, for sound of ``channels``.

    ``provider`` "auto" uses CUDA where a session really gets it. Raises ProviderError when "cuda" was asked for
    and is not there, BundleError when ONNX Runtime refuses the graph.
    """

    def __init__(self, bundle: Bundle, hops: int = 1, provider: str = "auto", channels: int = 1) -> None:
        self.graph = _graph(bundle, hops)
        self.lanes = -(-channels // bundle.graph_channels) if bundle.gives_spectra else 1
        self.session = _open_session(bundle, self.graph, provider)
        self.provider = "cuda" if self.session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
        given = self.graph.inputs[1 : len(self.graph.inputs) - len(self.graph.states)]
        self._condition = [self._buffer(spec.shape) for spec in given]  # one, or none
        self._asked = np.eye(len(bundle.classes), dtype=np.float32)
        self._found = self.graph.outputs[: len(self.graph.outputs) - len(self.graph.states)]
        self._nowhere = np.zeros((hops, 0, bundle.band.bins), np.float32)  # the embedding of a model without a disk
        self._lanes = [self._lane(index) for index in range(self.lanes)]
        self._call = 0  # state set call % 2 is the newest
        self._warm_up()

    def initial_state(self) -> ModelState:
        return ModelState(tuple(np.zeros(spec.shape, np.float32) for spec in self.graph.states_in * self.lanes), -1)

    def keep(self, state: ModelState) -> ModelState:
        """A copy of ``state`` that later calls leave alone."""
        self._check_alive(state)
        return ModelState(tuple(_read(a).copy() for a in state.arrays), -1)

    def step(self, signal: F32, state: ModelState, condition: F32 | None = None) -> tuple[Separation, ModelState]:
        """(hops, band bins) magnitudes, or (hops, lanes * graph channels, band bins, 2) spectra -> what they hold, and the state
        for the next call. ``condition`` (classes, classes) is what a conditioned model is asked for; None: for each class."""
        if state.call != self._call:
            self._load(state)
        for buffer in self._condition:
            buffer.write(self._asked if condition is None else condition)
        for lane, part in zip(self._lanes, [signal] if self.lanes == 1 else np.split(signal, self.lanes, axis=1), strict=True):
            lane.signal.write(part)
            self.session.run_with_iobinding(lane.bindings[self._call % 2], lane.options[self._call % 2])
        self._call += 1
        masks, *embedding = (output.read() for output in self._lanes[0].outputs)
        if self.lanes > 1:
            masks = np.concatenate([lane.outputs[0].read() for lane in self._lanes], axis=2)
        return Separation(masks, *(embedding or [self._nowhere])), ModelState(self._newest(), self._call)

    def _newest(self) -> tuple[Any, ...]:
        return tuple(buffer for lane in self._lanes for buffer in lane.states[self._call % 2])

    def _load(self, state: ModelState) -> None:
        self._check_alive(state)
        kept = [_read(a) for a in state.arrays]
        for buffer, array in zip(self._newest(), kept, strict=True):
            buffer.write(array)

    def _check_alive(self, state: ModelState) -> None:
        assert state.call in (-1, self._call, self._call - 1), "this state was overwritten; keep() it before two more calls"

    def _buffer(self, shape: tuple[int, ...]) -> "_Buffer":
        return _Buffer(shape, self.provider)

    def _lane(self, index: int) -> "_Lane":
        signal = self._buffer(self.graph.inputs[0].shape)
        outputs = [self._buffer(spec.shape) for spec in self._found]
        states = [[self._buffer(spec.shape) for spec in self.graph.states_in] for _ in range(2)]
        bindings = [self._bind(signal, outputs, states[turn], states[1 - turn]) for turn in range(2)]
        return _Lane(signal, outputs, states, bindings, [self._run_options(2 * index + turn) for turn in range(2)])

    def _bind(self, signal: "_Buffer", outputs: "list[_Buffer]", before: "list[_Buffer]", after: "list[_Buffer]") -> Any:
        """By name, so the graph's own order is free."""
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(self.graph.inputs[0].name, signal.value)
        for spec, buffer in zip(self.graph.inputs[1:], self._condition, strict=False):
            binding.bind_ortvalue_input(spec.name, buffer.value)
        for spec, buffer in zip(self._found, outputs, strict=True):
            binding.bind_ortvalue_output(spec.name, buffer.value)
        for (name_in, name_out), old, new in zip(self.graph.states, before, after, strict=True):
            binding.bind_ortvalue_input(name_in, old.value)
            binding.bind_ortvalue_output(name_out, new.value)
        return binding

    def _run_options(self, binding: int) -> Any:
        """On CUDA each binding is captured as a CUDA graph of its own (its addresses never change)."""
        options = ort.RunOptions()
        if self.provider == "cuda":
            options.add_run_config_entry("gpu_graph_id", str(binding + 1))
        return options

    def _warm_up(self) -> None:
        for _ in range(WARM_UP_CALLS):
            self.step(self.silence(), self.initial_state())

    def silence(self) -> F32:
        """A signal for ``step``."""
        hops, *frame = self.graph.inputs[0].shape
        return np.zeros((hops, frame[0] * self.lanes, *frame[1:]), np.float32)


class _Lane(NamedTuple):
    """What one run of the graph is bound to: its signal, what it finds, and its two sets of states, which take turns."""

    signal: "_Buffer"
    outputs: "list[_Buffer]"
    states: "list[list[_Buffer]]"
    bindings: list[Any]
    options: list[Any]


class Call:
    """A graph of an offline bundle, without a memory of its own: float32 arrays in, arrays out, in the order of its tensors."""

    def __init__(self, bundle: Bundle, graph: GraphSpec, provider: str = "auto") -> None:
        self.graph = graph
        self.session = _open_session(bundle, graph, provider, captured=False)
        self.provider = "cuda" if self.session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
        self._inputs = [spec.name for spec in graph.inputs]
        self._outputs = [spec.name for spec in graph.outputs]

    def __call__(self, *arrays: F32) -> list[F32]:
        found: list[F32] = self.session.run(self._outputs, dict(zip(self._inputs, arrays, strict=True)))
        return found


class _Buffer:
    """One tensor that a session is bound to. On the CPU it is this very array; on CUDA it is copied there and back."""

    def __init__(self, shape: tuple[int, ...], device: str) -> None:
        self.on_cpu = device == "cpu"
        self.array = np.zeros(shape, np.float32)
        self.value = ort.OrtValue.ortvalue_from_numpy(self.array, device, 0)

    def write(self, array: F32) -> None:
        if self.on_cpu:
            np.copyto(self.array, array)
        else:
            self.value.update_inplace(np.ascontiguousarray(array))

    def read(self) -> F32:
        return self.array if self.on_cpu else self.value.numpy()


def _read(state: Any) -> F32:
    return state.read() if isinstance(state, _Buffer) else state


def _graph(bundle: Bundle, hops: int) -> GraphSpec:
    if bundle.latent:
        bundle.check_live()
    for graph in bundle.graphs:
        if graph.hops == hops:
            return graph
    if hops == 1:
        bundle.check_live()
    raise BundleError(f"{bundle.folder}: no graph takes {hops} hops per call; expected one of {[g.hops for g in bundle.graphs]}")


def _open_session(bundle: Bundle, graph: GraphSpec, provider: str, captured: bool = True) -> ort.InferenceSession:
    """``captured``: as a CUDA graph where there is CUDA, for whoever binds its buffers."""
    if provider not in ("auto", "cpu", "cuda"):
        raise ProviderError(f"provider '{provider}' is unknown; expected auto, cpu or cuda")
    if provider != "cpu" and (session := _try_cuda(bundle, graph, captured)):
        return session
    if provider == "cuda":
        raise ProviderError(
            "provider 'cuda' is not available; pip install 'sepstream[cuda]' on a machine with an NVIDIA GPU, or use cpu"
        )
    return _session(bundle, graph, ["CPUExecutionProvider"])


def _try_cuda(bundle: Bundle, graph: GraphSpec, captured: bool) -> ort.InferenceSession | None:
    """A session that really runs on CUDA, or None: ONNX Runtime lists CUDA as available where it is not."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return None
    if importlib.util.find_spec("nvidia"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it could not find; the session below decides
            ort.preload_dlls()
    ort.set_default_logger_severity(SILENT)
    for options in ([{"enable_cuda_graph": "1"}] * captured) + [{}]:  # a graph with a node that CUDA lacks cannot be captured
        with contextlib.suppress(BundleError):
            session = _session(bundle, graph, [("CUDAExecutionProvider", options), "CPUExecutionProvider"])
            return session if session.get_providers()[0] == "CUDAExecutionProvider" else None
    return None


def _session(bundle: Bundle, graph: GraphSpec, providers: list[Any]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a second thread costs a core and gains nothing
    options.log_severity_level = SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(bundle.folder / graph.file, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exception classes are not public
        reason = str(error).splitlines()[0]
        raise BundleError(f"{bundle.folder / graph.file}: ONNX Runtime refuses the graph ({reason}); export it again") from None
