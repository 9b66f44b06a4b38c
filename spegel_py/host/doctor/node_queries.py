"""Requests to the running node: its state, and a manifest."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from spegel_py.host.doctor.facts import (
    KeysState,
    NodeState,
    PeerState,
    PreheatState,
    Pull,
    Subject,
    TlsState,
    TokenState,
    Unknown,
)
from spegel_py.host.http_probe import explain, get
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import CLIENT_HEADER, RUNTIME_HEADER, PullClient
from spegel_py.oci.reference import Reference

MAX_DATED = 32
"""Number of peers asked for their time; one is enough if this node's own clock is wrong."""


async def state(metrics: str, *, timeout: float) -> NodeState | Unknown:
    """Return the state of the node with this metrics URL."""
    url = f"{metrics}/debug/state"
    try:
        answer = await get(url, timeout=timeout)
    except (OSError, http.client.HTTPException) as error:
        return Unknown(f"no node answers at {metrics}: {explain(error)}")
    if answer.status != 200:
        return Unknown(f"{url} answers {answer.status}: that is no spegel-py, or an older one")
    try:
        return _state(json.loads(answer.body))
    except (ValueError, KeyError, TypeError) as error:
        return Unknown(f"{url} cannot be read: {error!r}")


async def settings(metrics: str, *, timeout: float) -> Mapping[str, Any]:
    """Return the settings that the running node tells; empty if no node answers, or an older one.

    They have the form of flags.
    """
    try:
        answer = await get(f"{metrics}/debug/state", timeout=timeout)
        found = json.loads(answer.body)["settings"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


async def dated(node: NodeState, *, timeout: float) -> NodeState:
    """Return the node's state with the Date headers of a sample of its peers.

    The skew measured at a connection becomes outdated when a clock is changed.
    """
    placed = [peer for peer in node.peers if peer.address]
    chosen = random.sample(placed, min(MAX_DATED, len(placed)))
    dates = await asyncio.gather(*(_date(peer, timeout=timeout) for peer in chosen))
    known = {peer.id: date for peer, date in zip(chosen, dates, strict=True)}
    return replace(node, peers=tuple(replace(peer, date=known.get(peer.id)) for peer in node.peers))


async def _date(peer: PeerState, *, timeout: float) -> float | None:
    """Return the seconds that a peer's Date is ahead, within 1 s; None if there is no answer."""
    began, now = time.monotonic(), time.time()
    try:
        answer = await get(f"http://{peer.address}/livez", timeout=timeout)
        told = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except (OSError, http.client.HTTPException, ValueError, OverflowError):
        return None
    took = time.monotonic() - began
    # The Date is cut to whole seconds, and was taken at some time during the request.
    return told + 0.5 - (now + took / 2) if took < 1.0 else None


async def pull(
    subject: Subject, reference: Reference, digest: Digest, *, timeout: float
) -> Pull | Unknown:
    """Pull a manifest from the node, as containerd does."""
    query = f"ns={quote(reference.registry, safe='')}"
    url = f"{subject.registry}/v2/{reference.repository}/manifests/{digest}?{query}"
    headers = {
        "Authorization": subject.authorization,
        RUNTIME_HEADER: subject.runtime_token,
        CLIENT_HEADER: PullClient.MEASURE.value,  # not asked for a registry's consent
    }
    began = time.monotonic()
    try:
        answer = await get(
            url, headers={name: value for name, value in headers.items() if value}, timeout=timeout
        )
    except (OSError, http.client.HTTPException) as error:
        return Unknown(f"{subject.registry}: {explain(error)}")
    return Pull(
        digest=digest,
        status=answer.status,
        size=len(answer.body),
        is_right=digest.matches(answer.body),
        seconds=time.monotonic() - began,
    )


def _state(given: Any) -> NodeState:
    peers = [
        PeerState(
            str(one["id"]),
            str(one["address"]),
            one.get("skew_seconds"),
            has_proofs=bool(one.get("proofs")),
            has_tls=bool(one.get("tls")),
        )
        for one in given["peers"]
    ]
    store = given.get("store", {})  # not there in older nodes
    replicas = given.get("replicas") or {}
    return NodeState(
        version=str(given["version"]),
        uptime=float(given["uptime_seconds"]),
        ready=bool(given["ready"]),
        reason=given.get("reason"),
        peers=tuple(peers),
        tags=int(given["advertised"]["tags"]),
        digests=int(given["advertised"]["digests"]),
        content=str(store.get("text", "")),
        is_content_well=bool(store.get("is_well", True)),
        others=str(store.get("others", "")),
        floor=int(replicas.get("floor", 0)),
        keepers=int(replicas.get("nodes", 0)),
        disk=float(replicas.get("disk", 0.0)),
        keys=_keys(given.get("cluster_keys")),
        proofs=str(given.get("peer_proofs", "off")),
        tls=_tls(given.get("peer_tls")),
        token=_token(given.get("runtime_token")),
        private=_private(given.get("private_images")),
        preheat=_preheat(given.get("preheat")),
    )


def _keys(found: Any) -> KeysState | None:
    if not found:
        return None
    return KeysState(
        file=str(found["file"]),
        mode=str(found["mode"]),
        fingerprints=tuple(map(str, found["keys"])),
        fault=str(found["fault"]),
        is_public=bool(found["public"]),
        clear=int(found["members"]["clear"]),
    )


def _tls(found: Any) -> TlsState | None:
    if not found:
        return None
    return TlsState(
        folder=str(found["file"]),
        mode=str(found["mode"]),
        fingerprint=str(found["certificates"][0]),
        fault=str(found["fault"]),
        is_public=bool(found["public"]),
        left=float(found["expires"]) - time.time(),
        is_late=time.time() >= float(found["late"]),
    )


def _token(found: Any) -> TokenState | None:
    if not found:
        return None
    return TokenState(
        file=str(found["file"]),
        fingerprints=tuple(map(str, found["tokens"])),
        fault=str(found["fault"]),
        is_public=bool(found["public"]),
    )


def _private(found: Any) -> tuple[tuple[str, str], ...] | None:
    if not found:
        return None
    return tuple((str(registry), str(reason)) for registry, reason in found["faults"].items())


def _preheat(given: Any) -> PreheatState | None:
    if given is None:
        return None
    return PreheatState(
        faults=tuple((str(subject), str(text)) for subject, text in given["faults"].items()),
        list=str(given["list"] or ""),
        socket=str(given["control_socket"] or ""),
    )
