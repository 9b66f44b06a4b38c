"""The decision who asks, case by case."""

from __future__ import annotations

import pytest

from spegel_py.registry.askers import Asker, Door, who_asks


@pytest.mark.parametrize(
    ("door", "is_mirrored", "has_token", "node", "is_here", "found"),
    [
        # one port, no token file: the name decides, and then the address
        (Door.ALL, False, None, "own", False, Asker.RUNTIME),
        (Door.ALL, False, None, "other", True, Asker.CLIENT),
        (Door.ALL, False, None, None, True, Asker.RUNTIME),
        (Door.ALL, False, None, None, False, Asker.CLIENT),
        (Door.ALL, True, None, "own", True, Asker.PEER),
        # one port, a token file: the token decides, but for peers
        (Door.ALL, False, True, "other", False, Asker.RUNTIME),
        (Door.ALL, False, False, "own", True, Asker.STRANGER),
        (Door.ALL, False, False, None, True, Asker.STRANGER),
        (Door.ALL, True, False, None, False, Asker.PEER),
        (Door.ALL, True, True, "own", True, Asker.PEER),
        # the port of the peers: nothing makes the node ask others
        (Door.PEERS, False, None, "own", True, Asker.PEER),
        (Door.PEERS, False, True, "own", True, Asker.PEER),
        (Door.PEERS, True, False, None, False, Asker.PEER),
        # the port of the runtime: nobody is served without the token
        (Door.RUNTIME, False, True, None, False, Asker.RUNTIME),
        (Door.RUNTIME, False, False, "own", True, Asker.STRANGER),
        (Door.RUNTIME, True, False, None, False, Asker.STRANGER),
        (Door.RUNTIME, True, True, None, False, Asker.PEER),
        (Door.RUNTIME, False, None, "own", False, Asker.RUNTIME),
        (Door.RUNTIME, False, None, "other", False, Asker.CLIENT),
        (Door.RUNTIME, True, None, None, True, Asker.PEER),
    ],
)
def test_who_asks(
    door: Door,
    is_mirrored: bool,
    has_token: bool | None,
    node: str | None,
    is_here: bool,
    found: Asker,
) -> None:
    assert found is who_asks(
        door=door,
        is_mirrored=is_mirrored,
        has_token=has_token,
        has_proof=None,
        node=node,
        own_node="own",
        is_here=is_here,
    )


@pytest.mark.parametrize(
    ("door", "is_mirrored", "has_token", "without"),
    [
        (Door.ALL, True, None, Asker.UNPROVEN),
        (Door.ALL, False, None, Asker.UNPROVEN),
        (Door.PEERS, False, None, Asker.UNPROVEN),
        (Door.RUNTIME, True, True, Asker.UNPROVEN),
        (Door.ALL, False, True, Asker.RUNTIME),
        (Door.ALL, False, False, Asker.STRANGER),
    ],
)
def test_where_proofs_are_required_only_the_runtime_needs_none(
    door: Door, is_mirrored: bool, has_token: bool | None, without: Asker
) -> None:
    """A peer with a proof is the same as where none is required."""

    def asker(*, has_proof: bool | None) -> Asker:
        return who_asks(
            door=door,
            is_mirrored=is_mirrored,
            has_token=has_token,
            has_proof=has_proof,
            node="other",
            own_node="own",
            is_here=False,
        )

    assert asker(has_proof=False) is without
    assert asker(has_proof=True) is asker(has_proof=None)


@pytest.mark.parametrize(
    ("door", "is_mirrored", "has_token", "without"),
    [
        (Door.ALL, True, None, Asker.UNENCRYPTED),
        (Door.ALL, False, None, Asker.UNENCRYPTED),
        (Door.PEERS, False, True, Asker.UNENCRYPTED),
        (Door.ALL, False, True, Asker.RUNTIME),
        (Door.ALL, False, False, Asker.STRANGER),
    ],
)
def test_where_tls_is_required_only_the_runtime_needs_none(
    door: Door, is_mirrored: bool, has_token: bool | None, without: Asker
) -> None:
    """With TLS a sender is the same as where it is not required."""

    def asker(*, has_tls: bool | None) -> Asker:
        return who_asks(
            door=door,
            is_mirrored=is_mirrored,
            has_token=has_token,
            has_proof=None,
            node="other",
            own_node="own",
            is_here=False,
            has_tls=has_tls,
        )

    assert asker(has_tls=False) is without
    assert asker(has_tls=True) is asker(has_tls=None)
