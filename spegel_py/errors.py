"""Every error this program raises on purpose, as one tree.

    SpegelError
    ├ ConfigError                                  what the operator gave us is wrong: one line, exit status 2
    ├ HostError                                    this machine refused a change of its files
    ├ NodeError                                    a running node does not tell a person what was asked
    ├ OCIError(status, code, message, detail)      what a client of the registry is told, as the spec's JSON
    │   ├ NameInvalid 400 · DigestInvalid 400 · RangeInvalid 416 · RequestInvalid 400 · ManifestInvalid 400
    │   ├ ManifestUnknown 404 · BlobUnknown 404 · NotFound 404
    │   └ Unauthorized 401 · Denied 403 · Unsupported 405 · Occupied 409 · Busy 503
    ├ StoreError                                   this node's own content
    │   ├ ContentNotFound                          it is not here
    │   └ StoreUnavailable                         the daemon or the disk behind the store is away
    ├ RoutingError                                 the peers' records
    │   └ RouterUnavailable                        the DHT side is not running
    └ PeerError                                    getting a thing from one peer
        ├ PeerUnreachable                          no connection, or it broke
        ├ PeerRefused(status)                      it answered, but not with what was asked
        ├ PeerStalled                              it stopped sending within the deadline
        ├ PeerLoops                                it takes the content from this node
        └ DigestMismatch                           it sent wrong bytes

Adapters translate foreign exceptions into these at their edge (`raise … from`); nothing above an adapter
ever sees an exception of grpc, aiohttp's client or libp2p.
"""

from __future__ import annotations

from typing import ClassVar


class SpegelError(Exception):
    """The root: catch it to catch everything this program raises on purpose."""


class ConfigError(SpegelError):
    """A setting, file or address the operator gave is unusable; the text says what, where and what to do."""


class HostError(SpegelError):
    """A file or folder of this machine could not be read or changed; the text says which, why and what to do."""


class NodeError(SpegelError):
    """A node could not be asked, or has nothing to tell; the text says which, why and what to do."""


class OCIError(SpegelError):
    """An answer of the registry to its client (OCI distribution spec, "Error Codes")."""

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
    """The digest is malformed or of an algorithm that is not sha256 or sha512."""

    status = 400
    code = "DIGEST_INVALID"


class RequestInvalid(OCIError):
    """The request is malformed in another way, e.g. two different `ns`, or a body for a GET."""

    status = 400
    code = "UNSUPPORTED"


class ManifestInvalid(OCIError):
    """The bytes are not a manifest or index of the image spec (nor of Docker's schema 2)."""

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


class NotFound(OCIError):
    """There is no such endpoint."""

    status = 404
    code = "UNSUPPORTED"


class Unauthorized(OCIError):
    """Credentials are missing or wrong."""

    status = 401
    code = "UNAUTHORIZED"


class Denied(OCIError):
    """The credentials do not allow this."""

    status = 403
    code = "DENIED"


class Unsupported(OCIError):
    """The method is not one of the pull category."""

    status = 405
    code = "UNSUPPORTED"


class Occupied(OCIError):
    """Something of which there can be one at a time is under way; no client of the registry is told so."""

    status = 409
    code = "UNSUPPORTED"


class Busy(OCIError):
    """There is no room for a further transfer; told to other nodes only, which then ask another one."""

    status = 503
    code = "UNAVAILABLE"


class StoreError(SpegelError):
    """This node's own content could not be read."""


class ContentNotFound(StoreError):
    """The store does not hold this name or digest."""


class StoreUnavailable(StoreError):
    """The daemon or the file system behind the store does not answer; it may come back."""


class RoutingError(SpegelError):
    """The records of who holds what could not be used."""


class RouterUnavailable(RoutingError):
    """The DHT side is not running; it may come back."""


class PeerError(SpegelError):
    """One peer did not give what was asked of it; another may."""


class PeerUnreachable(PeerError):
    """No connection to the peer could be made, or it broke."""


class PeerRefused(PeerError):
    """The peer answered, but not with what was asked."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class PeerStalled(PeerError):
    """The peer did not send within its deadline."""


class PeerLoops(PeerError):
    """The peer takes the content from here, so that neither would get on."""


class DigestMismatch(PeerError):
    """The peer sent bytes that are not the digest's."""
