"""In JupyterLab, too, students are told of the end of their server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.conftest import PATIENCE_MS, Student, new_student
from tests.browser.demo_hub import IDLER, DemoHub
from tests.browser.test_way_through import PYTORCH
from tests.conftest import wait_for

# What the browser says when its page comes to the front, which is when the hub is asked anew.
TO_FRONT = "document.dispatchEvent(new Event('visibilitychange'))"


def told(student: Student, words: str) -> Locator:
    """The notification that says this, once it is there."""
    page = student.page
    found = page.locator(".Toastify__toast", has_text=re.compile(words))

    def is_there() -> bool:
        with page.expect_response("**/ds01/ending"):
            page.evaluate(TO_FRONT)
        return found.count() == 1

    wait_for(is_there, "the notification", 180)
    return found


def test_lab_tells_that_the_time_is_nearly_over(student: Student) -> None:
    student.log_in()
    student.choose(PYTORCH)
    student.page.get_by_text("Project, hours and size").click()
    student.page.get_by_label("Hours").fill("0.2")  # less than it is told beforehand
    student.start()
    student.is_in_lab()
    ends = told(student, r"The time of your server is over in 1[012] minutes. Save your work")
    expect(ends.get_by_role("button", name="Keep it")).to_have_count(0)
    student.stop()


@pytest.fixture
def idler(hub: DemoHub, browser: Browser) -> Iterator[Student]:
    """A student whose GPU is idle after a minute."""
    yield from new_student(hub, browser, name=IDLER)


def test_an_idle_gpu_can_be_kept_in_lab(idler: Student) -> None:
    idler.log_in()
    idler.choose(PYTORCH, gpu="1 GPU")
    idler.start()
    idler.is_in_lab()
    ends = told(idler, "Your server has a GPU that nothing uses. It is stopped in 1 minute, unless")
    assert not idler.hub.kept(idler.name)
    ends.get_by_role("button", name="Keep it for 2 h").click()
    wait_for(lambda: idler.hub.kept(idler.name), "the server to be kept")
    expect(ends).to_have_count(0, timeout=PATIENCE_MS)
    idler.stop()
