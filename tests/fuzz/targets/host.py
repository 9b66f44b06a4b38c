"""What lies on the machine: files for containerd, settings, image layouts."""

from __future__ import annotations

import asyncio
import json
import math
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import yaml
from hypothesis import strategies as st
from structlog.testing import capture_logs

from spegel_py.config import REGISTRY, Config
from spegel_py.errors import ConfigError, ContentNotFound
from spegel_py.host.doctor import config_file, hosts_files
from spegel_py.host.file_tree import Entry, File, Folder, Meta
from spegel_py.host.hosts_toml import certificates
from spegel_py.host.mirroring import HOSTS
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_MANIFEST
from spegel_py.registry.upstream_host import read_upstream
from spegel_py.routing.libp2p.bootstrap_targets import (
    check_domain,
    check_multiaddr,
    check_url,
    with_path,
)
from spegel_py.store.layout import LayoutStore, folder
from tests.fuzz.mutations import TEXTS, VALUES, as_json, objects
from tests.fuzz.target import Check, Target, check_text
from tests.support.host_trees import EXISTING, MIRROR, mirroring


@contextmanager
def _in_a_folder(check: Callable[[Path, bytes], object]) -> Iterator[Check]:
    """Give a check that has a folder of its own for all inputs."""
    with tempfile.TemporaryDirectory(prefix="spegel-py-fuzz-") as name, capture_logs():
        yield partial(check, Path(name))


# hosts.toml

_LINES = st.lists(
    st.sampled_from(
        (
            "server = 'https://a.example'",
            "[host]",
            "[host.'http://127.0.0.1:5000']",
            '[host."https://m.example"]',
            "[[host]]",
            "[host.'https://m.example'.header]",
            "host.'a'.ca = 'x'",
            "ca = ['a', ['b', 'c']]",
            "client = [",
            "['a',",
            "'b'],",
            "]",
            "# comment",
            "capabilities = ['pull']",
            "a.b.c = {d = 1, e = [{}]}",
            'x = """',
            "[plugins.'io.containerd.grpc.v1.cri'.registry]",
            "version = 2",
            "imports = ['*.toml', '/x/**', '\\u0000', '**x']",
            "n = 1e400",
            "t = 1979-05-27T07:32:00Z",
        )
    ),
    max_size=16,
).map(lambda lines: "\n".join(lines).encode())


def _hosts_toml(root: Path, data: bytes) -> None:
    """A registry's file, kept behind the mirrors' hosts; and as `doctor` looks at it."""
    entries: dict[str, Entry] = {"registry.example": Folder({HOSTS: File(data, Meta())}, Meta())}
    try:
        plan = mirroring("https://registry.example", keeps_existing=True).plan(
            Folder(entries, Meta()), root=Path("/certs.d")
        )
        wanted = plan["registry.example"]
        assert isinstance(wanted, Folder)
        file = wanted.entries[HOSTS]
        assert isinstance(file, File)
        text = file.data.decode()
        with suppress(tomllib.TOMLDecodeError):  # tomlkit takes some files that are not TOML
            tomllib.loads(data.decode())
            assert MIRROR in tomllib.loads(text)["host"]
        list(certificates(text))
    except ConfigError as error:
        check_text(error)
    path = root / "registry.example" / HOSTS
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    [found] = hosts_files.read([root], ["registry.example"])
    assert len(found.problem) <= 200
    try:
        upstream = read_upstream(root, "registry.example", plain=frozenset())
    except ConfigError as error:
        check_text(error)
    else:
        assert "@" not in upstream.url.partition("://")[2].partition("/")[0]


def _containerd_config(root: Path, data: bytes) -> None:
    path = root / "config.toml"
    path.write_bytes(data)
    try:
        config_file.read(path)
    except ConfigError as error:
        check_text(error)


# Settings

_NAMES = [setting.name for setting in REGISTRY]
_SETTINGS = st.dictionaries(
    st.one_of(st.sampled_from(_NAMES), st.sampled_from(("health", "mirror", "a")), TEXTS),
    st.one_of(
        VALUES,
        st.sampled_from(
            ("30s", "1h2m", "9" * 400 + "h", "off", ":5000", "[::1]:5000", "http://[", "a,b", "*")
        ),
        st.lists(
            st.sampled_from(("https://[", "(", "docker.io", "^a{1,2}$", "/dns/a/tcp/1", "")),
            max_size=3,
        ),
        st.dictionaries(st.sampled_from(("interval", "timeout", "max", "")), VALUES, max_size=3),
    ),
    max_size=6,
)


def _load(environment: dict[str, str], file: Path | None) -> None:
    try:
        config = Config.load(flags={}, environment=environment, file=file)
        config.filters.exclude("docker.io/library/app:1")
        for text in config.static_bootstrap_peers:
            check_multiaddr(text, flag="--static-bootstrap-peers")
        if config.bootstrap_url:
            with_path(check_url(config.bootstrap_url, flag="--http-bootstrap-url"))
        if config.dns_bootstrap_domain:
            check_domain(config.dns_bootstrap_domain, flag="--dns-bootstrap-domain")
        repr(config)
    except ConfigError as error:
        check_text(error)


def _config_file(root: Path, data: bytes) -> None:
    path = root / "config.yaml"
    path.write_bytes(data)
    _load({}, path)


def _environment(_root: Path, data: bytes) -> None:
    """Lines NAME=value."""
    lines = data.decode("utf-8", "surrogateescape").replace("\0", "").split("\n")
    _load(
        {name: value for name, equals, value in (line.partition("=") for line in lines) if equals},
        None,
    )


# Image layouts

_DIGEST = Digest.of(b"content")
_INDEXES = as_json(
    objects(
        {
            "schemaVersion": st.just(2),
            "manifests": st.lists(
                objects(
                    {
                        "mediaType": st.just(OCI_MANIFEST),
                        "digest": st.sampled_from((str(_DIGEST), "sha256:a", "")),
                        "size": st.integers(),
                        "annotations": objects(
                            {
                                folder.REF_NAME: st.sampled_from(
                                    ("registry.example/app:1", "app", "é/b:1")
                                ),
                                folder.PULLED: st.one_of(
                                    st.datetimes().map(lambda at: at.isoformat()),
                                    st.sampled_from(("0001-01-01", "9999-12-31T23:59:59", "x")),
                                ),
                            }
                        ),
                    }
                ),
                max_size=3,
            ),
        }
    )
)
_ODD = st.lists(
    st.builds(
        "{} {}".format,
        st.sampled_from(("file", "link", "folder", "pipe")),
        st.sampled_from(
            (
                "oci-layout",
                "index.json",
                "blobs",
                "blobs/sha256",
                "blobs/sha512",
                f"blobs/sha256/{_DIGEST.hex}",
                "blobs/sha256/" + "0" * 64,
                "blobs/sha256/x",
                "blobs/sha512/" + "f" * 128,
            )
        ),
    ),
    max_size=4,
)
_LAYOUTS = st.builds(lambda index, odd: "\n".join(odd).encode() + b"\n\n" + index, _INDEXES, _ODD)

_MAKE: dict[bytes, Callable[[Path], object]] = {
    b"file": lambda path: path.write_bytes(b"odd"),
    b"link": lambda path: path.symlink_to("/etc/hostname"),
    b"folder": lambda path: path.mkdir(),
    b"pipe": os.mkfifo,
}
_PLACES = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-./")


def _layout(parent: Path, data: bytes) -> None:
    """Lines `kind path` of what is put into the folder first, an empty line, and index.json."""
    odd, _, index = data.rpartition(b"\n\n")
    with tempfile.TemporaryDirectory(dir=parent) as name:
        root = Path(name)
        for line in odd.split(b"\n"):
            kind, _, path = line.partition(b" ")
            place = path.decode("latin-1")
            if (
                kind in _MAKE
                and place
                and _PLACES.issuperset(place)
                and ".." not in place
                and place[0] != "/"
            ):
                with suppress(OSError):
                    (root / place).parent.mkdir(parents=True, exist_ok=True)
                    if not os.path.lexists(root / place):
                        _MAKE[kind](root / place)
        _fill(root, index)
        with suppress(ConfigError):
            asyncio.run(folder.check_layout(root))
        asyncio.run(_serve(root))


def _fill(root: Path, index: bytes) -> None:
    """Make the rest of the layout, as far as nothing odd is in its place."""
    blob = root / folder.BLOBS / "sha256" / _DIGEST.hex
    with suppress(OSError):
        blob.parent.mkdir(parents=True)
    for path, content in (
        (root / folder.MARKER, b'{"imageLayoutVersion": "1.0.0"}'),
        (root / folder.INDEX, index),
        (blob, b"content"),
    ):
        if not os.path.lexists(path):
            with suppress(OSError):
                path.write_bytes(content)


async def _serve(root: Path) -> None:
    store = LayoutStore(root=root, settle=0)
    for tag in (await store.tags()).values():
        assert math.isfinite(tag.pulled)
    for digest in [*folder.scan_blobs(root).blobs, Digest("sha512", "f" * 128)]:
        try:
            async with store.open(digest) as content:
                data = b"".join([piece async for piece in content.read(0, content.size)])
        except ContentNotFound:
            continue
        assert digest.matches(data)


_CONTAINERD = b"""\
version = 2
imports = ["conf.d/*.toml"]
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
  discard_unpacked_layers = true
"""
_CONFIG = b"""\
registry_addr: ":5000"
health: {interval: 10s, timeout: 3s}
static_bootstrap_peers: [/ip4/10.0.0.1/tcp/5001, /dns/a.example/tcp/5001]
mirrored_registries: [https://docker.io, "*"]
registry_filters: ["^docker\\\\.io/private", ":latest$"]
tag_ttl: 24h
mirror_parallel: off
"""
_VARIABLES = b"""\
REGISTRY_ADDR=[::1]:5000
HEALTH_INTERVAL=1m30s
REGISTRY_FILTERS="^a{1,2}$",:latest$
MIRRORED_REGISTRIES=docker.io,https://ghcr.io
TRACING_ENDPOINT=http://collector:4318
"""
_LAYOUT = json.dumps(
    {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": OCI_MANIFEST,
                "digest": str(_DIGEST),
                "size": 7,
                "annotations": {
                    folder.REF_NAME: "registry.example/app:1",
                    folder.PULLED: "2025-11-24T16:00:00.000+00:00",
                },
            }
        ],
    }
).encode()

TARGETS = (
    Target(
        name="hosts-toml",
        examples=(
            EXISTING.encode(),
            b"server = 'https://a.example'\n[host.'http://127.0.0.1:5000']\n",
            b"",
        ),
        open=lambda: _in_a_folder(_hosts_toml),
        slow=4.0,  # tomlkit takes 15 s for a MB, and a file is parsed three times
        structured=_LINES,
    ),
    Target(
        name="containerd-config",
        examples=(_CONTAINERD,),
        open=lambda: _in_a_folder(_containerd_config),
        structured=_LINES,
    ),
    Target(
        name="config-file",
        examples=(_CONFIG, b"a: &a [1]\nb: *a\n"),
        open=lambda: _in_a_folder(_config_file),
        slow=3.0,  # PyYAML takes 0.9 s until it gives up on any number of brackets in brackets
        structured=_SETTINGS.map(
            lambda values: yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "replace")
        ),
    ),
    Target(
        name="environment",
        examples=(_VARIABLES,),
        open=lambda: _in_a_folder(_environment),
        structured=st.lists(
            st.builds(
                "{}={}".format,
                st.sampled_from([setting.variable for setting in REGISTRY]),
                st.one_of(
                    TEXTS,
                    st.sampled_from(("http://[", "[::1]:5000", "1h", '"a', "off", "*", "(", "10")),
                ),
            ),
            max_size=4,
        ).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")),
    ),
    Target(
        name="layouts",
        examples=(b"\n\n" + _LAYOUT, b"file blobs/sha256/x\n\n" + _LAYOUT),
        open=lambda: _in_a_folder(_layout),
        structured=_LAYOUTS,
    ),
)
