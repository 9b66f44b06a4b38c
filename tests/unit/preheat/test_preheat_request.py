"""What a request may say, and what a wrong one is told."""

from __future__ import annotations

import pytest

from spegel_py.errors import RequestInvalid
from spegel_py.preheat.preheat_request import NodeChoice, PreheatDepth, PreheatRequest

APP = "registry.example/team/app:1"


def test_a_request_has_defaults() -> None:
    """This node alone, for a day, in half an hour."""
    found = PreheatRequest.parse({"images": [APP, APP]})
    assert [str(one) for one in found.images] == [APP]
    assert str(found.nodes) == "this"
    assert (found.platform, found.keep, found.timeout, found.rate) == (None, 86400.0, 1800.0, 0)


def test_a_request_is_written_as_it_is_read() -> None:
    """The file of the jobs has it."""
    given = {
        "images": [APP],
        "nodes": "10.0.0.1,10.0.0.2",
        "platform": "linux/arm64",
        "depth": "runtime",
        "keep": "36h",
        "timeout": "90m",
        "credentials": "team-a",
        "pin": True,
    }
    found = PreheatRequest.parse(given)
    assert PreheatRequest.parse(found.as_json()) == found
    assert (found.keep, found.timeout, found.depth) == (129_600.0, 5400.0, PreheatDepth.RUNTIME)
    limited = PreheatRequest.parse({"images": [APP], "rate": "20MB/s", "depth": "unpacked"})
    assert PreheatRequest.parse(limited.as_json()) == limited
    assert limited.rate == 20_000_000


@pytest.mark.parametrize(
    ("given", "count", "names"),
    [
        ("all", 0, None),
        ("3", 3, None),
        (3, 3, None),
        ("a,b", 0, ("a", "b")),
        (["a", "b"], 0, ("a", "b")),
        ("this", 0, ("this",)),
    ],
)
def test_nodes_are_all_a_number_or_names(
    given: object, count: int, names: tuple[str, ...] | None
) -> None:
    assert NodeChoice.parse(given) == NodeChoice(count=count, names=names)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ([], "the body should be a JSON object"),
        ({}, "images: it should be a list"),
        ({"images": []}, "images: it should be a list"),
        ({"images": APP}, "images: it should be a list"),
        ({"images": ["app"]}, "images: name the registry"),
        ({"images": ["registry.example/app"]}, "a reference needs a tag or a digest"),
        ({"images": [7]}, "should be a reference"),
        ({"images": [f"r.example/app:{n}" for n in range(65)]}, "65 are more than 64"),
        ({"images": [APP], "node": "all"}, "unknown key 'node'; known are images, nodes"),
        ({"images": [APP], "nodes": 0}, "nodes: 0 should be a whole number"),
        ({"images": [APP], "nodes": ""}, "nodes: '' should be all, a number"),
        ({"images": [APP], "platform": "arm64"}, "platform: 'arm64' is not a platform"),
        (
            {"images": [APP], "depth": "all"},
            "depth: 'all' is no depth; known are content",
        ),
        ({"images": [APP], "pin": True}, "pin: only an image of depth runtime"),
        ({"images": [APP], "depth": "runtime", "rate": 5}, "rate: a pull by the runtime"),
        ({"images": [APP], "keep": "1s"}, "keep: '1s' should lie between"),
        ({"images": [APP], "rate": "fast"}, "rate: 'fast' should be a rate"),
        ({"images": [APP], "timeout": "2d"}, "timeout: '2d' should lie between"),
        ({"images": [APP], "credentials": ["a"]}, "credentials: "),
    ],
)
def test_a_wrong_request_names_the_key(given: object, fault: str) -> None:
    with pytest.raises(RequestInvalid) as raised:
        PreheatRequest.parse(given)
    assert fault in str(raised.value)
