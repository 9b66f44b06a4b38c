"""Content of every kind that registries hold, as this node has it and through a peer."""

from __future__ import annotations

import json

import pytest

from spegel_py.oci import build
from spegel_py.oci.build import Blob, Image
from spegel_py.oci.distribution import Kind
from spegel_py.oci.manifest import MANIFESTS, OCI_INDEX, OCI_MANIFEST
from tests.support.images import image, signature
from tests.unit.registry.conftest import NodeFactory

EMPTY = Blob.of(b"")
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


def manifest(
    config: tuple[Blob, str], *layers: tuple[Blob, str], algorithm: str = "sha256"
) -> Image:
    """Return a manifest with this config and these layers, each with its media type."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": build.descriptor(*config),
        "layers": [build.descriptor(*each) for each in layers],
    }
    root = Blob.of(json.dumps(document).encode(), algorithm)
    blobs = {each.digest: each for each in (root, config[0], *(layer for layer, _ in layers))}
    return Image(root, OCI_MANIFEST, tuple(blobs.values()))


def nested() -> Image:
    """Return an index of an index, beside an image."""
    inner = build.index([image("inner", platforms=("amd64",)), image("other")])
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            build.descriptor(each.root, each.media_type) for each in (inner, image("outer"))
        ],
    }
    root = Blob.of(json.dumps(document).encode())
    return Image(root, OCI_INDEX, (root, *inner.blobs, *image("outer").blobs))


CHART = manifest(
    (Blob.of(b'{"name":"chart"}'), "application/vnd.cncf.helm.config.v1+json"),
    (Blob.of(b"chart" * 999), "application/vnd.cncf.helm.chart.content.v1.tar+gzip"),
)
KINDS = {
    "artifact": signature(image()),
    "Helm chart": CHART,
    "index": image("index", platforms=("amd64", "arm64")),
    "nested index": nested(),
    "Docker's list": image("docker", platforms=("amd64", "arm64"), types=build.DOCKER),
    "sha512": image("sha512", algorithm="sha512"),
    "empty blob": manifest((Blob.of(b"{}"), "text/json"), (EMPTY, "text/plain")),
    "no layers": manifest((Blob.of(b"{}"), "application/vnd.oci.empty.v1+json")),
    "nondistributable layer": manifest(
        (Blob.of(b"{}"), "text/json"), (Blob.of(b"w" * 99), FOREIGN)
    ),
}


@pytest.mark.parametrize("one", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("is_own", [True, False], ids=["own store", "through a peer"])
async def test_every_kind_of_content_is_answered(
    start: NodeFactory, one: Image, is_own: bool
) -> None:
    """By digest and, for the root, by tag: the right bytes, type and length, for GET and HEAD."""
    async with start("holder") as holder, start("other") as other:
        for each in one.blobs:
            holder.store.add(each.data, algorithm=each.digest.algorithm)
        holder.store.tag("r.io/team/app:1", one.root.digest)
        await holder.network.join(holder.peer).advertise(holder.store.keys)
        client = await (holder if is_own else other).client()
        for each in one.blobs:
            kind, media_type = _kind(each)
            target = f"/v2/team/app/{kind.value}/{each.digest}?ns=r.io"
            for method in ("HEAD", "GET"):
                answer = await client.ask(method, target)
                assert answer.status == 200
                assert answer.headers["content-type"] == media_type
                assert answer.headers["content-length"] == str(len(each.data))
                assert answer.headers["docker-content-digest"] == str(each.digest)
            assert answer.body == each.data
        tagged = await client.ask("GET", "/v2/team/app/manifests/1?ns=r.io")
        assert (tagged.body, tagged.headers["content-type"]) == (one.root.data, one.media_type)


def _kind(blob: Blob) -> tuple[Kind, str]:
    """Return the kind under which content is requested, and the type of the answer."""
    try:
        media_type = json.loads(blob.data).get("mediaType")
    except (ValueError, AttributeError):
        media_type = None
    if media_type in MANIFESTS:
        return Kind.MANIFEST, media_type
    return Kind.BLOB, "application/octet-stream"
