"""All targets."""

from __future__ import annotations

from tests.fuzz.target import Target
from tests.fuzz.targets import (
    host,
    http,
    libp2p,
    oci,
    peers,
    preheat,
    pull,
    replicas,
    yamux,
)

ALL: tuple[Target, ...] = (
    *libp2p.TARGETS,
    *yamux.TARGETS,
    *http.TARGETS,
    *peers.TARGETS,
    *oci.TARGETS,
    *host.TARGETS,
    *pull.TARGETS,
    *replicas.TARGETS,
    *preheat.TARGETS,
)
