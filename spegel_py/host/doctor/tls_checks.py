"""Check of the certificates between peers. Pure."""

from __future__ import annotations

from spegel_py.host.doctor.facts import Facts, NodeState
from spegel_py.host.doctor.findings import Finding, error, ok, warning
from spegel_py.tools.human import plural

TLS = "tls"
DAY = 24 * 3600


def check_tls(facts: Facts) -> list[Finding]:
    """Check the certificates between peers, and that peers have TLS where it is required."""
    node = facts.node
    if not isinstance(node, NodeState) or (tls := node.tls) is None:
        return []
    if tls.fault:
        return [
            error(
                TLS,
                f"{tls.fault}: the certificate {tls.fingerprint} stays in use",
                "mend the files; the node reads them again by itself",
            )
        ]
    if tls.is_public:
        text = f"every user of this machine can read the key in {tls.folder}"
        return [warning(TLS, text, f"chmod 600 {tls.folder}/tls.key")]
    if tls.is_late:
        text = f"the certificate {tls.fingerprint} ends in {plural(int(tls.left // DAY), 'day')}"
        return [
            warning(TLS, text, "renew it, and replace the files; the node reads them by itself")
        ]
    without = [peer.address or peer.id for peer in node.peers if not peer.has_tls]
    text = f"with {len(node.peers) - len(without)} of {plural(len(node.peers), 'peer')}"
    if without and tls.mode == "require":
        return [
            warning(
                TLS,
                f"{text}; the others, such as {without[0]}, are neither asked nor answered",
                "start them with --peer-tls, or this node with --peer-tls-mode=accept",
            )
        ]
    return [ok(TLS, f"{text}; {tls.fingerprint} ends in {plural(int(tls.left // DAY), 'day')}")]
