import io

import pytest
from rich.console import Console

from training.progress import REFRESHES_PER_SECOND, print_line, printable, progress_bar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("größe→.png", "größe→.png"),
        ("a\nb", "a\\nb"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\udcff", "\\udcff"),
        ("\u202e", "\\u202e"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected
    stream = io.StringIO()
    print_line(Console(file=stream), text)
    assert stream.getvalue() == f"{expected}\n"


def test_a_progress_bar_begins_with_dashes_and_is_refreshed_twice_a_second() -> None:
    stream = io.StringIO()
    with progress_bar(Console(file=stream, force_terminal=True, width=120), "epoch 1/2", 100) as update:
        pass
    assert "loss -  - images/s" in stream.getvalue()
    assert "nan" not in stream.getvalue()
    assert REFRESHES_PER_SECOND == 2
    with progress_bar(Console(file=stream, force_terminal=True, width=120), "epoch 1/2", 100) as update:
        update(50, 0.25)
    assert "loss 0.2500" in stream.getvalue()
