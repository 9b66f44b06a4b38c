"""`configuration` and `cleanup` beside a real containerd, on real file systems, and in turn with
Spegel itself.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import spegel_py
from spegel_py.host.cleanup import clean_up
from spegel_py.host.configuration import configure
from spegel_py.host.own_names import WRITTEN
from tests.integration.cluster import joined, metric, publish, registry_away
from tests.support.host_trees import EXISTING, described, make_rich, mirroring, quick
from tests.support.images import image
from tests.support.lab import REGISTRY, Lab, Node, start_lab
from tests.support.processes import CommandFailed, Process, run
from tests.support.routers import free_port

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

SPEGEL = os.environ.get("SPEGEL_BIN", "")
needs_spegel = pytest.mark.skipif(
    not SPEGEL, reason="SPEGEL_BIN names no Spegel binary to stand beside"
)

OURS = (sys.executable, "-m", "spegel_py")
ENVIRONMENT = {"PYTHONPATH": str(Path(spegel_py.__file__).parent.parent)}
PATH = "--containerd-registry-config-path"
EXPLICIT = ("--mirrored-registries", f"http://{REGISTRY}")


# Beside containerd


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab() -> AsyncIterator[Lab]:
    """Two nodes with spegel-py, whose containerd is not configured for it yet."""
    async with start_lab(nodes=2) as lab:
        await asyncio.gather(*(node.start_spegel() for node in lab.nodes))
        await joined(*lab.nodes)
        yield lab


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    """The node that pulls; its config_path holds the registry's folder, without any mirror."""
    node = lab.nodes[1]
    yield node
    shutil.rmtree(node.daemon.certs)
    node.write_hosts_toml(mirror=None)


@asynccontextmanager
async def configured(node: Node, *options: str) -> AsyncIterator[Path]:
    """Have containerd ask the mirror for a while; give its config_path, which is the same again at
    the end.
    """
    root = node.daemon.certs
    before = described(root)
    flags = [f"{PATH}={root}", "--mirror-targets", f"http://{node.address}:5000", *options]
    await run(*OURS, "configuration", *flags, environment=ENVIRONMENT)
    try:
        yield root
    finally:
        await run(*OURS, "cleanup", f"{PATH}={root}", "--addr", "", environment=ENVIRONMENT)
    assert described(root) == before


async def pull(node: Node, reference: str, *, with_cri: bool) -> float:
    """Pull an image and remove it; return the requests that the mirror answered."""
    hits = await metric(node, "spegel_mirror_requests_total", cache="hit")
    await (node.cri.pull(reference) if with_cri else node.ctr_pull(reference))
    await node.cri.remove(reference)
    return await metric(node, "spegel_mirror_requests_total", cache="hit") - hits


@pytest.mark.parametrize("with_cri", [True, False], ids=["CRI", "ctr"])
@pytest.mark.parametrize(
    "options",
    [(), EXPLICIT, (*EXPLICIT, "--prepend-existing")],
    ids=["all registries", "one", "prepended"],
)
async def test_pulls_go_through_the_mirror_while_it_is_configured(
    lab: Lab, node: Node, with_cri: bool, options: tuple[str, ...]
) -> None:
    """Between configuration and cleanup containerd asks the mirror, without a restart."""
    app = image(f"configured/{with_cri}/{options}")
    reference = lab.name(f"test/app:{'cri' if with_cri else 'ctr'}-{len(options)}")
    await publish(lab, reference, app, lab.nodes[0])
    assert await pull(node, reference, with_cri=with_cri) == 0
    async with configured(node, *options), registry_away(lab):
        assert await pull(node, reference, with_cri=with_cri) >= len(app.blobs)
    assert await pull(node, reference, with_cri=with_cri) == 0


@pytest.mark.parametrize("with_cri", [True, False], ids=["CRI", "ctr"])
async def test_hosts_that_were_there_are_asked_after_the_mirror(
    lab: Lab, node: Node, with_cri: bool
) -> None:
    """Existing hosts keep their order and their certificates, by relative path and beside the
    folder.
    """
    folder = node.daemon.certs / REGISTRY
    write_certificate(folder / "client.cert", folder / "client.key")
    shutil.copy(folder / "client.cert", node.daemon.certs / "authority.crt")
    (folder / "hosts.toml").write_text(
        f'# by hand\nserver = "http://10.99.1.9:1"\n\n# the registry itself\n[host."http://{REGISTRY}"]\n'
        'capabilities = ["pull", "resolve"]\n\n[host."https://10.99.1.9:2"]\nca = '
        '["../authority.crt"]\n'
        'client = [["client.cert", "client.key"]]\n'
    )
    reference = lab.name(f"test/kept:{'cri' if with_cri else 'ctr'}")
    await lab.registry.push(reference, image(reference))
    async with configured(node, *EXPLICIT, "--prepend-existing"):
        misses = await metric(node, "spegel_mirror_requests_total", cache="miss")
        assert await pull(node, reference, with_cri=with_cri) == 0
        assert await metric(node, "spegel_mirror_requests_total", cache="miss") > misses
    assert lab.registry.requests("GET")


async def test_a_missing_certificate_would_be_noticed(lab: Lab, node: Node) -> None:
    """containerd reads every host's certificates with each pull, which is what shows that ours are
    where it looks.
    """
    (node.daemon.certs / REGISTRY / "hosts.toml").write_text(
        f'server = "http://{REGISTRY}"\n[host."https://10.99.1.9:2"]\nca = ["gone.crt"]\n'
    )
    reference = lab.name("test/gone:1")
    await lab.registry.push(reference, image(reference))
    with pytest.raises(CommandFailed, match=r"gone\.crt"):
        await node.ctr_pull(reference)


def write_certificate(certificate: Path, key: Path) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    private = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
    )
    made = (
        made.serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    certificate.write_bytes(
        made.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    formats = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    key.write_bytes(private.private_bytes(*formats))


# On file systems that refuse


@asynccontextmanager
async def mounted(folder: Path, *options: str) -> AsyncIterator[Path]:
    folder.mkdir(exist_ok=True)
    await run("mount", *options, str(folder))
    try:
        yield folder
    finally:
        await run("umount", str(folder))


async def refused(command: str, root: Path) -> str:
    """Run a command that fails with status 1 and return its one line on stderr."""
    options = {
        "configuration": ("--mirror-targets", "http://127.0.0.1:5000"),
        "cleanup": ("--addr", ""),
    }[command]
    with pytest.raises(CommandFailed) as caught:
        await run(
            *OURS, command, f"{PATH}={root}", "--log-level=ERROR", *options, environment=ENVIRONMENT
        )
    [first, line] = str(caught.value).splitlines()
    assert " failed with 1:" in first
    return line


async def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """On a full disk both commands say so; with room again they go on, and the original comes
    back.
    """
    async with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=256k", "tmpfs") as disk:
        root = disk / "certs.d"
        root.mkdir()
        make_rich(root)
        before = described(root)
        fill(disk)
        assert "the disk is full" in await refused("configuration", root)
        (disk / "filler").unlink()
        configure(root, mirroring("https://docker.io"), quick())
        fill(disk)
        assert "the disk is full" in await refused("cleanup", root)
        assert "the disk is full" in await refused("configuration", root)
        (disk / "filler").unlink()
        clean_up(root, quick())
        assert described(root) == before


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


async def test_a_read_only_file_system_is_named(tmp_path: Path) -> None:
    """On a read-only file system both commands name it, and give advice."""
    disk = tmp_path / "disk"
    (disk / "certs.d" / "_backup").mkdir(parents=True)
    async with mounted(disk, "--bind", str(disk)):
        await run("mount", "-o", "remount,ro,bind", str(disk))
        for command in ("configuration", "cleanup"):
            line = await refused(command, disk / "certs.d")
            assert f"{disk}/certs.d" in line
            assert "mount it writable" in line


async def test_an_overlay_is_no_obstacle(tmp_path: Path) -> None:
    """In a container's own file system, where folders of the image cannot be renamed, all goes as
    elsewhere.
    """
    for name in ("lower/certs.d", "upper", "work"):
        (tmp_path / name).mkdir(parents=True)
    make_rich(tmp_path / "lower" / "certs.d")
    layers = ",".join(f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work"))
    async with mounted(tmp_path / "disk", "-t", "overlay", "-o", layers, "overlay") as disk:
        root = disk / "certs.d"
        before = described(root)
        with pytest.raises(OSError, match="cross-device"):
            (root / "docker.io").rename(root / "other")
        which = mirroring("https://docker.io", "https://quay.io", keeps_existing=True)
        configure(root, which, quick())
        assert "mirror.example" in (root / "docker.io" / "hosts.toml").read_text()
        clean_up(root, quick())
        assert described(root) == before


# In turn with Spegel


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An operator's config_path, with files that Spegel can keep too."""
    root = tmp_path / "certs.d"
    for name, text in (
        ("docker.io/hosts.toml", EXISTING),
        ("docker.io/ca.crt", "a"),
        ("ghcr.io/hosts.toml", "a = 1\n"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def below(root: Path) -> dict[str, tuple[object, ...]]:
    """Describe what lies in a folder; of the folder itself Spegel does not keep the time of
    change.
    """
    return {name: about for name, about in (described(root) or {}).items() if name != "."}


ARGUMENTS = {
    "all": (),
    "wildcard": ("--mirrored-registries", "*"),
    "some": (
        "--mirrored-registries",
        "https://docker.io",
        "http://foo.bar:5000",
        "https://[::1]:5000",
    ),
    "tags": ("--mirrored-registries", "https://docker.io", "--resolve-tags=false"),
    "comma": ("--log-level=INFO", "--mirrored-registries=https://quay.io"),
}


@needs_spegel
@pytest.mark.parametrize("options", ARGUMENTS.values(), ids=ARGUMENTS)
async def test_the_files_are_spegels(tree: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """The same flags give the same folders and bytes; a second run changes nothing."""
    theirs = tmp_path / "theirs"
    shutil.copytree(tree, theirs)
    targets = ("--mirror-targets", "http://fc00::2:30020", "http://127.0.0.1:30021")
    await run(*OURS, "configuration", f"{PATH}={tree}", *targets, *options, environment=ENVIRONMENT)
    await run(SPEGEL, "configuration", f"{PATH}={theirs}", *targets, *options)
    assert contents(tree) == contents(theirs)
    before = contents(theirs)
    await run(
        *OURS, "configuration", f"{PATH}={theirs}", *targets, *options, environment=ENVIRONMENT
    )
    assert contents(theirs) == before


def contents(root: Path) -> dict[str, bytes]:
    """Return all files, without the record of the written entries."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != WRITTEN
    }


@needs_spegel
@pytest.mark.parametrize(
    "is_ours_first", [True, False], ids=["configured by us", "configured by Spegel"]
)
async def test_each_cleans_up_after_the_other(
    tree: Path, tmp_path: Path, is_ours_first: bool
) -> None:
    """Each program restores the other's files, and its cleanup-wait sees the other's probe."""
    first, second = (OURS, (SPEGEL,)) if is_ours_first else ((SPEGEL,), OURS)
    before = below(tree)
    port = free_port()
    targets = ("--mirror-targets", "http://127.0.0.1:30020", "--prepend-existing")
    await run(*first, "configuration", f"{PATH}={tree}", *targets, environment=ENVIRONMENT)
    cleanup = Process(
        command=[*second, "cleanup", f"{PATH}={tree}", "--addr", f":{port}"],
        log=tmp_path / "cleanup.log",
        environment=ENVIRONMENT,
    )
    await cleanup.start(partial(listens, port))
    try:
        assert below(tree) == before
        probe = ("--probe-endpoint", f"localhost:{port}", "--period", "10ms")
        await run(*first, "cleanup-wait", *probe, environment=ENVIRONMENT)
    finally:
        await cleanup.end()


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
