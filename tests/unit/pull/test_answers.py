"""The challenge of a registry that wants a token."""

from __future__ import annotations

import pytest

from spegel_py.pull.answers import Challenge, _token

HUB = 'Bearer realm="https://auth.example/token?a=b",service="registry.example",scope="repository:library/app:pull"'


def test_a_challenge_is_an_address() -> None:
    """The token server gets exactly the registry's service and scope."""
    challenge = Challenge.parse(HUB, is_secure=True)
    assert challenge is not None
    assert challenge.url.host == "auth.example"
    assert dict(challenge.url.query) == {
        "a": "b",
        "service": "registry.example",
        "scope": "repository:library/app:pull",
    }


@pytest.mark.parametrize(
    ("header", "is_secure"),
    [
        ("", False),
        ('Basic realm="https://auth.example"', False),
        ("Bearer", False),
        ('Bearer service="x"', False),
        ('Bearer realm="/token"', False),
        ('Bearer realm="ftp://auth.example"', False),
        ('Bearer realm="http://auth.example:99999"', False),
        ('Bearer realm="http://auth.example"', True),
        ('Bearer realm="https://user:password@auth.example"', True),
        pytest.param("Bearer " + "a" * 500_000, True, id="a long word"),
    ],
)
def test_what_is_not_to_be_asked(header: str, is_secure: bool) -> None:
    """Without an address, or with one that would get credentials in clear text, no token is
    requested.
    """
    assert Challenge.parse(header, is_secure=is_secure) is None


@pytest.mark.parametrize(
    ("data", "token"),
    [
        (b'{"token": "abc"}', "abc"),
        (b'{"access_token": "abc"}', "abc"),
        (b'{"token": ""}', None),
        (b'{"access_token": ""}', None),
        (b'{"token": 7}', None),
        (b'{"token": "a\\nb"}', None),
        (b"[]", None),
        (b"<html>", None),
    ],
)
def test_tokens(data: bytes, token: str | None) -> None:
    """Both field names in use are read. A text that cannot be sent in a header is no token."""
    assert _token(data) == token
