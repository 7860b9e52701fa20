"""When the status of groups is written: soon in quiet times, later in a burst, always in the end."""

from __future__ import annotations

from shoal_queue_controller.app import Config, due

CONFIG = Config()
QUIET = {("ns", "g"): (0.0, 1.0)}
BURST = {("ns", f"g{i}"): (0.0, 10.0 if i else 1.0) for i in range(CONFIG.burst_groups + 1)}


def test_a_group_that_has_settled_is_written() -> None:
    assert due(QUIET, 1.0 + CONFIG.settle - 0.1, CONFIG) == []
    assert due(QUIET, 1.0 + CONFIG.settle, CONFIG) == [("ns", "g")]


def test_a_group_that_never_settles_is_written_all_the_same() -> None:
    assert due({("ns", "g"): (0.0, 99.0)}, 99.5, CONFIG) == [("ns", "g")]


def test_in_a_burst_status_waits() -> None:
    assert due(BURST, 10.5, CONFIG) == []
    assert due(BURST, 11.0, CONFIG) == [("ns", "g0")], "a quiet second ends the burst"
    assert len(due(BURST, CONFIG.longest, CONFIG)) == len(BURST)
