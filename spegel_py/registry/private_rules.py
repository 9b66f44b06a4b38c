"""The rules of private images: which ones are private, and what an answer of a registry allows.

Pure: times and answers are passed in.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Collection, Iterable
from enum import Enum, StrEnum
from fnmatch import fnmatchcase

from spegel_py.oci.reference import canonical_name, canonical_registry

ALLOWED_FOR, DENIED_FOR = 600.0, 30.0
"""Seconds for which a registry's yes and no count. A token's yes ends with the token."""
AWAY_FOR = 10.0
"""Seconds for which a registry that did not answer is not asked again."""
KEPT_FOR = 86400.0
"""Seconds for which a yes counts while the registry is away (`--private-when-down cached`)."""
CHALLENGE_FOR = 3600.0
"""Seconds for which a registry's challenge counts. It names the token server; it rarely changes."""

MAX_CHALLENGE = 2048
"""Characters of the longest challenge that is passed on."""

_PARAMETER = re.compile(r'(?<!\w)(\w++)="([^"\\]*)"', re.ASCII)
_GLOB = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9._:*?\[\]/-]*")


class PrivateImages(StrEnum):
    """Whether a node asks the registry before it gives a private image to its runtime."""

    OFF = "off"
    GUARD = "guard"


class WhenDown(StrEnum):
    """The answer for a private image while its registry does not answer."""

    CACHED = "cached"
    """The registry allowed the same credentials the same repository within KEPT_FOR."""
    DENY = "deny"
    ALLOW = "allow"


class RegistryVerdict(Enum):
    """The answer of a registry to the credentials of a client."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNKNOWN = "unknown"
    """The registry does not give this content to these credentials; it may give other content."""
    AWAY = "away"


class AccessOutcome(StrEnum):
    """How a request of the runtime for private content was decided: the values of a metric."""

    CHALLENGED = "challenged"
    """It had no credentials, and got the registry's own challenge."""
    ALLOWED = "allowed"
    REMEMBERED = "remembered"
    """Allowed without a request to the registry."""
    DENIED = "denied"
    UNKNOWN = "unknown"
    AWAY_ALLOWED = "away_allowed"
    """Allowed while the registry is away."""
    AWAY_DENIED = "away_denied"


def judge(status: int | None) -> RegistryVerdict:
    """Return the verdict in the status of a HEAD; None stands for no answer.

    A redirect is no yes: it may lead to a page for logging in.
    """
    match status:
        case None | 408 | 429:
            return RegistryVerdict.AWAY
        case int() if status >= 500:
            return RegistryVerdict.AWAY
        case 200:
            return RegistryVerdict.ALLOWED
        case 401 | 403:
            return RegistryVerdict.DENIED
        case _:
            return RegistryVerdict.UNKNOWN


def token_end(authorization: str) -> float | None:
    """Return the Unix time at which a token ends; None for a password or a token without it.

    The signature is not checked. The registry has checked it when it answered yes.
    """
    scheme, _, token = authorization.partition(" ")
    parts = token.strip().split(".")
    if scheme.lower() != "bearer" or len(parts) != 3:
        return None
    try:
        data = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        fields = json.loads(data)
        end = fields.get("exp") if isinstance(fields, dict) else None
        return float(end) if isinstance(end, int | float) and 0 <= end < 1e12 else None
    except (ValueError, RecursionError, binascii.Error):
        return None


def allowed_for(authorization: str, now: float) -> float:
    """Return the seconds for which a registry's yes counts; `now` is Unix time."""
    end = token_end(authorization)
    return ALLOWED_FOR if end is None else max(0.0, min(ALLOWED_FOR, end - now))


def kept_for(authorization: str, now: float) -> float:
    """Return the seconds for which a yes counts while the registry is away; `now` is Unix time.

    A token whose end is not known is not kept, since it may have ended.
    """
    if authorization[:7].lower() != "bearer ":
        return KEPT_FOR
    end = token_end(authorization)
    return 0.0 if end is None else max(0.0, min(KEPT_FOR, end - now))


def challenge_of(headers: Iterable[str]) -> str:
    """Return the challenge that is passed on, without a scope; empty if there is none.

    A token server is preferred to a password, because the node then never sees the password.
    """
    found = [_cleaned(each) for each in headers if len(each) <= MAX_CHALLENGE]
    return max(found, default="")


def _cleaned(header: str) -> str:
    """Return the parts of a challenge that a client needs; a token's sorts last."""
    scheme, _, rest = header.strip().partition(" ")
    fields: dict[str, str] = {}
    for name, value in _PARAMETER.findall(rest):
        if value.isascii() and value.isprintable():
            fields.setdefault(name, value)  # a second challenge may follow on the same line
    if scheme.lower() == "basic":
        return f'Basic realm="{fields.get("realm", "registry")}"'
    realm = fields.get("realm", "")
    if scheme.lower() != "bearer" or not realm.startswith(("https://", "http://")):
        return ""
    service = f',service="{fields["service"]}"' if fields.get("service") else ""
    return f'Bearer realm="{realm}"{service}'


def scoped(challenge: str, repository: str, *, has_ended: bool = False) -> str:
    """Return a challenge with the right to pull from one repository.

    Where the client's token `has_ended`, the client is told to get a new one (RFC 6750, 3.1).
    """
    if not challenge.startswith("Bearer "):
        return challenge
    error = ',error="invalid_token"' if has_ended else ""
    return f'{challenge},scope="repository:{repository}:pull"{error}'


def may_ask(registry: str, listed: Collection[str]) -> bool:
    """Return True if a node may send requests to a registry that a client names.

    A Pod chooses the name. So it must not lead to this machine, or to any address, unless an
    operator has listed it (`--mirrored-registries`).
    """
    if registry in listed:
        return True
    host = registry.rpartition(":")[0] if re.search(r":\d+$", registry) else registry
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        name = host.rstrip(".").lower()
        return name != "localhost" and not name.endswith(".localhost")
    return False


def is_open_address(address: str) -> bool:
    """Return True if a name that a client chose may lead to this address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return not (mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified)


def check_public(written: str) -> str:
    """Return an entry of `--public-registries` if it is one. Raises ValueError."""
    if not _GLOB.fullmatch(written) or "://" in written:
        raise ValueError(
            f"{written[:160]!r} should be a registry or repositories of one, such as docker.io or "
            "ghcr.io/team/*"
        )
    return written


class PublicImages:
    """The repositories that everybody may pull.

    An entry is a registry, or a registry with a pattern for its repositories: `docker.io`,
    `*.example`, `ghcr.io/team/*`. `*` stands for any characters, slashes too.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        split = [each.partition("/") for each in entries]
        self._patterns = tuple(
            f"{canonical_registry(registry)}/{path or '*'}" for registry, _, path in split
        )

    def __repr__(self) -> str:
        return f"<PublicImages {list(self._patterns)}>"

    def has(self, repository: str) -> bool:
        """Return True if a `registry/repository` is public; the registry's port may be missing."""
        name = canonical_name(repository)
        registry, _, path = name.partition("/")
        return any(
            fnmatchcase(path, pattern.partition("/")[2])
            and (
                fnmatchcase(registry, host := pattern.partition("/")[0])
                or fnmatchcase(registry, _without_port(host))
            )
            for pattern in self._patterns
        )


def may_serve(repository: str | None, sources: Iterable[str], public: PublicImages) -> bool:
    """Return True if content may be given under the name of a repository.

    Args:
        repository: the `registry/repository` of the request; None if it names no registry.
        sources: the repositories that the content came from.
    """
    wanted = canonical_name(repository) if repository else None
    for source in sources:
        # Case 1: content that is public somewhere is no secret anywhere.
        if public.has(source):
            return True
        # Case 2: it came from there. containerd's label of a source may lack the port.
        if wanted is not None and canonical_name(source) in (wanted, _without_port_of(wanted)):
            return True
    return False


def _without_port(registry: str) -> str:
    return re.sub(r":\d+$", "", registry)


def _without_port_of(repository: str) -> str:
    registry, _, path = repository.partition("/")
    return f"{_without_port(registry).strip('[]')}/{path}"
