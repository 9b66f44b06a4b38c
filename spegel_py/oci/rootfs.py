"""The layers of an image as they are unpacked, one above the other (OCI image spec, "Layer
ChainID"). Pure.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from spegel_py.errors import DigestInvalid, ManifestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child, all_children


class UnpackedLayer(NamedTuple):
    """One layer.

    Args:
        blob: the packed layer.
        diff_id: the digest of the unpacked layer.
        chain: the digest of this layer above all those below it.
        parent: the chain of the layers below it; None for the first layer.
    """

    blob: Child
    diff_id: Digest
    chain: Digest
    parent: Digest | None


def layers_of(manifest: bytes, config: bytes) -> tuple[UnpackedLayer, ...]:
    """Return an image's layers, the lowest first.

    Raises ManifestInvalid if it is not an image that can be unpacked: its config names other layers
    than its manifest, or none.
    """
    blobs = all_children(manifest)[1:]
    diff_ids = _diff_ids(config)
    if not blobs or len(blobs) != len(diff_ids):
        raise ManifestInvalid(
            f"the manifest has {len(blobs)} layers, and its config {len(diff_ids)}: "
            "it cannot be unpacked"
        )
    found: list[UnpackedLayer] = []
    parent: Digest | None = None
    for blob, diff_id in zip(blobs, diff_ids, strict=True):
        chain = diff_id if parent is None else Digest.of(f"{parent} {diff_id}".encode())
        found.append(UnpackedLayer(blob, diff_id, chain, parent))
        parent = chain
    return tuple(found)


def _diff_ids(config: bytes) -> list[Digest]:
    try:
        return [Digest.parse(text) for text in json.loads(config)["rootfs"]["diff_ids"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestInvalid("the image's config names no layers") from error
    except DigestInvalid as error:
        raise ManifestInvalid(f"the image's config names no digest: {error.message}") from error
