"""A ledger that was lost: what labels do not tell is beside it, and what cannot be read widens
nothing.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ds01_spawner.core.devices import Xid
from ds01_spawner.errors import Draining, GpuPaused, NoDeviceFree
from ds01_spawner.services import ledger_decided
from ds01_spawner.services.ledger import Lease, Ledger
from tests.services.test_ledger import START, Clock, clock, ledger, opened, path, request, snapshot

__all__ = ["clock", "ledger", "opened", "path"]

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
Opened = Callable[..., Ledger]


def serve(ledger: Ledger, user: str = "ada") -> Lease:
    lease = ledger.reserve(request(user, hours=4), snapshot())
    return ledger.bind(lease.id, lease.generation, f"c-{user}")


def lose(path: Path) -> None:
    """As an admin does: `rm ledger.sqlite*`."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


@pytest.fixture
def file(path: Path) -> Path:
    return path.with_name(ledger_decided.FILE)


@pytest.fixture
def anew(path: Path, opened: Opened) -> Callable[..., Ledger]:
    """The ledger that a hub makes after the last one was lost."""

    def make(**more: Any) -> Ledger:
        lose(path)
        ledger = opened(**more)
        ledger.begin_incarnation()
        return ledger

    return make


# --- what a lost ledger is made anew with ----------------------------------------------------


def test_ends_that_were_moved_come_back_with_their_leases(
    ledger: Ledger, clock: Clock, anew: Opened
) -> None:
    lease, other = serve(ledger), serve(ledger, "bob")
    ledger.set_until(lease.id, START + 30 * HOUR)
    ledger.keep(lease.id, START + 20 * HOUR)
    of_labels = replace(lease, until=START + 5 * HOUR)
    for _ in range(2):  # the second time before any lease was put back
        again = anew()
    found = again.adopt(of_labels)
    assert (found.until, found.keep_until) == (START + 30 * HOUR, START + 20 * HOUR)
    assert again.adopt(replace(other, until=START + 5 * HOUR)).until == START + 5 * HOUR
    again.set_until(lease.id, START + 31 * HOUR)
    last = anew()
    assert last.adopt(of_labels).until == START + 31 * HOUR
    assert last.adopt(replace(other, until=None)).until == START + 5 * HOUR, (
        "though no label tells it"
    )


def test_a_server_that_was_given_back_gets_nothing_and_is_forgotten(
    ledger: Ledger, clock: Clock, file: Path, anew: Opened
) -> None:
    lease = serve(ledger)
    ledger.set_until(lease.id, START + 9 * HOUR)
    ledger.release(lease.id)
    again = anew()
    assert again.leases() == ()
    assert lease.id in file.read_text()
    clock.pass_(hours=9)
    again.begin_incarnation()
    assert lease.id not in file.read_text()


def test_devices_that_were_set_aside_stay_so(ledger: Ledger, anew: Opened) -> None:
    ledger.cordon("GPU-0", "a fan rattles")
    ledger.cordon("GPU-1", "")
    ledger.note_struck([Xid("GPU-2", 48, START)], (), "boot")
    ledger.uncordon("GPU-1")
    before = ledger.cordons()
    again = anew()
    assert again.cordons() == before
    assert again.reserve(request(), snapshot(3)).devices == ("GPU-1",)
    assert again.remembered("boot") == (Xid("GPU-2", 48, START),)
    assert again.remembered("another boot") == ()
    assert [cordon.device for cordon in anew().cordons()] == ["GPU-0"]


def test_who_has_to_wait_waits_on(ledger: Ledger, clock: Clock, file: Path, anew: Opened) -> None:
    lease = serve(ledger)
    faults = [Xid("GPU-0", 31, START + n * MINUTE / 10) for n in range(1, 220)]
    clock.pass_(minutes=22)
    ledger.note_faults(faults)
    before = ledger.pauses("hub")
    assert list(before) == ["ada"]
    again = anew()
    assert again.pauses("hub") == before
    assert len(json.loads(file.read_text())["faults"]) <= 22, "of one minute one is enough"
    again.adopt(lease)
    with pytest.raises(GpuPaused):
        again.reserve(request("ada", "two"), snapshot())
    again.forgive("hub", "ada")
    assert anew().pauses("hub") == {}


@pytest.mark.parametrize("why", ["a fan is replaced", ""])
def test_a_drained_host_stays_so(ledger: Ledger, why: str, anew: Opened) -> None:
    ledger.drain(why)
    again = anew()
    assert again.drained() == why
    again.resume()
    assert anew().drained() is None


def test_of_several_processes_the_file_has_all(
    ledger: Ledger, opened: Opened, anew: Opened
) -> None:
    other = opened()
    ledger.cordon("GPU-0", "")
    other.cordon("GPU-1", "")
    ledger.uncordon("GPU-0")
    assert [cordon.device for cordon in anew().cordons()] == ["GPU-1"]


def test_beside_a_ledger_the_file_says_nothing(
    ledger: Ledger, file: Path, path: Path, opened: Opened
) -> None:
    ledger.cordon("GPU-0", "")
    old = file.read_bytes()
    ledger.uncordon("GPU-0")
    file.write_bytes(old)
    again = opened()
    assert again.cordons() == ()
    again.begin_incarnation()
    assert json.loads(file.read_text())["aside"] == []


# --- the file --------------------------------------------------------------------------------


def test_it_is_the_hubs_alone_and_written_when_something_is_decided(
    ledger: Ledger, file: Path
) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.stat().st_ino
    ledger.begin_incarnation()
    serve(ledger)
    assert file.stat().st_ino == before
    ledger.cordon("GPU-3", "")
    assert file.stat().st_ino != before
    assert [found.name for found in file.parent.glob("decided*")] == [file.name]


def test_where_it_cannot_be_written_the_decision_stands(
    ledger: Ledger, file: Path, caplog: pytest.LogCaptureFixture, opened: Opened
) -> None:
    new = file.with_name(f"{file.name}.new")
    new.mkdir()
    ledger.cordon("GPU-0", "")
    assert "is not written beside the ledger" in caplog.text
    new.rmdir()
    assert [cordon.device for cordon in opened().cordons()] == ["GPU-0"]
    ledger.cordon("GPU-1", "")
    assert [one["device"] for one in json.loads(file.read_text())["aside"]] == ["GPU-0", "GPU-1"]


def test_what_a_crash_kept_from_it_is_in_it_when_the_hub_is_back(
    ledger: Ledger, file: Path, opened: Opened
) -> None:
    before = file.read_bytes()
    ledger.cordon("GPU-0", "")
    file.write_bytes(before)  # killed between the two
    opened().begin_incarnation()
    assert [one["device"] for one in json.loads(file.read_text())["aside"]] == ["GPU-0"]


def test_it_is_whose_the_ledger_is(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    monkeypatch.setattr(os, "fchown", lambda _, user, group: given.append((user, group)))
    ledger.cordon("GPU-0", "")
    assert given == [(path.stat().st_uid, path.stat().st_gid)]


def _change(**values: object) -> Callable[[Path], object]:
    def change(file: Path) -> None:
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


UNREADABLE = [
    (lambda file: file.write_text(""), "EOF"),
    (lambda file: file.write_bytes(file.read_bytes()[:40]), "EOF"),
    (lambda file: file.write_bytes(b"\xff\xfe" * 20), "Invalid JSON"),
    (lambda file: (file.unlink(), file.mkdir()), "directory"),
    (lambda file: file.write_bytes(b" " * (ledger_decided.MAX_BYTES + 1)), "too large"),
    (_change(v=2), "v: "),
    (_change(more=1), "more: "),
    (_change(simulated=False), "other kind"),
    (_change(aside=[{"device": "GPU-0"}]), "aside.0.since: "),
    (_change(aside=[{"device": "GPU-0", "since": "2026-01-01T00:00:00", "why": ""}]), "timezone"),
    (_change(struck=[{"device": "G", "xid": 1 << 40, "since": "2026-01-01T00:00:00Z", "boot": ""}]),
     "struck.0.xid"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), UNREADABLE)
def test_what_cannot_be_read_gives_nothing_out_until_an_admin_looked(
    ledger: Ledger, file: Path, anew: Opened, caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], object], words: str,
) -> None:  # fmt: skip
    lease = serve(ledger)
    ledger.cordon("GPU-1", "a fan rattles")
    spoil(file)
    again = anew()
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert words in told.getMessage()
    assert "ds01-spawner resume" in told.getMessage()
    for start in (request("bob"), request("bob", gpus=0)):
        with pytest.raises(Draining, match="an administrator has to look"):
            again.reserve(start, snapshot())
    assert again.adopt(lease) in again.leases(), "servers that run go on"
    assert file.with_name(ledger_decided.UNREAD).exists()
    assert anew().drained(), "a ledger that is lost once more forgets nothing of that"


def test_what_is_spoilt_beside_a_ledger_costs_nothing(
    ledger: Ledger, file: Path, anew: Opened
) -> None:
    ledger.cordon("GPU-0", "")
    file.write_text("{}")
    ledger.cordon("GPU-1", "")
    with pytest.raises(NoDeviceFree):
        anew().reserve(request(), snapshot(2))


def test_times_of_another_zone_are_the_same_times(ledger: Ledger, file: Path, anew: Opened) -> None:
    lease = serve(ledger)
    end = {"lease": lease.id, "until": "2026-01-01T12:00:00+02:00", "keep_until": None}
    _change(ends=[end])(file)
    assert anew().adopt(lease).until == START + 10 * HOUR
