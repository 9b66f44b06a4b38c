"""dockerd's file: one key changes, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.host import daemon_json

MIRRORS = ["http://127.0.0.1:5000", "http://127.0.0.1:5001"]
ODD = """\
{
\t"log-opts" : {"max-size":"10m", "tag": "}{,"},
      "registry-mirrors" :
  [ "https://mirror.example" ] ,
  "dns": ["1.1.1.1"]   }

"""


def test_a_missing_file_gets_one_key() -> None:
    assert json.loads(daemon_json.add("", MIRRORS)) == {"registry-mirrors": MIRRORS}
    assert json.loads(daemon_json.add("{ }", MIRRORS)) == {"registry-mirrors": MIRRORS}


def test_only_the_value_of_the_key_changes() -> None:
    """The mirrors come first, and every other byte is as before."""
    found = daemon_json.add(ODD, MIRRORS[:1])
    wanted = '["http://127.0.0.1:5000", "https://mirror.example"]'
    assert found == ODD.replace('[ "https://mirror.example" ]', wanted)
    assert daemon_json.add(found, MIRRORS[:1]) == found
    assert daemon_json.remove(found, MIRRORS) == ODD.replace(
        '[ "https://mirror.example" ]', '["https://mirror.example"]'
    )


def test_a_file_without_the_key_keeps_every_byte() -> None:
    text = '{"dns": ["1.1.1.1"],\n "a": {"registry-mirrors": 1}}'
    found = daemon_json.add(text, MIRRORS[:1])
    assert found == '{\n  "registry-mirrors": ["http://127.0.0.1:5000"],' + text[1:]
    assert daemon_json.remove(found, MIRRORS) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "no JSON object"),
        ("{", "not JSON"),
        ('{"a": 1,}', "not JSON"),
        ('{"a": 1} // why', "not JSON"),
        ('{"registry-mirrors": "https://one"}', "no list of URLs"),
        ('{"registry-mirrors": [1]}', "no list of URLs"),
        ('{"registry-mirrors": [], "registry-mirrors": []}', "twice"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_cannot_be_edited_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        daemon_json.add(text, MIRRORS)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(st.text(max_size=5) | st.just("dns"), VALUES, max_size=4).flatmap(
    lambda document: st.lists(
        st.sampled_from(["https://a", *MIRRORS]), max_size=3, unique=True
    ).map(lambda found: document | ({"registry-mirrors": found} if found else {}))
)


@given(DOCUMENTS, st.sampled_from([None, 0, 1, "\t"]), st.booleans())
def test_all_other_keys_stay(document: dict[str, Any], indent: Any, is_ascii: bool) -> None:
    """Whatever the file has and however it is written."""
    text = json.dumps(document, indent=indent, ensure_ascii=is_ascii)
    added = json.loads(daemon_json.add(text, MIRRORS))
    before = document.get("registry-mirrors", [])
    others = [one for one in before if one not in MIRRORS]
    assert added == document | {"registry-mirrors": [*MIRRORS, *others]}
    removed = json.loads(daemon_json.remove(daemon_json.add(text, MIRRORS), MIRRORS))
    rest = {name: value for name, value in document.items() if name != "registry-mirrors"}
    assert removed == rest | ({"registry-mirrors": others} if others else {})
