"""The network on ONNX Runtime: magnitudes and state in, masks, embedding and state out. The only door to onnxruntime.

One session, bound once: two sets of state buffers take turns as input and output, so a call allocates nothing.
Called by pipeline.py on the worker thread.
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

    arrays: tuple[Any, ...]  # numpy arrays (kept) or bound buffers (running), in the order of the graph's states
    call: int  # number of the call that wrote it; -1 for a kept state


class Separation(NamedTuple):
    """``masks`` (hops, classes, band bins) and ``embedding`` (hops, dim, band bins), dim 0 where the model has no disk; good
    until the next call."""

    masks: F32
    embedding: F32


class Separator:
    """Runs the graph of ``bundle`` that takes ``hops`` frames per call.

    ``provider`` "auto" uses CUDA where a session really gets it. Raises ProviderError when "cuda" was asked for
    and is not there, BundleError when ONNX Runtime refuses the graph.
    """

    def __init__(self, bundle: Bundle, hops: int = 1, provider: str = "auto") -> None:
        self.graph = _graph(bundle, hops)
        self.session = _open_session(bundle, self.graph, provider)
        self.provider = "cuda" if self.session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
        self._magnitude = self._buffer(self.graph.inputs[0].shape)
        self._found = self.graph.outputs[: len(self.graph.outputs) - len(self.graph.states)]
        self._outputs = [self._buffer(spec.shape) for spec in self._found]
        self._nowhere = np.zeros((hops, 0, bundle.band.bins), np.float32)  # the embedding of a model without a disk
        self._states = [[self._buffer(spec.shape) for spec in self.graph.inputs[1:]] for _ in range(2)]
        self._bindings = [self._bind(turn) for turn in range(2)]
        self._options = [self._run_options(turn) for turn in range(2)]
        self._call = 0  # state set call % 2 is the newest
        self._warm_up()

    def initial_state(self) -> ModelState:
        return ModelState(tuple(np.zeros(spec.shape, np.float32) for spec in self.graph.inputs[1:]), -1)

    def keep(self, state: ModelState) -> ModelState:
        """A copy of ``state`` that later calls leave alone."""
        self._check_alive(state)
        return ModelState(tuple(_read(a).copy() for a in state.arrays), -1)

    def step(self, magnitude: F32, state: ModelState) -> tuple[Separation, ModelState]:
        """(hops, band bins) magnitudes -> what they hold, and the state for the next call."""
        if state.call != self._call:
            self._load(state)
        turn = self._call % 2
        self._magnitude.write(magnitude)
        self.session.run_with_iobinding(self._bindings[turn], self._options[turn])
        self._call += 1
        masks, *embedding = (output.read() for output in self._outputs)
        found = Separation(masks, *(embedding or [self._nowhere]))
        return found, ModelState(tuple(self._states[1 - turn]), self._call)

    def _load(self, state: ModelState) -> None:
        self._check_alive(state)
        kept = [_read(a) for a in state.arrays]
        for buffer, array in zip(self._states[self._call % 2], kept, strict=True):
            buffer.write(array)

    def _check_alive(self, state: ModelState) -> None:
        assert state.call in (-1, self._call, self._call - 1), "this state was overwritten; keep() it before two more calls"

    def _buffer(self, shape: tuple[int, ...]) -> "_Buffer":
        return _Buffer(shape, self.provider)

    def _bind(self, turn: int) -> Any:
        """Inputs from state set ``turn``, outputs into the other; by name, so the graph's own order is free."""
        binding = self.session.io_binding()
        before, after = self._states[turn], self._states[1 - turn]
        binding.bind_ortvalue_input(self.graph.inputs[0].name, self._magnitude.value)
        for spec, buffer in zip(self._found, self._outputs, strict=True):
            binding.bind_ortvalue_output(spec.name, buffer.value)
        for (name_in, name_out), old, new in zip(self.graph.states, before, after, strict=True):
            binding.bind_ortvalue_input(name_in, old.value)
            binding.bind_ortvalue_output(name_out, new.value)
        return binding

    def _run_options(self, turn: int) -> Any:
        """On CUDA each binding is captured as a CUDA graph of its own (its addresses never change)."""
        options = ort.RunOptions()
        if self.provider == "cuda":
            options.add_run_config_entry("gpu_graph_id", str(turn + 1))
        return options

    def _warm_up(self) -> None:
        for _ in range(WARM_UP_CALLS):
            self.step(np.zeros(self.graph.inputs[0].shape, np.float32), self.initial_state())


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
