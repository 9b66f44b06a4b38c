"""The pull times of one peer's tags, beside a plain dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spegel_py.routing.libp2p.keys import name_hash
from spegel_py.routing.libp2p.tag_ages import TagAges

POOL = [name_hash(str(number)) for number in range(100)]
TIMES = st.dictionaries(st.sampled_from(POOL), st.floats(0, 1e6), max_size=100)


@given(st.lists(st.tuples(TIMES, st.sets(st.sampled_from(POOL), max_size=5)), max_size=4))
def test_it_is_a_dictionary(changes: list[tuple[dict[bytes, float], set[bytes]]]) -> None:
    """Few times are put in their place and many are sorted, with the same result."""
    ages, model = TagAges(), dict[bytes, float]()
    for times, gone in changes:
        ages.update(times.items(), room=1000)
        ages.remove(gone)
        model = {key: at for key, at in (model | times).items() if key not in gone}
        assert len(ages) == len(model)
        assert [ages.get(key) for key in POOL] == [model.get(key) for key in POOL]


def test_new_times_are_bounded_and_known_ones_renewed() -> None:
    """Without room the time of a known tag still changes, in small and in large updates."""
    ages = TagAges()
    ages.update([(key, 1.0) for key in POOL[:80]], room=70)
    assert len(ages) == 70
    ages.update([(key, 2.0) for key in POOL], room=0)
    ages.update([(POOL[0], 3.0), (POOL[99], 3.0)], room=0)
    assert (len(ages), ages.get(POOL[0]), ages.get(POOL[1])) == (70, 3.0, 2.0)
    assert ages.get(POOL[99]) is None
