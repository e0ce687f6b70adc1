import io
import zipfile
from collections import Counter, OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from classifier.checkpoint import CheckpointError
from classifier.pickle_reader import DTYPES
from classifier.torch_file import unpack


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        same_kind = (first.dtype, first.shape, first.stride()) == (second.dtype, second.shape, second.stride())
        return same_kind and torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return type(first) is type(second) and first == second


plain = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 2**30), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=5), values, max_size=5))
def test_plain_values_are_read_as_torch_reads_them(found: dict[str, Any]) -> None:
    content = saved(found)
    assert equal(unpack(content, "x"), torch.load(io.BytesIO(content), weights_only=True))


NETWORK = nn.Sequential(nn.Conv2d(1, 3, 3).to(memory_format=torch.channels_last), nn.BatchNorm2d(3))
OPTIMIZER = torch.optim.Adam(NETWORK.parameters())
NETWORK(torch.ones(2, 1, 5, 5)).sum().backward()
OPTIMIZER.step()
BASE = torch.arange(24.0)


@pytest.mark.parametrize(
    "found",
    [
        NETWORK.state_dict(),
        dict(NETWORK.named_parameters()),
        OPTIMIZER.state_dict(),
        {"milestones": Counter([3, 5, 5])},
        OrderedDict(a=BASE, b=BASE, c=BASE[3:9].view(2, 3).T),
        {"empty": torch.empty(0, 3), "scalar": torch.tensor(5)},
        {str(dtype): torch.ones(3).to(dtype) for dtype in DTYPES.values()},
    ],
    ids=["state_dict", "parameters", "optimizer", "counter", "views", "shapes", "dtypes"],
)  # fmt: skip
def test_tensors_are_read_as_torch_reads_them(found: Any) -> None:
    content = saved(found)
    expected = torch.load(io.BytesIO(content), weights_only=True)
    assert equal(
        unpack(content, "x"),
        {key: each.data if isinstance(each, nn.Parameter) else each for key, each in expected.items()},
    )


def test_a_checkpoint_of_another_byte_order_is_refused() -> None:
    source = zipfile.ZipFile(io.BytesIO(saved({"a": torch.ones(1)})))
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"big" if name.endswith("byteorder") else source.read(name))
    with pytest.raises(CheckpointError, match="another byte order"):
        unpack(changed.getvalue(), "x")
