"""Restoring containerd's `config_path`, then serving a probe until SIGTERM.

The folder is locked while the probe is served, so a Pod that starts while the release is being
deleted cannot configure its node again. If a program without the lock changes the folder, it is
restored again.
"""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from aiohttp import web

from spegel_py import values
from spegel_py.errors import ConfigError
from spegel_py.host import original
from spegel_py.host.changes import ChangeKind, RegistryChange, changes
from spegel_py.host.configuration import CONFIG_PATH
from spegel_py.host.disk_steps import Disk
from spegel_py.host.host_files import locked
from spegel_py.host.own_names import BACKUP
from spegel_py.host.runtimes import RUNTIME, RUNTIME_FILE
from spegel_py.node_name import RUNTIME_TOKEN
from spegel_py.settings import Setting
from spegel_py.telemetry.logging import REPORTING
from spegel_py.tools.addresses import split_host_port
from spegel_py.tools.listeners import explain_listening

log = structlog.get_logger(__name__)

CHECK_INTERVAL = 5.0
"""Seconds between two checks of a locked folder.

Only a program that ignores the lock, such as Spegel's, can have configured it again.
"""

LOCK_DEADLINE = 60.0
"""Seconds to wait for the lock: the clean-up of an earlier uninstallation may still hold it."""


SETTINGS = (
    *REPORTING,
    CONFIG_PATH,
    RUNTIME,
    RUNTIME_FILE,
    replace(RUNTIME_TOKEN, help="file with the runtime's tokens, to remove it; none: it stays"),
    Setting(
        "addr",
        values.address_or_none,
        "",
        "address of a readiness probe, such as :8080; none: end once all files are put back",
    ),
    Setting(
        "linger",
        values.seconds(0, 3600),
        0.0,
        "time after SIGTERM for which the folder stays locked against a new configuration",
    ),
    Setting(
        "containerd_sock",
        values.path,
        Path("/run/containerd/containerd.sock"),
        "containerd's socket, to release the replicas of a removed node; none: they stay",
    ),
    Setting(
        "containerd_namespace", values.text, "k8s.io", "containerd namespace of these replicas"
    ),
    Setting(
        "keep_replicas",
        values.boolean,
        False,
        "leave the replicas in containerd, for a node that is installed again",
    ),
)


Tell = Callable[["Cleaned"], None]
"""Shows the result of a clean-up."""

Release = Callable[[], Awaitable[object]]
"""Releases the node's replicas."""


async def _nothing() -> None:
    return


async def clean_up_and_serve(
    root: Path, address: str, *, linger: float, tell: Tell, release: Release = _nothing
) -> None:
    """Restore the folder, then serve the probe until SIGTERM, if there is an address.

    Raises ConfigError, HostError.

    Args:
        tell: gets the result of each clean-up.
        release: is awaited after SIGTERM: once at once, and again at the end of `linger`. The node
            may end only then, and would hold its replicas again before.
    """
    is_ended = asyncio.Event()
    # Set first, because a container's first process gets only signals that it handles.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_ended.set)
    if not address:
        tell(await asyncio.to_thread(clean_up, root, Disk()))
        return
    with ExitStack() as lock:
        if await asyncio.to_thread(root.is_dir):
            await asyncio.to_thread(lock.enter_context, locked(root, deadline=LOCK_DEADLINE))
        tell(await asyncio.to_thread(clean_up, root, Disk(), is_locked=True))
        async with serve_probe(address):
            await _keep_clean(root, is_ended, linger=linger, tell=tell, release=release)


async def _keep_clean(
    root: Path,
    is_ended: asyncio.Event,
    *,
    linger: float,
    tell: Tell,
    release: Release = _nothing,
) -> None:
    """Restore a locked folder whenever it was configured, until `linger` seconds after the end.

    The last check is at the very end.
    """
    loop = asyncio.get_running_loop()
    end = math.inf
    while True:
        is_last = loop.time() >= end
        if await asyncio.to_thread((root / BACKUP).is_dir):
            tell(await asyncio.to_thread(clean_up, root, Disk(), is_locked=True))
        if is_ended.is_set():
            await release()
        if is_last:
            return
        if end == math.inf:
            with suppress(TimeoutError):
                await asyncio.wait_for(is_ended.wait(), CHECK_INTERVAL)
            end = loop.time() + linger if is_ended.is_set() else end
        else:
            await asyncio.sleep(min(CHECK_INTERVAL, max(0.0, end - loop.time())))


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The result of a clean-up: the changes per registry, and whether there was a backup."""

    root: Path
    changes: tuple[RegistryChange, ...]
    has_backup: bool


def clean_up(root: Path, disk: Disk, *, is_locked: bool = False) -> Cleaned:
    """Restore the original content of `root`; a second run changes nothing.

    `is_locked` is True if the caller holds the folder's lock.
    """
    before, present = original.look(root)
    copies = original.restore(root, disk, is_locked=is_locked)
    if copies is None:
        return Cleaned(root, (), has_backup=False)
    done = (ChangeKind.RESTORED, ChangeKind.REMOVED)
    found = [one for one in changes(present, before.entries, before.entries) if one.kind in done]
    return Cleaned(
        root, tuple(replace(one, copy=copies.get(one.name)) for one in found), has_backup=True
    )


def log_cleaned(cleaned: Cleaned) -> None:
    """Log a line for each registry whose entry was removed or restored."""
    root = cleaned.root
    for one in cleaned.changes:
        path = str(root / one.name)
        if one.copy is not None:
            log.warning(
                "changed by hand since the last run",
                registry=one.registry,
                path=path,
                copy=str(one.copy),
            )
        if one.kind is ChangeKind.RESTORED:
            log.info("settings restored", registry=one.registry, path=path)
        else:
            log.info("mirror removed", registry=one.registry, path=path)
    if cleaned.has_backup:
        log.info("containerd's configuration is put back", path=str(root))
    else:
        log.info("nothing to put back: there is no backup", path=str(root / BACKUP))


@asynccontextmanager
async def serve_probe(address: str) -> AsyncIterator[int]:
    """Serve Spegel's readiness probe; give the bound port. Raises ConfigError."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _probe)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    listener = _listen(address)
    try:
        await runner.setup()
        await web.SockSite(runner, listener).start()
        port = int(listener.getsockname()[1])
        log.info("the probe is served until SIGTERM", port=port)
        yield port
    finally:
        await runner.cleanup()
        listener.close()


async def _probe(request: web.Request) -> web.Response:
    # Either condition is enough, as in Spegel.
    is_known = request.method == "GET" or request.path == "/readyz"
    return web.Response(status=200 if is_known else 404)


def _listen(address: str) -> socket.socket:
    host, port = split_host_port(address)
    try:
        if host in ("", "::") and socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise ConfigError(
            f"--addr: cannot listen on {address}: {explain_listening(error, port)}; all is put "
            "back already"
        ) from error
