"""A student's own environments on the form: started again, renamed with Enter, deleted."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import Student
from tests.browser.test_looks import LOW_CONTRAST
from tests.browser.test_way_through import PYTORCH


def test_an_environment_from_its_first_start_to_its_end(student: Student) -> None:
    page = student.page
    section = page.get_by_role("region", name="Your environments")
    student.log_in()
    expect(section).to_be_hidden()
    student.choose(PYTORCH)
    student.start()
    student.is_in_lab()
    student.stop()

    student.open("hub/spawn")
    card = section.get_by_role("listitem")
    expect(card).to_have_count(1)
    expect(card.get_by_role("heading")).to_have_text("default")
    expect(card).to_contain_text(re.compile(r"Last used \d{4}-\d\d-\d\d \d\d:\d\d UTC"))
    for theme in ("light", "dark"):
        page.evaluate("theme => localStorage.setItem('jupyterhub-bs-theme', theme)", theme)
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-bs-theme", theme)
        card.get_by_text("Rename or delete").click()
        assert page.evaluate(LOW_CONTRAST, 4.5) == []
    page.set_viewport_size({"width": 380, "height": 800})
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wider) == 0
    page.set_viewport_size({"width": 1280, "height": 800})

    name = card.get_by_label("Project")
    name.fill("Lab 3")
    name.press("Enter")
    expect(page.get_by_role("status").filter(has_text="is called Lab 3 now")).to_be_visible()
    expect(card.get_by_role("heading")).to_have_text("Lab 3")

    # Enter elsewhere is the form's own start, not that of the first environment.
    first = page.locator("#spawn_form [type=submit]").first
    expect(first).to_have_text("Start")
    expect(first).not_to_have_attribute("name", re.compile("."))
    card.get_by_role("button", name="Start again Lab 3").click()
    student.is_in_lab()
    student.stop()

    student.open("hub/spawn")
    card.get_by_text("Rename or delete").click()
    card.get_by_role("button", name="Delete Lab 3").click()
    expect(page.get_by_role("status").filter(has_text="Lab 3 was deleted")).to_be_visible()
    expect(section).to_be_hidden()
