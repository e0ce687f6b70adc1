"""Makes hostile checkpoints: each costs a careless reader seconds, gigabytes, or its process."""

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from classifier.checkpoint import Checkpoint, save
from classifier.networks import CLASSES, ConvNet, Net

PROTO, STOP = b"\x80\x02", b"."


def archive(data: bytes, members: dict[str, bytes] | None = None) -> bytes:
    """An archive as torch.save writes it, around that pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, content in {"data.pkl": data, "version": b"3\n", "byteorder": b"little", **(members or {})}.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def long(number: int) -> bytes:
    content = number.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + content


def text(string: str) -> bytes:
    content = string.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def storage(kind: bytes = b"FloatStorage", key: str = "0", elements: int = 1) -> bytes:
    """The operations that load a storage."""
    return b"(" + text("storage") + b"ctorch\n" + kind + b"\n" + text(key) + text("cpu") + long(elements) + b"tQ"


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, elements: int = 1) -> bytes:
    """The operations that make a tensor on a storage."""
    numbers = [b"(" + b"".join(map(long, each)) + b"t" for each in (shape, strides)]
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(elements=elements) + long(offset) + b"".join(numbers)
    return call + b"\x89ccollections\nOrderedDict\n)RtR"


def dict_of(value: bytes, key: bytes = text("a")) -> bytes:
    return PROTO + b"}" + key + value + b"s" + STOP


def expanded(widths: tuple[int, ...], blocks: tuple[int, ...], **arguments: object) -> bytes:
    """A small file of a large network, whose tensors have stride 0 over one number."""
    with torch.device("meta"):
        names = {name: each.shape for name, each in ConvNet(widths, blocks).state_dict().items()}
    found = {
        "format": 1,
        "architecture": {"name": "ConvNet", "arguments": {"widths": widths, "blocks": blocks, **arguments}},
        "state_dict": {
            name: torch.zeros((), dtype=torch.int64 if name.endswith("tracked") else torch.float32).expand(shape)
            for name, shape in names.items()
        },
        "classes": list(CLASSES),
        "calibration": {"temperature": 1.0},
        "metrics": {},
        "training": {"recipe": "x"},
    }
    buffer = io.BytesIO()
    torch.save(found, buffer)
    return buffer.getvalue()


def many_members(count: int, shared: bool) -> bytes:
    """An archive of many members, all of them, if `shared`, with the bytes of one."""
    data = bytes(100_000)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", dict_of(b"N"))
        file.writestr("archive/data/0", data)
        info = file.getinfo("archive/data/0")
        for number in range(1, count):
            twin = zipfile.ZipInfo(f"archive/data/{number}")
            twin.CRC, twin.compress_size, twin.file_size = info.CRC, info.compress_size, info.file_size
            twin.header_offset = info.header_offset
            if shared:
                file.filelist.append(twin)
                file.NameToInfo[twin.filename] = twin
            else:
                file.writestr(twin.filename, b"")
    return buffer.getvalue()


def copies_of_a_counter() -> bytes:
    """A dict of 11,000 numbers, and 9,000 times a Counter of it: 11 KB a turn, if each is a copy."""
    numbers = b"".join(b"M" + struct.pack("<H", number) + b"K\x01" for number in range(11_000))
    copies = b"h\x01h\x00\x85R0" * 6_000  # memo 1 called with memo 0; dropped, for the next
    kept = b"h\x01h\x00\x85R" * 3_000
    return archive(
        PROTO + b"}(" + numbers + b"uq\x000ccollections\nCounter\nq\x010" + kept + copies + b"0" * 2_999 + STOP
    )


HOSTILE: dict[str, Callable[[], bytes]] = {
    "copies of a Counter": copies_of_a_counter,
    "tuples as a key, whose hash doubles with each level": lambda: archive(
        PROTO + b"}" + text("a") + b"q\0" + b"h\0\x86q\1" + b"h\1\x86q\1" * 60 + b"Ns" + STOP
    ),
    "lists that double with each level": lambda: archive(dict_of(doubling(60))),
    "a bytearray of 3 GB": lambda: archive(dict_of(b"cbuiltins\nbytearray\n" + long(3 * 10**9) + b"\x85R")),
    "punycode": lambda: archive(dict_of(b"c_codecs\nencode\n" + text("ä" * 100_000) + text("punycode") + b"\x86R")),
    "a set of tuples": lambda: archive(dict_of(b"cbuiltins\nset\n]" + b"\x85R")),
    "a deep list": lambda: archive(dict_of(b"]" * 100_000 + b"a" * 99_999)),
    "a list in itself": lambda: archive(dict_of(b"]q\0h\0a")),
    "a dict in itself, by a list": lambda: archive(PROTO + b"}q\0" + text("a") + b"]q\1h\0as" + STOP),
    "a million values": lambda: archive(dict_of(b"(" + b"N" * 1_000_000 + b"t")),
    "numbers as long as they come": lambda: archive(dict_of(b"\x8b" + struct.pack("<i", 2_000_000) + bytes(2_000_000))),
    "a pickle of 5 MB": lambda: archive(dict_of(text("x" * 5_000_000))),
    "an operation that torch does not write": lambda: archive(pickle.dumps({"a": bytearray(5)}, protocol=5)),
    "a storage that claims more than it has": lambda: archive(
        dict_of(tensor((1000,), (1,), elements=1000)), {"data/0": b"1234"}
    ),
    "a tensor of stride 0": lambda: archive(dict_of(tensor((10**9,), (0,))), {"data/0": b"1234"}),
    "a tensor that ends behind its storage": lambda: archive(dict_of(tensor((1,), (1,), 5)), {"data/0": b"1234"}),
    "a tensor with a negative stride": lambda: archive(dict_of(tensor((1,), (-1,))), {"data/0": b"1234"}),
    "a tensor of 2**62 numbers": lambda: archive(dict_of(tensor((2**31, 2**31), (0, 0))), {"data/0": b"1234"}),
    "11 GB of activations": lambda: expanded((1024,), (20,), side=28, tta_views=6),
    "a network of a gigabyte": lambda: expanded((4096, 4096), (1, 1)),
    "10,000 parts with the bytes of one": lambda: many_members(10_000, shared=True),
    "30,000 empty parts": lambda: many_members(30_000, shared=False),
    "a part with a long name": lambda: archive(dict_of(b"N"), {"x" * 60_000: b"1"}),
    "a key of a megabyte": lambda: archive(dict_of(b"N", text("k" * 1_000_000))),
    "attributes that hide methods": lambda: archive(
        PROTO + b"ccollections\nOrderedDict\n)R}" + text("keys") + b"K\5" + b"sb" + STOP
    ),
}


def doubling(levels: int) -> bytes:
    """A list of two times the list before, and so on."""
    operations = b"]q\0"
    for level in range(1, levels):
        operations += b"](h" + bytes([level - 1]) + b"h" + bytes([level - 1]) + b"eq" + bytes([level])
    # each list but the last stays below on the stack; a tuple takes them all
    return b"(" + operations + b"t"


def good(folder: Path) -> list[bytes]:
    """The files of two small networks: a checkpoint of ours and a bare state dict."""
    save(
        Checkpoint("ConvNet", {"widths": (3, 4)}, ConvNet((3, 4)).state_dict(), training={"recipe": "x"}), folder / "a"
    )
    torch.save(Net().state_dict(), folder / "b")
    return [(folder / name).read_bytes() for name in "ab"]


def generated(count: int, files: list[bytes], seed: int = 0) -> Iterator[bytes]:
    """Archives around pickles of random operations, and good files with a few changes in the pickle or anywhere."""
    generator = random.Random(seed)
    operations = [
        b"}", b"]", b")", b"(", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"N", b"\x88", b"\x89", b"0",
        b"2", b"q\0", b"q\1", b"h\0", b"h\1", b"R", b"b", b"Q", b"K\5", b"M\1\2", b"\x8f", b"\x81", b"\x94",
        b"cos\nsystem\n", b"cbuiltins\nbytearray\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_parameter\n", b"ccollections\nCounter\n",
        text("storage"), text("0"), text("conv1.weight"), long(2**40), long(1), storage(), tensor((1,), (1,)),
    ]  # fmt: skip
    for number in range(count):
        if number % 2:
            data = b"".join(generator.choices(operations, k=generator.randrange(1, 60)))
            yield archive(PROTO + data + STOP, {"data/0": b"1234"})
            continue
        changed = bytearray(generator.choice(files))
        end = changed.index(b"PK\x07\x08") if generator.random() < 0.5 else len(changed)
        for _ in range(generator.choice((1, 2, 5))):
            changed[generator.randrange(end)] = generator.randrange(256)
        yield bytes(changed)
