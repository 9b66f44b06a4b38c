"""Pulling from a real registry app, and from faulty mirrors, over real sockets."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gzip
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from spegel_py.commands import pull_command
from spegel_py.errors import (
    BlobUnknown,
    DigestMismatch,
    ManifestUnknown,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    StoreUnavailable,
)
from spegel_py.metrics import NodeMetrics
from spegel_py.oci import build
from spegel_py.oci.digest import Digest
from spegel_py.pull import (
    BlobFinished,
    BlobInterrupted,
    BlobOpened,
    BytesFetched,
    Platform,
    PullEvent,
    PullReport,
    pull,
)
from spegel_py.pull.mirror_client import ACCEPT, PullDeadlines
from spegel_py.pull.plan import rotated
from spegel_py.registry.app import create_app
from spegel_py.registry.server import serve
from spegel_py.store.layout import LayoutStore, LayoutWriter
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.transfer.sender import Sender
from tests.support import images

NAME = "registry.example:5000/team/app:1.0"
AMD64 = Platform.parse("linux/amd64")
QUICK = PullDeadlines(connect=2.0, head=0.5, stall=0.3)
SIZE = 300_000


def _ready() -> dict[str, object]:
    return {"ready": True, "reasons": []}


@asynccontextmanager
async def registry(root: Path) -> AsyncIterator[str]:
    """Serve the layout at `root` with the real registry. Yield its URL."""
    metrics = NodeMetrics()
    with Sender(threads=2) as sender:
        app = create_app(
            store=LayoutStore(root=root),
            sender=sender,
            mirror=None,
            metrics=metrics.server,
            pull_log=PullLog(metrics=metrics.pulls),
            ready=_ready,
        )
        async with serve(app, "127.0.0.1:0", drain=0.2) as port:
            yield f"http://127.0.0.1:{port}"


Fault = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]
"""Answers a request for a blob that has these bytes."""


@dataclass
class Mirror:
    """A mirror with an image in memory. Each request for its layer uses up one of `faults`."""

    image: build.Image
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str, str | None, str]] = field(default_factory=list)
    tag_header: bool = True
    head_status: int = 200
    manifest_fault: Fault | None = None
    guards: list[Middleware] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        app = web.Application(middlewares=self.guards)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        try:
            port = runner.addresses[0][1]
            yield f"http{'s' if tls else ''}://127.0.0.1:{port}"
        finally:
            await runner.cleanup()

    @property
    def ranges(self) -> list[str | None]:
        """The Range of every request for the layer, in order."""
        return [
            part for _, target, part, _ in self.seen if str(self.image.blobs[-1].digest) in target
        ]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(
            (
                request.method,
                request.raw_path,
                request.headers.get("Range"),
                request.headers.get("Accept", ""),
            )
        )
        reference = request.path.rsplit("/", 1)[-1]
        if reference == "1.0":
            return self._tag(request)
        by_digest = {str(blob.digest): blob.data for blob in self.image.blobs}
        data = by_digest.get(reference)
        if data is None:
            return web.Response(status=404)
        if reference == str(self.image.root.digest) and self.manifest_fault is not None:
            return await self.manifest_fault(request, data)
        if reference == str(self.image.blobs[-1].digest) and self.faults:
            return await self.faults.pop(0)(request, data)
        return part_of(request, data)

    def _tag(self, request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD" and self.head_status != 200:
            return web.Response(status=self.head_status)
        root = self.image.root
        headers = {"Content-Type": self.image.media_type}
        if self.tag_header:
            headers["Docker-Content-Digest"] = str(root.digest)
        return web.Response(body=root.data, headers=headers)


def part_of(request: web.Request, data: bytes) -> web.Response:
    start = request.http_range.start or 0
    if not start:
        return web.Response(body=data)
    headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
    return web.Response(status=206, body=data[start:], headers=headers)


def answering(
    response: Callable[[web.Request, bytes], web.Response],
) -> Fault:
    """Return a fault that answers with the result of `response`."""

    async def fault(request: web.Request, data: bytes) -> web.StreamResponse:
        return response(request, data)

    return fault


def ending_after(count: int, *, stalls: float = 0.0, resets: bool = False) -> Fault:
    """Return a fault that sends `count` bytes of the rest and hangs up, if it stalls later."""

    async def fault(request: web.Request, data: bytes) -> web.StreamResponse:
        whole = part_of(request, data)
        assert isinstance(whole.body, bytes)
        response = web.StreamResponse(status=whole.status, headers=whole.headers)
        response.content_length = len(whole.body)
        await response.prepare(request)
        await response.write(whole.body[:count])
        await asyncio.sleep(stalls)
        assert request.transport is not None
        if resets:
            request.transport.abort()
        else:
            request.transport.close()
        return response

    return fault


WRONG = answering(lambda request, data: web.Response(body=bytes(len(data))))
WHOLE = answering(lambda request, data: web.Response(body=data))
SHORTER = answering(lambda request, data: web.Response(body=data[:-1]))
LONGER_CHUNKED = answering(lambda request, data: _chunked(data + b"more"))
SHIFTED = answering(
    lambda request, data: web.Response(
        status=206, body=data[1:], headers={"Content-Range": f"bytes 1-{len(data) - 1}/{len(data)}"}
    )
)
BUSY = answering(lambda request, data: web.Response(status=503))


def _chunked(data: bytes) -> web.Response:
    response = web.Response(body=data)
    response.enable_chunked_encoding()
    return response


def one_layer(size: int = SIZE, algorithm: str = "sha256") -> build.Image:
    return images.image("app", layers=1, size=size, algorithm=algorithm)


@dataclass
class Pulled:
    """The result of a pull, and its events."""

    report: PullReport
    events: list[PullEvent]

    def of(self, kind: type[PullEvent]) -> list[PullEvent]:
        return [event for event in self.events if isinstance(event, kind)]


async def pulled(
    mirror: str, root: Path, *, platform: Platform | None = AMD64, reference: str = NAME
) -> Pulled:
    events: list[PullEvent] = []
    writer = LayoutWriter.create(root=root, is_durable=False)
    report = await pull(
        reference,
        mirror=mirror,
        writer=writer,
        platform=platform,
        on_progress=events.append,
        deadlines=QUICK,
    )
    return Pulled(report, events)


def tags(root: Path) -> dict[str, str]:
    index = json.loads((root / "index.json").read_text())
    return {
        one["annotations"]["org.opencontainers.image.ref.name"]: one["digest"]
        for one in index["manifests"]
    }


def check_complete(root: Path, image: build.Image) -> None:
    for blob in image.blobs:
        assert (root / "blobs" / blob.digest.algorithm / blob.digest.hex).read_bytes() == blob.data
    assert not [path for path in (root / "blobs").glob(".partial/*") if path.stat().st_size]


def parts(root: Path) -> list[int]:
    """Return the sizes of the parts that have bytes. A part may disappear meanwhile."""
    sizes: list[int] = []
    for path in (root / "blobs" / ".partial").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return [size for size in sizes if size]


# From the real registry


@pytest.mark.parametrize("types", [build.OCI, build.DOCKER], ids=["oci", "docker"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_pull_of_one_platform(
    tmp_path: Path, types: build.MediaTypes, algorithm: str
) -> None:
    """This platform's manifest and blobs are fetched, verified and tagged, and no others."""
    image = images.image("app", platforms=("amd64", "arm64"), types=types, algorithm=algorithm)
    images.write_layout(tmp_path / "there", {NAME: image})
    async with registry(tmp_path / "there") as mirror:
        result = await pulled(mirror, tmp_path / "here")
    chosen = images.image("app", platforms=("amd64",), types=types, algorithm=algorithm)
    check_complete(tmp_path / "here", chosen)
    assert tags(tmp_path / "here") == {NAME: str(image.root.digest)}
    assert result.report.digest == image.root.digest
    assert result.report.verified == len(chosen.blobs) + 1
    assert (
        result.report.bytes
        == result.report.fetched
        == len(image.root.data) + sum(len(b.data) for b in chosen.blobs)
    )
    assert len(result.of(BlobFinished)) == result.report.blobs == 3


async def test_pull_of_all_platforms(tmp_path: Path) -> None:
    """Without a platform everything below the index is fetched."""
    image = images.image("app", platforms=("amd64", "arm64"))
    images.write_layout(tmp_path / "there", {NAME: image})
    async with registry(tmp_path / "there") as mirror:
        await pulled(mirror, tmp_path / "here", platform=None)
    check_complete(tmp_path / "here", image)


async def test_pull_by_digest(tmp_path: Path) -> None:
    """A reference with a digest needs no tag and writes none."""
    image = one_layer()
    images.write_layout(tmp_path / "there", {NAME: image})
    async with registry(tmp_path / "there") as mirror:
        await pulled(
            mirror,
            tmp_path / "here",
            reference=f"registry.example:5000/team/app@{image.root.digest}",
        )
    check_complete(tmp_path / "here", image)
    assert tags(tmp_path / "here") == {}


async def test_second_pull_fetches_manifests_only(tmp_path: Path) -> None:
    """Existing blobs are verified and not fetched. A damaged one is fetched again."""
    image = one_layer()
    images.write_layout(tmp_path / "there", {NAME: image})
    async with registry(tmp_path / "there") as mirror:
        await pulled(mirror, tmp_path / "here")
        again = await pulled(mirror, tmp_path / "here")
        assert again.report.fetched == len(image.root.data)
        assert all(
            isinstance(event, BlobFinished) and event.was_here for event in again.of(BlobFinished)
        )
        layer = image.blobs[-1]
        path = tmp_path / "here" / "blobs" / "sha256" / layer.digest.hex
        path.chmod(0o644)
        path.write_bytes(bytes(len(layer.data)))
        await pulled(mirror, tmp_path / "here")
    check_complete(tmp_path / "here", image)


async def test_nobody_has_the_tag(tmp_path: Path) -> None:
    """A 404 for the tag fails at once: no node in the cluster has it."""
    images.write_layout(tmp_path / "there", {"registry.example/other:1": one_layer()})
    async with registry(tmp_path / "there") as mirror:
        with pytest.raises(ManifestUnknown, match=f"nobody in the cluster has {NAME}"):
            await pulled(mirror, tmp_path / "here")


async def test_nobody_has_a_blob(tmp_path: Path) -> None:
    """A 404 for a blob names it. Fetched content stays, and no tag is written."""
    image = images.image("app", layers=3)
    writer = images.write_layout(tmp_path / "there", {NAME: image})
    writer.remove(image.blobs[-1].digest)
    async with registry(tmp_path / "there") as mirror:
        with pytest.raises(
            BlobUnknown, match=f"nobody in the cluster has {image.blobs[-1].digest}"
        ):
            await pulled(mirror, tmp_path / "here")
        assert tags(tmp_path / "here") == {}
        writer.put(image.blobs[-1].data)
        await pulled(mirror, tmp_path / "here")
    check_complete(tmp_path / "here", image)


async def test_order_and_awaited_progress(tmp_path: Path) -> None:
    """The blobs come in the requested order, and an awaited callback delays a body."""
    image = images.image("app", layers=4, size=SIZE)
    images.write_layout(tmp_path / "there", {NAME: image})
    opened: list[Digest] = []
    held = asyncio.Event()

    async def hear(event: PullEvent) -> None:
        if isinstance(event, BlobOpened):
            opened.append(event.blob.digest)
        if isinstance(event, BytesFetched):
            await held.wait()

    writer = LayoutWriter.create(root=tmp_path / "here", is_durable=False)
    async with registry(tmp_path / "there") as mirror, asyncio.TaskGroup() as tasks:
        pulling = tasks.create_task(
            pull(
                NAME,
                mirror=mirror,
                writer=writer,
                platform=AMD64,
                parallel=1,
                on_progress=hear,
                order=lambda found: rotated(found, 2),
            )
        )
        done, _ = await asyncio.wait([pulling], timeout=0.3)
        assert not done
        assert len(opened) == 1
        held.set()
    found = [blob.digest for blob in image.blobs[1:]]
    assert opened == found[2:] + found[:2]


# Faulty mirrors


async def test_requests_are_containerds(tmp_path: Path) -> None:
    """HEAD for the tag, GET by digest, blobs; an encoded registry; the types on one Accept line."""
    mirror = Mirror(images.image("app", layers=1, platforms=("amd64", "arm64")))
    async with mirror.running() as url:
        await pulled(url, tmp_path)
    methods = [
        (method, unquote(target).split("?")[0].split("/")[-2])
        for method, target, _, _ in mirror.seen
    ]
    assert methods == [("HEAD", "manifests"), *[("GET", "manifests")] * 2, *[("GET", "blobs")] * 2]
    assert all(target.endswith("?ns=registry.example%3A5000") for _, target, _, _ in mirror.seen)
    assert mirror.seen[0][3] == ACCEPT
    assert {part for _, _, part, _ in mirror.seen} == {None}


@pytest.mark.parametrize(
    ("tag_header", "head_status"),
    [(False, 200), (True, 405), (True, 500)],
    ids=["no digest", "405", "500"],
)
async def test_a_head_that_is_no_use_falls_back_to_get(
    tmp_path: Path, tag_header: bool, head_status: int
) -> None:
    """If HEAD gives no digest, the manifest is requested by its tag."""
    mirror = Mirror(one_layer(), tag_header=tag_header, head_status=head_status)
    async with mirror.running() as url:
        result = await pulled(url, tmp_path)
    assert result.report.digest == mirror.image.root.digest
    assert mirror.seen[1][:2] == ("GET", "/v2/team/app/manifests/1.0?ns=registry.example%3A5000")
    check_complete(tmp_path, mirror.image)


@pytest.mark.parametrize("resets", [False, True], ids=["FIN", "RST"])
async def test_a_broken_body_goes_on(tmp_path: Path, resets: bool) -> None:
    """After each break exactly the missing bytes are requested."""
    mirror = Mirror(one_layer())
    mirror.faults = [ending_after(50_000, resets=resets)] * 5
    async with mirror.running() as url:
        result = await pulled(url, tmp_path)
    check_complete(tmp_path, mirror.image)
    if not resets:  # an RST may discard bytes on their way
        offsets = [
            event.offset
            for event in result.of(BlobInterrupted)
            if isinstance(event, BlobInterrupted)
        ]
        assert offsets == [50_000, 100_000, 150_000, 200_000, 250_000]
        assert mirror.ranges[1:] == [f"bytes={offset}-" for offset in offsets]
        assert result.report.fetched == result.report.bytes


async def test_a_stalled_body_goes_on(tmp_path: Path) -> None:
    """No byte within the deadline counts as a break."""
    mirror = Mirror(one_layer(), [ending_after(50_000, stalls=30)])
    async with mirror.running() as url:
        result = await pulled(url, tmp_path)
    [event] = result.of(BlobInterrupted)
    assert isinstance(event, BlobInterrupted)
    assert "nothing in time" in event.error
    check_complete(tmp_path, mirror.image)


async def test_a_range_answered_with_200_starts_anew(tmp_path: Path) -> None:
    """A mirror that ignores the range sends the whole blob, which is taken."""
    mirror = Mirror(one_layer(), [ending_after(50_000), WHOLE])
    async with mirror.running() as url:
        result = await pulled(url, tmp_path)
    check_complete(tmp_path, mirror.image)
    assert result.report.fetched == result.report.bytes + 50_000


@pytest.mark.parametrize(
    "fault",
    [SHIFTED, SHORTER, LONGER_CHUNKED, BUSY, WRONG],
    ids=["shifted", "shorter", "longer", "503", "wrong"],
)
async def test_one_bad_answer_is_outlived(tmp_path: Path, fault: Fault) -> None:
    """A wrong range, a wrong length, a 503 or wrong bytes cost an attempt, not the pull."""
    mirror = Mirror(one_layer(), [fault])
    async with mirror.running() as url:
        result = await pulled(url, tmp_path)
    assert len(result.of(BlobInterrupted)) == 1
    check_complete(tmp_path, mirror.image)


async def test_wrong_bytes_for_ever(tmp_path: Path) -> None:
    """Repeated wrong bytes end the pull, and none of the bytes stay."""
    mirror = Mirror(one_layer(), [*[WRONG] * 9])
    async with mirror.running() as url:
        with pytest.raises(DigestMismatch, match="are not the content of"):
            await pulled(url, tmp_path)
    assert not parts(tmp_path)
    assert len(mirror.faults) == 7


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (ending_after(0), PeerUnreachable),
        (BUSY, PeerRefused),
        (ending_after(0, stalls=9), PeerStalled),
    ],
    ids=["breaks", "503", "stalls"],
)
async def test_no_progress_ends(tmp_path: Path, fault: Fault, error: type[Exception]) -> None:
    """Four attempts in a row without a byte end the pull with their error."""
    mirror = Mirror(one_layer(), [*[fault] * 9])
    async with mirror.running() as url:
        with pytest.raises(error, match=url):
            await pulled(url, tmp_path)
    assert len(mirror.faults) == 5


async def test_a_pull_that_was_cancelled_is_resumed(tmp_path: Path) -> None:
    """The next pull resumes at the bytes that the first one wrote."""
    mirror = Mirror(one_layer(), [ending_after(50_000, stalls=30)])
    here = LayoutWriter.create(root=tmp_path, is_durable=False)
    reached = asyncio.Event()

    def hear(event: PullEvent) -> None:
        if isinstance(event, BytesFetched) and event.offset == 50_000:
            reached.set()

    async with mirror.running() as url:
        task = asyncio.create_task(
            pull(NAME, mirror=url, writer=here, platform=AMD64, on_progress=hear)
        )
        await asyncio.wait_for(reached.wait(), 10)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert 50_000 in parts(tmp_path)  # beside the config's request, if the config was missing
        await pulled(url, tmp_path)
    assert mirror.ranges[-1] == "bytes=50000-"
    check_complete(tmp_path, mirror.image)


async def test_a_damaged_part_is_outlived(tmp_path: Path) -> None:
    """An earlier part that is wrong or too long is discarded, and the blob fetched again."""
    mirror = Mirror(one_layer())
    writer = LayoutWriter.create(root=tmp_path, is_durable=False)
    config, layer = mirror.image.blobs[1:]
    for blob, length in ((layer, 1000), (config, len(config.data) + 1)):
        with writer.begin(blob.digest) as part:
            part.write(bytes(length))
    async with mirror.running() as url:
        await pulled(url, tmp_path)
    check_complete(tmp_path, mirror.image)


async def test_the_peer_is_told(tmp_path: Path) -> None:
    """The peer in a relayed answer is reported with the bytes, and counted."""
    named = answering(
        lambda request, data: web.Response(body=data, headers={"X-Spegel-Peer": "12D3KooW"})
    )
    mirror = Mirror(one_layer(), [named])
    layer = mirror.image.blobs[-1]
    async with mirror.running() as url:
        result = await pulled(url, tmp_path)
    peers = {
        event.blob.digest: event.peer
        for event in result.of(BlobOpened)
        if isinstance(event, BlobOpened)
    }
    assert peers == {mirror.image.blobs[1].digest: None, layer.digest: "12D3KooW"}
    assert result.report.peers == {
        "": result.report.bytes - len(layer.data),
        "12D3KooW": len(layer.data),
    }


async def test_encodings_are_left_alone(tmp_path: Path) -> None:
    """A gzip layer that a mirror labels as encoded is not unpacked, since the digest is of the sent
    bytes.
    """
    labelled = answering(
        lambda request, data: web.Response(body=data, headers={"Content-Encoding": "gzip"})
    )
    mirror = Mirror(one_layer(), [labelled])
    assert gzip.decompress(mirror.image.blobs[-1].data)
    async with mirror.running() as url:
        await pulled(url, tmp_path)
    check_complete(tmp_path, mirror.image)


# The command


def run(mirror: str, into: Path, *more: str) -> int:
    parser = argparse.ArgumentParser()
    pull_command.add_arguments(parser)
    return pull_command.run(
        parser.parse_args([NAME, "--mirror", mirror, "--into", str(into), *more])
    )


async def test_command_prints_json(tmp_path: Path) -> None:
    """With --json stdout has one object with the report, and nothing else is printed."""
    image = one_layer()
    images.write_layout(tmp_path / "there", {NAME: image})
    async with registry(tmp_path / "there") as mirror:
        process = await _start(mirror, tmp_path / "here", "--json")
        out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, err) == (0, b"")
    report = json.loads(out)
    assert report["digest"] == str(image.root.digest)
    assert report["reference"] == NAME
    assert report["verified"] == 3


async def test_command_prints_lines(tmp_path: Path) -> None:
    """Without a terminal stderr has a line for each blob, stdout the summary. --quiet prints
    neither.
    """
    images.write_layout(tmp_path / "there", {NAME: one_layer()})
    async with registry(tmp_path / "there") as mirror:
        process = await _start(mirror, tmp_path / "here")
        out, err = await asyncio.wait_for(process.communicate(), 20)
        quiet = await _start(mirror, tmp_path / "quiet", "--quiet")
        assert await asyncio.wait_for(quiet.communicate(), 20) == (b"", b"")
    assert process.returncode == quiet.returncode == 0
    assert len(out.splitlines()) == 1
    assert out.startswith(f"{NAME} is in {tmp_path / 'here'}".encode())
    assert len(err.splitlines()) == 3


async def _start(mirror: str, into: Path, *more: str) -> asyncio.subprocess.Process:
    arguments = [NAME, "--mirror", mirror, "--into", str(into), "--platform", "linux/amd64", *more]
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUN,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def test_unreachable_mirror(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mirror that does not run gives one line with its address, and status 1."""
    assert run("http://127.0.0.1:9", tmp_path) == 1
    err = capsys.readouterr().err
    assert "no connection to http://127.0.0.1:9: Connection refused; is the mirror running" in err
    assert err.count("\n") == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that cannot be created gives one line with its path, and status 1."""
    assert run("http://127.0.0.1:9", Path("/proc/nothing/layout")) == 1
    err = capsys.readouterr().err
    assert "/proc/nothing/layout cannot be written" in err
    assert "--into" in err


async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk ends the pull at once with that error, and does not blame the mirror."""

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    mirror = Mirror(one_layer())
    async with mirror.running() as url:
        monkeypatch.setattr("spegel_py.store.layout.blob.os.pwrite", full)
        with pytest.raises(
            StoreUnavailable, match=r"disk under .* is full; make room and run again"
        ):
            await pulled(url, tmp_path)
    assert len(mirror.ranges) <= 1


async def test_tls_that_is_not_trusted(tmp_path: Path) -> None:
    """An untrusted certificate, and HTTP mixed with TLS, give an error with the mirror and the
    cause.
    """
    mirror = Mirror(one_layer())
    async with mirror.running(_tls(tmp_path)) as url:
        with pytest.raises(PeerUnreachable, match=f"no TLS with {url}: self.signed certificate"):
            await pulled(url, tmp_path / "here")
        with pytest.raises((PeerUnreachable, PeerRefused), match=url.replace("https", "http")):
            await pulled(url.replace("https", "http"), tmp_path / "here")
    async with mirror.running() as url:
        with pytest.raises(PeerUnreachable, match="no TLS with"):
            await pulled(url.replace("http", "https"), tmp_path / "here")


def _tls(folder: Path) -> ssl.SSLContext:
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mirror")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = folder / "mirror.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


RUN = """
import argparse, sys
from spegel_py.commands import pull_command
parser = argparse.ArgumentParser()
pull_command.add_arguments(parser)
sys.exit(pull_command.run(parser.parse_args()))
"""


async def test_ctrl_c_keeps_what_is_there(tmp_path: Path) -> None:
    """Ctrl-C ends a pull within a second with one line of advice. The part stays."""
    mirror = Mirror(one_layer(), [ending_after(50_000, stalls=30)])
    async with mirror.running() as url:
        process = await _start(url, tmp_path)
        async with asyncio.timeout(20):
            while 50_000 not in parts(tmp_path):
                await asyncio.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert err.splitlines()[-1].startswith(b"spegel-py: stopped; what is there is kept")
    assert 50_000 in parts(tmp_path)  # beside the config's part, if that was not on the disk yet


# Upstream, for content that the mirror does not give


def pulling(
    mirror: str, upstream: str, root: Path, events: list[PullEvent]
) -> Awaitable[PullReport]:
    writer = LayoutWriter.create(root=root, is_durable=False)
    return pull(
        NAME,
        mirror=mirror,
        upstream=upstream,
        writer=writer,
        platform=AMD64,
        on_progress=events.append,
        deadlines=QUICK,
    )


async def test_what_the_mirror_has_not_comes_from_upstream(tmp_path: Path) -> None:
    """The mirror is asked first each time; upstream for missing content and after a broken body."""
    image, events = one_layer(), list[PullEvent]()
    images.write_layout(tmp_path / "there", {"registry.example/other:1": one_layer(1)})
    upstream = Mirror(image, [ending_after(50_000)])
    async with registry(tmp_path / "there") as mirror, upstream.running() as url:
        report = await pulling(mirror, url, tmp_path / "here", events)
    check_complete(tmp_path / "here", image)
    assert tags(tmp_path / "here") == {NAME: str(image.root.digest)}
    assert report.upstream == report.fetched == report.bytes
    assert report.peers == {}
    assert upstream.ranges == [None, "bytes=50000-"]
    assert all(
        event.is_upstream for event in events if isinstance(event, BlobOpened | BytesFetched)
    )


async def test_the_mirror_is_asked_first(tmp_path: Path) -> None:
    """Upstream gets no request for the mirror's content, and completes a broken body."""
    image, events = one_layer(), list[PullEvent]()
    mirror, upstream = Mirror(image), Mirror(image)
    async with mirror.running() as url, upstream.running() as behind:
        report = await pulling(url, behind, tmp_path / "one", events)
        assert (upstream.seen, report.upstream) == ([], 0)
        mirror.faults = [
            ending_after(50_000),
            answering(lambda request, data: web.Response(status=404)),
        ]
        report = await pulling(url, behind, tmp_path / "two", events)
    check_complete(tmp_path / "two", image)
    assert mirror.ranges[1:] == [None, "bytes=50000-"]
    assert upstream.ranges == ["bytes=50000-"]
    assert report.upstream == len(image.blobs[-1].data) - 50_000


async def test_upstream_may_redirect_and_the_mirror_be_away(tmp_path: Path) -> None:
    """Registries redirect to their storage, with the range. A mirror that does not run only costs
    its bytes.
    """
    storage, events = Mirror(one_layer()), list[PullEvent]()
    async with storage.running() as where:
        elsewhere = answering(
            lambda request, data: web.Response(
                status=307, headers={"Location": where + request.path}
            )
        )
        upstream = Mirror(storage.image, [elsewhere, ending_after(0), elsewhere])
        storage.faults = [ending_after(50_000)]
        async with upstream.running() as url:
            report = await pulling("http://127.0.0.1:1", url, tmp_path, events)
    check_complete(tmp_path, storage.image)
    assert storage.ranges == [None, "bytes=50000-"]
    assert report.upstream == report.bytes


async def test_a_token_is_got_where_upstream_wants_one(tmp_path: Path) -> None:
    """Public registries want one token for each repository. The password goes to the token server,
    and an expired token is renewed.
    """
    upstream, asked = Mirror(one_layer()), list[tuple[str, str | None]]()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/token":
            asked.append((request.query_string, request.headers.get("Authorization")))
            return web.json_response({"token": f"t{len(asked)}"})
        is_blob, valid = "/blobs/" in request.path, f"Bearer t{len(asked)}"
        if request.headers.get("Authorization") != valid or (is_blob and len(asked) < 2):
            server = f"{request.url.origin()}/token"
            realm = f'Bearer realm="{server}",service="s",scope="repository:team/app:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": realm})
        return await handler(request)

    upstream.guards = [guard]
    async with (
        Mirror(one_layer(1), tag_header=False).running() as mirror,
        upstream.running() as url,
    ):
        behind = url.replace("http://", "http://me:secret@")
        writer = LayoutWriter.create(root=tmp_path, is_durable=False)
        report = await pull(
            f"registry.example:5000/team/app@{upstream.image.root.digest}",
            mirror=mirror,
            upstream=behind,
            writer=writer,
            platform=AMD64,
            parallel=1,
            deadlines=QUICK,
        )
    check_complete(tmp_path, upstream.image)
    assert report.upstream == report.bytes
    assert asked == [("service=s&scope=repository:team/app:pull", "Basic bWU6c2VjcmV0")] * 2


async def test_who_gives_no_token_is_named(tmp_path: Path) -> None:
    """If a registry's token server does not answer, the error names that server."""
    challenge = {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/token"'}
    unauthorized = answering(lambda request, data: web.Response(status=401, headers=challenge))
    missing = answering(lambda request, data: web.Response(status=404))
    mirror, upstream = Mirror(one_layer(), [missing] * 9), Mirror(one_layer(), [unauthorized] * 9)
    async with mirror.running() as beside, upstream.running() as url:
        with pytest.raises(PeerUnreachable, match=r"no connection to http://127\.0\.0\.1:1/token"):
            await pulling(beside, url, tmp_path, [])


async def test_neither_has_it(tmp_path: Path) -> None:
    """If upstream lacks it too, the error names upstream. The layer leaves nothing; the config's
    part stays.
    """
    image, missing = one_layer(), answering(lambda request, data: web.Response(status=404))
    mirror, upstream = Mirror(image, [missing]), Mirror(image, [missing])
    async with mirror.running() as beside, upstream.running() as url:
        with pytest.raises(
            BlobUnknown, match=f"the mirror did not give sha256:.*, and {url} does not have it"
        ):
            await pulling(beside, url, tmp_path, [])
    assert list((tmp_path / "blobs" / ".partial").glob(f"*{image.blobs[-1].digest.hex}*")) == []
    assert tags(tmp_path) == {}


async def test_a_manifest_is_being_written_before_it_is_asked_for(tmp_path: Path) -> None:
    """Its part has a length while the mirror is asked, so a node can offer it to others."""
    image, found = one_layer(), list[str]()

    async def look(request: web.Request, data: bytes) -> web.StreamResponse:
        folder = tmp_path / "blobs" / ".partial"
        found.extend(path.read_text() for path in folder.glob(f"*{image.root.digest.hex}.total"))
        return web.Response(body=data)

    mirror = Mirror(image, manifest_fault=look)
    async with mirror.running() as url:
        await pulled(url, tmp_path)
    assert found == [str(len(image.root.data))]
