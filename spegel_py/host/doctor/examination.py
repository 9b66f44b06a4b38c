"""An examination: all facts are gathered at the same time, each with a deadline, then judged."""

from __future__ import annotations

import structlog

from spegel_py.host.doctor.containerd_checks import (
    check_config_path,
    check_containerd,
    check_discard,
)
from spegel_py.host.doctor.door_checks import check_port, check_private, check_token
from spegel_py.host.doctor.facts import Facts, Subject
from spegel_py.host.doctor.findings import Finding, Level
from spegel_py.host.doctor.gather import gather
from spegel_py.host.doctor.hosts_checks import check_hosts, check_set_aside
from spegel_py.host.doctor.node_checks import (
    check_clock,
    check_content,
    check_keys,
    check_node,
    check_peers,
    check_preheat,
    check_proofs,
    check_pull,
    check_replicas,
)
from spegel_py.host.doctor.proxies import check_proxy
from spegel_py.host.doctor.tls_checks import check_tls

log = structlog.get_logger(__name__)

CHECKS = (
    check_containerd,
    check_config_path,
    check_discard,
    check_hosts,
    check_proxy,
    check_set_aside,
    check_content,
    check_node,
    check_peers,
    check_keys,
    check_proofs,
    check_tls,
    check_token,
    check_port,
    check_private,
    check_replicas,
    check_preheat,
    check_clock,
    check_pull,
)


async def examine(subject: Subject) -> list[Finding]:
    """Return the findings in the order in which problems should be repaired.

    It takes a few seconds at most, even if something hangs.
    """
    return judge(await gather(subject))


async def warn(subject: Subject) -> None:
    """Log the problems of the machine at the start of a node; never raises."""
    try:
        findings = judge(await gather(subject, from_inside=True))
    except Exception as error:  # noqa: BLE001 - advice must not end the node
        log.warning("doctor failed", error=repr(error))
        return
    for finding in findings:
        if finding.level is not Level.OK:
            log.warning("doctor", check=finding.check, finding=finding.text, remedy=finding.remedy)


def judge(facts: Facts) -> list[Finding]:
    """Return the findings of all checks. Pure."""
    return [finding for check in CHECKS for finding in check(facts)]
