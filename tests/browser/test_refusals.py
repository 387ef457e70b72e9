"""What a student sees when a start is refused, fails or is given up."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import BUILD_MS, Student
from tests.browser.demo_hub import DemoHub
from tests.conftest import wait_for

MISSING = "no-such-package-of-ours"  # nor of anybody else's
PYTORCH = "PyTorch 2.7.1-aime"


def test_a_refused_form_keeps_the_input_and_tells_next_to_it(
    hub: DemoHub, student: Student
) -> None:
    page = student.page
    student.log_in()
    student.choose("TensorFlow 2.14.0", gpu="1 GPU")
    page.get_by_label("Python packages").fill("toolz\nnot a package!")
    page.get_by_text("Project, hours and size").click()
    page.get_by_label("Hours").fill("many")
    student.start()

    expect(page.locator("#ds01-problems")).to_be_focused()
    expect(page.locator("#ds01-problems a")).to_have_text(["Python packages", "Hours"])
    for label, part, kept in (
        ("Python packages", "pip", "toolz\nnot a package!"),
        ("Hours", "hours", "many"),
    ):
        field = page.get_by_label(label)
        expect(field).to_have_value(kept)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(page.locator(f"#ds01-{part}-problem")).to_contain_text(kept.splitlines()[-1])
    expect(student.card("TensorFlow 2.14.0")).to_be_checked()
    expect(student.card("1 GPU")).to_be_checked()
    expect(page.locator(".spawn-error-msg")).to_have_count(0)  # told once
    assert hub.leases(student.name) == 0


def test_a_choice_that_is_shut_says_why(student: Student) -> None:
    student.log_in()
    two = student.card("2 GPUs")
    expect(two).to_be_disabled()
    expect(student.page.locator(".ds01-box", has=two)).to_contain_text("Your limit is 1 GPU.")


def test_a_refusal_of_the_start_itself_is_on_the_form(hub: DemoHub, student: Student) -> None:
    """The form that is open can be older than what the user holds by now."""
    page = student.page
    student.log_in()
    student.choose(PYTORCH, gpu="1 GPU")
    page.locator('[name="gpus"]:checked').evaluate("radio => { radio.value = '1:1g.5gb' }")
    student.start()
    expect(page.locator("#ds01-problems")).to_contain_text("'1g.5gb' is not a kind of GPU")
    expect(student.card(PYTORCH)).to_be_checked()
    assert hub.leases(student.name) == 0


def test_a_refused_requirements_file_is_in_the_list_to_be_mended(student: Student) -> None:
    page = student.page
    student.log_in()
    student.choose(PYTORCH)
    page.get_by_label("Or a requirements.txt").set_input_files(
        {"name": "course.txt", "mimeType": "text/plain", "buffer": b"# course\n\nrich>=13\n-e .\n"}
    )
    expect(page.locator("#ds01-summary")).to_contain_text("course.txt")
    student.start()
    expect(page.locator("#ds01-pip-problem")).to_contain_text(
        "Line 4: '-e .' is an editable installation"
    )
    packages = page.get_by_label("Python packages")
    expect(packages).to_have_value("# course\n\nrich>=13\n-e .")
    packages.fill("# course\n\nrich>=13")
    expect(page.locator("#ds01-summary")).to_contain_text("1 package")


def test_a_failed_build_tells_in_the_packages_own_words(hub: DemoHub, student: Student) -> None:
    page = student.page
    page.set_viewport_size({"width": 380, "height": 800})
    student.log_in()
    student.choose(PYTORCH)
    page.get_by_label("Python packages").fill(MISSING)
    student.start()

    failed = page.locator("#ds01-failed")
    expect(failed).to_contain_text(
        f"No matching distribution found for {MISSING}", timeout=BUILD_MS
    )
    expect(page.get_by_role("heading", name="Your server did not start")).to_be_visible()
    expect(page.locator('[data-phase="image"]')).to_have_attribute("data-state", "failed")
    expect(page.locator("#ds01-build li").last).to_have_attribute("data-state", "failed")
    assert overflow(student) == 0
    page.reload()  # the hub's own page says the same
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(f"No matching distribution found for {MISSING}")
    assert overflow(student) == 0
    assert hub.containers(student.name) == []

    page.get_by_role("link", name="Change and start again").click()
    expect(page.get_by_label("Python packages")).to_have_value(MISSING)
    expect(student.card(PYTORCH)).to_be_checked()


def test_a_start_can_be_given_up(hub: DemoHub, student: Student) -> None:
    page = student.page
    student.log_in()
    student.choose(PYTORCH, gpu="1 GPU")
    page.get_by_label("Python packages").fill(MISSING)  # never built
    with hub.held_build() as held:
        student.start()
        held.result()
        page.get_by_role("button", name="Give up this start").click()
        page.wait_for_url(re.compile("/hub/home"))
    wait_for(lambda: not hub.leases(student.name), "the lease to go")
    wait_for(lambda: not hub.building(), "the build to end")
    assert hub.containers(student.name) == []
    student.open("hub/spawn")
    expect(page.get_by_role("button", name="Start")).to_be_visible()


@pytest.mark.parametrize("query", ["preset=course", "opt-preset=course"])
@pytest.mark.parametrize("logged_in", [True, False])
def test_a_link_opens_the_form_filled_in_and_starts_nothing(
    hub: DemoHub, student: Student, query: str, logged_in: bool
) -> None:
    page = student.page
    if logged_in:
        student.log_in()
        student.open(f"hub/spawn?{query}")
    else:
        student.log_in(f"hub/spawn?{query}")  # it survives the log-in
    expect(student.card("Deep Learning 101")).to_be_checked()
    expect(page.locator(".alert.alert-danger")).to_have_count(0)
    assert hub.leases(student.name) == 0
    assert hub.containers(student.name) == []


def overflow(student: Student) -> int:
    """By how many pixels the page is wider than the window."""
    wider: int = student.page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return wider
