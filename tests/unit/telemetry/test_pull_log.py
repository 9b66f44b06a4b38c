"""The last decisions, kept within bounds; counted, logged and kept as the same thing."""

from __future__ import annotations

import asyncio
import json

import pytest
from structlog.testing import capture_logs

from spegel_py.errors import BlobUnknown, SpegelError
from spegel_py.metrics import NodeMetrics
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullRequest
from spegel_py.outcomes import AttemptOutcome, AttemptRecord, ContentSource
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.telemetry.pull_record import RecordQuery


def pull(name: str = "app", *, mirrored: bool = False) -> PullRequest:
    headers = [("X-Spegel-Mirrored", "true")] if mirrored else []
    return PullRequest.parse(
        method="GET", target=f"/v2/{name}/manifests/v1?ns=r.io", headers=headers
    )


def miss(pull_log: PullLog, asked: PullRequest) -> None:
    with pytest.raises(BlobUnknown), pull_log.recording(asked):
        raise BlobUnknown("nobody has it")


def sample(metrics: NodeMetrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_metric_log_line_and_record_say_the_same() -> None:
    """One decision is one count, one line and one record, all of the same reason."""
    metrics = NodeMetrics()
    pull_log = PullLog(metrics=metrics.pulls, clock=iter([1.0, 1.5]).__next__, now=lambda: 99.0)
    with capture_logs() as lines:
        miss(pull_log, pull())
    [record] = pull_log.find(None, limit=9)
    [line] = lines
    assert (line.pop("event"), line.pop("log_level")) == ("pull decided", "info")
    assert line == record
    assert (record["reason"], record["at"], record["ms"], record["status"]) == (
        "not_found",
        99.0,
        500.0,
        404,
    )
    assert sample(metrics, "spegel_mirror_misses_total", reason="not_found") == 1
    assert sample(metrics, "spegel_mirror_answers_total", source="none") == 1
    assert metrics.pulls.summary()["misses"] == {"not_found": 1}


def test_a_hit_is_counted_where_it_came_from_with_its_bytes() -> None:
    """Requests and bytes are told by source, and the hit rate follows."""
    metrics = NodeMetrics()
    pull_log = PullLog(metrics=metrics.pulls)
    with pull_log.recording(pull()) as context:
        context.source, context.length, context.sent = ContentSource.PEER, 7, 7
    miss(pull_log, pull())
    assert sample(metrics, "spegel_mirror_answers_total", source="peer") == 1
    assert sample(metrics, "spegel_mirror_bytes_total", source="peer") == 7
    assert sample(metrics, "spegel_mirror_requests_total", registry="r.io", cache="hit") == 1
    assert metrics.pulls.summary() == {
        "total": 2,
        "hit_rate": 0.5,
        "answers": {"local": 0, "peer": 1, "none": 1},
        "bytes": {"local": 0, "peer": 7},
        "measured": {"total": 0, "bytes": 0},
        "misses": {"not_found": 1},
    }


@pytest.mark.parametrize("client", ["measure", "pull"])
def test_what_people_measure_is_counted_apart(client: str) -> None:
    """It is recorded with its client, but neither in the hit rate nor in the runtimes' metrics."""
    metrics = NodeMetrics()
    pull_log = PullLog(metrics=metrics.pulls)
    asked = PullRequest.parse(
        method="GET",
        target="/v2/app/manifests/v1?ns=r.io",
        headers=[("X-Spegel-Client", client)],
    )
    before = metrics.pulls.summary()
    with pull_log.recording(asked) as context:
        context.source, context.length, context.sent = ContentSource.PEER, 7, 7
    miss(pull_log, asked)
    assert metrics.pulls.summary() == before | {"measured": {"total": 2, "bytes": 7}}
    assert metrics.pulls.outcomes == {}
    for source in ("peer", "none"):
        assert sample(metrics, "spegel_measured_requests_total", source=source) == 1
    assert sample(metrics, "spegel_mirror_misses_total", reason="not_found") == 0
    assert sample(metrics, "spegel_mirror_bytes_total", source="peer") == 0
    assert [record["client"] for record in pull_log.find(None, limit=9)] == [client, client]


@pytest.mark.parametrize(
    ("own", "asking", "recorded"),
    [
        ("a", "a", None),
        ("a", "b", "b"),
        ("a", None, None),
        ("", "b", None),
        ("a", "b" * 999, "b" * 253),
    ],
)
def test_a_runtime_of_another_node_is_named(
    own: str, asking: str | None, recorded: str | None
) -> None:
    """By the header in its hosts.toml; a name that is too long for one is cut."""
    pull_log = PullLog(metrics=NodeMetrics().pulls, node=own)
    headers = [("X-Spegel-Node", asking)] if asking else []
    miss(
        pull_log,
        PullRequest.parse(method="GET", target="/v2/app/manifests/v1?ns=r.io", headers=headers),
    )
    [record] = pull_log.find(None, limit=9)
    assert record["node"] == (
        asking[:recorded] if isinstance(recorded, int) and asking else recorded
    )


@pytest.mark.parametrize("header", ["", "containerd", "MEASURE"])
def test_a_client_that_is_not_known_is_a_runtime(header: str) -> None:
    """Only the two commands name themselves."""
    asked = PullRequest.parse(
        method="GET", target="/v2/a/manifests/1?ns=r.io", headers=[("X-Spegel-Client", header)]
    )
    assert asked.client == "runtime"


def test_before_the_first_pull_there_is_no_hit_rate() -> None:
    """Nothing asked is neither 0 nor 100 %."""
    assert NodeMetrics().pulls.summary()["hit_rate"] is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (asyncio.CancelledError(), "client_gone"),
        (ConnectionResetError(), "client_gone"),
        (SpegelError("a bug"), "error"),
        (ZeroDivisionError(), "error"),
    ],
    ids=["cancelled", "reset", "ours", "bug"],
)
def test_what_breaks_a_request_is_noted_and_goes_on(error: BaseException, reason: str) -> None:
    """A client that leaves is told from a fault of this node; neither is swallowed."""
    pull_log = PullLog(metrics=NodeMetrics().pulls)
    with pytest.raises(type(error)), pull_log.recording(pull()):
        raise error
    assert [one["reason"] for one in pull_log.find(None, limit=9)] == [reason]


def test_a_peers_request_is_not_kept() -> None:
    """It is recorded where its client asked."""
    metrics = NodeMetrics()
    pull_log = PullLog(metrics=metrics.pulls)
    with capture_logs() as lines:
        miss(pull_log, pull(mirrored=True))
    assert (pull_log.kept, lines, metrics.pulls.answers.total()) == (0, [], 0)


def test_what_is_under_way_is_known_while_it_lasts() -> None:
    """Peers' requests too, the oldest first, each once, however equal they look; afterwards they
    are not.
    """
    pull_log = PullLog(metrics=NodeMetrics().pulls, now=lambda: 5.0)
    with pull_log.recording(pull()) as one:
        with pull_log.recording(pull()) as same, pull_log.recording(pull(mirrored=True)) as peers:
            assert [id(context) for context in pull_log.under_way] == [id(one), id(same), id(peers)]
        miss(pull_log, pull())
        assert [id(context) for context in pull_log.under_way] == [id(one)]
    assert pull_log.under_way == ()


def test_whoever_looks_again_sees_whether_there_is_news() -> None:
    """By the number of all records, which grows also where the oldest go."""
    pull_log = PullLog(metrics=NodeMetrics().pulls, limit=2)
    for _ in range(5):
        miss(pull_log, pull())
    miss(pull_log, pull(mirrored=True))
    assert (pull_log.added, pull_log.kept) == (5, 2)


def test_the_oldest_records_go_first_when_there_are_too_many() -> None:
    """As many as the limit stay, and are told the newest first."""
    pull_log = PullLog(metrics=NodeMetrics().pulls, limit=3)
    for number in range(5):
        miss(pull_log, pull(f"app{number}"))
    assert [one["key"] for one in pull_log.find(None, limit=9)] == [
        f"r.io/app{number}:v1" for number in (4, 3, 2)
    ]
    assert [one["key"] for one in pull_log.find(None, limit=1)] == ["r.io/app4:v1"]


def test_the_memory_of_records_is_bounded_in_bytes() -> None:
    """However long each is; `bytes` is what is kept, to the byte."""
    pull_log = PullLog(metrics=NodeMetrics().pulls, max_bytes=20_000)
    attempt = AttemptRecord(
        peer="p" * 60, address="a", milliseconds=1.0, outcome=AttemptOutcome.REFUSED
    )
    for number in range(200):
        with pull_log.recording(pull(f"app{number}")) as context:
            context.attempts = [attempt] * (number % 40)
        kept = pull_log.find(None, limit=1000)
        assert (
            pull_log.bytes
            == sum(len(json.dumps(one, separators=(",", ":"))) for one in kept)
            <= 20_000
        )
    assert 1 <= pull_log.kept < 200


def test_a_record_that_is_too_large_alone_is_not_kept() -> None:
    """The bound holds even then."""
    pull_log = PullLog(metrics=NodeMetrics().pulls, max_bytes=10)
    miss(pull_log, pull())
    assert (pull_log.kept, pull_log.bytes) == (0, 0)


def test_records_are_searched() -> None:
    """By a reference, a digest or a part; without a query all are meant."""
    pull_log = PullLog(metrics=NodeMetrics().pulls)
    digest = Digest.of(b"x")
    with pull_log.recording(pull("one")) as context:
        context.digest = digest
    miss(pull_log, pull("two"))
    for text in ("r.io/one:v1", str(digest), "one"):
        assert [one["key"] for one in pull_log.find(RecordQuery.parse(text), limit=9)] == [
            "r.io/one:v1"
        ]
    assert pull_log.find(RecordQuery.parse("three"), limit=9) == []
    assert len(pull_log.find(None, limit=9)) == 2
