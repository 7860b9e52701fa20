"""Names that admission and binder derive from a pod."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_model import labels, sharing
from shoal_model.sharing import ConfigNames, Target

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=7, max_size=7)
TARGETS = st.builds(Target, st.just("c"), st.integers(0, 200), st.booleans())


@pytest.mark.parametrize(
    ("containers", "init", "notes", "found"),
    [
        (["a", "b"], [], {}, Target("a", 0)),
        (["a", "b"], [], {labels.GPU_CONTAINER: "b"}, Target("b", 1)),
        (["a"], ["i", "j"], {labels.GPU_CONTAINER: "j"}, Target("j", 1, init=True)),
        (["a"], ["a"], {labels.GPU_CONTAINER: "a"}, Target("a", 0, init=True)),
        (["a"], ["i"], {labels.GPU_CONTAINER: "none"}, None),
        (["a"], ["i"], {labels.GPU_CONTAINER: ""}, None),
        ([], [], {}, None),
    ],
)
def test_the_container_that_gets_the_share(containers: list, init: list, notes: dict, found: Target | None) -> None:
    assert sharing.target(containers, init, notes) == found


def test_names_as_the_reference_writes_them() -> None:
    at = Target("c", 0)
    prefix = sharing.make_prefix("trainer-5d4f", "abc1234", at)
    assert prefix == "trainer-5d4f-abc1234-shared-gpu"
    assert sharing.config_names(prefix, at) == ConfigNames(f"{prefix}-0", f"{prefix}-0-evar")
    assert sharing.config_names(prefix, Target("c", 2, init=True)).values == f"{prefix}-i2"
    assert sharing.volume_name(f"{prefix}-0") == f"{prefix}-0-vol"


@given(base=st.text(max_size=300) | st.from_regex(r"[a-z0-9.-]{0,60}", fullmatch=True), token=TOKENS, at=TARGETS)
def test_every_name_is_valid_whatever_the_base(base: str, token: str, at: Target) -> None:
    prefix = sharing.make_prefix(base, token, at)
    assert sharing.valid_prefix(prefix)
    names = sharing.config_names(prefix, at)
    for name in (names.values, names.direct):
        assert SUBDOMAIN.fullmatch(name)
        assert len(name) <= 253
    volume = sharing.volume_name(names.values)
    assert LABEL.fullmatch(volume)
    assert len(volume) <= 63
    assert token in volume, "two pods of one owner never share a volume name"


@given(prefix=st.from_regex(SUBDOMAIN, fullmatch=True), at=TARGETS)
def test_a_prefix_that_somebody_chose_gives_valid_names_or_is_none(prefix: str, at: Target) -> None:
    if not sharing.valid_prefix(prefix):
        assert sharing.prefix({labels.SHARED_GPU_CONFIG: prefix}) == ""
        return
    assert sharing.prefix({labels.SHARED_GPU_CONFIG: prefix}) == prefix
    names = sharing.config_names(prefix, at)
    assert SUBDOMAIN.fullmatch(names.direct)
    assert len(names.direct) <= 253
    assert LABEL.fullmatch(sharing.volume_name(names.values))


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a..b", "../x", "a/b", "a" * 241, "a\n"])
def test_no_prefix(text: str) -> None:
    assert not sharing.valid_prefix(text)
