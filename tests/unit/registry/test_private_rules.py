"""The table of private images: which are private, and what an answer of a registry allows."""

from __future__ import annotations

import base64
import json

import pytest

from spegel_py.registry.private_rules import (
    ALLOWED_FOR,
    KEPT_FOR,
    PublicImages,
    RegistryVerdict,
    allowed_for,
    challenge_of,
    check_public,
    is_open_address,
    judge,
    kept_for,
    may_ask,
    may_serve,
    scoped,
    token_end,
)

NOW = 1_700_000_000.0
PUBLIC = PublicImages(["docker.io", "ghcr.io/team/*", "*.public.example:5000"])


def token(**fields: object) -> str:
    """Return the header of a token with these claims, whose signature is not checked."""
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()) for each in ({}, fields, {})]
    return "Bearer " + b".".join(part.rstrip(b"=") for part in parts).decode()


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, RegistryVerdict.ALLOWED),
        (401, RegistryVerdict.DENIED),
        (403, RegistryVerdict.DENIED),
        (404, RegistryVerdict.UNKNOWN),
        (302, RegistryVerdict.UNKNOWN),
        (307, RegistryVerdict.UNKNOWN),
        (405, RegistryVerdict.UNKNOWN),
        (408, RegistryVerdict.AWAY),
        (429, RegistryVerdict.AWAY),
        (500, RegistryVerdict.AWAY),
        (503, RegistryVerdict.AWAY),
        (None, RegistryVerdict.AWAY),
    ],
)
def test_only_200_is_a_yes(status: int | None, verdict: RegistryVerdict) -> None:
    """A redirect may lead to a page for logging in."""
    assert judge(status) is verdict


@pytest.mark.parametrize(
    ("authorization", "allowed", "kept"),
    [
        ("Basic c29tZWJvZHk6czNjcmV0", ALLOWED_FOR, KEPT_FOR),
        (token(exp=NOW + 60), 60.0, 60.0),
        (token(exp=NOW + 3600), ALLOWED_FOR, 3600.0),
        (token(exp=NOW + 1e6), ALLOWED_FOR, KEPT_FOR),
        (token(exp=NOW - 1), 0.0, 0.0),
        (token(), ALLOWED_FOR, 0.0),
        ("Bearer opaque", ALLOWED_FOR, 0.0),
    ],
)
def test_a_yes_ends_with_the_token(authorization: str, allowed: float, kept: float) -> None:
    assert allowed_for(authorization, NOW) == allowed
    assert kept_for(authorization, NOW) == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Bearer",
        "Bearer a.b.c",
        "Bearer ..",
        "Bearer a.%%%.c",
        token(exp="soon"),
        token(exp=-1),
        token(exp=1e300),
        "Bearer a." + base64.urlsafe_b64encode(b"[" * 100_000).decode() + ".c",
        "Bearer a." + base64.urlsafe_b64encode(b"[]").decode() + ".c",
        "Bearer \udcff.\udcff.\udcff",
    ],
)
def test_a_malformed_token_has_no_end(text: str) -> None:
    assert token_end(text) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], ""),
        (['Basic realm="private"'], 'Basic realm="private"'),
        (["Basic"], 'Basic realm="registry"'),
        (
            ['Bearer realm="https://a.example/token",service="r.example",scope="x",error="y"'],
            'Bearer realm="https://a.example/token",service="r.example"',
        ),
        (['Bearer realm="https://a/t"'], 'Bearer realm="https://a/t"'),
        (['Basic realm="b"', 'bearer realm="https://a/t"'], 'Bearer realm="https://a/t"'),
        (
            ['Bearer realm="https://a/t",service="s", Basic realm="b"'],
            'Bearer realm="https://a/t",service="s"',
        ),
        (['Bearer realm="file:///etc/passwd"'], ""),
        (["Bearer service=x"], ""),
        (["Negotiate"], ""),
        (['Basic realm="\udcff"'], 'Basic realm="registry"'),
        (['Bearer realm="https://a/t",service="' + "s" * 3000 + '"'], ""),
    ],
)
def test_the_registrys_own_challenge_is_passed_on(headers: list[str], expected: str) -> None:
    """A token is preferred, so that the node sees no password; its scope is the repository's."""
    assert challenge_of(headers) == expected


def test_a_token_is_for_one_repository() -> None:
    assert scoped('Bearer realm="https://a/t"', "team/app") == (
        'Bearer realm="https://a/t",scope="repository:team/app:pull"'
    )
    assert scoped('Basic realm="b"', "team/app") == 'Basic realm="b"'


@pytest.mark.parametrize(
    ("registry", "is_asked"),
    [
        ("registry.example", True),
        ("registry.example:5000", True),
        ("registry", True),
        ("10.0.0.9:5000", True),  # listed
        ("10.0.0.8:5000", False),
        ("127.0.0.1:5000", False),
        ("169.254.169.254", False),
        ("[::1]:5000", False),
        ("[fe80::1]", False),
        ("localhost:5000", False),
        ("localhost.", False),
        ("a.localhost", False),
    ],
)
def test_a_pod_does_not_choose_an_address_that_is_asked(registry: str, is_asked: bool) -> None:
    """Unless an operator has listed it."""
    assert may_ask(registry, {"10.0.0.9:5000"}) is is_asked


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        ("93.184.216.34", True),
        ("10.1.2.3", True),
        ("2001:db8::1", True),
        ("127.0.0.53", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("::ffff:127.0.0.1", False),
        ("nonsense", False),
    ],
)
def test_a_name_does_not_lead_to_this_machine(address: str, is_open: bool) -> None:
    assert is_open_address(address) is is_open


@pytest.mark.parametrize(
    ("repository", "is_public"),
    [
        ("docker.io/library/nginx", True),
        ("index.docker.io/library/nginx", True),
        ("docker.io.evil.example/nginx", False),
        ("evil.example/docker.io/nginx", False),
        ("ghcr.io/team/app", True),
        ("ghcr.io/team/deep/app", True),
        ("ghcr.io/teams/app", False),
        ("ghcr.io/other/team/app", False),
        ("a.public.example:5000/app", True),
        ("a.public.example/app", True),  # containerd's label of a source has no port
        ("a.public.example:5001/app", False),
        ("public.example:5000/app", False),
    ],
)
def test_public_images_are_named_in_full(repository: str, is_public: bool) -> None:
    assert PUBLIC.has(repository) is is_public
    assert not PublicImages().has(repository)
    assert PublicImages(["*"]).has(repository)


@pytest.mark.parametrize("text", ["", "https://docker.io", "/team", "a b", "-x", "a{1}"])
def test_a_malformed_entry_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="should be a registry or repositories of one"):
        check_public(text)


@pytest.mark.parametrize(
    ("repository", "sources", "is_served"),
    [
        ("r.example/team/app", ["r.example/team/app"], True),
        ("r.example:5000/team/app", ["r.example/team/app"], True),
        ("r.example:5000/team/app", ["r.example:5000/team/app"], True),
        ("r.example:5000/team/app", ["r.example:5001/team/app"], False),
        ("r.example/team/app", ["r.example/team/other"], False),
        ("r.example/team/app", ["other.example/team/app"], False),
        ("r.example/team/app", ["r.example/x", "r.example/team/app"], True),
        ("r.example/team/app", ["docker.io/library/debian", "r.example/x"], True),
        ("docker.io/library/app", ["r.example/team/app"], False),
        ("[fd00::1]:5000/app", ["fd00::1/app"], True),
        (None, ["r.example/team/app"], False),
        (None, ["docker.io/library/debian"], True),
    ],
)
def test_content_is_given_under_the_names_that_it_came_from(
    repository: str | None, sources: list[str], is_served: bool
) -> None:
    """Content that is public somewhere is no secret."""
    assert may_serve(repository, sources, PUBLIC) is is_served
