"""What is published is exactly the difference between what is and what the stream holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal_cluster_state.picture import Picture

SUBJECTS = st.sampled_from("abcde")
STEPS = st.lists(st.tuples(SUBJECTS, st.none() | st.binary(min_size=1, max_size=2)), max_size=30)


def apply(picture: Picture, steps: list[tuple[str, bytes | None]]) -> None:
    for subject, data in steps:
        if data is None:
            picture.drop(subject)
        else:
            picture.put(subject, data, {})


def publish(picture: Picture, stream: dict[str, bytes], most: int = 100) -> int:
    changes = picture.take(most)
    for subject, entry in changes:
        if entry is None:
            stream.pop(subject, None)
        else:
            stream[subject] = entry.data
    return len(changes)


def held(picture: Picture) -> dict[str, bytes]:
    return {s: e.data for s, e in picture.held.items()}


@given(STEPS, STEPS, st.integers(1, 3))
def test_the_stream_ends_as_the_picture_is(first: list, second: list, most: int) -> None:
    picture, stream = Picture(), {}
    apply(picture, first)
    publish(picture, stream, most)
    apply(picture, second)
    while publish(picture, stream, most):
        pass
    assert stream == held(picture)


@given(STEPS, st.dictionaries(SUBJECTS, st.binary(min_size=1, max_size=2)))
def test_compared_with_any_stream_only_the_differences_go_out(steps: list, stream: dict[str, bytes]) -> None:
    picture = Picture()
    apply(picture, steps)
    publish(picture, {}, 100)
    picture.compare(stream)
    differs = {s for s in stream.keys() | picture.held.keys() if stream.get(s) != held(picture).get(s)}
    assert set(picture.dirty) == differs
    publish(picture, stream)
    assert stream == held(picture)


def test_a_record_that_did_not_change_is_not_published_again() -> None:
    picture = Picture()
    assert picture.put("a", b"1", {})
    picture.take(10)
    assert not picture.put("a", b"1", {})
    assert not picture.drop("b")
    assert not picture.dirty


def test_what_could_not_be_published_comes_first_again() -> None:
    picture = Picture()
    for subject in "abc":
        picture.put(subject, b"1", {})
    picture.put_back([s for s, _ in picture.take(2)])
    assert list(picture.dirty) == ["a", "b", "c"]
