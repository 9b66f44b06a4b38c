"""How the list is read, and what a malformed one is told."""

from __future__ import annotations

import pytest

from spegel_py.errors import ConfigError
from spegel_py.preheat.preheat_list import parse_list

WHOLE = b"""\
preheat:
- image: registry.example/team/app:1.2
  nodes: 3
  platform: linux/arm64
  depth: content
  refresh: 15m
  rate: 50MB/s
  credentials: team-a
  ready: true
- image: registry.example/team/other@sha256:%s
""" % (b"0" * 64)


def test_every_key_is_read() -> None:
    """An entry needs an image only."""
    first, second = parse_list(WHOLE, where="list.yaml")
    assert (str(first.image), str(first.nodes)) == ("registry.example/team/app:1.2", "3")
    assert (first.refresh, first.rate, first.credentials) == (900.0, 50_000_000, "team-a")
    assert first.ready
    assert str(first.platform) == "linux/arm64"
    assert (str(second.nodes), second.refresh, second.platform) == ("all", None, None)
    assert not second.ready


@pytest.mark.parametrize("data", [b"", b"preheat:", b"preheat: []", b"# nothing\n"])
def test_a_list_may_be_empty(data: bytes) -> None:
    assert parse_list(data, where="list.yaml") == ()


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"preheat: [", "list.yaml is not YAML"),
        (b"\xff\xfe\xff", "list.yaml is not YAML"),
        (b"- a", "list.yaml: it should have the key preheat, and no other"),
        (b"images: []", "list.yaml: it should have the key preheat, and no other"),
        (b"preheat: {image: a}", "preheat: it should be a list"),
        (b"preheat: [app]", "preheat[0]: 'app' should be a mapping"),
        (b"preheat: [{nodes: all}]", "preheat[0]: the key image is missing"),
        (b"preheat: [{image: app}]", "preheat[0].image: name the registry"),
        (b"preheat: [{image: r.io/a:1, node: all}]", "preheat[0]: unknown key 'node'"),
        (b"preheat: [{image: r.io/a:1, nodes: 0}]", "preheat[0].nodes: 0 should be"),
        (b"preheat: [{image: r.io/a:1, refresh: 1s}]", "preheat[0].refresh: '1s' should lie"),
        (b"preheat: [{image: r.io/a:1, ready: maybe}]", "preheat[0].ready: 'maybe'"),
        (b"preheat: [{image: r.io/a:1, depth: all}]", "preheat[0].depth: 'all' is no depth"),
        (b"preheat: [{image: r.io/a:1, pin: true}]", "preheat[0].pin: only an image of depth"),
        (
            b"preheat: [{image: r.io/a:1}, {image: r.io/a:1}]",
            "preheat[1].image: r.io/a:1 is in preheat[0] already",
        ),
        (b" " * (1024 * 1024 + 1), "more than 1048576 bytes"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_wrong_list_names_the_place_and_the_key(data: bytes, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_list(data, where="list.yaml")
    assert fault in str(raised.value)
