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
VARINT, BLOCK, FIXED = 0, 2, {1: 8, 5: 4}  # wire types; the fixed ones with their bytes
HOME = ("", "ai.onnx")  # the two names of the default operator domain
AGAIN = "export the bundle again"

# TensorProto.DataType
NAMES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
FLOATS = {1: "<f4", 10: "<f2", 11: "<f8"}  # how raw_data reads
WHOLE = (2, 3, 4, 5, 6, 7, 9, 12, 13, 21, 22)  # integers and bool: none of them can be NaN


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


class Words(str):
    """A value in an error that is a remark ("missing"), so it gets no quotes."""

    __slots__ = ()
    __repr__ = str.__str__


_BRIEF = reprlib.Repr()  # never long, deep or of two lines, whatever a hostile file says
_BRIEF.maxstring = _BRIEF.maxother = 80
_BRIEF.maxlist = _BRIEF.maxtuple = 8
_BRIEF.maxlevel = 3


# ---- the wire format ------------------------------------------------------------------------------------------------


class Message:
    """One protobuf message: its fields by number and wire type, and where it stands in the file (for errors).

    A field of a wire type that its schema does not have is ignored, as protobuf itself ignores it.
    """

    def __init__(self, data: memoryview, where: str, budget: Iterator[int]) -> None:
        self.where, self.budget = where, budget
        self.numbers: dict[int, list[int]] = {}  # unsigned, 64 bits
        self.blocks: dict[int, list[memoryview]] = {}  # text, messages, packed numbers
        self.fixed: dict[int, list[memoryview]] = {}  # single floats and doubles
        at = 0
        while at < len(data):
            at = self._read_field(data, at)

    def number(self, field: int) -> int:
        """The signed integer of a field, 0 where absent; the last one counts."""
        return (self.numbers.get(field, [0])[-1] ^ 1 << 63) - (1 << 63)

    def text(self, field: int, name: str) -> str:
        """The text of a field, empty where absent; the last one counts."""
        try:
            return str(self.blocks.get(field, [memoryview(b"")])[-1], "utf8")
        except UnicodeDecodeError:
            raise fault(f"{self.where}.{name}", Words("not UTF-8"), "text") from None

    def message(self, field: int, name: str) -> "Message":
        """The message in a field, empty where absent. Several are pieces of one: that is how protobuf merges them."""
        pieces = self.blocks.get(field, [])
        whole = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        return Message(whole, self._inside(name), self.budget)

    def messages(self, field: int, name: str) -> list["Message"]:
        """The messages of a repeated field."""
        pieces = self.blocks.get(field, [])
        return [Message(piece, f"{self._inside(name)}[{i}]", self.budget) for i, piece in enumerate(pieces)]

    def all_finite(self, field: int, name: str, dtype: str) -> None:
        """Refuse NaN and infinity in the floats of a field, packed or one by one."""
        for piece in self.blocks.get(field, []) + self.fixed.get(field, []):
            if len(piece) % np.dtype(dtype).itemsize:
                raise fault(f"{self.where}.{name}", Words(f"{len(piece)} bytes long"), f"whole items of {np.dtype(dtype)}")
            if not np.isfinite(values := np.frombuffer(piece, dtype)).all():
                bad = values[~np.isfinite(values)][0]
                raise fault(f"{self.where}.{name}", float(bad), "finite numbers in every constant")

    def refuse(self, names: dict[int, str], expected: str) -> None:
        """Raise if any of these fields is present, whatever it holds."""
        for field, name in names.items():
            if field in self.numbers | self.blocks | self.fixed:
                raise fault(f"{self.where}.{name}", Words("present"), expected)

    def _inside(self, name: str) -> str:
        return f"{self.where}.{name}".removeprefix("model.")

    def _read_field(self, data: memoryview, at: int) -> int:
        """Take in the field at ``at``; the place behind it."""
        if next(self.budget, None) is None:
            raise fault(self.where, Words(f"of more than {MAX_FIELDS} fields"), "a smaller file")
        key, at = self._varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = self._varint(data, at)
            self.numbers.setdefault(field, []).append(value)
            return at
        size, at = self._varint(data, at) if wire == BLOCK else (FIXED.get(wire, len(data)), at)
        if at + size > len(data):  # groups, long out of use, end here too
            raise self._damage(at)
        (self.blocks if wire == BLOCK else self.fixed).setdefault(field, []).append(data[at : at + size])
        return at + size

    def _varint(self, data: memoryview, at: int) -> tuple[int, int]:
        """The unsigned integer at ``at`` (7 bits a byte, low first, 64 in all) and the place behind it."""
        value = 0
        for i, byte in enumerate(data[at : at + 10]):
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value & (1 << 64) - 1, at + i + 1
        raise self._damage(at)

    def _damage(self, at: int) -> BundleError:
        return fault(self.where, Words(f"cut off or damaged at byte {at}"), "an ONNX file", "restore it, or export it again")


# ---- the messages of onnx.proto -------------------------------------------------------------------------------------


def _opset(imports: list[Message]) -> int:
    domains = [each.text(1, "domain") for each in imports]
    if len(domains) != 1 or domains[0] not in HOME:
        raise fault("opset_import", domains, "the default domain once, nothing else", "export without custom operators")
    return imports[0].number(2)


def _walk(graph: Message, depth: int) -> None:
    """Check every node and constant of a graph and of the graphs inside it."""
    if depth > MAX_DEPTH:
        raise fault(graph.where, Words(f"{depth} subgraphs deep"), f"{MAX_DEPTH} at most")
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
    for tensor in [attribute.message(5, "t")] * (5 in attribute.blocks) + attribute.messages(10, "tensors"):
        _check_tensor(tensor)
    for graph in [attribute.message(6, "g")] * (6 in attribute.blocks) + attribute.messages(11, "graphs"):
        _walk(graph, depth + 1)


def _check_tensor(tensor: Message) -> None:
    """Refuse data outside the file, types that cannot be checked, and floats that are not finite."""
    tensor.where += f" {tensor.text(8, 'name')!r:.80}"
    if 13 in tensor.blocks or tensor.number(14):
        raise fault(f"{tensor.where}.data_location", Words("external"), "data in the file", "export with external_data=False")
    kind = tensor.number(2)
    if kind in FLOATS:
        tensor.refuse({5: "int32_data"}, "floats as raw_data or float_data")
        tensor.all_finite(9, "raw_data", FLOATS[kind])
        tensor.all_finite(4, "float_data", "<f4")
        tensor.all_finite(10, "double_data", "<f8")
    elif kind not in WHOLE:
        raise fault(f"{tensor.where}.data_type", kind, "float32, float64, float16, integers or bool")


def _port(port: Message) -> Port:
    """ValueInfoProto -> Port: a dense tensor whose dimensions are all fixed."""
    name = port.text(1, "name")
    port.where += f" {name!r:.80}"
    kind = port.message(2, "type")
    kind.refuse({4: "sequence_type", 5: "map_type", 8: "sparse_tensor_type", 9: "optional_type"}, "a dense tensor")
    tensor = kind.message(1, "tensor_type")
    sizes = [_size(each, port.where) for each in tensor.message(2, "shape").messages(1, "dim")]
    return Port(name, NAMES.get(tensor.number(1), "another type"), tuple(sizes))


def _size(dimension: Message, where: str) -> int:
    size = dimension.number(1)
    if 2 in dimension.blocks or size < 1:
        named = dimension.text(2, "dim_param")
        raise fault(f"{where} dimension", named or size, "a fixed positive size", "export without dynamic axes")
    return size
