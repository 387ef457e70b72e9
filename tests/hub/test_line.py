"""Waiting for a GPU: refused, in line, held, started by its page, lapsed, given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from ds01_spawner.errors import DS01Error, EngineUnavailable, LedgerBusy
from ds01_spawner.hub import line
from ds01_spawner.services.engine import EngineRefused
from ds01_spawner.services.ledger import Ledger
from ds01_spawner.services.ledger_line import Situation
from tests.hub.clients import PATIENCE_S, Browser, Form, server_path, until
from tests.hub.conftest import hub_of, new_user
from tests.hub.world import World

GPUS = "simulated:1xA100-40GB"
GPU = {"framework": "Pytorch", "architecture": "CUDA_AMPERE", "gpus": 1, "gpu": "full", "hours": 4}
PLACE, TURN = 'id="ds01-place"', 'id="ds01-turn"'


@pytest.fixture
async def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """A hub for each test: there is one device."""
    async with hub_of(request.module, tmp_path_factory) as world:
        yield world


async def page(browser: Browser) -> Form:
    answer = await browser.get("spawn")
    assert answer.code == 200
    return Form(answer)


async def wait_in_line(browser: Browser, **more: list[str]) -> str:
    """Choose the GPU that is taken, and press the button; the page that comes."""
    form = await page(browser)
    assert 'value="wait"' in form.page
    fields = {**form.fields, "gpus": ["1:full"], "line": ["wait"], **more}
    answer = await browser.post("spawn", fields)
    assert answer.code == 200
    return answer.body.decode()


async def its_turn(browser: Browser) -> Form:
    """The page once it says that it is its turn; it looks again and again."""

    async def look() -> Form:
        while TURN not in (form := await page(browser)).page:
            await asyncio.sleep(0.05)
        return form

    return await asyncio.wait_for(look(), PATIENCE_S)


async def test_from_refused_to_started_in_turn(world: World, user: str, other: str) -> None:
    await world.start(user, GPU)
    browser = await world.browser(other)
    form = await page(browser)
    fields = {**form.fields, "gpus": ["1:full"]}
    refused = await browser.post("spawn", fields)
    assert refused.code == 409
    assert "0 of the 1 that would do are free" in refused.body.decode()
    assert 'value="wait"' in refused.body.decode()
    told = await wait_in_line(browser)
    assert "number 1 of 1 in the line" in told
    assert "At the latest about" in told
    assert 'http-equiv="refresh"' in told
    assert await world.leases(other) == []
    await world.stop(user)
    form = await its_turn(browser)
    assert "It is your turn" in form.page
    assert 'http-equiv="refresh"' not in form.page
    assert await world.leases(other) == []  # a GET starts nothing
    again = await world.start(user, GPU)
    assert again.code == 409
    assert "1 server waits in the line" in again.body.decode()
    answer = await browser.post("spawn", {"line": ["start"]})
    assert answer.code == 302
    await world.settled(other)
    assert [lease.state for lease in await world.leases(other)] == ["bound"]
    assert world.told(other)[:2] == ["queue.join", "queue.offer"]
    await world.stop(other)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("start_container", EngineRefused(500, "error running hook: exit status 1")),
        ("create_container", EngineUnavailable("off")),
    ],
)
async def test_a_start_that_fails_for_no_doing_of_its_users_has_its_place_again(
    world: World, user: str, other: str, call: str, error: Exception
) -> None:
    await world.start(user, GPU)
    browser = await world.browser(other)
    await wait_in_line(browser)
    await world.stop(user)
    assert "It is your turn" in (await its_turn(browser)).page
    world.engine.fail_next(call, error)
    await browser.post("spawn", {"line": ["start"]})
    await until(lambda: "gpu.release" in world.told(other))
    await until(lambda: world.told(other).count("queue.offer") == 2)
    assert "It is your turn" in (await its_turn(browser)).page
    assert world.told(other).count("queue.join") == 1
    await browser.post("spawn", {"line": ["start"]})
    await world.settled(other)
    assert [lease.state for lease in await world.leases(other)] == ["bound"]
    assert await world.runtime.in_ledger(Ledger.tickets) == ()
    await world.stop(other)


async def test_who_gives_up_a_start_gives_up_the_place(world: World, user: str, other: str) -> None:
    await world.start(user, GPU)
    browser = await world.browser(other)
    await wait_in_line(browser)
    await world.stop(user)
    await its_turn(browser)
    async with world.starting(other, GPU, at="create_container") as gate:
        stop = asyncio.ensure_future(world.api("DELETE", server_path(other)))
        await until(lambda: world.spawner(other)._undoing is not None)
        gate.set()
        await asyncio.wait_for(stop, PATIENCE_S)
    assert await world.runtime.in_ledger(Ledger.tickets) == ()


async def test_the_environment_is_made_while_its_user_waits(
    world: World, user: str, other: str
) -> None:
    await world.start(user, GPU)
    builds = len(world.engine.made("build"))
    await wait_in_line(await world.browser(other), pip=["six"])
    await asyncio.wait_for(world.engine.reached("build", builds + 1), PATIENCE_S)
    await world.stop(user)


async def test_a_closed_page_lets_the_next_have_it(world: World, user: str, other: str) -> None:
    await world.start(user, GPU)
    await world.browser(user)
    browser = await world.browser(other)
    await wait_in_line(browser)
    late = "late"
    await world.api("POST", f"users/{late}")
    second = await world.browser(late)
    assert "number 2 of 2 in the line" in await wait_in_line(second)
    await world.stop(user)
    await until(lambda: "queue.offer" in world.told(other))
    world.passed += timedelta(minutes=3)
    world.runtime.line.soon()
    await its_turn(second)
    assert "queue.lapse" in world.told(other)


async def test_a_place_outlives_the_hub_and_is_given_up(
    world: World, user: str, other: str
) -> None:
    await world.start(user, GPU)
    browser = await world.browser(other)
    await wait_in_line(browser)
    await world.end()
    await world.begin()
    await world.runtime.ready()
    assert PLACE in (await page(browser)).page
    left = await browser.post("spawn", {"line": ["leave"]})
    assert left.code == 200
    assert PLACE not in left.body.decode()
    assert world.told(other)[-1] == "queue.leave"
    await world.stop(user)


async def test_a_page_that_cannot_be_made_looks_again(
    world: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits loses no turn by one moment in which the ledger is busy."""

    def busy(*_: object) -> None:
        raise LedgerBusy("locked")

    browser = await world.browser(user)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "ticket_options", busy)
        shown = (await page(browser)).page
    assert 'id="ds01-trouble"' in shown
    assert 'http-equiv="refresh"' in shown
    assert 'id="ds01-trouble"' not in (await page(browser)).page


async def test_pages_that_are_open_share_one_look_ahead(
    world: World, user: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.start(user, GPU)
    browser = await world.browser(other)
    await wait_in_line(browser)
    looks = 0
    told = Situation.told

    def counted(situation: Situation) -> Any:
        nonlocal looks
        looks += 1
        return told(situation)

    monkeypatch.setattr(Situation, "told", counted)
    monkeypatch.setattr(line, "LOOK_AHEAD_SECONDS", 3600.0)
    world.runtime.line._ahead = None
    pages = await asyncio.gather(*(page(browser) for _ in range(10)))
    assert all(PLACE in form.page for form in pages)
    assert looks == 1
    late = await new_user(world)
    assert "number 2 of 2 in the line" in await wait_in_line(await world.browser(late))
    assert "number 1 of 2 in the line" in (await page(browser)).page
    assert looks == 2
    await world.stop(user)


async def test_nobody_loses_an_offer_while_the_engine_is_away(
    world: World, user: str, other: str
) -> None:
    await world.start(user, GPU)
    browser = await world.browser(other)
    await wait_in_line(browser)
    await world.stop(user)
    await its_turn(browser)
    world.engine.unreachable = True
    await world.runtime.line.run()
    (ticket,) = await world.runtime.in_ledger(Ledger.tickets)
    assert (ticket.offer, ticket.lapses) == (None, 0)
    world.passed += timedelta(minutes=5)
    await world.runtime.line.run()
    world.engine.unreachable = False
    await its_turn(browser)
    (ticket,) = await world.runtime.in_ledger(Ledger.tickets)
    assert ticket.lapses == 0
    await world.runtime.line.leave(other, "")


async def test_an_environment_is_made_for_who_waits_and_no_more(
    world: World, user: str, other: str
) -> None:
    """Who changes the packages of a place, or leaves, gives up the build that was for it."""
    await world.start(user, GPU)
    ticket = f"{server_path(other)}/ticket"
    builds = world.runtime.images._builder._shared._jobs
    with world.blocked("build"):
        for package in ("six", "toolz", "toolz"):
            answer = await world.api("POST", ticket, {**GPU, "pip": [package]})
            assert answer.code == 201
        await until(lambda: [job.abandoned for job in builds.values()] == [False])
        assert (await world.api("DELETE", ticket)).code == 204
        await until(lambda: not builds)
    await world.stop(user)


async def test_who_waits_for_a_seat_keeps_the_place_when_the_policy_shares_otherwise(
    world: World, user: str, other: str
) -> None:
    share = "sharing: {{seats: {}}}\ndefaults: {{max_gpu_equivalents: 1, allow_full_gpu: true}}"
    world.policy.write_text(share.format(2))
    await world.start(user, GPU)
    browser = await world.browser(other)
    await wait_in_line(browser, gpus=["1:shared"])
    world.policy.write_text(share.format(4))
    assert "number 1 of 1 in the line" in (await page(browser)).page
    (ticket,) = await world.runtime.in_ledger(Ledger.tickets)
    assert ticket.wanted.seats == 4
    await world.stop(user)
    await its_turn(browser)
    assert (await browser.post("spawn", {"line": ["start"]})).code == 302
    await world.settled(other)
    assert [lease.seats for lease in await world.leases(other)] == [4]
    await world.stop(other)


async def test_what_is_kept_after_a_stop_is_told_once(world: World, user: str) -> None:
    world.policy.write_text("defaults: {gpu_hold_after_stop_h: 0.5, allow_full_gpu: true}")
    await world.start(user, GPU)
    await world.stop(user)
    await until(lambda: "gpu.hold" in world.told(user))
    await world.runtime.line.run()
    assert world.told(user).count("gpu.hold") == 1


async def test_a_line_that_could_not_be_run_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody had waited before: who came while the ledger was busy does now."""
    hub_line = line.HubLine(Mock())
    outcomes: list[bool | DS01Error] = [LedgerBusy("locked"), False]
    quiet, again = asyncio.Event(), asyncio.Event()

    async def run() -> bool:
        if not quiet.is_set():
            quiet.set()
            return False
        outcome = outcomes.pop(0)
        if isinstance(outcome, DS01Error):
            raise outcome
        again.set()
        return outcome

    monkeypatch.setattr(line, "SECONDS", 0.01)
    monkeypatch.setattr(hub_line, "run", run)
    monkeypatch.setattr(hub_line, "_tell_holds", AsyncMock())
    settled = asyncio.ensure_future(asyncio.sleep(0))
    task = asyncio.ensure_future(hub_line.run_for_ever(settled))
    await asyncio.wait_for(quiet.wait(), PATIENCE_S)
    hub_line.soon()
    await asyncio.wait_for(again.wait(), PATIENCE_S)
    task.cancel()
    await asyncio.wait([task])


async def test_there_is_nothing_to_wait_for_without_a_gpu(
    world: World, user: str, other: str
) -> None:
    await world.start(user, GPU)
    browser = await world.browser(other)
    form = await page(browser)
    answer = await browser.post("spawn", {**form.fields, "gpus": ["0"], "line": ["wait"]})
    assert answer.code == 400
    assert "Choose a GPU to wait for" in answer.body.decode()
    await world.stop(user)
