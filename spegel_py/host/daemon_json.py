"""dockerd's daemon.json: mirrors are added to one key, and every other byte stays.

The file is the user's. JSON libraries would write all of it anew, so the place of the key is found
in the text. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

KEY = "registry-mirrors"

_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class JSONMember:
    """A member of a JSON object: its value, and the offsets of the member and of its value."""

    value: object
    start: int
    value_start: int
    end: int


def add(text: str, mirrors: Sequence[str]) -> str:
    """Return the file with the mirrors before those that it has. An empty text is an empty file.

    Raises ValueError if it is no JSON object, or its key is no list of texts.
    """
    if not text.strip():
        return json.dumps({KEY: list(mirrors)}, indent=2) + "\n"
    members = _members(text)
    if (member := members.get(KEY)) is None:
        begin = text.index("{") + 1
        comma = "," if members else "\n"
        return f'{text[:begin]}\n  "{KEY}": {_list(mirrors)}{comma}{text[begin:]}'
    others = [each for each in _mirrors(member) if each not in mirrors]
    return _replaced(text, member, [*mirrors, *others])


def remove(text: str, mirrors: Collection[str]) -> str:
    """Return the file without these mirrors, and without the key if it has no others.

    Raises ValueError as `add` does.
    """
    members = _members(text) if text.strip() else {}
    if (member := members.get(KEY)) is None:
        return text
    found = _mirrors(member)
    others = [each for each in found if each not in mirrors]
    if others or not found:
        return text if others == found else _replaced(text, member, others)
    return _without(text, member)


def _replaced(text: str, member: JSONMember, mirrors: Sequence[str]) -> str:
    return text[: member.value_start] + _list(mirrors) + text[member.end :]


def _without(text: str, member: JSONMember) -> str:
    """Return the text without a member, and without the comma that separated it."""
    before, after = text[: member.start], text[member.end :]
    if after.lstrip(_SPACE).startswith(","):
        return before.rstrip(_SPACE) + after.lstrip(_SPACE)[1:]
    return before.rstrip(_SPACE).removesuffix(",") + after


def _list(mirrors: Sequence[str]) -> str:
    return json.dumps(list(mirrors))


def _mirrors(member: JSONMember) -> list[str]:
    if not isinstance(member.value, list) or not all(isinstance(one, str) for one in member.value):
        raise ValueError(f"{KEY} is no list of URLs")
    return member.value


def _members(text: str) -> dict[str, JSONMember]:
    """Return the members of a JSON object by their names."""
    _check(text)
    decode, found = json.JSONDecoder().raw_decode, dict[str, JSONMember]()
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        name, end = decode(text, at)
        value_start = _skip(text, _skip(text, end) + 1)  # beyond the colon
        value, value_end = decode(text, value_start)
        if name in found:
            raise ValueError(f"it has {name!r} twice")
        found[name] = JSONMember(value, at, value_start, value_end)
        at = _skip(text, value_end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def _check(text: str) -> None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at
