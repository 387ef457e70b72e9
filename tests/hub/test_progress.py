"""The progress log: replayable, bounded, never going back."""

from __future__ import annotations

import asyncio

from ds01_spawner.hub.progress import MAX_EVENTS, PHASES, ProgressLog
from ds01_spawner.services.build_record import BuildEvent


async def read_all(log: ProgressLog) -> list[dict[str, object]]:
    return [event async for event in log.read()]


async def test_every_reader_gets_every_event_from_the_first() -> None:
    log = ProgressLog()
    log.phase("resolve")
    early = asyncio.ensure_future(read_all(log))
    await asyncio.sleep(0)
    log.log("Collecting pandas")
    log.phase("ready")
    late = asyncio.ensure_future(read_all(log))
    log.close()
    assert await early == await late == await read_all(log)
    assert [e.get("phase") for e in await late] == ["resolve", None, "ready"]


async def test_the_percentage_never_goes_back() -> None:
    log = ProgressLog()
    log.phase("ready")
    log.say("a build line", 20)
    log.close()
    events = await read_all(log)
    assert [e["progress"] for e in events] == [PHASES["ready"][0]] * 2


async def test_the_log_is_bounded() -> None:
    log = ProgressLog()
    for number in range(2 * MAX_EVENTS):
        log.log(f"line {number}" + "x" * 10_000)
    log.close()
    events = await read_all(log)
    assert len(events) == MAX_EVENTS
    assert max(len(str(e["message"])) for e in events) <= 4000


def test_phases_are_in_order() -> None:
    percents = [percent for percent, _ in PHASES.values()]
    assert percents == sorted(percents)


async def test_a_long_build_log_crowds_out_no_phase_and_no_step() -> None:
    log = ProgressLog()
    log.phase("image")
    for number in range(2 * MAX_EVENTS):
        log.build(BuildEvent(1, 2, "Your packages", f"line {number}"))
    log.phase("lease")
    log.close()
    events = await read_all(log)
    assert [e["phase"] for e in events if "phase" in e] == ["image", "lease"]
    assert [(e["step"], e["title"]) for e in events if "step" in e] == [(1, "Your packages")]
    assert events[-2]["message"] == f"line {2 * MAX_EVENTS - 1}"


async def test_a_place_in_a_line_is_no_step() -> None:
    log = ProgressLog()
    log.build(BuildEvent(0, 5, "Waiting for other builds", "place 2 in the line"))
    log.close()
    (event,) = await read_all(log)
    assert event["message"] == "Waiting for other builds: place 2 in the line"
    assert "step" not in event
