"""What registries tell `spegel-py pull` about tokens, and the queries of the pages for people."""

from __future__ import annotations

import base64
from contextlib import suppress

from hypothesis import strategies as st
from yarl import URL

from spegel_py.admin.guard import check_origin
from spegel_py.errors import Denied, OCIError
from spegel_py.pull.answers import Challenge, _token
from spegel_py.registry.private_rules import challenge_of, scoped, token_end
from spegel_py.tools.query import whole_number
from tests.fuzz.mutations import as_json, objects
from tests.fuzz.target import target

_CHALLENGES = st.lists(
    st.one_of(
        st.sampled_from(
            ("Bearer", "Basic", " ", ",", 'realm="', '"', "=", "\\", "realm=https://a.example")
        ),
        st.sampled_from(
            ('realm="https://a.example/t?b=c"', 'service="r.example"', 'scope="repository:a:pull"')
        ),
        st.sampled_from(
            ('realm="https://u:p@a.example"', 'realm="https://[::1', 'realm="https://a:99999"')
        ),
        st.text(max_size=4),
    ),
    max_size=12,
).map(lambda parts: " ".join(["Bearer", *parts]).encode("utf-8", "surrogatepass"))


@target(
    "challenges",
    examples=(
        b'Bearer realm="https://a.example/token?a=b",service="r.example",scope="repository:a:pull"',
        b"Bearer realm=https://a.example",
        b'bearer realm="https://a.example:5000/",error="invalid_token"',
    ),
    structured=_CHALLENGES,
)
def _challenges(data: bytes) -> None:
    """A `WWW-Authenticate` header: whatever is asked for has an address that can be asked."""
    header = data.decode("utf-8", "surrogateescape")
    passed_on = scoped(challenge_of([header]), "a")
    assert passed_on.isascii()
    assert not passed_on or passed_on.isprintable()
    if passed_on.startswith("Bearer ") and (read := Challenge.parse(passed_on, is_secure=False)):
        assert read.scope == "repository:a:pull"
    for is_secure in (False, True):
        challenge = Challenge.parse(header, is_secure=is_secure)
        if challenge is None:
            continue
        url = challenge.url
        assert url.scheme == "https" or not is_secure
        assert url.host
        assert url.user is None
        assert url.password is None
        assert URL(str(url)).host == url.host


@target(
    "tokens",
    examples=(b'{"token": "abc"}', b'{"access_token": "abc", "expires_in": 300}'),
    structured=as_json(
        objects({"token": st.text(max_size=9), "access_token": st.text(max_size=9)})
    ),
)
def _tokens(data: bytes) -> None:
    token = _token(data)
    end = token_end(f"Bearer {data.decode('utf-8', 'surrogateescape')}")
    encoded = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    for found in (end, token_end(f"Bearer a.{encoded}.c")):
        assert found is None or 0 <= found < 1e12
    assert token is None or (token and token.isascii() and token.isprintable())


@target(
    "queries",
    examples=(b"7\nhttp://a.example:9090\na.example:9090", b"100\nhttp://[::1]:1\n[::1]:1"),
    refuses=(OCIError,),
    structured=st.builds(
        "{}\n{}\n{}".format,
        st.one_of(st.integers(), st.sampled_from(("٣", "1_0", " 1", "+1", "0x1", "9" * 5000))),
        st.sampled_from(
            (
                "http://[",
                "https://a",
                "http://99999999999",
                "null",
                "//",
                "http://[v1.a]",
                "http://a:b",
            )
        ),
        st.sampled_from(("a", "[", "", "a:b", "[::1]")),
    ).map(str.encode),
)
def _queries(data: bytes) -> None:
    """A number in a query, and the headers Origin and Host, a line each."""
    number, origin, host, *_ = [*data.decode("utf-8", "surrogateescape").split("\n"), "", ""]
    with suppress(Denied):
        check_origin({"Origin": origin, "Host": host})
    assert 0 <= whole_number(number, "page", default=1, low=0, high=10**9) <= 10**9


TARGETS = (_challenges, _tokens, _queries)
