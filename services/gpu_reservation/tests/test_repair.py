"""What is wrong with shared GPUs is found after it lasted, and never in what is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_contracts.decision import Decision
from shoal_contracts.state import PodRecord
from shoal_gpu_reservation.ledger import Ledger
from shoal_gpu_reservation.repair import Found, Patience, Repair, Watch
from shoal_testkit.shared_records import decision, reservation, user

PATIENCE = Patience(release=1.0, grace=5.0, allocation=40.0)


def ledger(*known: PodRecord | Decision) -> Ledger:
    found = Ledger()
    for one in known:
        found.pod(one) if isinstance(one, PodRecord) else found.decision(one)
    return found


def judge(watch: Watch, book: Ledger, now: float, held: frozenset[tuple[str, str]] = frozenset()) -> list[Repair]:
    return watch.judge(book, now, lambda node: True, {"n", "m"}, held)


def lasting(book: Ledger, seconds: float, before: Callable[[Watch], object] = lambda _: None) -> list[Repair]:
    """What is found once it has lasted; nothing may be found before."""
    watch = Watch(PATIENCE)
    before(watch)
    assert judge(watch, book, 0.0) == []
    assert judge(watch, book, seconds - 0.1) == []
    return judge(watch, book, seconds)


def test_what_is_in_use_is_left_alone() -> None:
    for book in (ledger(reservation(), user()), ledger(reservation(), decision()), ledger(reservation(device=""), decision())):
        watch = Watch(PATIENCE)
        assert [judge(watch, book, now) for now in (0.0, 10.0, 39.0)] == [[], [], []]


def test_a_reservation_that_nobody_uses_goes() -> None:
    (found,) = lasting(ledger(reservation()), 5.0)
    assert (found.found, [r.name for r in found.delete], found.evict) == (Found.UNUSED, ["r"], ())


def test_one_whose_last_user_is_gone_goes_sooner() -> None:
    (found,) = lasting(ledger(reservation()), 1.0, lambda watch: judge(watch, ledger(reservation(), user()), -1.0))
    assert found.found is Found.RELEASED


def test_one_that_is_being_asked_for_stays() -> None:
    watch, book = Watch(PATIENCE), ledger(reservation())
    for now in (0.0, 10.0, 20.0):
        assert judge(watch, book, now, frozenset({("n", "g")})) == []


def test_users_without_a_reservation_are_evicted() -> None:
    (found,) = lasting(ledger(user("a"), user("b")), 5.0)
    assert (found.found, {u.pod for u in found.evict}, found.delete) == (Found.UNPROTECTED, {"a", "b"}, ())


def test_a_user_whose_reservation_is_leaving_has_none() -> None:
    (found,) = lasting(ledger(user(), reservation(deleted=3.0)), 5.0)
    assert found.found is Found.UNPROTECTED


@pytest.mark.parametrize("used", [("old",), ("old", "young"), ()])
def test_of_two_groups_on_one_device_the_younger_goes(used: tuple[str, ...]) -> None:
    book = ledger(
        reservation("r1", "old", created=1.0), reservation("r2", "young", created=2.0),
        *(user(f"u-{g}", g) for g in used), decision("keeps", "old", "young"),
    )  # fmt: skip
    (found,) = lasting(book, 5.0)
    assert (found.found, found.key, [r.name for r in found.delete]) == (Found.SHARED_TWICE, ("n", "young"), ["r2"])
    assert [u.pod for u in found.evict] == [f"u-{g}" for g in used if g == "young"]


def test_the_one_with_users_stays_even_if_it_is_younger() -> None:
    book = ledger(reservation("r1", "old", created=1.0), reservation("r2", "young", created=2.0), user("u", "young"))
    found = {r.found: r for r in lasting(book, 5.0)}
    assert found[Found.SHARED_TWICE].key == ("n", "old")


def test_the_same_device_name_on_two_nodes_is_two_devices() -> None:
    book = ledger(reservation("r1", "g", "n"), reservation("r2", "h", "m"), user("a", "g"), user("b", "h", node="m"))
    watch = Watch(PATIENCE)
    assert judge(watch, book, 0.0) == judge(watch, book, 60.0) == []


@pytest.mark.parametrize(
    "lost", [reservation(notes={"shoal.dev/gpu-lost": "xid 79"}), reservation(phase="Failed"), reservation(node="gone")]
)
def test_a_lost_device_takes_its_users_with_it(lost: PodRecord) -> None:
    book = ledger(lost, user(node=lost.node))
    (found,) = lasting(book, 5.0)
    assert (found.found, [r.name for r in found.delete]) == (Found.LOST, ["r"])
    assert len(found.evict) == (lost.node == "n")


def test_a_reservation_without_an_answer_is_given_up() -> None:
    (found,) = lasting(ledger(reservation(device=""), decision()), 40.0)
    assert (found.found, [r.name for r in found.delete]) == (Found.SILENT, ["r"])


def test_a_second_reservation_of_a_group_goes() -> None:
    (found,) = lasting(ledger(reservation("r1", device="a"), reservation("r2", device="b", created=2.0), user()), 5.0)
    assert (found.found, [r.name for r in found.delete]) == (Found.DOUBLE, ["r2"])


def test_what_was_wrong_for_a_moment_is_forgotten() -> None:
    watch, wrong, right = Watch(PATIENCE), ledger(user()), ledger(user(), reservation())
    assert judge(watch, wrong, 0.0) == judge(watch, right, 3.0) == judge(watch, wrong, 4.0) == judge(watch, wrong, 8.0) == []
    assert len(judge(watch, wrong, 9.0)) == 1


def test_nodes_of_others_are_left_alone() -> None:
    watch, book = Watch(PATIENCE), ledger(user())
    for now in (0.0, 60.0):
        assert watch.judge(book, now, lambda node: False, {"n"}, set()) == []


GROUPS = st.sampled_from(["g", "h"])
POD = st.one_of(
    st.builds(
        lambda n, g, device, deleted, created: reservation(n, g, device=device, deleted=deleted, created=created),
        st.sampled_from(["r", "s", "t"]), GROUPS, st.sampled_from(["", "x", "y"]), st.sampled_from([0.0, 2.0]),
        st.sampled_from([1.0, 2.0]),
    ),
    st.builds(lambda n, g: user(n, g), st.sampled_from(["u", "v"]), GROUPS),
)  # fmt: skip


@given(st.lists(POD, max_size=6))
def test_mending_all_that_is_found_ends_with_nothing_wrong(pods: list[PodRecord]) -> None:
    book = ledger(*pods)
    for _ in range(10):
        watch = Watch(PATIENCE)
        judge(watch, book, 0.0)
        if not (repairs := judge(watch, book, 100.0)):
            break
        for repair in repairs:
            for reservation_ in repair.delete:
                book.pod_gone("kai-resource-reservation", reservation_.name)
            for user_ in repair.evict:
                book.pod_gone(user_.namespace, user_.pod)
    else:
        pytest.fail("there is always something to mend")
    devices = [(g.node, r.device) for g in book.groups.values() if (r := g.reservation)]
    assert len(devices) == len(set(devices))
    assert all(g.reservation for g in book.groups.values() if g.users)
    assert all(g.users for g in book.groups.values() if g.reservation)
