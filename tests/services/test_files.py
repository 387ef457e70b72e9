"""Catalog and policy on disk: read again on change, the last good copy kept, the reason told."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ds01_spawner.core.policy import Policy
from ds01_spawner.errors import FileUnusable, PolicyRefused
from ds01_spawner.services import files
from ds01_spawner.services.files import CatalogFile, PolicyFile, read_policy, starter_catalog

ONE = "Pytorch, 1.0, [CUDA], aimehub/one\n"
TWO = "Pytorch, 2.0, [CUDA], aimehub/two\n"
SUBSTITUTE = ("Pytorch, 0.1, [CUDA], local/substitute",)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "ml_images.repo"
    path.write_text(ONE)
    return path


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "resource-limits.yaml"
    path.write_text("defaults: {max_cpus: 1}\ngroups:\n  student: {}\n  staff: {max_cpus: 2}\n")
    return path


def replace(path: Path, text: str) -> None:
    """Write as careful editors do: a new file in the place of the old."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def images(file: CatalogFile) -> list[str]:
    return [entry.image for entry in file.current().entries]


# --- catalog ---------------------------------------------------------------------------------


def test_without_a_file_the_starter_catalog_is_used() -> None:
    file = CatalogFile(None, SUBSTITUTE)
    assert file.current() == starter_catalog()
    assert (file.banner, file.problem) == ("", "")


@pytest.mark.parametrize("write", [Path.write_text, replace])
def test_a_changed_catalog_is_read_again(
    catalog: Path, write: Callable[[Path, str], object]
) -> None:
    file = CatalogFile(catalog)
    assert images(file) == ["aimehub/one"]
    write(catalog, ONE + TWO)
    assert images(file) == ["aimehub/one", "aimehub/two"]


def test_an_unchanged_catalog_is_not_read_again(catalog: Path) -> None:
    file = CatalogFile(catalog)
    assert file.current() is file.current()


def break_empty(path: Path) -> None:
    path.write_text("")


def break_rows(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>\n")


def break_bytes(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


def break_missing(path: Path) -> None:
    path.unlink()


def break_unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (break_empty, "it is empty"),
        (break_rows, "no row is usable; line 1 has 1 of 4 columns"),
        (break_bytes, "it is not UTF-8 text"),
        (break_missing, "no such file"),
        (break_unreadable, "is a directory"),
    ],
)
def test_a_broken_catalog_leaves_the_last_good_copy(
    catalog: Path, broken: Callable[[Path], None], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = CatalogFile(catalog, SUBSTITUTE)
    broken(catalog)
    for _ in range(3):
        assert images(file) == ["aimehub/one"]
    assert why in file.problem
    assert file.banner == ""
    assert caplog.text.count("The earlier copy stays in use.") == 1
    if catalog.is_dir():
        catalog.rmdir()
    replace(catalog, TWO)
    assert images(file) == ["aimehub/two"]
    assert file.problem == ""


@pytest.mark.parametrize(
    "broken", [break_empty, break_rows, break_bytes, break_missing, break_unreadable]
)
def test_a_catalog_that_was_never_good_is_refused(
    catalog: Path, broken: Callable[[Path], None]
) -> None:
    broken(catalog)
    with pytest.raises(FileUnusable, match=str(catalog)):
        CatalogFile(catalog)


@pytest.mark.parametrize(
    ("broken", "why"), [(break_missing, "is missing"), (break_empty, "is empty")]
)
def test_fallback_images_are_used_while_the_catalog_is_missing_or_empty(
    catalog: Path, broken: Callable[[Path], None], why: str
) -> None:
    broken(catalog)
    file = CatalogFile(catalog, SUBSTITUTE)
    assert images(file) == ["local/substitute"]
    assert file.banner == (
        f"The image catalog {why}, so only the administrator's substitute images are offered "
        "for now."
    )
    assert file.problem == f"The catalog {catalog} {why}."
    catalog.write_text(ONE)
    assert images(file) == ["aimehub/one"]
    assert (file.banner, file.problem) == ("", "")


@pytest.mark.parametrize("broken", [break_rows, break_bytes, break_unreadable])
def test_fallback_images_do_not_hide_a_broken_catalog(
    catalog: Path, broken: Callable[[Path], None]
) -> None:
    broken(catalog)
    with pytest.raises(FileUnusable):
        CatalogFile(catalog, SUBSTITUTE)


def test_a_bad_fallback_row_is_refused(catalog: Path) -> None:
    with pytest.raises(FileUnusable, match="fallback_images cannot be used: row 2 has 1 of 4"):
        CatalogFile(catalog, (*SUBSTITUTE, "local/x"))


# --- policy ----------------------------------------------------------------------------------


def test_without_a_file_the_built_in_limits_hold() -> None:
    assert PolicyFile(None).current() == Policy()


def test_a_changed_policy_is_read_again(policy: Path) -> None:
    file = PolicyFile(policy)
    assert file.current().defaults == {"max_cpus": 1.0}
    replace(policy, "defaults: {max_cpus: 3}")
    assert file.current().defaults == {"max_cpus": 3.0}
    assert file.current() is file.current()


@pytest.mark.parametrize(
    "broken", [break_empty, break_rows, break_bytes, break_missing, break_unreadable]
)
def test_the_first_load_of_a_bad_policy_raises(
    policy: Path, broken: Callable[[Path], None]
) -> None:
    broken(policy)
    with pytest.raises((PolicyRefused, FileUnusable)):
        PolicyFile(policy)


@pytest.mark.parametrize(
    "broken", [break_empty, break_rows, break_bytes, break_missing, break_unreadable]
)
def test_a_bad_edit_leaves_the_last_good_policy(
    policy: Path, broken: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    file = PolicyFile(policy)
    broken(policy)
    for _ in range(3):
        assert file.current().defaults == {"max_cpus": 1.0}
    assert policy.name in file.problem
    assert caplog.text.count("the earlier one stays in use") == 1
    if policy.is_dir():
        policy.rmdir()
    replace(policy, "defaults: {max_cpus: 3}")
    assert file.current().defaults == {"max_cpus": 3.0}
    assert file.problem == ""


def test_a_refused_edit_names_its_places(policy: Path) -> None:
    file = PolicyFile(policy)
    policy.write_text("defaults:\n  max_cpu: 3\n")
    file.current()
    assert "resource-limits.yaml:2: defaults.max_cpu: is not a known key." in file.problem


def test_a_read_policy_is_not_told_as_a_warning(
    policy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    file = PolicyFile(policy)
    replace(policy, "defaults: {max_cpus: 3}")
    file.current()
    assert caplog.text == ""


# --- its neighbours, as DS01 lays them out -----------------------------------------------------


def test_members_files_are_read(policy: Path) -> None:
    folder = policy.parent / "groups"
    folder.mkdir()
    (folder / "staff.members").write_text(
        "# professors\neve\n\n  h.baker@hertie-school.lan  # on leave\n204214\n"
    )
    (folder / "archived.members").write_text("gone\n")
    (folder / "README").write_text("two words\n")
    staff = PolicyFile(policy).current().groups["staff"]
    assert staff.members == {"eve", "h.baker@hertie-school.lan", "204214"}


def test_a_change_of_any_neighbour_is_seen(policy: Path) -> None:
    file = PolicyFile(policy)
    folder = policy.parent / "groups"
    folder.mkdir()
    (folder / "staff.members").write_text("eve\n")
    assert file.current().group_of("eve") == "staff"
    (folder / "staff.members").write_text("max\n")
    os.utime(folder / "staff.members")
    assert file.current().group_of("eve") == "student"
    (policy.parent / "user-overrides.yaml").write_text("eve: {max_cpus: 7}\n")
    assert file.current().users == {"eve": {"max_cpus": 7.0}}
    (policy.parent / "user-overrides.yaml").unlink()
    assert file.current().users == {}
    (folder / "staff.members").unlink()
    assert file.current().groups["staff"].members == frozenset()


def test_a_missing_members_file_is_a_notice(policy: Path) -> None:
    (told,) = [n for n in read_policy(policy).notices if n.where.endswith(".members")]
    assert told.where == "groups/staff.members"  # not of the default group: everyone else is in it
    assert "is missing" in told.problem


def test_listed_members_need_no_file(policy: Path) -> None:
    policy.write_text("groups: {student: {}, staff: {members: [eve]}}")
    assert not [n for n in read_policy(policy).notices if n.where.endswith(".members")]


def test_an_unreadable_members_file_is_a_refusal(policy: Path) -> None:
    folder = policy.parent / "groups"
    folder.mkdir()
    (folder / "staff.members").mkdir()
    (folder / "student.members").write_bytes(b"\xff")
    with pytest.raises(PolicyRefused) as caught:
        PolicyFile(policy)
    assert [p.where for p in caught.value.problems] == [
        "groups/staff.members",
        "groups/student.members",
    ]
    assert "would be in another group" in caught.value.problems[0].hint


def test_a_members_folder_that_cannot_be_listed_is_a_refusal(policy: Path) -> None:
    (policy.parent / "groups").write_text("not a folder")
    with pytest.raises(FileUnusable, match="groups cannot be used: not a directory"):
        PolicyFile(policy)


def test_a_line_with_two_names_is_a_refusal(policy: Path) -> None:
    folder = policy.parent / "groups"
    folder.mkdir()
    (folder / "staff.members").write_text("eve\nmax mustermann\n")
    with pytest.raises(PolicyRefused, match=r"groups/staff\.members:2: 'max mustermann'"):
        PolicyFile(policy)


def test_a_members_file_that_becomes_unreadable_moves_nobody(policy: Path) -> None:
    members = policy.parent / "groups" / "staff.members"
    members.parent.mkdir()
    members.write_text("eve\n")
    file = PolicyFile(policy)
    members.unlink()
    members.mkdir()
    assert file.current().group_of("eve") == "staff"
    assert "staff.members" in file.problem
    members.rmdir()
    members.write_text("eve\n")
    assert file.current().group_of("eve") == "staff"
    assert file.problem == ""


def test_a_bad_overrides_file_is_a_refusal(policy: Path) -> None:
    (policy.parent / "user-overrides.yaml").write_text("- eve\n")
    with pytest.raises(PolicyRefused, match=r"user-overrides\.yaml:1: is a list"):
        PolicyFile(policy)


def test_read_text_takes_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes("\ufeffdefaults:".encode())
    assert files.read_text(path) == "defaults:"
