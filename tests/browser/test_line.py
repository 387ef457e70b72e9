"""The line for GPUs as a student sees it: a place, given up, and taken up by the open page."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import MakeHub, Student, new_student
from tests.browser.demo_hub import DemoHub
from tests.browser.test_way_through import PYTORCH


@pytest.fixture(scope="module")
def small_hub(make_hub: MakeHub) -> DemoHub:
    """A hub with one GPU."""
    return make_hub("/", gpus="1xA100-40GB")


@pytest.fixture
def first(small_hub: DemoHub, browser: Browser) -> Iterator[Student]:
    yield from new_student(small_hub, browser)


@pytest.fixture
def second(small_hub: DemoHub, browser: Browser) -> Iterator[Student]:
    yield from new_student(small_hub, browser)


def test_who_waits_with_an_open_page_starts_in_turn(
    small_hub: DemoHub, first: Student, second: Student
) -> None:
    hub, page, place = small_hub, second.page, second.page.locator("#ds01-place")
    wait = page.get_by_role("button", name="Wait in line")
    first.log_in()
    first.choose(PYTORCH, gpu="1 GPU")
    first.start()
    first.is_in_lab()
    (device,) = hub.leased(first.name)

    second.log_in()
    second.choose(PYTORCH, gpu="1 GPU")
    expect(wait).to_be_visible()
    second.start()
    expect(page.get_by_role("alert")).to_contain_text("0 of the 1 that would do are free")
    expect(second.card("1 GPU")).to_be_checked()
    wait.click()
    expect(place).to_contain_text("You are number 1 of 1 in the line for GPUs.")
    expect(place).to_contain_text(re.compile(r"At the latest about \d{4}-\d\d-\d\d \d\d:\d\d UTC"))
    assert hub.places(second.name) == 1
    page.get_by_role("button", name="Leave the line").click()
    expect(wait).to_be_visible()
    expect(place).to_be_hidden()
    assert hub.places(second.name) == 0

    second.choose(PYTORCH, gpu="1 GPU")
    wait.click()
    expect(place).to_be_visible()
    first.stop()
    second.is_in_lab()  # nobody clicks: the page looks again by itself, and takes the offer up
    assert hub.leased(second.name) == [device]
    assert hub.places(second.name) == 0
    second.stop()
