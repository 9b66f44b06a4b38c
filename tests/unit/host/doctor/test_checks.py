"""The doctor's finding for every kind of fact, and its output."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spegel_py.host.doctor import Finding, Level, Subject, local_url
from spegel_py.host.doctor.containerd_checks import (
    check_config_path,
    check_containerd,
    check_discard,
)
from spegel_py.host.doctor.door_checks import check_port, check_private, check_token
from spegel_py.host.doctor.examination import judge
from spegel_py.host.doctor.facts import (
    ContentState,
    Facts,
    FileSettings,
    HostsFile,
    KeysState,
    MirrorHost,
    NodeState,
    PeerState,
    PreheatState,
    Pull,
    TlsState,
    TokenState,
    Unknown,
)
from spegel_py.host.doctor.findings import as_json, as_lines, status
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
from spegel_py.host.doctor.tls_checks import check_tls
from spegel_py.oci.digest import Digest
from spegel_py.store.containerd import CriStatus, ImageSettings

CERTS = Path("/etc/containerd/certs.d")
SUBJECT = Subject(
    socket=Path("/run/c.sock"),
    namespace="k8s.io",
    content_path=Path("/content"),
    containerd_config=Path("/etc/containerd/config.toml"),
    registry="http://127.0.0.1:5000",
    metrics="http://127.0.0.1:9090",
    certs=CERTS,
)
IMAGES = ImageSettings(config_path=str(CERTS), discards_layers=False)
OURS = MirrorHost(
    "http://127.0.0.1:5000",
    frozenset({"pull", "resolve"}),
    is_spegel=True,
    answer="200 from spegel-py",
)
OTHER = MirrorHost("http://cache:5000", frozenset({"pull"}), answer="Connection refused")
HOSTS = HostsFile(registry="_default", path=CERTS / "_default" / "hosts.toml", mirrors=(OURS,))
PEER = PeerState("12D3A", "10.0.0.2:5000", 0.1)
NODE = NodeState(
    version="1.0", uptime=5.0, ready=True, reason=None, peers=(PEER,), tags=3, digests=40
)
PULL = Pull(digest=Digest.of(b"x"), status=200, size=1, is_right=True, seconds=0.003)
RIGHT = Facts(
    subject=SUBJECT,
    version="v2.4.2",
    cri=CriStatus(True, IMAGES),
    file=FileSettings(3, IMAGES),
    hosts=(HOSTS,),
    content=ContentState(root=Path("/content"), sample=8, found=8),
    node=NODE,
    pull=PULL,
)
AWAY = Unknown("no answer within 3 s")

Check = Callable[[Facts], list[Finding]]


def only(check: Check, **changes: Any) -> Finding:
    """Return the one finding of a check where these facts are different."""
    [finding] = check(replace(RIGHT, **changes))
    assert (finding.remedy is None) == (finding.level is Level.OK)
    return finding


def with_images(
    version: str = "v2.4.2", file: FileSettings | Unknown | None = None, **images: Any
) -> dict[str, Any]:
    told = CriStatus(True, replace(IMAGES, **images))
    return {"version": version, "cri": told, "file": file or Unknown("there is none")}


def test_a_node_that_works_has_every_check_ok() -> None:
    """Each of the nine checks says so in one line, and the exit status is 0."""
    findings = judge(RIGHT)
    assert [one.check for one in findings] == [
        *("containerd", "config_path", "discard_unpacked_layers", "hosts.toml", "content_path"),
        *("node", "peers", "clock", "pull"),
    ]
    assert {one.level for one in findings} == {Level.OK}
    assert status(findings) == 0


def test_what_was_not_looked_at_is_not_judged() -> None:
    """Without facts there are no findings."""
    assert judge(Facts(subject=SUBJECT)) == []


@pytest.mark.parametrize(
    ("version", "level", "said"),
    [
        pytest.param("v2.4.2", Level.OK, "v2.4.2 at /run/c.sock", id="new"),
        pytest.param("2.1.0-rc.1", Level.OK, "2.1.0-rc.1 at /run/c.sock", id="tells layers"),
        pytest.param("1.6.20~ds1", Level.OK, "(2.1+: one by one)", id="oldest"),
        pytest.param("1.5.13", Level.WARNING, "older than any", id="too old"),
        pytest.param("dirty", Level.WARNING, "'dirty'", id="not a version"),
        pytest.param(AWAY, Level.ERROR, "no answer", id="away"),
        pytest.param(Unknown("no socket", "start it"), Level.ERROR, "no socket", id="absent"),
    ],
)
def test_containerd(version: str | Unknown, level: Level, said: str) -> None:
    """The version is named; an old one is a warning, a missing one an error."""
    finding = only(check_containerd, version=version)
    assert (finding.check, finding.level) == ("containerd", level)
    assert said in finding.text


def test_the_version_that_tells_each_layer_needs_no_remark() -> None:
    """From 2.1 on nothing differs."""
    assert only(check_containerd, version="v2.1.0").text == "v2.1.0 at /run/c.sock"


@pytest.mark.parametrize(
    ("facts", "level", "said", "remedy"),
    [
        pytest.param(with_images(), Level.OK, f"{CERTS} (by the running daemon)", None, id="right"),
        pytest.param(
            with_images(config_path=""),
            Level.ERROR,
            "not set",
            '"io.containerd.cri.v1.images".reg',
            id="unset",
        ),
        pytest.param(
            with_images("1.7.35", config_path=""),
            Level.ERROR,
            "not set",
            '"io.containerd.grpc.v1.cri".reg',
            id="unset 1.x",
        ),
        pytest.param(
            with_images("v2.1.0", FileSettings(2, IMAGES), config_path=""),
            *(Level.ERROR, "not set", '"io.containerd.grpc.v1.cri".reg'),
            id="unset in a file of version 2",
        ),
        pytest.param(
            with_images("1.6.20", FileSettings(1, IMAGES), config_path=""),
            *(Level.ERROR, "not set", "[plugins.cri.registry] config_path"),
            id="unset in a file of version 1",
        ),
        pytest.param(
            with_images("1.7.35", config_path="", has_mirrors=True),
            *(Level.ERROR, "not set", "take registry.mirrors out"),
            id="mirrors instead",
        ),
        pytest.param(
            with_images(config_path="/other"),
            *(
                Level.ERROR,
                "/other (by the running daemon), but",
                "--containerd-registry-config-path /other",
            ),
            id="another folder",
        ),
        pytest.param(
            with_images("1.7.35", config_path=f"{CERTS}:/etc/docker/certs.d"),
            *(Level.OK, f"{CERTS}:/etc/docker/certs.d", None),
            id="a list before 2.1",
        ),
        pytest.param(
            with_images("1.7.35", config_path=f"/etc/docker/certs.d:{CERTS}/"),
            *(
                Level.WARNING,
                "what lies in /etc/docker/certs.d goes before",
                "--containerd-registry-config-path /etc/docker/certs.d",
            ),
            id="not first",
        ),
        pytest.param(
            with_images(config_path=f"{CERTS}:/etc/docker/certs.d"),
            *(Level.ERROR, "takes this list for one folder", f'config_path = "{CERTS}"'),
            id="a list since 2.1",
        ),
        pytest.param(
            with_images(
                config_path=f"{CERTS}:/etc/docker/certs.d",
                file=FileSettings(3, replace(IMAGES, pulls_locally=True)),
            ),
            *(Level.OK, f"{CERTS}:/etc/docker/certs.d", None),
            id="a list where containerd pulls locally",
        ),
        pytest.param(
            {"cri": CriStatus(is_served=False)},
            Level.WARNING,
            "serves no CRI",
            "disabled_plugins",
            id="no CRI",
        ),
    ],
)
def test_config_path(facts: dict[str, Any], level: Level, said: str, remedy: str | None) -> None:
    """It must be the folder that is written to, and the only one since 2.1; the remedy names table
    and value.
    """
    finding = only(check_config_path, **facts)
    assert (finding.check, finding.level) == ("config_path", level)
    assert said in finding.text
    assert (remedy is None) or remedy in (finding.remedy or "")


UNTOLD = CriStatus(is_served=True)


@pytest.mark.parametrize(
    ("version", "images", "level", "said"),
    [
        pytest.param("v2.0.0", IMAGES, Level.OK, "by /etc/containerd/config.toml", id="set"),
        pytest.param(
            "v2.1.0", replace(IMAGES, config_path=""), Level.ERROR, "not set", id="no default"
        ),
        pytest.param(
            "v2.2.0",
            replace(IMAGES, config_path=""),
            Level.ERROR,
            "/etc/docker/certs.d",
            id="default list",
        ),
        pytest.param(
            *("v2.2.0", replace(IMAGES, config_path="", has_mirrors=True), Level.ERROR, "not set"),
            id="mirrors",
        ),
    ],
)
def test_the_file_is_asked_where_the_daemon_does_not_tell(
    version: str, images: ImageSettings, level: Level, said: str
) -> None:
    """2.0 to 2.3 do not tell; from 2.2 on a default fills in where nothing is set."""
    finding = only(check_config_path, version=version, cri=UNTOLD, file=FileSettings(3, images))
    assert finding.level is level
    assert said in finding.text


@pytest.mark.parametrize("cri", [UNTOLD, AWAY], ids=["does not tell", "away"])
def test_settings_that_nobody_tells_are_a_warning(cri: CriStatus | Unknown) -> None:
    """Neither daemon nor file: it is said once, with both reasons."""
    facts: dict[str, Any] = {"cri": cri, "file": Unknown("no such file")}
    finding = only(check_config_path, **facts)
    assert finding.level is Level.WARNING
    assert "no such file" in finding.text
    assert "--containerd-config" in (finding.remedy or "")
    assert check_discard(replace(RIGHT, cri=cri, file=Unknown("no such file"))) == []


def test_any_folder_will_do_for_a_node_that_does_not_know_who_writes() -> None:
    """At the start of a node no folder is wanted; none at all is still wrong."""
    anywhere = replace(SUBJECT, certs=None)
    assert (
        only(check_config_path, subject=anywhere, **with_images(config_path="/other")).level
        is Level.OK
    )
    assert (
        only(check_config_path, subject=anywhere, **with_images(config_path="")).level
        is Level.ERROR
    )


@pytest.mark.parametrize(
    ("version", "table"),
    [
        ("v2.4.2", '[plugins."io.containerd.cri.v1.images"]'),
        ("1.6.20", '[plugins."io.containerd.grpc.v1.cri".containerd]'),
    ],
)
def test_layers_that_are_discarded_are_an_error(version: str, table: str) -> None:
    """The remedy names the table of this version."""
    finding = only(check_discard, **with_images(version, discards_layers=True))
    assert finding.level is Level.ERROR
    assert f"{table} discard_unpacked_layers = false" in (finding.remedy or "")


@pytest.mark.parametrize(
    ("hosts", "level", "said"),
    [
        pytest.param(HOSTS, Level.OK, "points at http://127.0.0.1:5000, which answers", id="right"),
        pytest.param(
            replace(HOSTS, mirrors=(replace(OURS, capabilities=frozenset({"pull"})),)),
            *(Level.OK, "tags are resolved upstream"),
            id="digests only",
        ),
        pytest.param(
            HostsFile(registry="_default"), Level.ERROR, "none for all registries", id="none"
        ),
        pytest.param(
            HostsFile(registry="docker.io"), Level.ERROR, "none for docker.io", id="none for one"
        ),
        pytest.param(replace(HOSTS, problem="bad TOML"), Level.ERROR, "bad TOML", id="unreadable"),
        pytest.param(replace(HOSTS, mirrors=()), Level.ERROR, "it names no host", id="no host"),
        pytest.param(
            replace(HOSTS, mirrors=(OTHER,)), Level.ERROR, "Connection refused", id="no answer"
        ),
        pytest.param(
            replace(HOSTS, mirrors=(replace(OURS, capabilities=frozenset({"resolve"})),)),
            *(Level.ERROR, "does not let http://127.0.0.1:5000 pull"),
            id="no pull",
        ),
        pytest.param(
            replace(HOSTS, mirrors=(OTHER, OURS)),
            Level.WARNING,
            "http://cache:5000 asked before",
            id="second",
        ),
    ],
)
def test_hosts_toml(hosts: HostsFile, level: Level, said: str) -> None:
    """It must be there, name this node first and let it pull, and the node must answer."""
    finding = only(check_hosts, hosts=(hosts,))
    assert (finding.check, finding.level) == ("hosts.toml", level)
    assert said in finding.text


def test_a_mirror_that_keeps_containerd_waiting_is_named() -> None:
    """Wherever it stands: after this node too, and in a folder beside the default; once for all
    files.
    """
    deaf = replace(
        OTHER, answer="takes connections, but gives no answer within 2 s", is_silent=True
    )
    files = (
        replace(HOSTS, mirrors=(OURS, deaf)),
        replace(
            HOSTS,
            registry="ghcr.io",
            path=CERTS / "ghcr.io" / "hosts.toml",
            mirrors=(deaf,),
            is_asked=False,
        ),
    )
    right, bypassed, found = check_hosts(replace(RIGHT, hosts=files))
    assert (right.level, found.level, bypassed.level) == (Level.OK, Level.ERROR, Level.WARNING)
    assert (
        f"{CERTS}/_default/hosts.toml names http://cache:5000, which takes connections, but"
        in found.text
    )
    assert "[host.'http://cache:5000']" in (found.remedy or "")


def test_registries_that_bypass_the_default_are_named() -> None:
    """A folder of its own without this node takes a registry out of the mirror; one with it does
    not.
    """
    beside = replace(HOSTS, registry="ghcr.io", is_asked=False)
    right, warned = check_hosts(
        replace(RIGHT, hosts=(HOSTS, beside, HostsFile(registry="docker.io", is_asked=False)))
    )
    assert right.level is Level.OK
    assert warned.level is Level.WARNING
    assert "docker.io" in warned.text
    assert "ghcr.io" not in warned.text
    unset = (HostsFile(registry="_default"), HostsFile(registry="docker.io", is_asked=False))
    assert only(check_hosts, hosts=unset).level is Level.ERROR


def test_settings_that_are_set_aside_are_named() -> None:
    """It is a warning that names the registries, and the whole command that keeps them."""
    found = only(check_set_aside, set_aside=("ghcr.io", "_default"))
    assert (found.check, found.level) == ("set_aside", Level.WARNING)
    assert f"set up for ghcr.io, _default (in {CERTS}/_backup)" in found.text
    kept = "--mirrored-registries _default https://ghcr.io --prepend-existing"
    assert (found.remedy or "").endswith(kept)
    assert check_set_aside(replace(RIGHT, set_aside=AWAY)) == check_set_aside(RIGHT) == []


def test_a_folder_that_cannot_be_read_is_an_error_with_the_command_that_writes_it() -> None:
    """The command has the registries and the folder in it; in a pod the folder may just not be
    mounted.
    """
    subject = replace(SUBJECT, registries=("docker.io", "http://10.0.0.9:5000"))
    finding = only(check_hosts, subject=subject, hosts=Unknown("not there"))
    assert finding.level is Level.ERROR
    assert finding.remedy == (
        "spegel-py configuration --mirror-targets http://127.0.0.1:5000 "
        "--mirrored-registries docker.io http://10.0.0.9:5000"
    )
    assert (
        only(check_hosts, subject=replace(SUBJECT, is_in_pod=True), hosts=AWAY).level
        is Level.WARNING
    )


@pytest.mark.parametrize(
    ("content", "level", "said"),
    [
        pytest.param(
            ContentState(sample=8, found=7), Level.OK, "holds what containerd lists", id="right"
        ),
        pytest.param(
            ContentState(sample=0), Level.OK, "holds nothing in namespace k8s.io yet", id="empty"
        ),
        pytest.param(
            ContentState(sample=8, root=Path("/x")),
            Level.WARNING,
            "holds none of containerd's blobs",
            id="another containerd's",
        ),
        pytest.param(
            ContentState(sample=8),
            *(Level.WARNING, "none of containerd's blobs"),
            id="another's, root not told",
        ),
        pytest.param(
            ContentState(), Level.WARNING, "whose it is cannot be told", id="containerd away"
        ),
        pytest.param(
            ContentState(problem="no folder", advice="mount it"),
            Level.WARNING,
            "no folder; a node asks containerd for its own folder",
            id="absent",
        ),
        pytest.param(AWAY, Level.ERROR, "no answer", id="hangs"),
    ],
)
def test_content_path(content: ContentState | Unknown, level: Level, said: str) -> None:
    """It must be readable, and hold what the daemon lists."""
    finding = only(check_content, content=content)
    assert (finding.check, finding.level) == ("content_path", level)
    assert said in finding.text


def test_the_remedy_names_where_the_daemon_says_its_content_is() -> None:
    """Unless it is the user who may not read it."""
    problem = ContentState(problem="no folder", advice="mount it", root=Path("/var/lib/other"))
    assert "--containerd-content-path /var/lib/other" in (
        only(check_content, content=problem).remedy or ""
    )
    denied = replace(problem, advice="run as root")
    assert only(check_content, content=denied).remedy == "run as root"


def test_a_content_path_that_is_not_mounted_is_right() -> None:
    """Blobs then come through the socket."""
    subject = replace(SUBJECT, content_path=None)
    assert only(check_content, subject=subject, content=ContentState()).level is Level.OK


@pytest.mark.parametrize(
    ("node", "level", "said"),
    [
        pytest.param(NODE, Level.OK, "up 5 s; advertises 3 tags and 40 digests", id="right"),
        pytest.param(replace(NODE, uptime=5400.0), Level.OK, "up 1.5 h", id="hours"),
        pytest.param(replace(NODE, uptime=172800.0), Level.OK, "up 2.0 d", id="days"),
        pytest.param(
            replace(NODE, ready=False, reason="no table"), Level.WARNING, "no table", id="not ready"
        ),
        pytest.param(
            replace(NODE, ready=False, reason="no peer is connected", peers=()),
            *(Level.WARNING, "not ready: no peer is connected"),
            id="alone",
        ),
        pytest.param(AWAY, Level.ERROR, "no answer", id="away"),
    ],
)
def test_node(node: NodeState | Unknown, level: Level, said: str) -> None:
    """It must run and be ready; that it is alone is said of its peers."""
    finding = only(check_node, node=node)
    assert (finding.check, finding.level) == ("node", level)
    assert said in finding.text


@pytest.mark.parametrize(
    ("keepers", "disk", "level", "said"),
    [
        (3, 0.5, Level.OK, "a floor of 3 among 3 nodes"),
        (2, 0.5, Level.WARNING, "a floor of 3 among 2 nodes"),
        (3, 0.76, Level.WARNING, "76% of the content's disk is in use"),
    ],
)
def test_replicas(keepers: int, disk: float, level: Level, said: str) -> None:
    """A floor that cannot be reached is a warning; without a floor nothing is said."""
    finding = only(check_replicas, node=replace(NODE, floor=3, keepers=keepers, disk=disk))
    assert (finding.check, finding.level) == ("replicas", level)
    assert said in finding.text
    assert check_replicas(RIGHT) == []


@pytest.mark.parametrize(
    ("mode", "known", "level", "text"),
    [
        ("prefer", [True, False], Level.OK, "with 1 of 2 peers"),
        ("require", [True, True], Level.OK, "with 2 of 2 peers"),
        ("require", [True, False], Level.WARNING, "such as 10.0.0.1:5000, are neither asked"),
    ],
)
def test_proofs(mode: str, known: list[bool], level: Level, text: str) -> None:
    """Peers without proofs are a fault only where proofs are required."""
    peers = [
        PeerState(str(number), f"10.0.0.{number}:5000", None, has_proofs=does)
        for number, does in enumerate(known)
    ]
    finding = only(check_proofs, node=replace(NODE, proofs=mode, peers=tuple(peers)))
    assert finding.level is level
    assert text in finding.text
    assert check_proofs(RIGHT) == []


KEYS = KeysState(
    file="/etc/keys",
    mode="require",
    fingerprints=("11aa22bb", "33cc44dd"),
    fault="",
    is_public=False,
    clear=0,
)


@pytest.mark.parametrize(
    ("keys", "level", "text"),
    [
        (KEYS, Level.OK, "11aa22bb is used, and 33cc44dd accepted"),
        (replace(KEYS, fingerprints=("11aa22bb",)), Level.OK, "11aa22bb is used"),
        (replace(KEYS, mode="accept", clear=2), Level.OK, "accepted; 2 peers without a key"),
        (replace(KEYS, is_public=True), Level.WARNING, "every user of this machine can read"),
        (replace(KEYS, fault="it has no key"), Level.ERROR, "/etc/keys cannot be used: it has no"),
    ],
)
def test_cluster_keys(keys: KeysState, level: Level, text: str) -> None:
    finding = only(check_keys, node=replace(NODE, keys=keys))
    assert finding.level is level
    assert text in finding.text
    assert check_keys(RIGHT) == []


LASTS = 30 * 24 * 3600.0
TLS = TlsState(
    folder="/tls",
    mode="require",
    fingerprint="11aa22bb",
    fault="",
    is_public=False,
    left=LASTS,
    is_late=False,
)


@pytest.mark.parametrize(
    ("state", "peers", "level", "text"),
    [
        (TLS, [True, True], Level.OK, "with 2 of 2 peers; 11aa22bb ends in 30 days"),
        (TLS, [True, False], Level.WARNING, "such as 10.0.0.1:5000, are neither asked"),
        (replace(TLS, mode="accept"), [True, False], Level.OK, "with 1 of 2 peers"),
        (
            replace(TLS, left=LASTS / 10, is_late=True),
            [True],
            Level.WARNING,
            "11aa22bb ends in 3 days",
        ),
        (replace(TLS, is_public=True), [True], Level.WARNING, "can read the key in /tls"),
        (replace(TLS, fault="/tls/ca.crt: no"), [True], Level.ERROR, "11aa22bb stays in use"),
    ],
)
def test_tls(state: TlsState, peers: list[bool], level: Level, text: str) -> None:
    """Peers without TLS are a fault only where TLS is required."""
    found = [
        PeerState(str(number), f"10.0.0.{number}:5000", None, has_tls=has)
        for number, has in enumerate(peers)
    ]
    finding = only(check_tls, node=replace(NODE, tls=state, peers=tuple(found)))
    assert finding.level is level
    assert text in finding.text
    assert check_tls(RIGHT) == []


TOKEN = TokenState(
    file="/data/token", fingerprints=("11aa22bb", "33cc44dd"), fault="", is_public=False
)


@pytest.mark.parametrize(
    ("state", "sent", "level", "text"),
    [
        (TOKEN, "11aa22bb", Level.OK, "11aa22bb is the newest; hosts.toml has it"),
        (TOKEN, "33cc44dd", Level.OK, "11aa22bb is the newest; hosts.toml has it"),
        (TOKEN, None, Level.ERROR, "hosts.toml has no token for http://127.0.0.1:5000"),
        (TOKEN, "55ee66ff", Level.ERROR, "hosts.toml has another token for http://127.0.0.1:5000"),
        (replace(TOKEN, is_public=True), "11aa22bb", Level.WARNING, "every user of this machine"),
        (replace(TOKEN, fault="/f: no; mend it"), "11aa22bb", Level.ERROR, "tokens of before stay"),
        (
            replace(TOKEN, fault="/f: no; mend it", fingerprints=()),
            "11aa22bb",
            Level.ERROR,
            "/f: no: the node refuses its own containerd",
        ),
    ],
)
def test_the_runtime_token(state: TokenState, sent: str | None, level: Level, text: str) -> None:
    """An error's remedy is the command that writes a new token, or mends the file."""
    files = (replace(HOSTS, mirrors=(replace(OURS, node="node-1", token=sent),)),)
    finding = only(check_token, node=replace(NODE, token=state), hosts=files)
    assert finding.level is level
    assert text in finding.text
    if level is Level.ERROR and not state.fault:
        assert "--runtime-token /data/token" in (finding.remedy or "")
    assert check_token(RIGHT) == []


def test_without_hosts_toml_the_runtime_token_is_only_told() -> None:
    finding = only(check_token, node=replace(NODE, token=TOKEN), hosts=Unknown("a pod"))
    assert finding.text == "11aa22bb is the newest; hosts.toml is not seen from here"


@pytest.mark.parametrize(
    ("address", "closed", "has_token", "level", "text"),
    [
        ("127.0.0.1:5002", (), False, Level.OK, "only this machine reaches it"),
        (":5002", (), True, Level.OK, "for clients with the token"),
        (":5002", (), False, Level.WARNING, "open to every machine"),
        (":5002", (False,), False, Level.OK, "closed at http://10.0.0.7:30020"),
        (":5002", (True,), False, Level.ERROR, "http://10.0.0.7:30020 answers (403 from it)"),
        (":5002", (True,), True, Level.WARNING, "the token still refuses them"),
    ],
)
def test_the_runtimes_port(
    address: str, closed: tuple[bool, ...], has_token: bool, level: Level, text: str
) -> None:
    """A host port that ignores its address is found by asking there."""
    finding = only(
        check_port,
        subject=replace(SUBJECT, runtime_addr=address),
        node=replace(NODE, token=TOKEN if has_token else None),
        closed=tuple(("http://10.0.0.7:30020", "403 from it", each) for each in closed),
    )
    assert (finding.check, finding.level) == ("runtime_addr", level)
    assert text in finding.text
    assert check_port(RIGHT) == []


@pytest.mark.parametrize(
    ("faults", "proofs", "level", "text"),
    [
        ((), "require", Level.OK, "with the consent of their registries"),
        ((), "prefer", Level.WARNING, "whoever reaches the port of the peers"),
        ((("r.io", "no TLS"),), "require", Level.WARNING, "r.io cannot be asked: no TLS"),
        ((("r.io", "no TLS"), ("b", "c")), "require", Level.WARNING, "r.io, and 1 more, cannot"),
    ],
)
def test_private_images(
    faults: tuple[tuple[str, str], ...], proofs: str, level: Level, text: str
) -> None:
    finding = only(check_private, node=replace(NODE, private=faults, proofs=proofs))
    assert (finding.check, finding.level) == ("private_images", level)
    assert text in finding.text
    assert check_private(RIGHT) == []


@pytest.mark.parametrize(
    ("preheat", "level", "said"),
    [
        (PreheatState(socket="/c.sock"), Level.OK, "no list; commands at /c.sock"),
        (PreheatState(list="/l.yaml"), Level.OK, "the list /l.yaml; no control socket"),
        (PreheatState(faults=(("/l.yaml", "--preheat-file: no"),)), Level.WARNING, "--preheat"),
        (PreheatState(faults=(("r.io/a:1", "not-found: no"),)), Level.WARNING, "r.io/a:1: not"),
    ],
)
def test_preheat(preheat: PreheatState, level: Level, said: str) -> None:
    finding = only(check_preheat, node=replace(NODE, preheat=preheat))
    assert (finding.check, finding.level) == ("preheat", level)
    assert finding.text.startswith(said)
    assert check_preheat(RIGHT) == []


def test_peers() -> None:
    """None is a warning that names bootstrap and port; of a node that does not answer nothing is
    said.
    """
    assert only(check_peers).text == "1 connected"
    alone = only(check_peers, node=replace(NODE, peers=()))
    assert alone.level is Level.WARNING
    assert "isolated" in alone.text
    assert "--static-bootstrap-peers" in (alone.remedy or "")
    assert "5001" in (alone.remedy or "")
    assert check_peers(replace(RIGHT, node=AWAY)) == []


@pytest.mark.parametrize(
    ("skews", "level", "said", "where"),
    [
        pytest.param((0.1, -2.0), Level.OK, "within 2 s of 2 peers", "", id="right"),
        pytest.param(
            (0.1, None, 2.1, 0.0),
            Level.WARNING,
            "1 of 3 peers' clocks are off, at most +2.1 s",
            "p2",
            id="one",
        ),
        pytest.param(
            (-9.0, 3.0, 0.0),
            Level.WARNING,
            "2 of 3 peers' clocks are off, at most -9.0 s",
            "this node",
            id="ours",
        ),
        pytest.param((5.0,), Level.WARNING, "1 of 1 peers' clocks", "p0", id="only one"),
    ],
)
def test_clock(skews: tuple[float | None, ...], level: Level, said: str, where: str) -> None:
    """Above 2 s it is a warning: of the peer's clock, or of this node's where it differs from
    most.
    """
    peers = tuple(PeerState(str(number), f"p{number}", skew) for number, skew in enumerate(skews))
    finding = only(check_clock, node=replace(NODE, peers=peers))
    assert finding.level is level
    assert said in finding.text
    assert where in (finding.remedy or "")


@pytest.mark.parametrize(
    ("peers", "level", "said"),
    [
        pytest.param(
            [(0.0, -86400.2)],
            Level.WARNING,
            "at most -86400.2 s (p0)",
            id="set since they connected",
        ),
        pytest.param(
            [(0.0, 60.0), (0.1, 59.5)],
            Level.WARNING,
            "2 of 2 peers' clocks are off",
            id="ours was set",
        ),
        pytest.param([(9.0, 0.4)], Level.OK, "within 5 s of 1 peer", id="set right since"),
        pytest.param(
            [(3.0, 3.9)], Level.WARNING, "at most +3.0 s", id="the exact one where both agree"
        ),
        pytest.param([(0.0, 4.9)], Level.OK, "within 5 s", id="too little for a Date"),
        pytest.param([(None, -5.1)], Level.WARNING, "at most -5.1 s", id="a peer of Spegel's"),
    ],
)
def test_a_clock_that_was_set_since_is_noticed(
    peers: list[tuple[float | None, float]], level: Level, said: str
) -> None:
    """The skew is as of the connection; the Date of an answer is of now, to the second."""
    seen = tuple(PeerState(str(number), f"p{number}", *each) for number, each in enumerate(peers))
    finding = only(check_clock, node=replace(NODE, peers=seen))
    assert finding.level is level
    assert said in finding.text


@pytest.mark.parametrize(
    "peers", [(), (replace(PEER, skew=None),)], ids=["no peers", "none measured"]
)
def test_no_clock_is_judged_that_was_not_measured(peers: tuple[PeerState, ...]) -> None:
    """Without a measure there is no line."""
    assert check_clock(replace(RIGHT, node=replace(NODE, peers=peers))) == []
    assert check_clock(replace(RIGHT, node=AWAY)) == []


@pytest.mark.parametrize(
    ("pull", "level", "said"),
    [
        pytest.param(
            PULL, Level.OK, "(1 bytes) from http://127.0.0.1:5000 in 3 ms, verified", id="right"
        ),
        pytest.param(
            Pull(), Level.WARNING, "holds no image in namespace k8s.io", id="nothing held"
        ),
        pytest.param(replace(PULL, status=401), Level.ERROR, "user name", id="401"),
        pytest.param(replace(PULL, status=404), Level.ERROR, "answers 404", id="404"),
        pytest.param(replace(PULL, is_right=False), Level.ERROR, "wrong bytes", id="wrong bytes"),
        pytest.param(AWAY, Level.ERROR, "no answer", id="away"),
    ],
)
def test_pull(pull: Pull | Unknown, level: Level, said: str) -> None:
    """Content that containerd holds must come through the mirror undamaged."""
    finding = only(check_pull, pull=pull)
    assert (finding.check, finding.level) == ("pull", level)
    assert said in finding.text


FINDINGS = [
    Finding("containerd", Level.OK, "1.6.20"),
    Finding("peers", Level.WARNING, "isolated", "open 5001"),
    Finding("node", Level.ERROR, "größer", "start it"),
]


@pytest.mark.parametrize(
    ("encoding", "lines"),
    [
        ("utf-8", ["✓ containerd", "! peers", "→ open 5001", "✗ node", "→ start it"]),
        ("ascii", ["+ containerd", "! peers", "-> open 5001", "x node", "-> start it"]),
    ],
)
def test_lines_are_what_the_terminal_can_write(encoding: str, lines: list[str]) -> None:
    """Signs and arrows turn to ASCII where they must, and so does the rest."""
    shown = [line.plain for line in as_lines(FINDINGS, encoding=encoding)]
    assert [line.strip()[: len(start)] for line, start in zip(shown, lines, strict=True)] == lines
    "\n".join(shown).encode(encoding)


def test_there_is_no_colour_in_a_pipe() -> None:
    """Styles are for terminals."""
    console = Console(force_terminal=False)
    with console.capture() as captured:
        for line in as_lines(FINDINGS, encoding="utf-8"):
            console.print(line)
    assert "\x1b" not in captured.get()


def test_json_has_a_stable_form() -> None:
    """The form is what programs rely on; one error makes it not ok."""
    assert json.loads(json.dumps(as_json(FINDINGS)))["findings"][1] == {
        "check": "peers",
        "level": "warning",
        "finding": "isolated",
        "remedy": "open 5001",
    }
    assert as_json(FINDINGS)["ok"] is False
    assert as_json(FINDINGS[:2])["ok"] is True
    assert (status(FINDINGS), status(FINDINGS[:2])) == (1, 0)


def test_addresses_to_listen_on_become_urls_of_this_machine() -> None:
    """All addresses are reached over loopback."""
    given = (":5000", "0.0.0.0:5000", "[::]:5000", "10.0.0.1:5000")
    assert [local_url(one) for one in given] == [
        *(
            "http://127.0.0.1:5000",
            "http://127.0.0.1:5000",
            "http://[::1]:5000",
            "http://10.0.0.1:5000",
        )
    ]


def test_credentials_are_never_printed() -> None:
    """The repr of a subject leaves the header out."""
    assert "c2VjcmV0" not in repr(replace(SUBJECT, authorization="Basic c2VjcmV0"))
