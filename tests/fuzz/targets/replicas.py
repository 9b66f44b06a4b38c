"""What peers say about replicas."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from spegel_py.inflight.message_fields import MessageError
from spegel_py.oci.reference import is_tag
from spegel_py.replicas import keep_messages
from spegel_py.routing.base import MAX_REQUEST, MAX_RESPONSE
from spegel_py.store.base import ReplicaReason
from tests.fuzz.mutations import as_json, objects
from tests.fuzz.target import target

DIGEST = "sha256:" + "a" * 64
_REQUESTS = as_json(
    objects(
        {
            "kind": st.sampled_from(("keep", "used")),
            "manifest": st.sampled_from((DIGEST, "sha512:" + "b" * 128, DIGEST.upper(), "a")),
            "root": st.sampled_from((DIGEST, "sha512:" + "b" * 128, "a")),
            "repository": st.sampled_from(
                (
                    "registry.example/team/app",
                    "[fd00::1]:5000/app",
                    "a",
                    "../..",
                    "a/b@c",
                    "a.b/c:d",
                )
            ),
            "tags": st.lists(
                objects({"name": st.sampled_from(("1", "latest", "../1")), "pulled": st.floats(0)}),
                max_size=5,
            ),
            "size": st.integers(0, 2**64),
            "reason": st.sampled_from([each.value for each in ReplicaReason]),
            "used": st.floats(0),
        }
    )
)
_ANSWERS = as_json(
    objects(
        {
            "kind": st.sampled_from(("kept", "taking", "no", "seen")),
            "offset": st.integers(0, 2**64),
            "total": st.integers(0, 2**64),
            "why": st.sampled_from([each.value for each in keep_messages.RefusalReason]),
            "retry": st.floats(0),
            "detail": st.text(max_size=200),
            "used": st.floats(0),
        }
    )
)


@target(
    "replica-requests",
    examples=(
        b'{"kind":"keep","manifest":"%s","root":"%s","repository":"registry.example/team/app",'
        b'"tags":[{"name":"1","pulled":5.0}],"size":7,"reason":"floor","used":9.5}'
        % (DIGEST.encode(), DIGEST.encode()),
        b'{"kind":"used","manifest":"%s"}' % DIGEST.encode(),
    ),
    refuses=(MessageError,),
    structured=_REQUESTS,
)
def _requests(data: bytes) -> None:
    request = keep_messages.decode_keep(data)
    raw = keep_messages.encode(request)
    assert len(raw) <= MAX_REQUEST
    again = keep_messages.decode_keep(raw)
    if isinstance(request, keep_messages.KeepRequest):
        assert isinstance(again, keep_messages.KeepRequest)
        assert again.manifest == request.manifest
        assert request.reference.digest == request.root
        assert all(map(is_tag, request.names))
        assert all(map(math.isfinite, (*request.tags.values(), request.used)))
    else:
        assert again == request


@target(
    "replica-answers",
    examples=(
        b'{"kind":"kept"}',
        b'{"kind":"taking","offset":1,"total":2}',
        b'{"kind":"no","why":"failed","retry":5,"detail":"no-room"}',
        b'{"kind":"seen","used":5}',
    ),
    refuses=(MessageError,),
    structured=_ANSWERS,
)
def _answers(data: bytes) -> None:
    answer = keep_messages.decode_answer(data)
    raw = keep_messages.encode(answer)
    assert len(raw) <= MAX_RESPONSE
    assert keep_messages.decode_answer(raw) == answer


TARGETS = (_requests, _answers)
