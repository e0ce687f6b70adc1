"""Names the format of a file that is not a PyTorch checkpoint by its first bytes, and says how to save it again."""

import string
from collections.abc import Collection

SAVE_AGAIN = "save it with torch.save(model.state_dict(), PATH)"
LOAD_AND_SAVE = f"load it where it was made and {SAVE_AGAIN}"
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save before PyTorch 1.6
SIGNATURES = {
    OLD_TORCH: (
        "in the format of PyTorch before 1.6",
        f"load it with a newer PyTorch and {SAVE_AGAIN}",
    ),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, as Keras writes it", "train the network with PyTorch"),
    b"\x93NUMPY": ("a NumPy array", LOAD_AND_SAVE),
    b"version https://git-lfs": ("a Git LFS pointer", "fetch the file with git lfs pull"),
    b"GGUF": ("a GGUF file", LOAD_AND_SAVE),
    b"\x08\x01\x12": ("a TensorFlow SavedModel", "train the network with PyTorch"),
    b"\x1f\x8b": ("compressed with gzip", "decompress it first"),
    b"BZh": ("compressed with bzip2", "decompress it first"),
    b"\xfd7zXZ\0": ("compressed with xz", "decompress it first"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "decompress it first"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it first"),
    b"Rar!": ("a RAR archive", "unpack it first"),
    b"\x89PNG": ("a PNG picture", "name the checkpoint"),
    b"\xff\xd8\xff": ("a JPEG picture", "name the checkpoint"),
    b"%PDF": ("a PDF document", "name the checkpoint"),
}
TAR_SIGNATURE_OFFSET = 257  # bytes
TEXT_BYTES = 1024  # looked at
PRINTABLE = set(string.printable.encode()) - {0x0B, 0x0C}
ONNX_FIELDS = b"\x12\x1a\x22\x2a\x32\x3a\x42"  # protobuf's tags of the fields that may follow an ONNX model's version


def describe_format(content: bytes) -> tuple[str, str]:
    """The format of a file that is not a zip archive, as the end of "the file is …", and what to do."""
    for signature, description in SIGNATURES.items():
        if content.startswith(signature):
            return description
    start = content[:TEXT_BYTES].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "an HTML page, perhaps of a download that failed", "download the file itself"
    if content[TAR_SIGNATURE_OFFSET:].startswith(b"ustar"):
        return "a tar archive", "unpack it first"
    if content[4:8] == b"TFL3":
        return "a TensorFlow Lite model", "train the network with PyTorch"
    if content[:1] == b"\x08" and content[2:3] and content[2] in ONNX_FIELDS:
        return "an ONNX model", f"take the PyTorch network that it was made from and {SAVE_AGAIN}"
    if content[:1] == b"\x80" and content[1:2] and content[1] <= 5:
        return "a pickle of Python", LOAD_AND_SAVE
    if is_safetensors(content):
        return "a safetensors file", LOAD_AND_SAVE
    if content and set(content[:TEXT_BYTES]) <= PRINTABLE:
        return "a text file", "name the checkpoint"
    return f"of an unknown format (its first bytes are {content[:4].hex(' ')})", SAVE_AGAIN


def is_safetensors(content: bytes) -> bool:
    """Whether the file begins as a safetensors file does: the length of a JSON object, then that object."""
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content) - 8


def describe_archive(names: Collection[str]) -> tuple[str, str] | None:
    """The same for a zip archive with members of these names; None for one that torch.save may have written."""
    files = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in files:
        return "a TorchScript module", f"load it with torch.jit.load and {SAVE_AGAIN}"
    if "archive_format" in files or "serialized_exported_program.json" in files:
        return "an exported program (torch.export)", f"take the network that it was made from and {SAVE_AGAIN}"
    if "data.pkl" in files:
        return None
    if any(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays", LOAD_AND_SAVE
    if "model.weights.h5" in files:
        return "a Keras model", "train the network with PyTorch"
    inside = next((name for name in names if name.endswith((".pt", ".pth", ".ckpt", ".bin"))), None)
    return "a zip archive" + (" around a checkpoint" if inside else " without a checkpoint"), "unpack it first"
