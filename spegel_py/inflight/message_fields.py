"""The checked members of a JSON message from another node. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self, TypeVar

from spegel_py.errors import DigestInvalid
from spegel_py.oci.digest import Digest

MAX_ID = 128
"""Characters of a peer id at most; the ids of Ed25519 keys have 52."""

_E = TypeVar("_E", bound=Enum)


class MessageError(ValueError):
    """The bytes are no message of the protocol; the text gives the reason."""


@dataclass(frozen=True, slots=True)
class MessageFields:
    """The members of one message. Every method raises MessageError for an unusable member."""

    members: dict[str, Any]

    @classmethod
    def parse(cls, raw: bytes, most: int) -> Self:
        """Return the members of a message of at most `most` bytes. Raises MessageError."""
        if len(raw) > most:
            raise MessageError(f"a message of {len(raw)} bytes")
        try:
            members = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise MessageError(f"not JSON: {error}"[:200]) from error
        if not isinstance(members, dict):
            raise MessageError("not a JSON object")
        return cls(members)

    @property
    def kind(self) -> object:
        """The kind of the message."""
        return self.members.get("kind")

    def has(self, name: str) -> bool:
        """Return True if the member is there."""
        return self.members.get(name) is not None

    def digest(self, name: str = "digest") -> Digest:
        """Return a digest."""
        text = self.members.get(name)
        if not isinstance(text, str):
            raise MessageError(f"no {name}")
        try:
            return Digest.parse(text)
        except DigestInvalid as error:
            raise MessageError(f"no {name}: {error}") from error

    def integer(self, name: str, most: int) -> int:
        """Return a whole number from 0 to `most`."""
        value = self.members.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise MessageError(f"{name} must be a whole number from 0 to {most}")
        return value

    def number(self, name: str, most: float) -> float:
        """Return a number from 0 to `most`."""
        value = self.members.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
            raise MessageError(f"{name} must be a number from 0 to {most:.0f}")
        return float(value)

    def boolean(self, name: str) -> bool:
        """Return True or False."""
        value = self.members.get(name)
        if not isinstance(value, bool):
            raise MessageError(f"{name} must be true or false")
        return value

    def text(self, name: str, most: int) -> str:
        """Return a printable text of at most `most` characters."""
        value = self.members.get(name)
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= most:
            raise MessageError(f"{name} must be a text of up to {most} characters")
        return value

    def peer(self, name: str) -> str:
        """Return a peer id."""
        value = self.members.get(name)
        if (
            not isinstance(value, str)
            or not value.isascii()
            or not value.isalnum()
            or len(value) > MAX_ID
        ):
            raise MessageError(f"{name} must be a peer id")
        return value

    def enum(self, name: str, kind: type[_E]) -> _E:
        """Return one of the values of an enum."""
        try:
            return kind(self.members.get(name))
        except ValueError as error:
            raise MessageError(
                f"{name} must be one of {', '.join(each.value for each in kind)}"
            ) from error

    def optional_peer(self, name: str) -> str | None:
        """Return a peer id, None if the member is not there."""
        return self.peer(name) if self.has(name) else None

    def optional_enum(self, name: str, kind: type[_E]) -> _E | None:
        """Return one of the values of an enum, None if the member is not there."""
        return self.enum(name, kind) if self.has(name) else None

    def objects(self, name: str, most: int) -> list[MessageFields]:
        """Return a list of at most `most` objects."""
        values = self.members.get(name)
        if (
            not isinstance(values, list)
            or len(values) > most
            or not all(isinstance(each, dict) for each in values)
        ):
            raise MessageError(f"{name} must be up to {most} objects")
        return [MessageFields(each) for each in values]
