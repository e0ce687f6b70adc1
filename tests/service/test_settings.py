import pytest

from service.settings import PREFIX, SettingsError, load_settings


def test_the_environment_is_read_and_a_flag_beats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PORT", "9000")
    monkeypatch.setenv("SERVICE_MAX_PIXELS", "1000")
    settings = load_settings(port="9001")
    assert (settings.port, settings.max_pixels, settings.host) == (9001, 1000, "127.0.0.1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("WORKERS", "0"),
        ("DEVICE", "tpu"),
        ("MODEL", "/"),
        ("MAX_UPLOAD_BYTES", "10MB"),
    ],
)
def test_a_wrong_value_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError, match=rf"^SERVICE_{name} is '{value}': [^\n]+\.$"):
        load_settings()


def test_a_wrong_flag_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^--port is 'x': "):
        load_settings(port="x")
