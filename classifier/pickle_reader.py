"""Reads the pickle in a checkpoint within limits: plain values and dense tensors, and no calls of other functions.

`torch.load(..., weights_only=True)` also allows three things that cost much: `bytearray(n)`, which allocates any amount
of memory; nested tuples as keys, whose hash takes exponential time with the GIL held; and tensors that are larger than
their bytes. Here each operation of the pickle is one iteration of a loop in Python, so other threads continue. Every
value has a size and a depth, which are limited.
"""

import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

# Limits. The shipped checkpoint, with a history of 240 epochs, has 17 KB and 4,303 operations.
MAX_PICKLE_BYTES = 4 * 2**20  # 4 MiB
MAX_OPERATIONS = 60_000  # a run of 3,300 epochs; 250,000 held the event loop for 0.3 s, in the garbage collector
MAX_SIZE = 4 * 2**20  # values and characters; a value that is used twice counts twice
MAX_DEPTH = 32
MAX_DIMENSIONS = 8

DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
COUNTS = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}  # of items taken


class PickleError(Exception):
    """The pickle is damaged or has something in it that no state dict needs; the message is the end of a sentence."""


class ForeignClass(PickleError):
    """The pickle needs a class or a function that no state dict needs; the message is its name."""


@dataclass(eq=False, slots=True)
class Item:
    """A value while the pickle is read."""

    value: Any
    size: int = 1  # of the value written out
    depth: int = 0  # levels of containers in it
    inside: bool = False  # it is part of another value and no longer changes, so no value can contain itself


class PickleReader:
    """Reads one pickle of `torch.save`. `record` gives the bytes of a storage by its key."""

    def __init__(self, record: Callable[[str], bytearray], max_operations: int = MAX_OPERATIONS) -> None:
        self._record = record
        self._max_operations = max_operations
        self._buffers: dict[str, Tensor] = {}  # uint8 [N], by key
        self._stack: list[Item] = []
        self._marks: list[int] = []  # heights of the stack
        self._memo: dict[int, Item] = {}

    def read(self, pickle: bytes) -> Any:
        """The value. Raises PickleError; and LookupError, TypeError or ValueError if the pickle is malformed."""
        if len(pickle) > MAX_PICKLE_BYTES:
            raise PickleError(
                f"has {len(pickle):,} bytes beside those of its tensors; the limit is {MAX_PICKLE_BYTES:,}"
            )
        for number, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
            if number == self._max_operations:
                raise PickleError(f"has over {self._max_operations:,} values beside its tensors")
            self._execute(opcode.name, argument)
        [item] = self._stack
        return item.value

    def _execute(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in NUMBERS:
            stack.append(Item(argument))
        elif name == "BINUNICODE":
            stack.append(Item(argument, 1 + len(argument)))
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in CONSTANTS:
            stack.append(Item(CONSTANTS[name]))
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append(Item({} if name == "EMPTY_DICT" else []))
        elif name in COUNTS:
            self._collect(name, self._pop(COUNTS[name]))
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            self._collect(name.removesuffix("S"), self._pop(len(stack) - self._marks.pop()))
        elif name == "GLOBAL":
            if argument not in GLOBALS:
                raise ForeignClass(argument.replace(" ", "."))
            stack.append(Item(GLOBALS[argument]))
        elif name == "BINPERSID":
            [item] = self._pop(1)
            stack.append(Item(self._storage(*item.value)))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            stack.append(call(function.value, arguments))
        elif name == "BUILD":  # attributes of an OrderedDict, as state_dict() makes them; nothing needs them
            self._pop(1)
        elif name not in ("PROTO", "STOP"):
            raise PickleError(f"has the pickle operation {name} in it, which torch.save does not write")

    def _pop(self, count: int) -> list[Item]:
        if not 0 <= count <= len(self._stack):
            raise ValueError("the stack is too short")
        start = len(self._stack) - count
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _collect(self, name: str, items: list[Item]) -> None:
        """Makes a tuple of the items, or adds them to the list or the dict on the stack."""
        values = [item.value for item in items]
        if name.startswith("TUPLE") or name == "EMPTY_TUPLE":
            self._stack.append(Item(tuple(values)))
        container = self._stack[-1]
        contain(container, items)
        if name == "APPEND":
            container.value.extend(values)
        elif name == "SETITEM":
            for key, value in zip(values[::2], values[1::2], strict=True):
                if type(key) is not str and not (type(key) is int and abs(key) < 2**31):
                    raise PickleError(f"has a dict with a key of the type {type(key).__name__}")
                container.value[key] = value

    def _storage(self, kind: str, dtype: torch.dtype, key: str, location: str, elements: int) -> Tensor:
        """The storage under that key as a tensor [elements]. `location`, the device it was saved on, has no effect."""
        if key not in self._buffers:
            record = self._record(key)
            self._buffers[key] = torch.frombuffer(record, dtype=torch.uint8) if record else torch.empty(0)
        buffer = self._buffers[key]
        if kind != "storage" or len(buffer) != elements * dtype.itemsize:
            raise ValueError("a storage of another size")
        return buffer.view(dtype) if elements else torch.empty(0, dtype=dtype)


def contain(container: Item, items: list[Item]) -> None:
    """Notes that the container has these items from now on. Raises PickleError if it is too large or too deep."""
    for item in items:
        if container.inside or item is container:
            raise PickleError("has a value that contains itself")
        item.inside = True
        container.size += item.size
        container.depth = max(container.depth, 1 + item.depth)
    if container.size > MAX_SIZE or container.depth > MAX_DEPTH:
        raise PickleError(f"has nested values of more than {MAX_DEPTH} levels, or more than {MAX_SIZE:,} values in all")


def call(function: Any, arguments: Item) -> Item:
    """What one of GLOBALS makes of the arguments, a tuple."""
    if function is make_tensor:
        tensor = make_tensor(*arguments.value)
        return Item(tensor, 1 + tensor.dim())
    if function is Parameter and isinstance(arguments.value[0], Tensor):
        return Item(arguments.value[0])
    if function is OrderedDict and arguments.value == ():
        return Item(OrderedDict())
    if function is Counter and [type(value) for value in arguments.value] == [dict]:
        return Item(arguments.value[0], arguments.size, arguments.depth)  # not copied, which would take memory
    raise PickleError("calls a function in a way that torch.save does not write")


def make_tensor(
    storage: Tensor,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
    metadata: Any = None,
) -> Tensor:
    """A view of the storage. Raises PickleError if the tensor has more elements than the storage."""
    if hooks or metadata or not isinstance(storage, Tensor) or storage.dim() != 1:
        raise PickleError("has a tensor with metadata")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise PickleError(f"has a tensor of more than {MAX_DIMENSIONS} dimensions")
    if any(type(number) is not int or not 0 <= number < 2**62 for number in (offset, *shape, *strides)):
        raise ValueError("no shape")
    elements = prod(shape)
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if elements and (elements > len(storage) or last >= len(storage)):
        raise PickleError(f"has a tensor of {elements:,} elements on a storage of {len(storage):,}")
    return storage.as_strided(shape, strides, offset if elements else 0)


GLOBALS: dict[str, Any] = {
    **{f"torch {name}Storage": dtype for name, dtype in DTYPES.items()},
    "torch._utils _rebuild_tensor_v2": make_tensor,
    "torch._utils _rebuild_parameter": Parameter,  # read as its tensor
    "collections OrderedDict": OrderedDict,
    "collections Counter": Counter,  # in the state of a learning rate schedule; read as its dict
}
