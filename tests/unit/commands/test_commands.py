"""`why`, `status`, `peers` and `resolve` as a person meets them, asked of a metrics page over a
real socket.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from spegel_py.admin.admin_app import create_admin_app
from spegel_py.admin.holder_cache import HolderCache
from spegel_py.admin.holder_lookup import HolderLookup
from spegel_py.admin.images import LocalImages
from spegel_py.admin.routes import pull_routes, replica_routes
from spegel_py.admin.state import describe
from spegel_py.admin.store_state import layout_state
from spegel_py.cli import main
from spegel_py.commands.running_node import SETTINGS
from spegel_py.config import REGISTRY
from spegel_py.errors import BlobUnknown
from spegel_py.health.peer_health import HealthState
from spegel_py.metrics import NodeMetrics
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullRequest
from spegel_py.outcomes import AttemptOutcome, AttemptRecord, ContentSource, LocalState, Lookup
from spegel_py.registry.server import serve
from spegel_py.routing.base import Member, Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.store.memory_store import MemoryStore
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.tools.human import size, span
from tests.browser import props

DIGEST = Digest.of(b"layer")
ALERT = {
    "id": "ALERT-20251125-001",
    "tier": "P1",
    "condition": "containerd-away",
    "subject": "",
    "detail": "no socket",
    "opened": 1_764_028_800.0,
    "detection_seconds": 1.5,
    "escalated": False,
}
ACTION = {"alert": ALERT["id"], "action": "reconnect containerd", "outcome": "done"}
MEMBER = Member(
    id="12D3Koo-c", address="[fd00::3]:5001", agent="spegel-py/1", keys=7, heard=1.5, skew=0.25
)

Command = Callable[..., Awaitable[tuple[int, str, str]]]


class Metered:
    """The sources of a node's metrics page."""

    def __init__(self) -> None:
        self.metrics, self.store, self.network = NodeMetrics(), MemoryStore(), MemoryNetwork()
        self.pull_log = PullLog(metrics=self.metrics.pulls, clock=lambda: 1.0)
        self.members: list[Member] = []
        self.alerts: list[dict[str, object]] = []
        self.not_ready: str | None = None
        self.store_state = layout_state(Path("/srv/images"))
        self.in_flight: list[dict[str, object]] | None = None
        self.replicas: dict[str, Any] = props.NO_REPLICAS

    def app(self) -> web.Application:
        router = self.network.join(Peer("me", "127.0.0.1", 1))
        holder_lookup = HolderLookup(
            store=self.store, router=router, health=lambda _: HealthState.SUSPECTED
        )
        images = LocalImages(
            store=self.store,
            holders=HolderCache(router=router),
            tags=dict,
            held=lambda: self.store.keys,
        )
        routes = [
            *pull_routes(pull_log=self.pull_log, holder_lookup=holder_lookup, images=images),
            *replica_routes(lambda: self.replicas),
        ]
        return create_admin_app(render=self.metrics.render, state=self.state, routes=routes)

    async def state(self) -> Any:
        return describe(
            node_id="12D3Koo-me",
            not_ready=self.not_ready,
            store=self.store_state,
            settings={},
            members=self.members,
            advertised=["r.io/app:v1", str(DIGEST)],
            supervision={"alerts": self.alerts, "actions": [ACTION]},
            health=lambda _: HealthState.SUSPECTED,
            pulls=self.metrics.pulls.summary(),
            in_flight=self.in_flight,
        )


@pytest.fixture
def node() -> Metered:
    return Metered()


@pytest.fixture
async def command(node: Metered, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Command]:
    """Return a function that runs a command; it returns status, stdout and stderr."""
    async with serve(node.app(), "127.0.0.1:0") as port:

        async def run(*arguments: str) -> tuple[int, str, str]:
            status = await asyncio.to_thread(main, [*arguments, "--node", f"127.0.0.1:{port}"])
            out, err = capsys.readouterr()
            return status, out, err

        yield run


def pull(last: str) -> PullRequest:
    return PullRequest.parse(method="GET", target=f"/v2/app/{last}?ns=r.io")


def record(pull_log: PullLog) -> None:
    """Leave a miss and a hit behind."""
    with capture_logs(), suppress(BlobUnknown), pull_log.recording(pull("manifests/v1")) as context:
        context.local, context.lookup = LocalState.ABSENT, Lookup()
        raise BlobUnknown("no peer could give it")
    with capture_logs(), pull_log.recording(pull(f"blobs/{DIGEST}")) as context:
        context.local, context.lookup = LocalState.ABSENT, Lookup(found=1, first=0.001)
        context.source, context.length, context.sent = ContentSource.PEER, 5, 5
        context.status = 200
        context.attempts = [
            AttemptRecord(
                peer="c",
                address="[::1]:5000",
                bytes=5,
                milliseconds=2.5,
                outcome=AttemptOutcome.OK,
                hedge=True,
            )
        ]


async def test_why_says_the_reason_and_who_was_asked(node: Metered, command: Command) -> None:
    """A few lines for each request, the latest last, with each peer that was asked."""
    record(node.pull_log)
    status, out, _ = await command("why", "--requests", "--wide")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 0
    assert lines[0].endswith("GET r.io/app:v1")
    assert lines[1:3] == [
        "miss, not_found: nobody has it: neither this node nor any peer it knows of",
        "status 404, 0.0 ms, 0 B of 0 B, here absent, peers found 0",
    ]
    assert lines[3].endswith(f"GET r.io/app@{DIGEST}")
    assert lines[4:6] == [
        "hit, peer: from [::1]:5000",
        "status 200, 0.0 ms, 5 B of 5 B, here absent, peers found 1, the first after 1.0 ms",
    ]
    assert lines[7:] == ["[::1]:5000 ok 2.5 ms 0 5 B", "since others were slow"]


@pytest.mark.parametrize("what", [str(DIGEST), f"r.io/app@{DIGEST}", str(DIGEST)[:20]])
async def test_why_is_asked_of_one_thing(node: Metered, command: Command, what: str) -> None:
    """Of a digest, a reference, or a part of one; as JSON it is what the node has recorded."""
    record(node.pull_log)
    status, out, _ = await command("why", what, "--json")
    assert (status, json.loads(out)["decisions"]) == (0, node.pull_log.find(None, limit=1))


async def test_why_of_nothing_recorded_says_so(node: Metered, command: Command) -> None:
    """A node without requests, or with other requests only, gives status 1."""
    status, out, err = await command("why", "r.io/app:v9")
    assert (status, out) == (1, "")
    assert (
        "has recorded nothing: no client has asked it since it started; an earlier pull, or one "
        "with ctr without --hosts-dir, went past it (see spegel-py doctor)" in err
    )
    record(node.pull_log)
    status, out, err = await command("why", "r.io/app:v9")
    assert (status, out) == (1, "")
    assert (
        "has recorded nothing of r.io/app:v9: no client has asked it for that among its last 2 "
        "requests" in err
    )
    status, out, err = await command("why", "r.io/app:v9", "--json")
    assert (status, json.loads(out)["decisions"], err) == (1, [], "")


async def test_status_shows_what_the_node_is_good_for(node: Metered, command: Command) -> None:
    """Peers by health, hit rate, answers and bytes by source, misses by reason, open alerts."""
    record(node.pull_log)
    node.members, node.alerts = [MEMBER], [ALERT]
    status, out, _ = await command("status")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 0
    for line in (
        "ready yes",
        "peers suspected 1",
        "advertises 1 tag, 1 digest",
        "requests 2, 50.0% answered without the registry",
        "answered from local 0, peer 1, none 1",
        "bytes from local 0 B, peer 5 B",
        "misses not_found 1",
        "alert P1 containerd-away no socket",
    ):
        assert line in lines


async def test_status_counts_what_is_in_flight(node: Metered, command: Command) -> None:
    """The roles of the node's parts are counted; without in-flight sharing there is no row."""
    assert "in flight" not in (await command("status"))[1]
    for roles, line in (
        (
            ["follow", "lead", "follow"],
            (
                "in flight 3 parts: 1 fetched here from the registry for other nodes, 2 taken "
                "from a node that is still fetching them"
            ),
        ),
        ([], "in flight nothing"),
    ):
        node.in_flight = [
            {"digest": str(DIGEST), "role": role, "parent": None, "offset": 5} for role in roles
        ]
        _, out, _ = await command("status")
        assert line in [" ".join(row.split()) for row in out.splitlines()]


async def test_status_of_a_node_that_is_not_ready_is_1(node: Metered, command: Command) -> None:
    """It says why; a node that nobody has asked has no hit rate."""
    node.not_ready = "no peer yet"
    status, out, _ = await command("status")
    assert status == 1
    assert "no: no peer yet" in out
    assert "0, no client has asked yet" in out
    status, out, _ = await command("status", "--json")
    assert (status, json.loads(out)["pulls"]["hit_rate"]) == (1, None)


async def test_peers_are_shown_with_their_health(node: Metered, command: Command) -> None:
    """One line each; none is said to be none."""
    status, out, _ = await command("peers")
    assert status == 0
    assert "has no peers: right for a single node" in out
    node.members = [MEMBER]
    _, out, _ = await command("peers")
    line = " ".join(out.splitlines()[-1].split())
    assert line == "[fd00::3]:5001 suspected 1.5 s ago +0.250 s 7 spegel-py/1 12D3Koo-c"
    node.members = [replace(MEMBER, peer=Peer("id", "fd00::3", 5000, zone="eu-1a"))]
    _, out, _ = await command("peers")
    assert out.splitlines()[-1].split()[:3] == ["[fd00::3]:5001", "eu-1a", "suspected"]
    _, out, _ = await command("peers", "--json")
    assert [peer["health"] for peer in json.loads(out)["peers"]] == ["suspected"]


async def test_open_alerts_are_asked_of_the_node(node: Metered, command: Command) -> None:
    """Without a data directory the open alerts and their repairs are printed."""
    status, out, _ = await command("alerts")
    assert (status, "has no open alert" in out) == (0, True)
    node.alerts = [ALERT]
    _, out, _ = await command("alerts")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[-2:] == [
        "ALERT-20251125-001 P1 2025-11-25 00:00:00 1.5 s open",
        "containerd-away: no socket; reconnect containerd: done",
    ]
    _, out, _ = await command("alerts", "--json")
    assert json.loads(out) == {"alerts": [ALERT], "actions": [ACTION]}


async def test_resolve_says_who_has_it(node: Metered, command: Command) -> None:
    """This node, its peers with the time it took to find them; nobody is status 1."""
    digest = node.store.add(b"{}", "r.io/app:v1")
    await node.network.join(Peer("c", "fd00::3", 5000)).advertise(["r.io/app:v1"])
    status, out, _ = await command("resolve", "r.io/app:v1")
    assert status == 0
    assert f"on this node: yes, {str(digest)[:19]}…" in out
    assert f"on this node: yes, {digest}" in (await command("resolve", "r.io/app:v1", "--wide"))[1]
    assert "on peers: 1, in " in out
    assert "[fd00::3]:5000" in out.splitlines()[-1]
    status, out, _ = await command("resolve", str(DIGEST))
    assert status == 1
    assert "on this node: no\non peers: 0, in " in out
    status, out, _ = await command("resolve", "r.io/app:v1", "--json")
    assert (status, json.loads(out)["key"]) == (0, "r.io/app:v1")


async def test_what_cannot_be_resolved_is_explained(command: Command) -> None:
    """A short name is no reference."""
    status, out, err = await command("resolve", "nginx/x:1")
    assert (status, out) == (1, "")
    assert err.endswith("name the registry: registry.example/nginx/x:1\n")


@pytest.mark.parametrize("given", ["app:1", "app", "team/app:1", "library/app"])
async def test_a_short_name_lacks_its_registry(given: str, command: Command) -> None:
    """The advice has the whole name; a digest that is cut is still taken for one."""
    assert f"name the registry: registry.example/{given}\n" in (await command("resolve", given))[2]
    assert "digest" in (await command("resolve", "sha256:12"))[2]


async def test_content_is_explained_that_is_not_shared(node: Metered, command: Command) -> None:
    """A node tells how it reads its content, and other namespaces, in its own words."""
    node.store_state = {**node.store_state, "others": "2 images in default: not shared"}
    _, out, _ = await command("status")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "content /srv/images, an OCI image layout" in lines
    assert "not shared 2 images in default: not shared" in lines


@pytest.mark.parametrize(
    "name", ["why", "status", "peers", "resolve", "alerts", "images", "measure"]
)
def test_no_node_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It says where was asked, why nobody answers, and what to do; status 1."""
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        port = closed.getsockname()[1]
    arguments = [
        name,
        *(["r.io/app:v1"] if name in ("resolve", "measure") else []),
        "--metrics-addr",
        f":{port}",
    ]
    assert main(arguments) == 1
    assert capsys.readouterr().err == (
        f"spegel-py: no node answers at http://127.0.0.1:{port} (Connection refused): start "
        "spegel-py registry, or say "
        "with --metrics-addr or --node where its metrics address is\n"
    )


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, "no"), (200, "<html>"), (200, "[]"), (500, "{}")],
    ids=["404", "html", "list", "500"],
)
async def test_another_program_is_not_taken_for_a_node(
    status: int, body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another program answers there: the line has a guess at it."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    async with serve(app, "127.0.0.1:0") as port:
        assert await asyncio.to_thread(main, ["status", "--node", f"http://127.0.0.1:{port}/"]) == 1
    assert (
        f"http://127.0.0.1:{port}/debug/state answers {status} and no state of a node"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("server", "page", "told"),
    [
        (
            "spegel-py",
            None,
            "that is another of its addresses; give its metrics address (:9090 by default)",
        ),
        ("", 'go_info{version="go1.24"} 1', "that is Spegel (Go), which tells its metrics only"),
    ],
    ids=["the registry", "Spegel"],
)
async def test_a_neighbour_of_a_node_is_known(
    server: str, page: str | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node's registry, and the metrics page of Spegel in Go."""

    async def answer(request: web.Request) -> web.Response:
        if page and request.path == "/metrics":
            return web.Response(text=page)
        return web.Response(status=404, headers={"Server": server})

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    async with serve(app, "127.0.0.1:0") as port:
        assert await asyncio.to_thread(main, ["why", "--node", f"127.0.0.1:{port}"]) == 1
    assert told in capsys.readouterr().err


async def test_a_router_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    """A server without HTTP may be the node's router."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x13/multistream/1.0.0\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as greeter:
        port = greeter.sockets[0].getsockname()[1]
        assert await asyncio.to_thread(main, ["status", "--node", f"127.0.0.1:{port}"]) == 1
    assert "speaks no HTTP, as a node's router address does not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--node", "ftp://x"],
            "--node: 'ftp://x' is no URL of a node: write http://10.0.0.1:9090",
        ),
        (
            ["--node", "http://x:port"],
            "--node: 'http://x:port' is no URL of a node: write http://10.0.0.1:9090",
        ),
        (["--node", ""], "--node: '' is no URL of a node: write http://10.0.0.1:9090"),
        (["--metrics-addr", "x"], "--metrics-addr: 'x' should be an address such as :5000"),
        (["--limit", "0"], "argument --limit: '0' should be a whole number from 1 to 1000"),
    ],
)
def test_bad_flags_are_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They name the flag and what should be there; status 2."""
    assert main(["why", *arguments]) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


def test_the_metrics_address_is_the_nodes_by_default() -> None:
    """A node and its commands agree without a flag."""
    [own] = SETTINGS
    [nodes] = [one for one in REGISTRY if one.name == own.name]
    assert (own.default, own.parse) == (nodes.default, nodes.parse)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (3e15, "3000.0 TB")],
)
def test_sizes_are_read_by_people(count: float, text: str) -> None:
    """In the unit that suits them."""
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (5.25, "5.2 s"), (90, "1.5 min"), (5400, "1.5 h")]
)
def test_spans_are_read_by_people(seconds: float | None, text: str) -> None:
    """In the unit that suits them."""
    assert span(seconds) == text


async def test_replicas_are_shown_with_their_targets_heat_and_zones(
    node: Metered, command: Command
) -> None:
    """An image that is pulled often is wanted at more nodes than the floor."""
    _, out, _ = await command("replicas")
    assert "keeps no replicas: --replica-floor is 0" in out
    images = [
        props.replica("r.io/app:1", target=3, replicas=2, heat=4.25),
        props.replica("r.io/other:1", zones=["eu-1a", ""], runtime=False),
    ]
    node.replicas = props.NO_REPLICAS | {"floor": 2, "ceiling": 3, "images": images}
    _, out, _ = await command("replicas", "--wide")
    head, first, second = (line.split() for line in out.splitlines()[-3:])
    assert head == ["image", "size", "replicas", "zones", "on", "nodes", "heat", "here", "manifest"]
    assert " ".join(first[:-1]) == "r.io/app:1 12.0 MB 2 of 3 eu-1a, eu-1b 3 4.2 runtime, replica"
    assert " ".join(second[:-1]) == "r.io/other:1 12.0 MB 2 of 2 eu-1a, - 3 1.5 replica"
    _, out, _ = await command("replicas", "--low")
    assert "other" not in out
    assert "2 of 3" not in out
    _, out, _ = await command("replicas", "--json")
    assert json.loads(out)["ceiling"] == 3
