"""`spegel-py cleanup-wait`: end once the clean-up of every node is done.

With `--probe-endpoint`, as in Spegel, every address of a DNS name is probed. A node that is down
has no address, and is not waited for. With `--daemonset` the Kubernetes API is asked, which knows
all nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import socket
import sys
from functools import partial
from typing import Any

import aiohttp
import structlog

from spegel_py import settings, values
from spegel_py.errors import ConfigError, HostError
from spegel_py.host.daemonset import ClusterError, DaemonSet, connected
from spegel_py.settings import Setting
from spegel_py.telemetry import logging
from spegel_py.telemetry.logging import LOGGING
from spegel_py.tools.addresses import split_host_port
from spegel_py.tools.threads import run_detached

log = structlog.get_logger(__name__)

INTERRUPTED = 130
"""Exit status after a signal before all nodes were ready, as after Ctrl-C."""

LOOKUP_TIMEOUT = 5.0
"""Seconds for the DNS lookup: a resolver asks its second server after that."""

PROBE_TIMEOUT = 1.0
"""Seconds for one probe, as in Spegel."""

PARALLEL = 10
"""Number of probes at the same time."""

Endpoint = tuple[str, int]


def _endpoint(given: Any) -> Endpoint:
    """Return host and port of `host:port` or `[ipv6]:port`."""
    try:
        host, port = split_host_port(values.text(given))
    except ValueError:
        host, port = "", 0
    if not host or not port:
        raise ValueError(
            f"{given!r} should be a host and a port, such as spegel-cleanup.spegel.svc:8080"
        )
    return host, port


def _daemonset(given: Any) -> tuple[str, str]:
    """Return namespace and name of `namespace/name`."""
    namespace, slash, name = values.text(given).partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise ValueError(
            f"{given!r} should be a namespace and a name, such as spegel/spegel-py-cleanup"
        )
    return namespace, name


SETTINGS = (
    *LOGGING,
    Setting(
        "daemonset",
        _daemonset,
        None,
        "namespace/name of the DaemonSet that cleans up; Kubernetes reports its progress",
    ),
    Setting(
        "give_up",
        values.seconds(0, 86400),
        120.0,
        (
            "time without progress of the DaemonSet after which the command fails with the "
            "names of the nodes; 0: never"
        ),
    ),
    Setting(
        "probe_endpoint",
        _endpoint,
        None,
        "host:port of the probes; every address of the host is asked",
    ),
    Setting(
        "threshold",
        values.integer(1, 1_000_000),
        3,
        "rounds in a row in which every address must answer",
    ),
    Setting("period", values.seconds(0.001, 3600), 2.0, "time from one round to the next"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `cleanup-wait`."""
    parser.epilog = "With --probe-endpoint the command waits without a limit; its caller sets one."
    settings.add_flags(parser, SETTINGS)


def run(args: argparse.Namespace) -> int:
    """Wait for all nodes; returns 0, or 130 after a signal.

    Raises ConfigError, HostError.
    """
    values = settings.resolve(SETTINGS, flags=vars(args), environment=os.environ, file=None)
    logging.configure(level=values["log_level"], log_format=values["log_format"])
    endpoint, daemonset = values["probe_endpoint"], values["daemonset"]
    if endpoint is None and daemonset is None:
        raise ConfigError(
            "--probe-endpoint (or PROBE_ENDPOINT) is missing: give the host:port that cleanup "
            "serves"
        )
    if endpoint is not None and daemonset is not None:
        raise ConfigError(
            "--probe-endpoint and --daemonset are two ways to the same: leave one out"
        )
    try:
        if daemonset is not None:
            asyncio.run(
                _wait_for_daemonset(daemonset, period=values["period"], give_up=values["give_up"])
            )
        else:
            asyncio.run(_wait(endpoint, threshold=values["threshold"], period=values["period"]))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("spegel-py: stopped before every node was clean\n")
        return INTERRUPTED
    return 0


async def _wait_for_daemonset(daemonset: tuple[str, str], *, period: float, give_up: float) -> None:
    _end_on_sigterm()
    async with connected(*daemonset) as found:
        await wait_for_daemonset(found, period=period, give_up=give_up or math.inf)


async def wait_for_daemonset(daemonset: DaemonSet, *, period: float, give_up: float) -> None:
    """Return once the Pod of every node is ready.

    The reason why a node is not ready may change all the time, and is no progress.

    Raises:
        HostError: no further node was ready for `give_up` seconds; the text has the missing ones.
    """
    clock = asyncio.get_running_loop().time
    done: frozenset[str] = frozenset()
    state, since = "", clock()
    while True:
        try:
            coverage = await daemonset.coverage()
            is_complete, now, ready = coverage.is_complete, str(coverage), coverage.ready
        except ClusterError as error:
            is_complete, now, ready = False, str(error), frozenset()
        if now != state:
            state = now
            log.info("cleaning up", state=state)
        if is_complete:
            return
        if not ready <= done:
            done, since = done | ready, clock()
        if clock() - since >= give_up:
            raise HostError(
                f"{state}; no further node was done for {give_up:g} s: bring these nodes back, or "
                "delete them from the "
                "cluster, and uninstall again"
            )
        await asyncio.sleep(period)


async def _wait(endpoint: Endpoint, *, threshold: int, period: float) -> None:
    _end_on_sigterm()
    await wait(endpoint, threshold=threshold, period=period)


def _end_on_sigterm() -> None:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def wait(endpoint: Endpoint, *, threshold: int, period: float) -> None:
    """Return once all addresses have answered in `threshold` rounds in a row.

    Rounds begin `period` seconds apart.
    """
    rounds = 0
    clock = asyncio.get_running_loop().time
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        while True:
            began = clock()
            problem = await _round(session, endpoint)
            rounds = 0 if problem else rounds + 1
            log.info("probed", rounds=rounds, of=threshold, problem=problem)
            if rounds == threshold:
                return
            await asyncio.sleep(max(0.0, began + period - clock()))


async def _round(session: aiohttp.ClientSession, endpoint: Endpoint) -> str | None:
    """Probe every address; return the first problem, or None."""
    host, port = endpoint
    try:
        found = await _addresses(host, port)
    except (OSError, UnicodeError, TimeoutError) as error:
        return f"{host} has no address: {error or 'no answer'}"
    room = asyncio.Semaphore(PARALLEL)
    problems = await asyncio.gather(*(_ask(session, room, address, port) for address in found))
    return next(filter(None, problems), None)


async def _ask(
    session: aiohttp.ClientSession, room: asyncio.Semaphore, address: str, port: int
) -> str | None:
    url = f"http://{f'[{address}]' if ':' in address else address}:{port}/readyz"
    try:
        async with (
            room,
            asyncio.timeout(PROBE_TIMEOUT),
            session.get(url, allow_redirects=False) as answer,
        ):
            return None if answer.status == 200 else f"{url} answered {answer.status}"
    except TimeoutError:
        return f"{url} did not answer within {PROBE_TIMEOUT:g} s"
    except (aiohttp.ClientError, OSError) as error:
        return f"{url}: {error}"


async def _addresses(host: str, port: int) -> list[str]:
    """Return all addresses of a host. Raises OSError, TimeoutError.

    A resolver may take half a minute. So the lookup runs in a thread that the process does not wait
    for at its end.
    """
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    async with asyncio.timeout(LOOKUP_TIMEOUT):
        entries = await run_detached(look_up, name=f"look up {host}")
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))
