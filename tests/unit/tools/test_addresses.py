"""`host:port` and http URLs."""

from __future__ import annotations

import pytest

from spegel_py.tools.addresses import is_http_url, join_host_port, local_url, split_host_port


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [(":5000", "", 5000), ("10.0.0.1:0", "10.0.0.1", 0), ("[fd00::1]:65535", "fd00::1", 65535)],
)
def test_host_and_port_are_split_and_joined(text: str, host: str, port: int) -> None:
    """Only an IPv6 host stands in brackets."""
    assert split_host_port(text) == (host, port)
    assert join_host_port(host, port) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5000",
        "host",
        "host:",
        ":65536",
        "::1:80",
        ":http",
        ":-1",
        ":５",
        "[10.0.0.1]:80",
        "[]:1",
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    """There is no guess at a missing port, or at an IPv6 address without brackets."""
    with pytest.raises(ValueError, match="is not host:port"):
        split_host_port(text)


def test_a_server_is_reached_on_this_machine() -> None:
    """An address to listen on becomes the URL of a client on the same machine."""
    assert local_url(":5000") == "http://127.0.0.1:5000"
    assert local_url("[::]:5000") == "http://[::1]:5000"
    assert local_url("10.0.0.1:5000") == "http://10.0.0.1:5000"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://host", True),
        ("https://[::1]:5000/path", True),
        ("ftp://host", False),
        ("http://", False),
        ("http://host:99999", False),
        ("http://[bad", False),
        ("host:5000", False),
    ],
)
def test_urls_are_told_from_other_texts(text: str, expected: bool) -> None:
    """A URL needs the scheme http or https, a host, and a port that can be connected to."""
    assert is_http_url(text) is expected
