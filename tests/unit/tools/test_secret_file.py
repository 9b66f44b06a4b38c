"""A watched file of secrets; the tests of its three users have the rest."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from spegel_py.errors import ConfigError
from spegel_py.tools import secret_file
from spegel_py.tools.secret_file import SecretFile


class Source:
    """What the file has, and a disk that may hang."""

    def __init__(self) -> None:
        self.text = "first"
        self.is_public = False
        self.answers = threading.Event()
        self.answers.set()

    def read(self, path: Path) -> tuple[str, bool]:
        self.answers.wait(10)
        if not self.text:
            raise ConfigError(f"{path} is empty")
        return self.text, self.is_public


def watched(source: Source, default: str | None = None) -> SecretFile[str]:
    return SecretFile(
        Path("/keys"),
        name="test keys",
        parts="keys",
        read=source.read,
        fingerprints=lambda text: [text[:1]],
        default=default,
    )


def test_without_a_default_the_file_must_be_good_at_the_start() -> None:
    source = Source()
    source.text = ""
    with pytest.raises(ConfigError):
        watched(source)
    file = watched(source, default="none")
    assert file.content == "none"
    assert file.describe() == {
        "file": "/keys",
        "keys": ["n"],
        "fault": "/keys is empty",
        "public": False,
    }


async def test_new_content_is_handed_on_and_the_log_has_no_secret() -> None:
    source, told = Source(), []
    file = watched(source)

    async def changed(content: str) -> None:
        told.append(content)

    file.changed = changed
    source.text = "second"
    with capture_logs() as logs:
        await file.look_in_time()
        await file.look_in_time()
    assert told == ["second"]
    assert [each["event"] for each in logs] == ["secret file changed"]
    assert "second" not in repr(logs) + repr(file)


async def test_an_error_of_the_receiver_is_not_lost() -> None:
    source = Source()
    file = watched(source)

    async def changed(_: str) -> None:
        raise RuntimeError("broken")

    file.changed = changed
    source.text = "second"
    with pytest.raises(RuntimeError):
        await file.look_in_time()


async def test_a_disk_that_hangs_is_a_fault_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(secret_file, "LOOK_TIMEOUT", 0.05)
    source = Source()
    file = watched(source)
    source.answers.clear()
    await file.look_in_time()
    assert "the disk does not answer" in file.faults()["/keys"]
    assert file.content == "first"
    source.answers.set()
    monkeypatch.setattr(secret_file, "LOOK_TIMEOUT", 10.0)
    await file.look_in_time()
    assert file.faults() == {}


async def test_a_public_file_is_a_fault_with_its_remedy() -> None:
    source = Source()
    file = watched(source)
    source.is_public = True
    await file.look()
    assert file.faults() == {"/keys": "every user can read it: chmod 600 /keys"}
