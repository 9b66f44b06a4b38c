"""Which credentials belong to an image, and what a wrong file is told."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from spegel_py.errors import ConfigError
from spegel_py.oci.reference import Reference
from spegel_py.preheat.registry_credentials import RegistryCredentials, credentials_in

APP = Reference.parse("registry.example:5000/team/app:1")


def auth(user: str, password: str = "secret") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def config(auths: object, **more: object) -> bytes:
    return json.dumps({"auths": auths, **more}).encode()


def user_for(data: bytes, reference: Reference = APP) -> str | None:
    found = credentials_in(data, reference, where="config.json")
    return found.username if found else None


@pytest.mark.parametrize(
    ("key", "reference"),
    [
        ("registry.example:5000", "registry.example:5000/app:1"),
        ("https://registry.example:5000/v2/", "registry.example:5000/app:1"),
        ("https://index.docker.io/v1/", "docker.io/library/app:1"),
        ("Registry.Example:443", "registry.example/app:1"),
        ("registry.example/team", "registry.example/team/app:1"),
    ],
)
def test_an_entry_is_found_in_every_spelling(key: str, reference: str) -> None:
    """Docker, kubectl and people write a registry in different ways."""
    assert user_for(config({key: auth("me")}), Reference.parse(reference)) == "me"


@pytest.mark.parametrize(
    "key",
    ["other.example:5000", "registry.example", "registry.example:5000/tea", "example:5000", ""],
)
def test_credentials_go_to_no_other_registry_or_repository(key: str) -> None:
    """A part of a host's or folder's name is another name."""
    assert user_for(config({key: auth("me")})) is None


def test_the_longest_path_counts() -> None:
    """As in the kubelet."""
    entries = {
        "registry.example:5000": auth("all"),
        "registry.example:5000/team": auth("team"),
        "registry.example:5000/team/app": auth("app"),
        "registry.example:5000/team/app/below": auth("below"),
    }
    assert user_for(config(entries)) == "app"


def test_a_user_and_a_password_in_plain_text_are_read_too() -> None:
    """kubectl writes them beside `auth`. A password may hold colons."""
    plain = {"registry.example:5000": {"username": "me", "password": "p"}}
    assert user_for(config(plain)) == "me"
    found = credentials_in(
        config({"registry.example:5000": auth("me", "a:b")}), APP, where="config.json"
    )
    assert found is not None
    assert found.password == "a:b"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"{", "config.json is not JSON"),
        (b"[" * 100_000, "config.json is not JSON"),
        (b"[]", "config.json is no JSON object"),
        (config([1]), "auths is no mapping"),
        (config({"registry.example:5000": "secret"}), "auths.registry.example:5000 is no object"),
        (config({"registry.example:5000": {"auth": "secret!"}}), "auth is not base64"),
        (config({"registry.example:5000": {"auth": 7}}), "auth is not base64"),
        (config({"registry.example:5000": {"auth": "c2VjcmV0"}}), "auth is not base64 of"),
        (config({"registry.example:5000": {"identitytoken": "secret"}}), "identity token"),
        (config({"registry.example:5000": {"username": 1, "password": 2}}), "no user and password"),
        (config({}, credsStore="desktop"), "helpers are not run"),
        (config({}, credHelpers={"registry.example:5000": "ecr-login"}), "helpers are not run"),
    ],
)
def test_a_wrong_file_is_named_and_its_secrets_are_not(data: bytes, fault: str) -> None:
    """The error says where and what, never the content."""
    with pytest.raises(ConfigError, match=r"^--registry-credentials: config\.json") as raised:
        user_for(data)
    assert fault in str(raised.value)
    assert "secret" not in str(raised.value)


async def test_files_of_a_folder_have_names(tmp_path: Path) -> None:
    """An entry of a list names one; without a name it is config.json, or a Secret's key."""
    (tmp_path / ".dockerconfigjson").write_bytes(config({APP.registry: auth("default")}))
    (tmp_path / "team-a.json").write_bytes(config({APP.registry: auth("team")}))
    credentials = RegistryCredentials(tmp_path)
    for name, user in (("", "default"), ("team-a", "team"), ("team-a.json", "team")):
        found = await credentials.find(APP, name=name)
        assert found is not None
        assert found.username == user
    for name in ("../team-a", "team-b", ".dockerconfigjson"):
        with pytest.raises(ConfigError, match="credentials"):
            await credentials.find(APP, name=name)


async def test_a_file_is_read_again_after_a_change(tmp_path: Path) -> None:
    """A Secret that is corrected needs no restart."""
    file = tmp_path / "config.json"
    file.write_bytes(config({}))
    credentials = RegistryCredentials(file)
    before = credentials.changed()
    assert await credentials.find(APP) is None
    file.write_bytes(config({APP.registry: auth("me")}))
    assert await credentials.find(APP) is not None
    assert credentials.changed() >= before > 0


async def test_without_a_path_there_are_no_credentials(tmp_path: Path) -> None:
    assert await RegistryCredentials(None).find(APP) is None
    assert await RegistryCredentials(tmp_path).find(APP) is None
    with pytest.raises(ConfigError, match="is not set"):
        await RegistryCredentials(None).find(APP, name="team-a")
    with pytest.raises(ConfigError, match="No such file"):
        await RegistryCredentials(tmp_path / "missing").find(APP)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a folder"):
        await RegistryCredentials(tmp_path / "file").find(APP, name="x")
