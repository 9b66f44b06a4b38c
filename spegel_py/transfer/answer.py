"""What a peer's answer must look like to be used: pure checks of its status and headers."""

from __future__ import annotations

from collections.abc import Mapping

from spegel_py.errors import DigestInvalid, DigestMismatch, PeerRefused, RangeInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import SOURCE_HEADER
from spegel_py.oci.range import MAX_BYTES, ByteRange, ContentRange
from spegel_py.transfer.base import PeerAnswer, PeerRequest


def check(request: PeerRequest, status: int, headers: Mapping[str, str]) -> PeerAnswer:
    """Return the answer with this status and these headers (looked up by their usual names), or refuse it.

    Refused with PeerRefused: other statuses; an encoded body; a chunked one whose length nobody knows; a 200 to a
    range, and a 206 whose Content-Range is not exactly what was asked; a size other than the one known; with
    status 404, as if it were not there, what is older than asked for.
    Raises DigestMismatch where the peer says it is about to send other content.
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
        raise PeerRefused(f"the peer knows the tag as of {age} s ago", status=404)
    return PeerAnswer(
        media_type=_printable(headers.get("Content-Type")),
        digest=digest,
        size=size,
        start=start,
        length=length,
        age=age,
        source=_printable(headers.get(SOURCE_HEADER)),
    )


def _digest(request: PeerRequest, status: int, headers: Mapping[str, str]) -> Digest | None:
    """Return the digest of the content; what was asked for counts where the peer does not say."""
    text = headers.get("Docker-Content-Digest")
    if text is None or status == 416:
        return request.digest
    try:
        said = Digest.parse(text)
    except DigestInvalid as error:
        raise PeerRefused("the peer's Docker-Content-Digest is no digest", status=status) from error
    if request.digest is not None and said != request.digest:
        raise DigestMismatch(f"the peer offers {said}")
    return said


def _extent(
    request: PeerRequest, status: int, headers: Mapping[str, str]
) -> tuple[int | None, int, int]:
    """Return start, length and size of what the answer holds."""
    if request.range is None:
        size = _length(status, headers, known=request.size)
        if status != 200:
            raise PeerRefused(f"the peer answered {status} where no range was asked", status=status)
        return 0, size, size
    said = ContentRange.parse(headers.get("Content-Range", ""))
    if status == 200 or said is None or (said.start is None) != (status == 416):
        raise PeerRefused("the peer did not answer with the range that was asked", status=status)
    if _resolved(request.range, said.size) != (said.start, said.length):
        raise PeerRefused(f"the peer answered with another range: {said}", status=status)
    if said.start is not None and _length(status, headers, known=said.length) != said.length:
        raise PeerRefused("the peer's Content-Length is not its Content-Range's", status=status)
    return said.start, said.length, said.size


def _age(headers: Mapping[str, str]) -> int | None:
    """Return the Age of the answer in seconds (RFC 9111, 5.1); what is no number says nothing."""
    return _number(headers.get("Age", ""))


def _number(text: str) -> int | None:
    """Return a header's whole number of up to MAX_BYTES, which any size and age is; None for any other text."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_BYTES))
    return number if is_number and (number := int(text)) <= MAX_BYTES else None


def _printable(text: str | None) -> str | None:
    """Return what can be shown and passed on: printable ASCII. Any other text counts as none."""
    return text if text and text.isascii() and text.isprintable() else None


def _resolved(asked: ByteRange, size: int) -> tuple[int | None, int]:
    try:
        return asked.resolve(size)
    except RangeInvalid:
        return None, 0


def _length(status: int, headers: Mapping[str, str], *, known: int | None) -> int:
    """Return the length of the body; of a chunked one, which does not say it, what is known of it."""
    text = headers.get("Content-Length", "")
    is_chunked = "Transfer-Encoding" in headers
    if is_chunked and not text and known is not None:
        return known
    length = None if is_chunked else _number(text)
    if length is None:
        raise PeerRefused("the peer did not say how long the body is", status=status)
    return length
