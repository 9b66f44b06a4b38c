"""All errors that this program raises on purpose, as one tree.

    SpegelError
    ├ ConfigError                   a setting or file is wrong: one line, exit status 2
    ├ HostError                     this machine refused a change of its files
    ├ NodeError                     a running node did not answer a command's question
    ├ OCIError(status, code,        an error response of the registry, as the spec's JSON
    │ │        message, detail)
    │ ├ NameInvalid 400 · DigestInvalid 400 · RangeInvalid 416
    │ ├ RequestInvalid 400 · ManifestInvalid 400
    │ ├ ManifestUnknown 404 · BlobUnknown 404 · NameUnknown 404 · NotFound 404
    │ ├ Unauthorized 401 · Denied 403 · Unsupported 405
    │ │ └ CredentialsNeeded(challenge) 401
    │ └ Occupied 409 · Busy 503
    ├ StoreError                    reading this node's own content failed
    │ ├ ContentNotFound             the store does not have it
    │ ├ UnpackUnsupported           the store cannot unpack images ahead of their pulls
    │ └ StoreUnavailable            the daemon or the disk behind the store is down
    │   └ StoreFull                 the disk behind the store has no room
    ├ RoutingError                  a lookup of peers failed
    │ └ RouterUnavailable           the libp2p side is not running
    └ PeerError                     a request to one peer failed
      ├ PeerUnreachable             no connection, or the connection broke
      │ └ PeerUnencrypted           the peer has no TLS, and this node requires it
      ├ PeerRefused(status)         the peer answered with something else
      │ ├ PeerTagTooOld             the peer's tag is older than a tag may be
      │ └ PeerTagNotBelieved        nobody that this node believes has seen the peer's tag
      ├ PeerStalled                 the peer sent nothing within the deadline
      ├ PeerUnproven                the peer did not prove that the answer is its own
      ├ PeerLoops                   the peer fetches the content from this node
      └ DigestMismatch              the peer sent wrong bytes

Adapters translate foreign exceptions into these errors (`raise … from`). No code above an adapter
handles exceptions of grpc, aiohttp's client or libp2p.
"""

from __future__ import annotations

from typing import ClassVar


class SpegelError(Exception):
    """The root of the tree; catching it catches every error that is raised on purpose."""


class ConfigError(SpegelError):
    """A setting, file or address from the operator is unusable; the text has place and advice."""


class HostError(SpegelError):
    """A file of this machine could not be read or changed; the text has reason and advice."""


class NodeError(SpegelError):
    """A node could not be asked, or had no answer; the text has reason and advice."""


class OCIError(SpegelError):
    """An error response of the registry (OCI distribution specification, "Error Codes")."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, *, detail: object | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class NameInvalid(OCIError):
    """The repository name or the tag does not follow the spec's grammar."""

    status = 400
    code = "NAME_INVALID"


class DigestInvalid(OCIError):
    """The digest is malformed, or its algorithm is neither sha256 nor sha512."""

    status = 400
    code = "DIGEST_INVALID"


class RequestInvalid(OCIError):
    """The request is malformed in another way: two different `ns`, or a body in a GET."""

    status = 400
    code = "UNSUPPORTED"


class ManifestInvalid(OCIError):
    """The bytes are not a manifest or index of the image specification or of Docker's schema 2."""

    status = 400
    code = "MANIFEST_INVALID"


class RangeInvalid(OCIError):
    """The range cannot be satisfied (RFC 9110, 416)."""

    status = 416
    code = "SIZE_INVALID"


class ManifestUnknown(OCIError):
    """Neither this node nor any peer has the manifest."""

    status = 404
    code = "MANIFEST_UNKNOWN"


class BlobUnknown(OCIError):
    """Neither this node nor any peer has the blob."""

    status = 404
    code = "BLOB_UNKNOWN"


class NameUnknown(OCIError):
    """A list of the repository's tags is not answered, or no node has one of its tags."""

    status = 404
    code = "NAME_UNKNOWN"


class NotFound(OCIError):
    """There is no such endpoint."""

    status = 404
    code = "UNSUPPORTED"


class Unauthorized(OCIError):
    """Credentials are missing or wrong."""

    status = 401
    code = "UNAUTHORIZED"


class CredentialsNeeded(Unauthorized):
    """The registry behind this mirror asks for credentials, by this challenge (RFC 9110, 11.3)."""

    def __init__(self, message: str, *, challenge: str, detail: object | None = None) -> None:
        super().__init__(message, detail=detail)
        self.challenge = challenge


class Denied(OCIError):
    """The credentials do not permit this request."""

    status = 403
    code = "DENIED"


class Unsupported(OCIError):
    """The method does not belong to the pull category."""

    status = 405
    code = "UNSUPPORTED"


class Occupied(OCIError):
    """An action that can run only once at a time is running; no registry client gets this."""

    status = 409
    code = "UNSUPPORTED"


class Busy(OCIError):
    """No further transfer is possible. Only other nodes get this response, and ask another node."""

    status = 503
    code = "UNAVAILABLE"


class StoreError(SpegelError):
    """This node's own content could not be read."""


class ContentNotFound(StoreError):
    """The store does not have this name or digest."""


class StoreUnavailable(StoreError):
    """The daemon or the file system behind the store does not respond; it may recover."""


class StoreFull(StoreUnavailable):
    """The disk behind the store has no room; it may get some."""


class UnpackUnsupported(StoreError):
    """This store cannot unpack images ahead of their pulls."""


class RoutingError(SpegelError):
    """The records of peers' content could not be used."""


class RouterUnavailable(RoutingError):
    """The libp2p side is not running; it may recover."""


class PeerError(SpegelError):
    """A request to one peer failed; another peer may succeed."""


class PeerUnreachable(PeerError):
    """No connection to the peer could be made, or the connection broke."""


class PeerUnencrypted(PeerUnreachable):
    """The peer has no TLS, and this node asks no peer without it."""


class PeerRefused(PeerError):
    """The peer answered with something else than the requested content."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class PeerTagTooOld(PeerRefused):
    """The peer has the tag, but saw it at its registry longer ago than a tag may be old."""

    def __init__(self, age: int) -> None:
        super().__init__(f"the peer knows the tag as of {age} s ago", status=404)


class PeerTagNotBelieved(PeerRefused):
    """The peer has the tag, but the word that comes with it is not believed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the peer's tag is not believed: {reason}", status=404)


class PeerStalled(PeerError):
    """The peer sent nothing within its deadline."""


class PeerUnproven(PeerError):
    """The peer did not prove that the answer is its own, so nothing in it is believed."""


class PeerLoops(PeerError):
    """The peer fetches the content from this node, so neither would make progress."""


class DigestMismatch(PeerError):
    """The peer sent bytes that do not match the digest."""
