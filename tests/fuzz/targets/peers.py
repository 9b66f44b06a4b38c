"""What peers answer over HTTP."""

from __future__ import annotations

from hypothesis import strategies as st

from spegel_py.errors import PeerError
from spegel_py.oci.digest import Digest
from spegel_py.oci.range import MAX_BYTES, ByteRange
from spegel_py.transfer.answer import check_answer
from spegel_py.transfer.base import PeerRequest
from spegel_py.transfer.exchange import MAX_HEAD, HTTPExchange
from tests.fuzz.target import check_text, target

DIGEST = "sha256:" + "a" * 64

_REQUESTS = (
    PeerRequest(target="/x"),
    PeerRequest(target="/x", head=True),
    PeerRequest(target="/x", digest=Digest.parse(DIGEST), size=10),
    PeerRequest(target="/x", range=ByteRange(4, None)),
    PeerRequest(target="/x", range=ByteRange(None, 3), size=10, max_age=60),
)
_NUMBERS = st.one_of(
    st.integers(-1, 20).map(str),
    st.integers().map(str),
    st.sampled_from(("9" * 19, "9" * 5000, "1e3", "+5", "5, 5", "0x5", "", "٣")),
)
FIELDS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("Content-Length", "Age")), _NUMBERS),
        st.tuples(
            st.just("Content-Range"),
            st.builds(
                "bytes {}-{}/{}".format, _NUMBERS, _NUMBERS, st.one_of(_NUMBERS, st.just("*"))
            ),
        ),
        st.tuples(
            st.sampled_from(
                ("Content-Type", "Docker-Content-Digest", "X-Spegel-Source", "Location", "A b", "")
            ),
            st.one_of(
                st.sampled_from((DIGEST, "a/b", "\x1b[2J", "\x7f", "é", "x" * 20000)),
                st.text(max_size=20),
            ),
        ),
        st.tuples(st.just("Content-Encoding"), st.sampled_from(("gzip", "identity", ""))),
        st.tuples(
            st.just("Transfer-Encoding"), st.sampled_from(("chunked", "gzip, chunked", "identity"))
        ),
        st.tuples(st.just("Connection"), st.sampled_from(("close", "keep-alive", "upgrade"))),
    ),
    max_size=6,
)
BODIES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        (b"0123456789", b"a\r\n0123456789\r\n0\r\n\r\n", b"fffffffffffffff\r\nabc", b"-1\r\n")
    ),
)


def heads(bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return answers: provisional ones, a head, a body."""

    def answer(
        before: int, version: str, status: str, fields: list[tuple[str, str]], body: bytes
    ) -> bytes:
        lines = [f"{version} {status}", *(f"{name}: {value}" for name, value in fields)]
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass")
        return b"HTTP/1.1 100 Continue\r\n\r\n" * before + head + body

    return st.builds(
        answer,
        st.sampled_from((0, 0, 1, 2, 2000)),
        st.sampled_from(("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2", "ICY")),
        st.sampled_from(
            (
                "200 OK",
                "206 P",
                "416 R",
                "404 N",
                "302 F",
                "101 S",
                "204 N",
                "304 N",
                "999",
                "0",
                "200",
            )
        ),
        FIELDS,
        bodies,
    )


@target(
    "answer-heads",
    examples=(
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Type: a/b\r\nAge: 5\r\n\r\n0123456789",
        (
            b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6\r\n"
            b"\r\n456789"
        ),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n",
        (
            b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */10\r\nContent-Length: "
            b"0\r\n\r\n"
        ),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nDocker-Content-Digest: %s\r\n"
        b"Content-Length: 1\r\n\r\n1" % DIGEST.encode(),
    ),
    structured=heads(BODIES),
)
def _answers(data: bytes) -> None:
    """An answer as it comes in, whole and in pieces, to each kind of question."""
    for step in {len(data) or 1, max(1, len(data) // 5)}:
        for request in _REQUESTS:
            try:
                _receive(request, [data[at : at + step] for at in range(0, len(data), step)])
            except PeerError as error:
                check_text(error, 300)


def _receive(request: PeerRequest, pieces: list[bytes]) -> None:
    exchange = HTTPExchange(
        method="HEAD" if request.head else "GET", target="/x", headers=[("Host", "x")]
    )
    head = None
    while pieces and head is None:
        head = exchange.receive(pieces.pop(0))
    if head is None:
        return
    assert head.length is None or head.length >= 0
    assert sum(len(name) + len(value) for name, value in head.headers.items()) <= MAX_HEAD
    answer = check_answer(request, head.status, head.headers)
    assert 0 <= answer.size <= MAX_BYTES
    assert 0 <= answer.length <= answer.size
    assert answer.start is None or 0 <= answer.start <= answer.size - answer.length
    for text in (answer.media_type, answer.source):
        assert text is None or "\x1b" not in text
    if head.length is None:
        is_last = exchange.decode(b"")[1]
        for piece in pieces:
            if not is_last:
                is_last = exchange.decode(piece)[1]


TARGETS = (_answers,)
