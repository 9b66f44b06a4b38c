"""The hosts.toml of a mirror: Spegel's with this node's name where it stands alone, else before
what is there.
"""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.host import hosts_toml
from spegel_py.tools.basic_auth import Credentials
from tests.support.host_trees import EXISTING, MIRROR

SERVER = "https://registry-1.docker.io"
OURS = hosts_toml.blocks([MIRROR], can_resolve=True, node="node-1")


def prepended(existing: str, *, server: str | None = SERVER) -> dict[str, Any]:
    """Return the file that becomes of `existing`, as any reader of TOML sees it; tables keep their
    order.
    """
    return tomllib.loads(hosts_toml.prepend(existing, server, OURS, [MIRROR]))


def test_alone_it_is_spegels_file_with_this_nodes_name() -> None:
    """Mirrors in their order, and the server before them; every mirror is told which node's runtime
    asks.
    """
    targets = ["http://10.0.0.1:30020", "http://10.0.0.1:30021"]
    mirrors = hosts_toml.blocks(targets, can_resolve=True, node="node-1")
    assert hosts_toml.render(SERVER, mirrors) == (
        "server = 'https://registry-1.docker.io'\n\n"
        "[host.'http://10.0.0.1:30020']\ncapabilities = ['pull', 'resolve']\ndial_timeout = "
        "'200ms'\n"
        "[host.'http://10.0.0.1:30020'.header]\nX-Spegel-Node = 'node-1'\n\n"
        "[host.'http://10.0.0.1:30021']\ncapabilities = ['pull', 'resolve']\ndial_timeout = "
        "'200ms'\n"
        "[host.'http://10.0.0.1:30021'.header]\nX-Spegel-Node = 'node-1'\n"
    )


def test_for_all_registries_there_is_no_server() -> None:
    """In `_default` containerd goes on at the registry it was asked for; without tags only digests
    are asked.
    """
    assert hosts_toml.render(
        None, hosts_toml.blocks([MIRROR], can_resolve=False, node="node-1")
    ) == (
        "[host.'http://127.0.0.1:5000']\ncapabilities = ['pull']\ndial_timeout = '200ms'\n"
        "[host.'http://127.0.0.1:5000'.header]\nX-Spegel-Node = 'node-1'\n"
    )


def test_the_runtime_token_is_a_header_of_the_first_mirror() -> None:
    """The first mirror is the node itself; another node must not see its token."""
    mirrors = hosts_toml.blocks([MIRROR, "http://b"], can_resolve=True, node="n", token="a" * 64)
    first, second = tomllib.loads(mirrors)["host"].values()
    assert first["header"] == {"X-Spegel-Node": "n", "X-Spegel-Runtime": "a" * 64}
    assert second["header"] == {"X-Spegel-Node": "n"}


def test_credentials_are_a_header_of_every_mirror() -> None:
    """The basic-auth secret is sent to each mirror, and to nobody else."""
    targets = ["http://a:1", "http://b:1"]
    mirrors = hosts_toml.blocks(
        targets,
        can_resolve=True,
        node="node-1",
        credentials=Credentials(username="hello", password="world"),
    )
    document = tomllib.loads(hosts_toml.render(SERVER, mirrors))
    header = {"Authorization": "Basic aGVsbG86d29ybGQ=", "X-Spegel-Node": "node-1"}
    assert [host["header"] for host in document["host"].values()] == [header, header]
    assert "header" not in document


def test_what_was_there_follows_with_its_comments() -> None:
    """Only the mirror's table is new: every line of the existing file is there, in its order."""
    text = hosts_toml.prepend(EXISTING, SERVER, OURS, [MIRROR])
    lines = iter(text.splitlines())
    assert all(line in lines for line in EXISTING.splitlines())
    assert list(tomllib.loads(text)["host"]) == [
        MIRROR,
        "https://mirror.example",
        "http://old.example:8080",
    ]
    assert text.index(MIRROR) < text.index("# the one in the next room")
    assert text.index("# kept by hand") < text.index(MIRROR)


def test_the_existing_server_stays() -> None:
    """A server that was chosen keeps its own certificates; where none was, the registry is
    named.
    """
    kept = prepended('server = "https://proxy.example"\nca = "ca.crt"\n')
    assert (kept["server"], kept["ca"]) == ("https://proxy.example", "ca.crt")
    added = prepended('skip_verify = true\n[host."http://a"]\n')
    assert (added["server"], added["skip_verify"]) == (SERVER, True)
    assert "server" not in prepended('[host."http://a"]\n', server=None)


@pytest.mark.parametrize(
    "existing",
    [
        f'[host."{MIRROR}"]\n  capabilities = ["pull"]\n[host."{MIRROR}".header]\n  a = "b"\n[host."http://a"]\n',
        f'[host."http://a"]\n[host."{MIRROR}"]\n[header]\n  a = "b"\n',
        f'[host]\n[host."http://a"]\n[other]\n[host."{MIRROR}"]\n',
    ],
    ids=["first", "last", "between others"],
)
def test_a_mirror_that_is_there_is_there_once(existing: str) -> None:
    """A table for the same mirror is replaced, because a duplicate is invalid TOML."""
    hosts = prepended(existing)["host"]
    assert list(hosts) == [MIRROR, "http://a"]
    assert hosts[MIRROR] == {
        "capabilities": ["pull", "resolve"],
        "dial_timeout": "200ms",
        "header": {"X-Spegel-Node": "node-1"},
    }


@pytest.mark.parametrize(
    ("existing", "named"),
    [
        ('server = "a"\nx = = 1\n', "line 2: it is not TOML"),
        ("[host.'a']\n[host.'a']\n", "line 2: it is not TOML"),
        ('host = {"http://a" = {}}\n', "its hosts are not tables"),
        ("host = 1\n", "its hosts are not tables"),
    ],
    ids=["syntax", "twice", "inline", "no table"],
)
def test_what_cannot_be_kept_is_named(existing: str, named: str) -> None:
    """A file that is not TOML, or that no table can be put before, is an error, with the line where
    there is one.
    """
    with pytest.raises(ValueError, match=named):
        hosts_toml.prepend(existing, SERVER, OURS, [MIRROR])


URLS = st.from_regex(r"https?://[a-z]{1,8}(:[1-9][0-9]{0,3})?(/v2)?", fullmatch=True)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "capabilities": st.lists(st.sampled_from(["pull", "resolve", "push"]), unique=True),
        "skip_verify": st.booleans(),
        "ca": st.text(max_size=8) | st.lists(st.text(max_size=8), max_size=3),
        "client": st.lists(st.lists(st.text(max_size=5), min_size=2, max_size=2), max_size=2),
        "header": st.dictionaries(
            st.text("abc-", min_size=1, max_size=5), st.text(max_size=5), max_size=2
        ),
    },
)
FILES = st.fixed_dictionaries(
    {"host": st.dictionaries(URLS, FIELDS, max_size=4)}, optional={"server": URLS, "ca": URLS}
)


@given(FILES)
def test_any_file_is_kept_behind_the_mirror(file: dict[str, Any]) -> None:
    """All content of a valid file is kept, with its hosts in their order after the mirror."""
    existing = {name: value for name, value in file.items() if name != "host"}
    text = tomlkit.dumps(existing | {"host": file["host"]})
    merged = prepended(text)
    assert list(merged["host"].items())[1:] == [
        (url, of) for url, of in file["host"].items() if url != MIRROR
    ]
    assert {name: merged[name] for name in existing} == existing
    assert merged["server"] == existing.get("server", SERVER)


@given(
    st.text(st.characters(codec="utf-8"), max_size=40)
    | st.lists(st.sampled_from(list("[]=.'\"#\n ah1{}")), max_size=30).map("".join)
)
def test_any_text_is_kept_or_an_error(text: str) -> None:
    """No text makes the merging fail in another way than with a ValueError, and what comes out is
    TOML.
    """
    try:
        merged = hosts_toml.prepend(text, SERVER, OURS, [MIRROR])
    except ValueError:
        return
    assert next(iter(tomllib.loads(merged)["host"])) == MIRROR


def test_certificates_are_found_in_every_form() -> None:
    """`ca` and `client` are texts, lists and lists of pairs, of the server and of every host."""
    text = (
        'ca = "1"\nclient = [["2", "3"], "4"]\n[host."a"]\nca = ["5", "6"]\nclient = "7"\n'
        "[host.b]\n"
    )
    assert list(hosts_toml.certificates(text)) == list("1234567")
    assert list(hosts_toml.certificates("")) == []


def test_dockers_certificate_files_are_named() -> None:
    """A folder without hosts.toml holds the server's authorities, and its client's certificates
    with or without key.
    """
    names = ["b.crt", "a.crt", "client.cert", "client.key", "both.cert", "readme"]
    assert tomllib.loads(hosts_toml.from_files(names)) == {
        "ca": ["a.crt", "b.crt"],
        "client": [["both.cert", "both.cert"], ["client.cert", "client.key"]],
    }
    assert hosts_toml.from_files(["readme"]) == ""
