"""Checks of the runtime's door: containerd has the token, others do not reach the port. Pure."""

from __future__ import annotations

from spegel_py.host.doctor.facts import Facts, HostsFile, NodeState, TokenState
from spegel_py.host.doctor.findings import Finding, error, ok, warning
from spegel_py.host.doctor.hosts_command import command
from spegel_py.tools.addresses import is_loopback, split_host_port

TOKEN, PORT, PRIVATE = "runtime_token", "runtime_addr", "private_images"


def check_token(facts: Facts) -> list[Finding]:
    """Check that the node's token file is usable, and that hosts.toml has one of its tokens."""
    if not isinstance(facts.node, NodeState) or (state := facts.node.token) is None:
        return []
    if state.fault and not state.fingerprints:
        reason, _, remedy = state.fault.partition("; ")
        return [error(TOKEN, f"{reason}: the node refuses its own containerd", remedy)]
    if state.fault:
        reason, _, remedy = state.fault.partition("; ")
        return [error(TOKEN, f"{reason}; the tokens of before stay in use", remedy)]
    if state.is_public:
        text = f"every user of this machine can read {state.file}"
        return [warning(TOKEN, text, f"chmod 600 {state.file}")]
    files = facts.hosts if isinstance(facts.hosts, tuple) else ()
    refused = [found for file in files if (found := _refused(file, state))]
    if refused:
        return [error(TOKEN, refused[0], command(facts))]
    seen = any(file.ours for file in files)
    where = "hosts.toml has it" if seen else "hosts.toml is not seen from here"
    return [ok(TOKEN, f"{state.fingerprints[0]} is the newest; {where}")]


def check_port(facts: Facts) -> list[Finding]:
    """Check that the runtime's own port is closed to other machines."""
    subject = facts.subject
    if not subject.runtime_addr:
        return []
    has_token = isinstance(facts.node, NodeState) and facts.node.token is not None
    found = error if not has_token else warning
    if answering := [(url, text) for url, text, is_up in facts.closed if is_up]:
        url, text = answering[0]
        kept = "; the token still refuses them" if has_token else ""
        return [
            found(
                PORT,
                f"{url} answers ({text}): others reach the port that is for containerd{kept}",
                "see that the network plugin binds a hostPort to its hostIP, or close the port "
                "with a firewall",
            )
        ]
    if facts.closed:
        return [ok(PORT, f"closed at {', '.join(url for url, _, _ in facts.closed)}")]
    host, port = split_host_port(subject.runtime_addr)
    if host and is_loopback(host):
        return [ok(PORT, f"{subject.runtime_addr}: only this machine reaches it")]
    if has_token or subject.is_in_pod:
        return (
            [ok(PORT, f"{subject.runtime_addr}, for clients with the token")] if has_token else []
        )
    return [
        warning(
            PORT,
            f"{subject.runtime_addr} is open to every machine that reaches this one",
            f"--runtime-addr 127.0.0.1:{port}, or --runtime-token",
        )
    ]


def check_private(facts: Facts) -> list[Finding]:
    """Check that the node can ask registries about private images, and that peers are proven."""
    if not isinstance(facts.node, NodeState) or (faults := facts.node.private) is None:
        return []
    if faults:
        registry, reason = faults[0]
        more = f", and {len(faults) - 1} more," if faults[1:] else ""
        return [
            warning(
                PRIVATE,
                f"{registry}{more} cannot be asked: {reason}; its private images come from itself",
                "let this machine reach the registry and read its certificates; list it in "
                "--mirrored-registries if it is an address, or in --public-registries",
            )
        ]
    if facts.node.proofs != "require":
        return [
            warning(
                PRIVATE,
                "whoever reaches the port of the peers reads private images there",
                "--peer-proofs require",
            )
        ]
    return [ok(PRIVATE, "given with the consent of their registries")]


def _refused(file: HostsFile, state: TokenState) -> str:
    """Return why the node refuses what containerd sends by this file; empty if it does not."""
    ours = file.ours
    if ours is None or ours.token in state.fingerprints:
        return ""
    what = "no token" if ours.token is None else "another token"
    return f"{file.path} has {what} for {ours.url}: the node refuses its own containerd"
