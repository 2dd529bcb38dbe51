"""What is inside an ONNX file, read without onnx and without trust.

``contract.read_bundle`` calls this before ONNX Runtime sees the file. It reads the protobuf wire format
(protobuf.dev/programming-guides/encoding) and knows the few messages of onnx.proto it needs, by their field numbers.
What a bundle may not hold is refused on the way: operators, functions and opsets of other domains, data outside the
file, sparse or exotic tensors, constants that are NaN or infinite, dimensions without a number. Work is bounded by the
count of fields and the depth of subgraphs, so hostile bytes cost seconds, not memory. Numeric data is never copied.
"""

import reprlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .errors import BundleError

MAX_FIELDS = 1 << 18  # in one file; a large network has some ten thousand
MAX_DEPTH = 8  # of subgraphs in If, Loop and Scan
HOME = ("", "ai.onnx")  # the two names of the default operator domain
AGAIN = "export the bundle again"

# TensorProto.DataType
NAMES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
FLOATS = {1: "<f4", 10: "<f2", 11: "<f8"}  # how raw_data reads
WHOLE = (2, 3, 4, 5, 6, 7, 9, 12, 13, 21, 22)  # integers and bool: none of them can be NaN

Value = int | bytes | memoryview  # a varint; a fixed 4 or 8 bytes; a length and its bytes


class Port(NamedTuple):
    """An input or output of the graph, as the file declares it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Model(NamedTuple):
    """The face of an ONNX model: what the manifest says about it too."""

    opset: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def read_model(data: bytes) -> Model:
    """The bytes of an ONNX file -> its face. BundleError names the first field that is damaged or not allowed."""
    model = Message(memoryview(data), "model", iter(range(MAX_FIELDS)))
    model.refuse({20: "training_info", 25: "functions"}, "nothing there; inline the functions")
    opset = _opset(model.messages(8, "opset_import"))
    graph = model.message(7, "graph")
    _walk(graph, 0)
    return Model(
        opset,
        tuple(_port(each) for each in graph.messages(11, "input")),
        tuple(_port(each) for each in graph.messages(12, "output")),
    )


def fault(field: str, value: object, expected: str, step: str = AGAIN) -> BundleError:
    """The error of one line: which field, its value (shortened), what was expected, the next step."""
    return BundleError(f"{field} is {_BRIEF.repr(value)}; expected {expected}; {step}")


_BRIEF = reprlib.Repr()  # never long, deep or of two lines, whatever a hostile file says
_BRIEF.maxstring = _BRIEF.maxother = 80
_BRIEF.maxlist = _BRIEF.maxtuple = 8
_BRIEF.maxlevel = 3


# ---- the wire format ------------------------------------------------------------------------------------------------


class Message:
    """One protobuf message: its fields by number, and where it stands in the file (for errors)."""

    def __init__(self, data: memoryview, where: str, budget: Iterator[int]) -> None:
        self.where, self.budget = where, budget
        self.fields: dict[int, list[Value]] = {}
        for number, value in _fields(data, where, budget):
            self.fields.setdefault(number, []).append(value)

    def number(self, field: int, name: str) -> int:
        """The signed integer of a field, 0 where absent; the last one counts, as in every protobuf reader."""
        values = self._typed(field, name, int)
        return (values[-1] ^ 1 << 63) - (1 << 63) if values else 0

    def text(self, field: int, name: str) -> str:
        try:
            return str((self._typed(field, name, memoryview) or [b""])[-1], "utf8")
        except UnicodeDecodeError:
            raise fault(f"{self.where}.{name}", "bytes", "UTF-8 text") from None

    def message(self, field: int, name: str) -> "Message":
        """A message that may come in pieces, which are joined: that is how protobuf merges them."""
        pieces = self._typed(field, name, memoryview)
        whole = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        return Message(whole, f"{self.where}.{name}".removeprefix("model."), self.budget)

    def messages(self, field: int, name: str) -> list["Message"]:
        pieces, where = self._typed(field, name, memoryview), f"{self.where}.{name}".removeprefix("model.")
        return [Message(piece, f"{where}[{i}]", self.budget) for i, piece in enumerate(pieces)]

    def all_finite(self, field: int, name: str, dtype: str) -> None:
        """Refuse NaN and infinity in the floats of a field, packed or one by one."""
        for piece in self._typed(field, name, memoryview, bytes):
            if len(piece) % np.dtype(dtype).itemsize:
                raise fault(f"{self.where}.{name}", f"{len(piece)} bytes", f"whole numbers of {dtype[1:]}")
            if not np.isfinite(values := np.frombuffer(piece, dtype)).all():
                bad = values[~np.isfinite(values)][0]
                raise fault(f"{self.where}.{name}", float(bad), "finite numbers in every constant")

    def refuse(self, names: dict[int, str], expected: str) -> None:
        for field, name in names.items():
            if field in self.fields:
                raise fault(f"{self.where}.{name}", "present", expected)

    def _typed(self, field: int, name: str, *kinds: type) -> list[Value]:
        values = self.fields.get(field, [])
        if any(type(value) not in kinds for value in values):
            raise fault(f"{self.where}.{name}", "of another wire type", "an ONNX file")
        return values


def _fields(data: memoryview, where: str, budget: Iterator[int]) -> Iterator[tuple[int, Value]]:
    """(field number, value) pairs of one message."""
    at, value = 0, b""
    while at < len(data):
        if next(budget, None) is None:
            raise fault(where, f"more than {MAX_FIELDS} fields", "a smaller file")
        key, at = _varint(data, at, where)
        wire, size = key & 7, {1: 8, 5: 4}.get(key & 7, 0)
        if wire == 0:
            value, at = _varint(data, at, where)
        elif wire == 2:
            size, at = _varint(data, at, where)
            value = data[at : at + size]
        elif size:
            value = bytes(data[at : at + size])
        at += size
        if wire not in (0, 1, 2, 5) or not 0 < key >> 3 < 1 << 29 or at > len(data):
            raise fault(where, f"cut off or damaged near byte {len(data)}", "an ONNX file", "restore or export it again")
        yield key >> 3, value


def _varint(data: memoryview, at: int, where: str) -> tuple[int, int]:
    """The unsigned integer at ``at`` (7 bits a byte, low first, 64 in all) and the place behind it."""
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value & (1 << 64) - 1, at + i + 1
    raise fault(where, f"cut off or damaged at byte {at}", "an ONNX file", "restore or export it again")


# ---- the messages of onnx.proto -------------------------------------------------------------------------------------


def _opset(imports: list[Message]) -> int:
    domains = [each.text(1, "domain") for each in imports]
    if len(domains) != 1 or domains[0] not in HOME:
        raise fault("opset_import", domains, "the default domain once, nothing else", "export without custom operators")
    return imports[0].number(2, "version")


def _walk(graph: Message, depth: int) -> None:
    """Check every node and constant of a graph and of the graphs inside it."""
    if depth > MAX_DEPTH:
        raise fault(graph.where, f"{depth} subgraphs deep", f"{MAX_DEPTH} at most")
    graph.refuse({15: "sparse_initializer"}, "dense constants")
    for tensor in graph.messages(5, "initializer"):
        _check_tensor(tensor)
    for node in graph.messages(1, "node"):
        if (domain := node.text(7, "domain")) not in HOME:
            operator = f"{node.where}.domain of {node.text(4, 'op_type')!r:.80}"
            raise fault(operator, domain, "the default domain", "export without custom operators")
        for attribute in node.messages(5, "attribute"):
            _check_attribute(attribute, depth)


def _check_attribute(attribute: Message, depth: int) -> None:
    attribute.refuse({21: "ref_attr_name", 22: "sparse_tensor", 23: "sparse_tensors"}, "plain values")
    attribute.all_finite(2, "f", "<f4")
    attribute.all_finite(7, "floats", "<f4")
    for tensor in [attribute.message(5, "t")] * (5 in attribute.fields) + attribute.messages(10, "tensors"):
        _check_tensor(tensor)
    for graph in [attribute.message(6, "g")] * (6 in attribute.fields) + attribute.messages(11, "graphs"):
        _walk(graph, depth + 1)


def _check_tensor(tensor: Message) -> None:
    """Refuse data outside the file, types that cannot be checked, and floats that are not finite."""
    tensor.where += f" {tensor.text(8, 'name')!r:.80}"
    if 13 in tensor.fields or tensor.number(14, "data_location"):
        raise fault(f"{tensor.where}.data_location", "external", "all data inside the file", "export with external_data=False")
    kind = tensor.number(2, "data_type")
    if kind in FLOATS:
        tensor.refuse({5: "int32_data"}, "floats as raw_data or float_data")
        tensor.all_finite(9, "raw_data", FLOATS[kind])
        tensor.all_finite(4, "float_data", "<f4")
        tensor.all_finite(10, "double_data", "<f8")
    elif kind not in WHOLE:
        raise fault(f"{tensor.where}.data_type", kind, "float32, float64, float16, integers or bool")


def _port(port: Message) -> Port:
    """ValueInfoProto -> Port: a dense tensor whose dimensions are all fixed."""
    name, kind = port.text(1, "name"), port.message(2, "type")
    port.where += f" {name!r:.80}"
    if not {1} <= kind.fields.keys() <= {1, 6}:  # tensor_type, denotation; not a sequence, map, optional or sparse one
        raise fault(f"{port.where}.type", "no dense tensor", "a dense tensor")
    tensor = kind.message(1, "tensor_type")
    sizes = [_size(each, port.where) for each in tensor.message(2, "shape").messages(1, "dim")]
    return Port(name, NAMES.get(tensor.number(1, "elem_type"), "of another type"), tuple(sizes))


def _size(dimension: Message, where: str) -> int:
    size = dimension.number(1, "dim_value")
    if 2 in dimension.fields or size < 1:
        value = dimension.text(2, "dim_param") or size
        raise fault(f"{where} dimension", value, "a fixed positive size", "export without dynamic axes")
    return size
