"""What peers, programs and files say about pre-heating."""

from __future__ import annotations

import json
import math

from hypothesis import strategies as st

from spegel_py.errors import ConfigError, RequestInvalid
from spegel_py.inflight.message_fields import MessageError
from spegel_py.oci.reference import Reference
from spegel_py.preheat import preheat_list, preheat_messages, registry_credentials
from spegel_py.preheat.preheat_job import PreheatStage
from spegel_py.preheat.preheat_request import PreheatDepth, PreheatRequest
from spegel_py.routing.base import MAX_RESPONSE
from tests.fuzz.mutations import VALUES, as_json, objects
from tests.fuzz.target import target

DIGEST = "sha256:" + "a" * 64
IMAGE = Reference.parse("registry.example/team/app:1")
_IMAGES = st.sampled_from((str(IMAGE), f"[fd00::1]:5000/app@{DIGEST}", "app", "a.b/c:d@e"))
_REQUESTS = as_json(
    objects(
        {
            "kind": st.sampled_from(preheat_messages.KINDS),
            "job": st.text(max_size=50),
            "image": _IMAGES,
            "digest": st.sampled_from((DIGEST, "sha512:" + "b" * 128, "a")),
            "seen": st.floats(0),
            "platform": st.sampled_from(("linux/amd64", "linux/arm/v7", "linux", "")),
            "keep": st.floats(0),
            "within": st.floats(0),
            "rate": st.integers(0, 2**64),
            "credentials": st.text(max_size=120),
            "depth": st.sampled_from((*PreheatDepth, "all", None)),
            "pin": st.sampled_from((True, False, None, 1)),
        }
    )
)
_STATES = as_json(
    objects(
        {
            "kind": st.just("state"),
            "state": st.sampled_from([*(each.value for each in PreheatStage), "unknown"]),
            "done": st.integers(0, 2**64),
            "total": st.integers(0, 2**64),
            "upstream": st.integers(0, 2**64),
            "why": st.text(max_size=120),
            "error": st.text(max_size=400),
            "name": st.text(max_size=120),
        }
    )
)
_TAGS = as_json(
    objects(
        {
            "kind": st.just("resolved"),
            "digest": st.sampled_from((DIGEST, "a", None)),
            "seen": st.floats(0),
        }
    )
)


@target(
    "preheat-requests",
    examples=(
        b'{"kind":"preheat","job":"a","image":"registry.example/team/app:1","digest":"%s",'
        b'"seen":5.0,"platform":"linux/amd64","keep":60.0,"within":60.0,"rate":0,'
        b'"credentials":"team","depth":"unpacked","pin":false}' % DIGEST.encode(),
        b'{"kind":"look","job":"a","digest":"%s"}' % DIGEST.encode(),
        b'{"kind":"resolve","image":"registry.example/team/app:1"}',
        b'{"kind":"drop","job":"a","digest":"%s"}' % DIGEST.encode(),
    ),
    refuses=(MessageError,),
    structured=_REQUESTS,
)
def _requests(data: bytes) -> None:
    assert isinstance(preheat_messages.is_preheat(data), bool)
    request = preheat_messages.decode_ask(data)
    if isinstance(request, preheat_messages.PreheatAsk):
        assert all(map(math.isfinite, (request.keep, request.within, request.seen or 0.0)))
        assert request.credentials.isprintable()
    assert preheat_messages.decode_ask(preheat_messages.encode_ask(request)) == request


@target(
    "preheat-tags",
    examples=(b'{"kind":"resolved","digest":"%s","seen":5.0}' % DIGEST.encode(),),
    refuses=(MessageError,),
    structured=_TAGS,
)
def _tags(data: bytes) -> None:
    tag = preheat_messages.decode_tag(data)
    assert preheat_messages.decode_tag(preheat_messages.encode_tag(tag)) == tag


@target(
    "preheat-answers",
    examples=(
        b'{"kind":"state","state":"taking","done":1,"total":2,"upstream":0,"why":"","error":""}',
        (
            b'{"kind":"state","state":"failed","done":0,"total":0,"upstream":0,"why":"no-room",'
            b'"error":"full"}'
        ),
        b'{"kind":"state","state":"unknown"}',
    ),
    refuses=(MessageError,),
    structured=_STATES,
)
def _answers(data: bytes) -> None:
    answer = preheat_messages.PreheatAnswer.decode(data)
    raw = preheat_messages.encode_state(answer.progress)
    assert len(raw) <= MAX_RESPONSE
    assert preheat_messages.PreheatAnswer.decode(raw) == answer


@target(
    "preheat-list",
    examples=(
        (
            b"preheat:\n- image: registry.example/team/app:1\n  nodes: 3\n  refresh: 15m\n"
            b"  rate: 20MB/s\n  ready: true\n  platform: linux/arm64\n  credentials: team\n"
        ),
        b"preheat: [{image: a.b/c:d, nodes: [x, y]}]",
        b"preheat: []",
    ),
    refuses=(ConfigError,),
    slow=3.0,
)
def _list(data: bytes) -> None:
    for entry in preheat_list.parse_list(data, where="list"):
        assert Reference.parse(str(entry.image)) == entry.image
        assert entry.refresh is None or math.isfinite(entry.refresh)


@target(
    "registry-credentials",
    examples=(
        b'{"auths":{"registry.example":{"auth":"bWU6c2VjcmV0"}}}',
        b'{"auths":{"https://registry.example/v2/":{"username":"me","password":"secret"}}}',
        b'{"auths":{"registry.example/team":{"username":"","password":""}},"credsStore":"x"}',
        b'{"credHelpers":{"other.example":"x"}}',
    ),
    refuses=(ConfigError,),
    structured=as_json(
        objects(
            {
                "auths": st.dictionaries(
                    st.sampled_from(("registry.example", "https://registry.example/v1/", "/", "")),
                    objects({"auth": VALUES, "username": VALUES, "password": VALUES}),
                ),
                "credsStore": VALUES,
                "credHelpers": VALUES,
            }
        )
    ),
)
def _credentials(data: bytes) -> None:
    found = registry_credentials.credentials_in(data, IMAGE, where="config.json")
    if found is not None:
        assert found.header.startswith("Basic ")


@target(
    "control-requests",
    examples=(
        (
            b'{"images":["registry.example/team/app:1"],"nodes":"all","platform":"auto",'
            b'"keep":"24h","rate":"20MB/s","timeout":"30m","depth":"content","credentials":"team"}'
        ),
        b'{"images":["a.b/c:d"],"nodes":["x","y"],"rate":7}',
    ),
    refuses=(RequestInvalid, ValueError, RecursionError),
    structured=as_json(
        objects(
            {
                "images": st.lists(_IMAGES, max_size=3),
                "nodes": VALUES,
                "platform": VALUES,
                "keep": VALUES,
                "rate": VALUES,
                "timeout": VALUES,
            }
        )
    ),
)
def _control(data: bytes) -> None:

    request = PreheatRequest.parse(json.loads(data))
    assert PreheatRequest.parse(request.as_json()).images == request.images
    assert math.isfinite(request.keep)


TARGETS = (_requests, _answers, _list, _credentials, _control)
