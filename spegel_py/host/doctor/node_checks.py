"""Checks of the running node: its content path, peers, clock, and one pull through it. Pure."""

from __future__ import annotations

from spegel_py.host.doctor.containerd_checks import hosts_folder
from spegel_py.host.doctor.facts import ContentState, Facts, NodeState, PeerState, Pull, Unknown
from spegel_py.host.doctor.findings import Finding, error, ok, warning
from spegel_py.tools.human import plural

SKEW = 2.0
"""Seconds between two clocks that are an error.

The order of log records is no longer known then, and certificates may fail.
"""


RESOLUTION = 1.0
"""Seconds by which a Date header may differ from its clock, and from a measured skew."""

DATE_SKEW = 5.0
"""Seconds between a Date header and this node's clock that are an error."""


def check_node(facts: Facts) -> list[Finding]:
    """Check that a node runs and is ready."""
    start = f"start spegel-py registry, or give --metrics-addr (asked was {facts.subject.metrics})"
    match facts.node:
        case None:
            return []
        case Unknown(reason, remedy):
            return [error("node", reason, remedy or start)]
        case node if not node.ready:
            return [
                warning(
                    "node",
                    f"runs, but is not ready: {node.reason}",
                    "wait, and see spegel-py alerts and its log if it stays so",
                )
            ]
        case node:
            up = f"{node.version}, up {_duration(node.uptime)}"
            told = f"{plural(node.tags, 'tag')} and {plural(node.digests, 'digest')}"
            return [ok("node", f"{up}; advertises {told}")]


def check_peers(facts: Facts) -> list[Finding]:
    """Check that the node has peers."""
    if not isinstance(facts.node, NodeState):
        return []
    if facts.node.peers:
        return [ok("peers", f"{len(facts.node.peers)} connected")]
    return [
        warning(
            "peers",
            "isolated: nobody to ask (right for a single node)",
            "name another node with --static-bootstrap-peers /ip4/ADDRESS/tcp/5001 (or "
            "--bootstrap-kind dns or http) "
            "and let TCP port 5001 through between nodes",
        )
    ]


FULL = 0.75
"""Share of the content's disk from which a node adds no replica, as `replicas` has it."""


def check_replicas(facts: Facts) -> list[Finding]:
    """Check that the floor of replicas can be reached."""
    node = facts.node
    if not isinstance(node, NodeState) or not node.floor:
        return []
    if node.keepers < node.floor:
        return [
            warning(
                "replicas",
                f"a floor of {node.floor} among {plural(node.keepers, 'node')} that keep replicas",
                "set --replica-floor on more nodes, or lower it",
            )
        ]
    if node.disk >= FULL:
        return [
            warning(
                "replicas",
                f"{node.disk:.0%} of the content's disk is in use: no replica is added from "
                f"{FULL:.0%} on, and some are released from 80% on",
                "make room on the disk, or let other nodes keep the replicas",
            )
        ]
    return [ok("replicas", f"a floor of {node.floor} among {plural(node.keepers, 'node')}")]


def check_keys(facts: Facts) -> list[Finding]:
    """Check the cluster's keys, and say which are in use."""
    if not isinstance(facts.node, NodeState) or (keys := facts.node.keys) is None:
        return []
    if keys.fault:
        return [
            error(
                "keys",
                f"{keys.file} cannot be used: {keys.fault}; the keys of before stay in use",
                "mend the file; the node reads it again by itself",
            )
        ]
    if keys.is_public:
        return [
            warning(
                "keys",
                f"every user of this machine can read {keys.file}",
                f"chmod 600 {keys.file}",
            )
        ]
    first, *others = keys.fingerprints
    text = f"{first} is used, and {', '.join(others)} accepted" if others else f"{first} is used"
    if keys.mode == "accept":
        text += f"; {plural(keys.clear, 'peer')} without a key"
    return [ok("keys", text)]


def check_proofs(facts: Facts) -> list[Finding]:
    """Check that all peers use proofs, where proofs are required."""
    node = facts.node
    if not isinstance(node, NodeState) or not node.peers or node.proofs == "off":
        return []
    without = [peer.address or peer.id for peer in node.peers if not peer.has_proofs]
    text = f"with {len(node.peers) - len(without)} of {plural(len(node.peers), 'peer')}"
    if not without or node.proofs != "require":
        return [ok("proofs", text)]
    return [
        warning(
            "proofs",
            f"{text}; the others, such as {without[0]}, are neither asked nor answered",
            "start them with --peer-proofs=prefer or require, or this node with prefer",
        )
    ]


def check_preheat(facts: Facts) -> list[Finding]:
    """Check the pre-heat list, the credentials, and the control socket."""
    preheat = facts.node.preheat if isinstance(facts.node, NodeState) else None
    if preheat is None:
        return []
    if preheat.faults:
        remedy = "mend the file, or see spegel-py preheat ls; the node looks again by itself"
        return [
            warning("preheat", text if text.startswith("--") else f"{subject}: {text}", remedy)
            for subject, text in preheat.faults
        ]
    if not preheat.socket and not preheat.list:
        return []
    listed = f"the list {preheat.list}" if preheat.list else "no list"
    if not preheat.socket:
        return [ok("preheat", f"{listed}; no control socket, so no command reaches the node")]
    return [ok("preheat", f"{listed}; commands at {preheat.socket}")]


def check_clock(facts: Facts) -> list[Finding]:
    """Check that the clocks of this node and its peers agree."""
    if not isinstance(facts.node, NodeState):
        return []
    known = [(ahead, peer.address) for peer in facts.node.peers if (ahead := _ahead(peer))]
    off = sorted(
        ((seconds, address) for (seconds, bound), address in known if abs(seconds) > bound),
        key=lambda one: -abs(one[0]),
    )
    if not known:
        return []
    if not off:
        return [
            ok(
                "clock",
                f"within {max(bound for (_, bound), _ in known):g} s of "
                f"{plural(len(known), 'peer')}",
            )
        ]
    worst, address = off[0]
    text = f"{len(off)} of {len(known)} peers' clocks are off, at most {worst:+.1f} s ({address})"
    machine = address.rpartition(":")[0] or address
    whose = "this node" if len(off) * 2 > len(known) and len(known) > 1 else machine
    return [warning("clock", text, f"on {whose}: timedatectl set-ntp true")]


def _ahead(peer: PeerState) -> tuple[float, float] | None:
    """Return the seconds that a peer's clock is ahead, and the limit for them; None if unknown.

    The skew is exact, but was measured at the connection. A Date header that contradicts it means
    that a clock was changed since.
    """
    if peer.date is None:
        return None if peer.skew is None else (peer.skew, SKEW)
    if peer.skew is not None and abs(peer.date - peer.skew) <= RESOLUTION:
        return peer.skew, SKEW
    return peer.date, DATE_SKEW


def check_pull(facts: Facts) -> list[Finding]:
    """Check that content which containerd holds can be pulled through the node."""
    if facts.pull is None:
        return []
    if isinstance(facts.pull, Unknown):
        start = (
            "start spegel-py registry, or give --registry-addr (asked was "
            f"{facts.subject.registry})"
        )
        return [error("pull", facts.pull.reason, start)]
    return [_pull_finding(facts, facts.pull)]


def _pull_finding(facts: Facts, pull: Pull) -> Finding:
    where, namespace = facts.subject.registry, facts.subject.namespace
    if pull.digest is None:
        text = f"containerd holds no image in namespace {namespace} that could be asked for"
        others = facts.node.others if isinstance(facts.node, NodeState) else ""
        if others:
            return warning(
                "pull",
                f"{text}; {others}",
                f"pull with ctr -n {namespace} images pull --hosts-dir {hosts_folder(facts)} "
                f"IMAGE, with nerdctl -n {namespace}, or with crictl; or start the node with "
                "--containerd-more-namespaces",
            )
        return warning(
            "pull", text, "pull one and try again: crictl pull registry.k8s.io/pause:3.10"
        )
    if pull.status == 401:
        return error(
            "pull",
            f"{where} wants a user name and a password",
            "put them in /etc/secrets/basic-auth",
        )
    if pull.status == 403:
        return error(
            "pull",
            f"{where} serves only this machine's containerd, which sends the runtime token",
            "run this as root, or see runtime_token",
        )
    if pull.status != 200:
        text = f"{where} answers {pull.status} for {pull.digest}, which containerd holds"
        return error(
            "pull",
            text,
            "see the node's log, and spegel-py status for the containerd that it reads",
        )
    if not pull.is_right:
        look = (
            f"ctr -n {namespace} content get {pull.digest} | sha256sum tells whether the disk is "
            "bad"
        )
        return error("pull", f"{where} sent wrong bytes for {pull.digest}", look)
    return ok(
        "pull",
        f"{pull.digest} ({pull.size} bytes) from {where} in {pull.seconds * 1000:.0f} ms, verified",
    )


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


CONTENT_CHECK = "content_path"


def check_content(facts: Facts) -> list[Finding]:
    """Check that the content path is readable, and belongs to this containerd."""
    path = facts.subject.content_path
    node = facts.node if isinstance(facts.node, NodeState) else None
    match facts.content:
        case None:
            return []
        # The running node's own words go first: its answers must not be contradicted.
        case ContentState() as found if node and not node.is_content_well:
            return [warning(CONTENT_CHECK, node.content, _content_remedy(found))]
        case Unknown(reason, _):
            return [
                error(
                    CONTENT_CHECK, f"{path}: {reason}", "see that the disk answers, or set it none"
                )
            ]
        case found if path is None:
            return [ok(CONTENT_CHECK, "not mounted: blobs are read through containerd's socket")]
        case found if found.problem:
            return [_problem(found)]
        case found:
            return [_content_finding(facts, found)]


def _problem(found: ContentState) -> Finding:
    """Return the finding for a folder that cannot be used: the node does without it."""
    if found.root is None:
        instead = "a node asks containerd for its own folder, once that answers"
    else:
        reads = found.root if found.is_root_readable else "containerd's socket"
        instead = f"a node reads {reads} instead"
    return warning(CONTENT_CHECK, f"{found.problem}; {instead}", _content_remedy(found))


def _content_finding(facts: Facts, found: ContentState) -> Finding:
    path = facts.subject.content_path
    if found.sample is None:
        return warning(
            CONTENT_CHECK,
            f"{path} can be read, but whose it is cannot be told",
            "see what is said of containerd",
        )
    if found.sample == 0:
        namespace = facts.subject.namespace
        return ok(
            CONTENT_CHECK,
            f"{path} can be read; containerd holds nothing in namespace {namespace} yet",
        )
    if found.found == 0:
        return warning(
            CONTENT_CHECK,
            f"the content path {path} holds none of containerd's blobs",
            _content_remedy(found),
        )
    return ok(CONTENT_CHECK, f"{path} holds what containerd lists")


def _content_remedy(found: ContentState) -> str:
    if found.root is None or found.advice.startswith("run as root"):
        return found.advice or "see what is said of containerd"
    return (
        f"start the node with --containerd-content-path {found.root} (as the machine sees it), or "
        "none to read through the socket; without it downloads under way are not shared"
    )
