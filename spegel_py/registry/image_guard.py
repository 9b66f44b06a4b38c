"""Gives private images to this node's runtime only with the consent of their registry.

The runtime's own credentials decide. It sends none unasked, so it first gets the registry's own
challenge. With a token server it then brings a token for the one repository, and this node never
sees a password. A refused runtime goes to the registry, which tells the user why.

Other nodes are trusted to have asked for their own runtimes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any

from spegel_py.errors import CredentialsNeeded, Denied, OCIError
from spegel_py.oci.distribution import PullClient, PullRequest
from spegel_py.registry.access_check import AccessCheck
from spegel_py.registry.private_rules import (
    AWAY_FOR,
    CHALLENGE_FOR,
    DENIED_FOR,
    KEPT_FOR,
    AccessOutcome,
    PublicImages,
    RegistryVerdict,
    WhenDown,
    allowed_for,
    judge,
    may_serve,
    scoped,
    token_end,
)
from spegel_py.registry.verdict_memory import Access, VerdictMemory

Counted = Callable[[AccessOutcome], None]


class ImageGuard:
    """Decides about the requests of this node's own runtime.

    Args:
        check: asks registries.
        memory: remembers their answers.
        public: the repositories that everybody may pull.
        when_down: the answer while a registry does not answer.
        counted: called with each decision.
        now: Unix time.
    """

    def __init__(
        self,
        *,
        check: AccessCheck,
        memory: VerdictMemory,
        public: PublicImages,
        when_down: WhenDown,
        counted: Counted = lambda outcome: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._check = check
        self._memory = memory
        self._public = public
        self._when_down = when_down
        self._counted = counted
        self._now = now
        self._asking: dict[tuple[Access, str], asyncio.Task[AccessOutcome]] = {}
        self._working: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ImageGuard {self._memory!r} {self._public!r}>"

    def describe(self) -> Mapping[str, object]:
        """Return the state as JSON."""
        return {"when_down": self._when_down.value, "faults": dict(self._check.faults)}

    def may_serve(self, repository: str | None, sources: Iterable[str]) -> bool:
        """Return True if content from these sources may be given under a repository's name."""
        return may_serve(repository, sources, self._public)

    def may_list(self, repository: str) -> bool:
        """Return True if a runtime may get this node's lists of a repository."""
        return self._public.has(repository)

    async def admit(self, pull: PullRequest, authorization: str) -> PullRequest:
        """Return the request that is answered; a tag that the registry has just named is a digest.

        Raises:
            CredentialsNeeded: the client has to bring credentials.
            Denied: the registry refuses these credentials.
            ManifestUnknown, BlobUnknown: the registry does not have it, or cannot be asked.
        """
        if pull.client is not PullClient.RUNTIME:  # a tool of this machine that has the token
            return pull
        if pull.registry is None:
            raise _refused(pull, "a private image is asked for with its registry")
        if self._public.has(_repository(pull)):
            return pull
        if not self._check.may_ask(pull.registry):
            raise _refused(
                pull,
                f"{pull.registry} is not asked for its consent: list it in --mirrored-registries, "
                "or in --public-registries",
            )
        if not authorization and (answer := await self._ask_for_credentials(pull)) is not None:
            return answer
        return await self._answer_known(pull, authorization)

    async def _ask_for_credentials(self, pull: PullRequest) -> PullRequest | None:
        """Send the registry's challenge; return the request if it is answered without.

        None stands for a registry that asks nobody for credentials at its base.
        """
        registry = pull.registry or ""
        # A client with a challenge may fail at a token server that is away too. So where everybody
        # gets the image then, the registry is asked again soon.
        within = AWAY_FOR if self._when_down is WhenDown.ALLOW else CHALLENGE_FOR
        challenge = self._memory.challenge(_repository(pull), within)
        challenge = challenge or self._memory.challenge(registry, within)
        if challenge is None:
            found = await self._check.challenge(registry)
            if judge(found.status) is RegistryVerdict.AWAY:
                return self._answer_away(pull)
            challenge = found.challenge if found.status == 401 else ""
            self._memory.record_challenge(registry, challenge)
        if challenge:
            raise self._challenged(pull, challenge)
        return None

    def _answer_away(self, pull: PullRequest) -> PullRequest:
        """Decide about a client without credentials while the registry is away."""
        if self._when_down is WhenDown.ALLOW:
            self._counted(AccessOutcome.AWAY_ALLOWED)
            return pull
        known = [
            self._memory.challenge(name, KEPT_FOR)
            for name in (_repository(pull), pull.registry or "")
        ]
        if any(known) and self._when_down is WhenDown.CACHED:
            raise self._challenged(pull, next(filter(None, known)))
        self._counted(AccessOutcome.AWAY_DENIED)
        raise _refused(pull, _AWAY.format(pull.registry))

    def _renewal(self, pull: PullRequest, authorization: str) -> str:
        """Return the challenge for a client whose token has ended; empty for any other client.

        A long pull outlives its token. A refusal would send the rest of it to the registry.
        """
        end = token_end(authorization)
        if end is None or end > self._now():
            return ""
        return self._memory.challenge(pull.registry or "") or ""

    def _challenged(
        self, pull: PullRequest, challenge: str, *, has_ended: bool = False
    ) -> CredentialsNeeded:
        self._counted(AccessOutcome.CHALLENGED)
        return CredentialsNeeded(
            f"{pull.label} is private: its registry asks for credentials",
            challenge=scoped(challenge, pull.repository, has_ended=has_ended),
            detail={"challenged": True},
        )

    async def _answer_known(self, pull: PullRequest, authorization: str) -> PullRequest:
        """Decide about a client by the credentials that it brought, which may be none."""
        access = self._memory.access(authorization, _repository(pull))
        found = self._memory.find(access, str(pull.reference))
        outcome = found or await self._ask_once(access, pull, authorization)
        is_remembered = found is AccessOutcome.ALLOWED
        self._counted(AccessOutcome.REMEMBERED if is_remembered else outcome)
        match outcome:
            case AccessOutcome.ALLOWED | AccessOutcome.AWAY_ALLOWED:
                digest = self._memory.digest(access, str(pull.reference)) if pull.name else None
                return replace(pull, reference=digest) if digest else pull
            case AccessOutcome.DENIED if known := self._renewal(pull, authorization):
                raise self._challenged(pull, known, has_ended=True)
            case AccessOutcome.DENIED:
                raise Denied(
                    f"{pull.registry} refuses {pull.label} to these credentials", detail=_PRIVATE
                )
            case AccessOutcome.AWAY_DENIED:
                raise _refused(pull, _AWAY.format(pull.registry))
            case _:
                raise _refused(pull, f"{pull.registry} does not give {pull.label} to this client")

    async def _ask_once(
        self, access: Access, pull: PullRequest, authorization: str
    ) -> AccessOutcome:
        """Ask the registry, once for all requests that wait for the same answer."""
        key = access, str(pull.reference)
        if key not in self._asking:
            task = asyncio.create_task(self._ask(access, pull, authorization), name="verdict")
            self._asking[key] = task
            task.add_done_callback(lambda ended: self._forget(key, ended))
        return await asyncio.shield(self._asking[key])

    def _forget(self, key: tuple[Access, str], ended: asyncio.Task[AccessOutcome]) -> None:
        del self._asking[key]
        if not ended.cancelled():
            ended.exception()  # retrieved, though all its clients may have left

    async def _ask(self, access: Access, pull: PullRequest, authorization: str) -> AccessOutcome:
        answer = await self._check.head(pull, authorization)
        memory, reference = self._memory, str(pull.reference)
        match judge(answer.status):
            case RegistryVerdict.ALLOWED:
                seconds = allowed_for(authorization, self._now())
                digest = answer.digest if pull.name else None
                memory.record(access, AccessOutcome.ALLOWED, seconds, reference, digest)
                if authorization:
                    self._later(memory.keep(authorization, access.repository))
                return AccessOutcome.ALLOWED
            case RegistryVerdict.DENIED if not authorization and answer.challenge:
                # It asks nobody at its base, but does for this repository.
                memory.record_challenge(access.repository, answer.challenge)
                raise self._challenged(pull, answer.challenge)
            case RegistryVerdict.DENIED:
                self._later(memory.drop(authorization, access.repository))
                memory.record(access, AccessOutcome.DENIED, DENIED_FOR)
                return AccessOutcome.DENIED
            case RegistryVerdict.UNKNOWN:
                memory.record(access, AccessOutcome.UNKNOWN, DENIED_FOR, reference)
                return AccessOutcome.UNKNOWN
            case RegistryVerdict.AWAY:
                outcome = await self._while_away(authorization, access.repository)
                memory.record(access, outcome, AWAY_FOR)
                return outcome

    async def _while_away(self, authorization: str, repository: str) -> AccessOutcome:
        is_allowed = self._when_down is WhenDown.ALLOW or (
            self._when_down is WhenDown.CACHED
            and await self._memory.was_allowed(authorization, repository)
        )
        return AccessOutcome.AWAY_ALLOWED if is_allowed else AccessOutcome.AWAY_DENIED

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work that no client waits for: a slow hash, and a file."""
        task = asyncio.create_task(work, name="kept verdict")
        self._working.add(task)
        task.add_done_callback(self._working.discard)


_PRIVATE = {"private": True}
_AWAY = "{} does not answer, and nothing says that it allows this"


def _refused(pull: PullRequest, message: str) -> OCIError:
    """Return the 404 with which a runtime goes to the registry."""
    return pull.kind.unknown(message, detail=_PRIVATE)


def _repository(pull: PullRequest) -> str:
    return f"{pull.registry}/{pull.repository}"
