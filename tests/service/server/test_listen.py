import socket

import pytest

from service.server.listen import bind


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.0.2.1", "name an address of this machine with --host or SERVICE_HOST"),
        ("no such host", "name an address of this machine with --host or SERVICE_HOST"),
        ("x" * 300, "name an address of this machine with --host or SERVICE_HOST"),
        ("[::1]", "write it without brackets, --host ::1"),
    ],
)
def test_an_address_that_cannot_be_had_is_one_sentence(host: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        bind(host, 8123)
    assert caught.value.code == 1
    [record] = caplog.records
    assert f"The service cannot listen on address {host}, port 8123 (" in record.getMessage()
    assert words in record.getMessage()


def test_a_port_in_use_names_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit):
        bind("127.0.0.1", port := taken.getsockname()[1])
    assert f"address 127.0.0.1, port {port} (Address already in use): " in caplog.text
    assert "--port or SERVICE_PORT" in caplog.text


def test_a_free_port_is_bound_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), bind("127.0.0.1", 0) as listener:
        assert f"Listening on http://127.0.0.1:{listener.getsockname()[1]}" in caplog.text
        assert listener.get_inheritable()
