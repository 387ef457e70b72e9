"""uid and gid of the host's accounts: people's alone."""

from __future__ import annotations

import pwd
from types import SimpleNamespace

import pytest

from ds01_spawner.services.accounts import Account, account_of


@pytest.mark.parametrize(
    ("uid", "gid", "expected"),
    [
        (1000, 1000, Account(1000, 1000)),
        (1722830498, 1722800513, Account(1722830498, 1722800513)),  # as directories give them
        (0, 0, None),
        (999, 1000, None),
        (1000, 27, None),  # the primary group is a system group: sudo, docker, disk
    ],
)
def test_accounts(
    uid: int, gid: int, expected: Account | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = SimpleNamespace(pw_uid=uid, pw_gid=gid)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: entry)
    assert account_of("alice") == expected


@pytest.mark.parametrize("name", ["root", "no-such-user-here", "..", ""])
def test_no_account(name: str) -> None:
    assert account_of(name) is None


def test_the_engine_reads_it_as_uid_and_gid() -> None:
    assert str(Account(1000, 2000)) == "1000:2000"
