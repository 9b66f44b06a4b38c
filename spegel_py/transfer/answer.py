"""Checks of a peer's answer by its status and headers. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from spegel_py.errors import (
    DigestInvalid,
    DigestMismatch,
    PeerRefused,
    PeerTagTooOld,
    RangeInvalid,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import SOURCE_HEADER, TAG_SEEN_HEADER
from spegel_py.oci.range import MAX_BYTES, ByteRange, ContentRange
from spegel_py.transfer.base import PeerAnswer, PeerRequest


def check_answer(request: PeerRequest, status: int, headers: Mapping[str, str]) -> PeerAnswer:
    """Return the answer with this status and these headers (by their usual names), or refuse it.

    Raises:
        PeerRefused: another status; an encoded body; a chunked body of unknown length; a 200 to a
            range request; a 206 with another Content-Range than requested; another size than the
            known one. With status 404, as if the content were not there: a tag that is too old.
        DigestMismatch: the peer is about to send other content.
    """
    if status not in (200, 206, 416):
        raise PeerRefused(f"the peer answered {status}", status=status)
    if headers.get("Content-Encoding", "identity") != "identity":
        raise PeerRefused("the peer encoded the body", status=status)
    digest = _digest(request, status, headers)
    start, length, size = _extent(request, status, headers)
    if request.size is not None and size != request.size:
        raise PeerRefused(f"the peer has {size} bytes, not {request.size}", status=status)
    age = _age(headers)
    if age is not None and age > request.max_age:
        raise PeerTagTooOld(age)
    return PeerAnswer(
        media_type=_printable(headers.get("Content-Type")),
        digest=digest,
        size=size,
        start=start,
        length=length,
        age=age,
        source=_printable(headers.get(SOURCE_HEADER)),
        seen=_printable(headers.get(TAG_SEEN_HEADER)),
    )


def _digest(request: PeerRequest, status: int, headers: Mapping[str, str]) -> Digest | None:
    """Return the digest of the content; by default the requested one."""
    text = headers.get("Docker-Content-Digest")
    if text is None or status == 416:
        return request.digest
    try:
        stated = Digest.parse(text)
    except DigestInvalid as error:
        raise PeerRefused("the peer's Docker-Content-Digest is no digest", status=status) from error
    if request.digest is not None and stated != request.digest:
        raise DigestMismatch(f"the peer offers {stated}")
    return stated


def _extent(
    request: PeerRequest, status: int, headers: Mapping[str, str]
) -> tuple[int | None, int, int]:
    """Return start, length and size of the answer's body."""
    if request.range is None:
        size = _length(status, headers, known=request.size)
        if status != 200:
            raise PeerRefused(f"the peer answered {status} where no range was asked", status=status)
        return 0, size, size
    stated = ContentRange.parse(headers.get("Content-Range", ""))
    if status == 200 or stated is None or (stated.start is None) != (status == 416):
        raise PeerRefused("the peer did not answer with the range that was asked", status=status)
    if _resolved(request.range, stated.size) != (stated.start, stated.length):
        raise PeerRefused(f"the peer answered with another range: {stated}", status=status)
    if stated.start is not None and _length(status, headers, known=stated.length) != stated.length:
        raise PeerRefused("the peer's Content-Length is not its Content-Range's", status=status)
    return stated.start, stated.length, stated.size


def _age(headers: Mapping[str, str]) -> int | None:
    """Return the Age of the answer in seconds (RFC 9111, 5.1); None if it is no number."""
    return _number(headers.get("Age", ""))


def _number(text: str) -> int | None:
    """Return a header's whole number of up to MAX_BYTES, as every size and age is, else None."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_BYTES))
    return number if is_number and (number := int(text)) <= MAX_BYTES else None


def _printable(text: str | None) -> str | None:
    """Return the text if it is printable ASCII, which can be shown and passed on, else None."""
    return text if text and text.isascii() and text.isprintable() else None


def _resolved(asked: ByteRange, size: int) -> tuple[int | None, int]:
    try:
        return asked.resolve(size)
    except RangeInvalid:
        return None, 0


def _length(status: int, headers: Mapping[str, str], *, known: int | None) -> int:
    """Return the length of the body; a chunked body has no header for it, but may have `known`."""
    text = headers.get("Content-Length", "")
    is_chunked = "Transfer-Encoding" in headers
    if is_chunked and not text and known is not None:
        return known
    length = None if is_chunked else _number(text)
    if length is None:
        raise PeerRefused("the peer did not say how long the body is", status=status)
    return length
