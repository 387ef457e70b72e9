"""User numbers: one per name for ever, and none at all where the file cannot be trusted."""

from __future__ import annotations

import os
import pwd
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ds01_spawner.errors import UidsExhausted, UidsUnusable
from ds01_spawner.services.uids import Uids, is_taken


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "uids.sqlite"


def opened(path: Path) -> Uids:
    return Uids(path, taken=lambda uid: False, busy_timeout_s=0.01)


def test_a_uid_belongs_to_one_name_for_ever(path: Path) -> None:
    uids = opened(path)
    names = ("ada", "bob", "ada")
    assert [uids.uid_of(name, (2000, 2001)) for name in names] == [2000, 2001, 2000]
    with pytest.raises(UidsExhausted, match="2000 to 2001"):
        uids.uid_of("eve", (2000, 2001))
    assert uids.uid_of("eve", (3000, 3001)) == 3000
    assert opened(path).uid_of("bob", (3000, 3001)) == 2001


def test_the_uid_of_an_account_of_the_host_is_nobody_s(path: Path) -> None:
    taken = {2000, 2002, 2003}
    uids = Uids(path, taken=taken.__contains__)
    assert [uids.uid_of(name, (2000, 2004)) for name in ("ada", "bob")] == [2001, 2004]
    taken.add(2001)  # the account came later: her files are hers
    assert uids.uid_of("ada", (2000, 2004)) == 2001
    with pytest.raises(UidsExhausted):
        Uids(path, taken=lambda uid: True).uid_of("eve", (5000, 5001))


def test_the_host_tells_which_uids_are_taken() -> None:
    known = {entry.pw_uid for entry in pwd.getpwall()}
    assert is_taken(os.getuid()) == (os.getuid() in known)
    assert not is_taken(next(uid for uid in range(3_000_000_000, 3_000_000_100)))


def test_the_file_is_the_hub_s_alone(path: Path) -> None:
    opened(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    opened(path)
    assert path.stat().st_mode & 0o777 == 0o600


def write(text: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text)


def newer(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=2")
    database.close()


def foreign(path: Path) -> None:
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE uid (name TEXT PRIMARY KEY, uid INTEGER NOT NULL UNIQUE)")
    database.close()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "moved or deleted"),
        (write(b"x" * 5000), "damaged"),
        (write(b""), "emptied"),
        (newer, "newer ds01_spawner"),
        (foreign, "another program's"),
    ],
)
def test_a_file_that_cannot_be_trusted_gives_no_uid(
    path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    uids = opened(path)
    uids.uid_of("ada", (2000, 2001))
    spoil(path)
    with pytest.raises(UidsUnusable, match=words) as caught:
        uids.uid_of("bob", (2000, 2001))
    assert caught.value.next_step


@pytest.mark.parametrize(("spoil", "words"), [(write(b"x" * 5000), "damaged"), (foreign, "anoth")])
def test_it_is_not_opened_either(path: Path, spoil: Callable[[Path], object], words: str) -> None:
    opened(path)
    spoil(path)
    with pytest.raises(UidsUnusable, match=words):
        opened(path)


def test_a_busy_file_gives_no_uid(path: Path) -> None:
    uids = opened(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UidsUnusable, match="locked"):
        uids.uid_of("ada", (2000, 2001))
    other.close()
    assert uids.uid_of("ada", (2000, 2001)) == 2000


def test_names_that_race_get_a_uid_each(path: Path) -> None:
    barrier = threading.Barrier(16)
    several = [Uids(path, taken=lambda uid: False) for _ in range(4)]

    def ask(number: int) -> int:
        barrier.wait()
        return several[number % 4].uid_of(f"user{number // 2}", (2000, 3000))

    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(ask, range(16)))
    assert got[::2] == got[1::2]
    assert sorted(set(got)) == list(range(2000, 2008))
