"""Names for the engine: safe, bounded, and never the same for two people."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.slugs import (
    MAX_SLUG,
    container_name,
    image_repository,
    slug,
    volume_name,
)

SAFE = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
NEAR = st.text("ab-._@A", min_size=0, max_size=6)  # names that a careless slug would confuse
names = st.one_of(NEAR, st.text(max_size=80))


@pytest.mark.parametrize("name", ["alice", "a", "h-baker", "204214", "a--b", "x" * MAX_SLUG])
def test_a_safe_name_stays_as_it_is(name: str) -> None:
    assert slug(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", "Alice", "h.baker@hertie-school.lan", "h_baker", "-a", "a-", "a---b", "../etc",
        "x" * (MAX_SLUG + 1), "李", "a b", "a\n", "\ud800", "-" * 40, "_",
    ],
)  # fmt: skip
def test_another_name_gets_a_readable_part_and_a_hash(name: str) -> None:
    made = slug(name)
    assert made != name
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*---[0-9a-f]{12}", made)
    assert len(made) <= MAX_SLUG


def test_ds01s_two_names_in_one_account_are_two_here() -> None:
    assert slug("h.baker@a") != slug("h_baker")
    assert slug("h.baker") != slug("h_baker")


@given(names)
def test_a_slug_is_safe_and_bounded(name: str) -> None:
    assert SAFE.fullmatch(slug(name))
    assert len(slug(name)) <= MAX_SLUG


@given(names, names)
def test_different_names_have_different_slugs(one: str, other: str) -> None:
    assert (slug(one) == slug(other)) == (one == other)


@given(names)
def test_a_slug_cannot_be_taken_by_a_user_named_like_it(name: str) -> None:
    assert slug(name) == name or slug(slug(name)) != slug(name)


@given(st.tuples(names, names), st.tuples(names, names))
def test_different_servers_have_different_containers(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    assert (container_name("ds01", *one) == container_name("ds01", *other)) == (one == other)


@given(st.tuples(names, names), st.tuples(names, names))
def test_different_projects_have_different_repositories(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    assert (image_repository(*one) == image_repository(*other)) == (one == other)


@given(names, names)
def test_different_users_have_different_volumes(one: str, other: str) -> None:
    assert (volume_name("ds01", one) == volume_name("ds01", other)) == (one == other)


def test_what_names_look_like() -> None:
    assert container_name("ds01", "alice", "") == "ds01.alice"
    assert container_name("ds01", "alice", "thesis") == "ds01.alice.thesis"
    assert volume_name("ds01", "alice") == "ds01.home.alice"
    assert image_repository("alice", "my-thesis") == "ds01-alice/my-thesis"
