"""uid and gid of the host's accounts: people's alone."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from ds01_spawner.services.accounts import Account, account_of, folder_problem


@pytest.mark.parametrize(
    ("uid", "gid", "expected"),
    [
        (1000, 1000, Account(1000, 1000)),
        (1722830498, 1722800513, Account(1722830498, 1722800513)),  # as directories give them
        (0, 0, None),
        (999, 1000, None),
        (65534, 65534, None),
        (1000, 27, None),  # the primary group is a system group: sudo, docker, disk
    ],
)
def test_accounts(
    uid: int, gid: int, expected: Account | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = SimpleNamespace(pw_name="alice", pw_uid=uid, pw_gid=gid)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: entry)
    assert account_of("alice") == expected


@pytest.mark.parametrize("name", ["root", "no-such-user-here", "..", "", "a\0b"])
def test_no_account(name: str) -> None:
    assert account_of(name) is None


def test_the_engine_reads_it_as_uid_and_gid() -> None:
    assert str(Account(1000, 2000)) == "1000:2000"


async def test_a_folder_of_the_account_is_a_workspace(tmp_path: Path) -> None:
    assert await folder_problem(str(tmp_path), Account(os.getuid(), os.getgid())) == ""


async def test_a_link_to_anothers_folder_is_not(tmp_path: Path) -> None:
    """The engine would follow it as root, past the permissions of the folders above."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "workspace").symlink_to(tmp_path / "thesis")
    me = Account(os.getuid(), os.getgid())
    assert "symbolic link" in await folder_problem(str(tmp_path / "workspace"), me)


@pytest.mark.parametrize(("name", "told"), [("missing", "No such file"), ("file", "not a folder")])
async def test_what_is_no_folder_is_told(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "file").touch()
    me = Account(os.getuid(), os.getgid())
    assert told in await folder_problem(str(tmp_path / name), me)


async def test_a_folder_of_somebody_else_is_not() -> None:
    if os.geteuid() == 0:  # looked at as that account
        assert await folder_problem("/", Account(1000, 1000)) == "it belongs to somebody else"
    else:
        assert await folder_problem("/", Account(os.getuid(), os.getgid())) != ""
