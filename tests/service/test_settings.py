import pytest

from service.__main__ import main
from service.settings import PREFIX, Settings, SettingsError, load_settings


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


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("https://shop.example", ("https://shop.example",)),
        ("https://shop.example/", ("https://shop.example",)),
        ("HTTPS://Shop.Example", ("https://shop.example",)),
        ("https://shop.example:443, http://a:80,http://b:8080", ("https://shop.example", "http://a", "http://b:8080")),
        ("http://[::1]:3000", ("http://[::1]:3000",)),
        ("https://bücher.example", ("https://xn--bcher-kva.example",)),
        ("capacitor://localhost", ("capacitor://localhost",)),
        ("*", ("*",)),
        ("null", ("null",)),
        ("", ()),
    ],
)
def test_origins_are_made_right(monkeypatch: pytest.MonkeyPatch, value: str, origins: tuple[str, ...]) -> None:
    monkeypatch.setenv("SERVICE_CORS_ORIGINS", value)
    assert load_settings().cors_origins == origins


@pytest.mark.parametrize(
    "value",
    [
        *("shop.example", "https://shop.example/app", "https://*.shop.example", "https://", "//shop.example", "https:"),
        *("https://shop.example?x", "https://me@shop.example", "https://shop.example:x", "https://a https://b"),
        *(
            "https://a..b",
            "https://shop.example:",
            "https://shop.example:99999",
            '["https://shop.example"]',
            "localhost:3000",
            "https://*",
        ),
    ],
)
def test_an_origin_that_can_never_match_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SERVICE_CORS_ORIGINS", f"https://good.example,{value}")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value).startswith(f"SERVICE_CORS_ORIGINS is {value!r}: ")
    assert str(refused.value).endswith(".")
    assert "value error" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "prefix"), [("/fashion", "/fashion"), ("fashion/v1/", "/fashion/v1"), ("/", None), ("", None)]
)
def test_a_root_path_is_made_right(monkeypatch: pytest.MonkeyPatch, value: str, prefix: str | None) -> None:
    monkeypatch.setenv("SERVICE_ROOT_PATH", value)
    assert load_settings().root_path == prefix


def test_the_link_that_kubernetes_sets_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PORT", "tcp://10.0.0.7:80")
    assert load_settings().port == 8000
    assert load_settings(port="9000").port == 9000


def test_the_help_lists_every_variable_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for name, field in Settings.model_fields.items():
        [line] = [line for line in text.splitlines() if line.split()[:1] == [PREFIX + name.upper()]]
        assert str(field.description) in line
        assert line.endswith(")")
    assert " port to listen on (8000)" in text
    assert " processes that share the port (1)" in text
    assert " page /metrics, for Prometheus (true)" in text
    assert "(models/model_scratch.pt)" in text
