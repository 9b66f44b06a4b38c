"""Decisions about private images, with a real HTTP registry that asks for credentials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spegel_py.errors import CredentialsNeeded, Denied, OCIError
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullClient, PullRequest
from spegel_py.registry.access_check import AccessCheck
from spegel_py.registry.image_guard import ImageGuard
from spegel_py.registry.private_rules import AccessOutcome, PublicImages, WhenDown
from spegel_py.registry.verdict_memory import VerdictMemory
from tests.support.images import image
from tests.support.private_registry import (
    BASIC,
    WRONG,
    PrivateRegistry,
    make_token,
    private_registry,
)

REPOSITORY = "team/app"
IMAGE = image("private", layers=1)


class Clock:
    """Monotonic and Unix time, set by the test."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def __call__(self) -> float:
        return self.time


class Guarded:
    """A guard before one registry, with the outcomes that it counted."""

    def __init__(
        self, registry: PrivateRegistry, *, when_down: str = "cached", folder: Path | None = None
    ) -> None:
        self.registry = registry
        self.clock = Clock()
        self.outcomes: list[AccessOutcome] = []
        listed = frozenset({registry.address, "registry.invalid"})
        self.check = AccessCheck(hosts=None, listed=listed, plain=listed, clock=self.clock)
        self.memory = VerdictMemory(folder, clock=self.clock, now=self.clock)
        self.guard = ImageGuard(
            check=self.check,
            memory=self.memory,
            public=PublicImages(["docker.io"]),
            when_down=WhenDown(when_down),
            counted=self.outcomes.append,
            now=self.clock,
        )

    async def ask(
        self, authorization: str = "", reference: Digest | str = "1", repository: str = REPOSITORY
    ) -> PullRequest:
        request = pull(self.registry.address, reference, repository)
        return await self.guard.admit(request, authorization)

    async def settled(self) -> None:
        """Wait until a yes is kept."""
        while self.guard._working:
            await asyncio.sleep(0.01)


def pull(
    registry: str | None, reference: Digest | str = "1", repository: str = REPOSITORY
) -> PullRequest:
    return PullRequest(
        head=False,
        kind=Kind.MANIFEST,
        registry=registry,
        repository=repository,
        reference=reference,
    )


@pytest.fixture
async def registry() -> AsyncIterator[PrivateRegistry]:
    async with private_registry(IMAGE, repository=REPOSITORY) as served:
        yield served


@pytest.fixture
def guarded(registry: PrivateRegistry) -> Guarded:
    return Guarded(registry)


async def test_the_registrys_challenge_is_passed_on(guarded: Guarded) -> None:
    """It is asked for once in an hour."""
    for _ in range(2):
        with pytest.raises(CredentialsNeeded) as raised:
            await guarded.ask()
        assert raised.value.challenge == 'Basic realm="private"'
    assert guarded.registry.requests == [("GET", "/v2/", "")]
    guarded.clock.time += 3601
    with pytest.raises(CredentialsNeeded):
        await guarded.ask()
    assert len(guarded.registry.requests) == 2


async def test_a_token_is_asked_for_the_one_repository(guarded: Guarded) -> None:
    guarded.registry.scheme = "bearer"
    with pytest.raises(CredentialsNeeded) as raised:
        await guarded.ask()
    assert raised.value.challenge == (
        f'Bearer realm="{guarded.registry.url}/token",service="private",'
        f'scope="repository:{REPOSITORY}:pull"'
    )


async def test_the_right_credentials_cost_one_head(guarded: Guarded) -> None:
    """The tag is then the digest that the registry named, also for requests that come at once."""
    admitted = await asyncio.gather(*(guarded.ask(BASIC) for _ in range(3)))
    assert {one.reference for one in admitted} == {IMAGE.root.digest}
    assert (await guarded.ask(BASIC, Digest.of(b"layer"))).reference == Digest.of(b"layer")
    assert guarded.registry.requests == [("HEAD", f"/v2/{REPOSITORY}/manifests/1", BASIC)]
    assert guarded.outcomes == [AccessOutcome.ALLOWED] * 3 + [AccessOutcome.REMEMBERED]
    guarded.clock.time += 601
    await guarded.ask(BASIC)
    assert len(guarded.registry.requests) == 2


async def test_a_wrong_password_is_denied_for_half_a_minute(guarded: Guarded) -> None:
    for _ in range(3):
        with pytest.raises(Denied, match="refuses"):
            await guarded.ask(WRONG)
    assert len(guarded.registry.requests) == 1
    await guarded.ask(BASIC)  # that of somebody else says nothing
    guarded.clock.time += 31
    with pytest.raises(Denied):
        await guarded.ask(WRONG)
    assert len(guarded.registry.requests) == 3


async def test_a_yes_is_for_one_repository(guarded: Guarded) -> None:
    await guarded.ask(BASIC)
    with pytest.raises(Denied):
        await guarded.ask(BASIC, repository="team/secret")


async def test_a_tag_that_the_registry_lacks_says_nothing_about_others(guarded: Guarded) -> None:
    for _ in range(2):
        with pytest.raises(OCIError) as raised:
            await guarded.ask(BASIC, "missing")
        assert raised.value.status == 404
    assert len(guarded.registry.requests) == 1
    await guarded.ask(BASIC)


@pytest.mark.parametrize("status", [302, 307, 405])
async def test_a_redirect_is_no_yes(guarded: Guarded, status: int) -> None:
    """It is not followed: the credentials go nowhere else."""
    guarded.registry.status = status
    with pytest.raises(OCIError) as raised:
        await guarded.ask(BASIC)
    assert raised.value.status == 404
    assert guarded.registry.asked("GET") == []
    assert len(guarded.registry.requests) == 1


async def test_a_yes_ends_with_its_token(guarded: Guarded) -> None:
    guarded.registry.scheme = "bearer"
    end = guarded.clock.time + 60
    claims = {"exp": 4e9, "for": REPOSITORY}  # the registry goes by the real time
    long = f"Bearer {make_token(claims)}"
    await guarded.ask(long)
    guarded.clock.time += 599
    await guarded.ask(long)
    assert len(guarded.registry.requests) == 1
    guarded.clock.time = end - 60
    short = Guarded(guarded.registry)
    short.clock.time = 4e9 - 60
    await short.ask(long)
    short.clock.time += 59
    await short.ask(long)
    assert len(guarded.registry.requests) == 2
    short.clock.time += 2
    await short.ask(long)
    assert len(guarded.registry.requests) == 3


async def test_a_client_whose_token_has_ended_is_told_to_get_another(guarded: Guarded) -> None:
    """A long pull goes on at the mirror. A token that the registry refuses before is a refusal."""
    guarded.registry.scheme = "bearer"
    ended = f"Bearer {make_token({'exp': guarded.clock.time - 1, 'for': REPOSITORY})}"
    with pytest.raises(Denied):
        await guarded.ask(ended)  # no challenge of the registry is known yet
    with pytest.raises(CredentialsNeeded):
        await guarded.ask()
    with pytest.raises(CredentialsNeeded) as raised:
        await guarded.ask(ended)
    assert raised.value.challenge.endswith(',error="invalid_token"')
    other = f"Bearer {make_token({'exp': guarded.clock.time + 9, 'for': 'team/other'})}"
    with pytest.raises(Denied):
        await guarded.ask(other)


async def test_a_registry_without_a_challenge_is_asked_without_credentials(
    guarded: Guarded,
) -> None:
    """A public repository is answered, and a private one challenged by itself."""
    guarded.registry.scheme = "none"
    with pytest.raises(CredentialsNeeded):
        await guarded.ask()
    assert guarded.registry.asked("HEAD") == [f"/v2/{REPOSITORY}/manifests/1"]
    with pytest.raises(CredentialsNeeded):
        await guarded.ask()
    assert len(guarded.registry.requests) == 2


@pytest.mark.parametrize(
    ("when_down", "was_allowed", "outcome"),
    [
        ("cached", True, AccessOutcome.AWAY_ALLOWED),
        ("cached", False, AccessOutcome.AWAY_DENIED),
        ("deny", True, AccessOutcome.AWAY_DENIED),
        ("allow", True, AccessOutcome.AWAY_ALLOWED),
        ("allow", False, AccessOutcome.AWAY_ALLOWED),
    ],
)
@pytest.mark.parametrize("has_restarted", [False, True])
async def test_a_registry_that_is_away(
    registry: PrivateRegistry,
    tmp_path: Path,
    when_down: str,
    was_allowed: bool,
    outcome: AccessOutcome,
    has_restarted: bool,
) -> None:
    """By the policy; a yes of before is kept over a restart of the node."""
    guarded = Guarded(registry, when_down=when_down, folder=tmp_path)
    if was_allowed:
        await guarded.ask(BASIC)
        await guarded.settled()
        while guarded.memory._saving is not None and not guarded.memory._saving.done():
            await asyncio.sleep(0.01)
    if has_restarted:
        guarded = Guarded(registry, when_down=when_down, folder=tmp_path)
    guarded.clock.time += 3600
    registry.status = 503
    if outcome is AccessOutcome.AWAY_ALLOWED:
        assert (await guarded.ask(BASIC)).reference == "1"
    else:
        with pytest.raises(OCIError) as raised:
            await guarded.ask(BASIC)
        assert raised.value.status == 404
    assert guarded.outcomes[-1] is outcome
    if when_down == "cached":
        with pytest.raises(OCIError):
            await guarded.ask(WRONG)
        guarded.clock.time += 86400
        with pytest.raises(OCIError):
            await guarded.ask(BASIC)


@pytest.mark.parametrize(
    ("when_down", "knows_challenge", "status"),
    [
        ("cached", True, 401),
        ("cached", False, 404),
        ("deny", True, 404),
        ("allow", True, 200),
        ("allow", False, 200),
    ],
)
async def test_a_client_without_credentials_while_the_registry_is_away(
    registry: PrivateRegistry, when_down: str, knows_challenge: bool, status: int
) -> None:
    """With a kept challenge it gets the chance to bring credentials that were allowed before."""
    guarded = Guarded(registry, when_down=when_down)
    if knows_challenge:
        with pytest.raises(CredentialsNeeded):
            await guarded.ask()
    guarded.clock.time += 7200
    registry.status = 503
    try:
        await guarded.ask()
        found = 200
    except OCIError as error:
        found = error.status
    assert found == status


async def test_after_a_no_the_kept_yes_is_gone(registry: PrivateRegistry) -> None:
    guarded = Guarded(registry)
    await guarded.ask(BASIC)
    await guarded.settled()
    registry.allowed.clear()
    guarded.clock.time += 601
    with pytest.raises(Denied):
        await guarded.ask(BASIC)
    await guarded.settled()
    guarded.clock.time += 31
    registry.status = 500
    with pytest.raises(OCIError):
        await guarded.ask(BASIC)
    assert guarded.outcomes[-1] is AccessOutcome.AWAY_DENIED


@pytest.mark.parametrize(
    "name", ["127.0.0.1:1", "[::1]:5000", "169.254.169.254", "localhost:5000", "10.0.0.1"]
)
async def test_a_pod_leads_the_node_to_no_address(guarded: Guarded, name: str) -> None:
    with pytest.raises(OCIError, match="--mirrored-registries") as raised:
        await guarded.guard.admit(pull(name), BASIC)
    assert raised.value.status == 404


async def test_a_name_that_leads_to_this_machine_gets_no_credentials(
    registry: PrivateRegistry,
) -> None:
    """The name is resolved, and its address judged, before a connection is made."""
    name = f"localtest.example:{registry.address.rpartition(':')[2]}"
    check = AccessCheck(hosts=None, plain=frozenset({name}))
    resolver = pytest.MonkeyPatch()
    with resolver.context() as patch:
        patch.setattr(
            "socket.getaddrinfo",
            lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", int(name.rpartition(":")[2])))],
        )
        answer = await check.head(pull(name), BASIC)
    assert answer.status is None
    assert "--mirrored-registries" in check.faults[name]
    assert registry.requests == []


async def test_a_host_that_does_not_exist_is_one_line(guarded: Guarded) -> None:
    with pytest.raises(OCIError):
        await guarded.guard.admit(pull("registry.invalid"), BASIC)
    described = guarded.guard.describe()["faults"]
    assert isinstance(described, dict)
    assert "\n" not in described["registry.invalid"]


async def test_what_needs_no_consent(guarded: Guarded) -> None:
    """Public repositories, and tools of this machine that have the token."""
    request = pull("docker.io", repository="library/debian")
    assert await guarded.guard.admit(request, "") is request
    for client in set(PullClient) - {PullClient.RUNTIME}:
        tool = PullRequest(
            head=True,
            kind=Kind.MANIFEST,
            registry="x.example",
            repository="a",
            reference="1",
            client=client,
        )
        assert await guarded.guard.admit(tool, "") is tool
    with pytest.raises(OCIError):
        await guarded.guard.admit(pull(None, Digest.of(b"")), BASIC)
    assert guarded.registry.requests == []
    assert guarded.outcomes == []
