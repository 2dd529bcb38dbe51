"""What eight-bit weights would buy: the live graph as it is shipped, and with its matrices quantised by ONNX Runtime.

    python tests/bench/bench_int8.py [--model default] [--hops 4000]

Prints one JSON line a graph: which operators hold the weights, bytes, thread-CPU time of a hop (hot), and how far the sound of
the demo is from that of the graph as it is (dB, masks times the mixture's magnitudes). Run it alone. Needs what
`sep-export` needs. Recurrences stay as they are: quantised ones are operators of ONNX Runtime's own, which no bundle may hold.
"""

import argparse
import json
import logging
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import soundfile
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from sepstream.contract import Bundle, load_bundle

DEMO = Path(__file__).resolve().parents[2] / "demo" / "mixture.flac"
HOLD_WEIGHTS = ("MatMul", "MatMulInteger", "LSTM")
WAYS = {"as it is": None, "int8 matrices": ["MatMul"]}


def magnitudes(bundle: Bundle, hops: int) -> NDArray[np.float32]:
    """(hops, bins) of the demo, as the engine makes them."""
    stft = bundle.stft
    sound = soundfile.read(DEMO, frames=stft.analysis_samples + hops * stft.hop_samples)[0].mean(axis=1)
    frames = np.lib.stride_tricks.sliding_window_view(sound, stft.analysis_samples)[:: stft.hop_samples]
    spectra = np.fft.rfft(frames * stft.windows().analysis * stft.magnitude_scale)
    return np.abs(spectra[:, : bundle.band.bins]).astype(np.float32)


def run(path: Path, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Masks (hops, classes, bins), and thread-CPU seconds of each hop."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs, names = session.get_inputs(), [output.name for output in session.get_outputs()]
    state = np.zeros(inputs[1].shape, np.float32)
    masks, seconds = [], []
    for frame in x:
        start = time.thread_time()
        found = dict(zip(names, session.run(None, {inputs[0].name: frame[None], inputs[1].name: state}), strict=True))
        seconds.append(time.thread_time() - start)
        state = next(value for value in found.values() if value.shape == state.shape)
        masks.append(found["masks"][0])
    return np.array(masks), np.array(seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="default")
    parser.add_argument("--hops", type=int, default=4000)
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    bundle = load_bundle(args.model)
    x, reference = magnitudes(bundle, args.hops), None
    with tempfile.TemporaryDirectory(prefix="sepstream-bench-") as folder:
        for way, operators in WAYS.items():
            path = bundle.folder / bundle.graphs[0].file
            if operators:
                quantised = Path(folder) / "quantised.onnx"
                quantize_dynamic(path, quantised, op_types_to_quantize=operators, weight_type=QuantType.QInt8)
                path = quantised
            masks, seconds = run(path, x)
            heard = masks * x[:, None]
            reference = heard if reference is None else reference
            error = np.square(heard - reference).sum()
            held = Counter(node.op_type for node in onnx.load(path).graph.node if node.op_type in HOLD_WEIGHTS)
            print(json.dumps({
                "bench": "int8", "model": bundle.name, "graph": way, "bytes": path.stat().st_size, "operators": held,
                **{f"hop_us_p{q}": round(float(np.percentile(seconds, q) * 1e6), 1) for q in (50, 99)},
                "sound_db": round(float(10 * np.log10(np.square(reference).sum() / error)), 1) if error else None,
            }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
