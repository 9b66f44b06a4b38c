"""The composition root: starts and stops one node's parts.

Order matters at both ends. HTTP starts first, so local content is served while libp2p is still
being loaded and peers are being found. The store is walked at the same time. The router stops
first, so peers stop asking before transfers are drained.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from aiohttp import web

from spegel_py import __version__, parts
from spegel_py.admin.control_socket import serve_control
from spegel_py.assembly import Assembly
from spegel_py.config import AUTO, Config
from spegel_py.errors import ConfigError
from spegel_py.registry.askers import Door
from spegel_py.registry.connection import TlsContext
from spegel_py.registry.connection_table import ConnectionLimits
from spegel_py.registry.server import DRAIN, serve
from spegel_py.routing.libp2p.bootstrap import id_app
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.tools.files import raise_descriptor_limit
from spegel_py.tools.memory_trim import MemoryTrimmer

log = structlog.get_logger(__name__)

ADMIN_DRAIN = 1.0
"""Seconds that responses on the metrics port get at the end: no pull depends on them."""


async def run(config: Config) -> None:
    """Run a node until SIGTERM or SIGINT; a second signal ends the process at once.

    A signal that comes before the node is up ends the start. Raises ConfigError if the node cannot
    start.
    """
    stop, is_starting = asyncio.Event(), True
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def on_signal(number: signal.Signals) -> None:
        log.info("stopping", signal=number.name)
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
        stop.set()
        if is_starting and task is not None:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        async with running(config):
            is_starting = False
            await stop.wait()
    except asyncio.CancelledError:
        if not (is_starting and stop.is_set()):
            raise
    log.info("stopped")


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Libp2pRouter]:
    """Run a node while the block lasts."""
    descriptors = raise_descriptor_limit()
    doors = _doors(config)
    limits, admin_limits = (
        ConnectionLimits.of_registry(descriptors // len(doors)),
        ConnectionLimits.of_metrics(descriptors),
    )
    async with AsyncExitStack() as stack:
        node = await Assembly.build(config, stack)
        node.watch_gauges()
        for flag, address, door in doors:
            tls = node.tls.server_context if node.tls and door is not Door.RUNTIME else None
            await _serve(stack, flag, node.registry_app(door), address, limits=limits, tls=tls)
        await _serve(
            stack,
            "--metrics-addr",
            node.admin_app(),
            config.metrics_addr,
            limits=admin_limits,
            drain=ADMIN_DRAIN,
        )
        await _serve_control(stack, node.control_app(), config)
        # The measurer ends before the drain above, which would wait for its transfer.
        await stack.enter_async_context(node.measurer.running())
        if config.http_bootstrap_addr:
            await _serve(
                stack,
                "--http-bootstrap-addr",
                id_app(node.router.addresses),
                config.http_bootstrap_addr,
                limits=admin_limits,
            )
        async with asyncio.TaskGroup() as group, AsyncExitStack() as peers:
            # It walks the store while the router loads libp2p, which then announces the content.
            tasks = [group.create_task(node.advertiser.run(), name="advertiser")]
            peers.callback(_cancel, tasks)
            await peers.enter_async_context(node.router.running())
            if node.sharing:
                await peers.enter_async_context(node.sharing.running())
            log.info(
                "descriptors",
                limit=descriptors,
                connections=(limits.own + limits.overall) * len(doors),
                per_address=limits.per_address,
            )
            log.info(
                "node up",
                version=__version__,
                registry=config.registry_addr,
                store=repr(node.plain_store),
            )
            tasks += [
                group.create_task(node.store.run(), name="scrub"),
                group.create_task(parts.advise(config), name="doctor"),
                group.create_task(node.monitor.run(), name="health"),
                group.create_task(node.supervisor.run(), name="supervisor"),
                group.create_task(node.replicas.keeper.run(), name="replicas"),
                group.create_task(node.replicas.queue.run(), name="replica requests"),
                group.create_task(node.preheating.run(), name="preheat"),
                group.create_task(node.replicas.draining.run(), name="draining"),
                group.create_task(node.evacuation.run(), name="evacuation"),
                group.create_task(MemoryTrimmer().run(), name="memory"),
            ]
            if config.tag_ttl:
                tasks.append(group.create_task(node.tags.run(), name="tags"))
            if node.key_file is not None:
                tasks.append(group.create_task(node.key_file.run(), name="cluster keys"))
            if node.tokens is not None:
                tasks.append(group.create_task(node.tokens.run(), name="runtime token"))
            if node.tls is not None:
                tasks.append(group.create_task(node.tls.run(), name="certificates"))
            if node.cordon:
                tasks.append(group.create_task(node.cordon.run(), name="cordon"))
            yield node.router
            await node.evacuation.stop()
            _cancel(tasks)


def _doors(config: Config) -> Sequence[tuple[str, str, Door]]:
    """Return the ports of the registry: the flag, the address, and the clients of each."""
    if not config.runtime_addr:
        return [("--registry-addr", config.registry_addr, Door.ALL)]
    return [
        ("--registry-addr", config.registry_addr, Door.PEERS),
        ("--runtime-addr", config.runtime_addr, Door.RUNTIME),
    ]


def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


async def _serve_control(stack: AsyncExitStack, app: web.Application, config: Config) -> None:
    """Serve the control socket until the end of the stack.

    Raises ConfigError for a path that was given. Without the default socket a node only warns.
    """
    path = config.control_path
    if path is None:
        return
    try:
        await stack.enter_async_context(serve_control(app, path))
    except ConfigError as error:
        if config.control_socket != AUTO:
            raise
        log.warning("control socket is missing", error=str(error))


async def _serve(
    stack: AsyncExitStack,
    flag: str,
    app: web.Application,
    address: str,
    *,
    limits: ConnectionLimits,
    drain: float = DRAIN,
    tls: TlsContext | None = None,
) -> None:
    """Serve an app until the end of the stack. Raises ConfigError, which names the flag."""
    try:
        await stack.enter_async_context(serve(app, address, drain=drain, limits=limits, tls=tls))
    except ConfigError as error:
        raise ConfigError(f"{flag}: {error}") from error
