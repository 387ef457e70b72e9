"""From the log-in to a notebook on a GPU, as a student sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import BUILD_MS, PATIENCE_MS, MakeHub, Student, new_student
from tests.browser.demo_hub import DemoHub
from tests.conftest import wait_for

PYTORCH = "PyTorch 2.7.1-aime"  # the first of the starter catalog for an A100
PACKAGE = "toolz"  # small, of pure Python, and no image of another file has it
ANOTHER = "iniconfig"  # as small, and no other test starts a server with it
A_THIRD = "zipp"  # the same
CELL = "import os, toolz, torch; print('has', toolz.__name__, os.environ['NVIDIA_VISIBLE_DEVICES'])"


def test_from_login_to_a_notebook_on_a_gpu(hub: DemoHub, student: Student) -> None:
    page = student.page
    hub.forget_images(PACKAGE)

    student.log_in()
    expect(page.get_by_role("heading", name="Start a server")).to_be_visible()
    card = student.card(PYTORCH)
    assert card.get_attribute("value") == "Pytorch|2.7.1-aime|CUDA_AMPERE"
    student.choose(PYTORCH, gpu="1 GPU")
    page.get_by_label("Python packages").fill(PACKAGE)
    expect(page.locator("#ds01-summary")).to_have_text(f"{PYTORCH} · 1 GPU · 1 package")
    with hub.held_build() as held:
        student.start()
        held.result()
        step = page.locator("#ds01-build li", has_text=f"Your packages: {PACKAGE}")
        expect(step).to_have_attribute("data-state", "now")
        page.reload()  # in mid-build: the page has the same steps again
        expect(step).to_be_visible()
        earlier = page.locator("#ds01-build li", has_text="Python kernel")
        expect(earlier).to_have_attribute("data-state", "done")
        expect(page.locator('[data-phase="image"]')).to_have_attribute("data-state", "now")

    student.is_in_lab()
    assert f"Your packages: {PACKAGE}" in student.build_steps()
    (device,) = hub.leased(student.name)
    assert f"has {PACKAGE} {device}" in run_cell(student, CELL)

    open_terminal(student)
    student.stop()
    assert hub.containers(student.name) == []
    assert hub.leases(student.name) == 0


def run_cell(student: Student, code: str) -> str:
    """The output of a line of code in a new notebook."""
    page = student.page
    page.locator('.jp-LauncherCard[data-category="Notebook"]').first.click()
    # What is run before there is a kernel is lost, and so is what is written before the last
    # drawing of the new cell.
    expect(page.get_by_role("button", name="| Idle")).to_be_visible(timeout=PATIENCE_MS)
    cell = page.locator(".jp-Notebook .cm-content").first

    def is_written() -> bool:
        cell.fill(code)
        return cell.inner_text().strip() == code

    wait_for(is_written, "the code to be in the cell")
    cell.press("Shift+Enter")
    output = page.locator(".jp-Notebook .jp-OutputArea-output").first
    expect(output).to_have_text(re.compile(r"\S"), timeout=PATIENCE_MS)
    return output.inner_text()


def open_terminal(student: Student) -> None:
    """A terminal opens, and its shell runs as the student."""
    page, hub = student.page, student.hub
    page.get_by_role("button", name="New Launcher").first.click()
    page.locator(".jp-LauncherCard", has_text="Terminal").last.click()
    page.locator(".jp-Terminal .xterm-screen").click()
    page.keyboard.type("id -un > typed\n")
    typed = lambda: hub.in_container(student.name, "cat", "/workspace/typed")  # noqa: E731
    wait_for(lambda: typed().strip() == student.name, "what was typed in the terminal")


def test_a_second_start_builds_nothing(hub: DemoHub, student: Student) -> None:
    student.log_in()
    for start in ("first", "second"):
        if start == "second":
            student.open("hub/spawn")  # with what was chosen before
            student.page.evaluate("sessionStorage.clear()")
        else:
            student.choose(PYTORCH)
            student.page.get_by_label("Python packages").fill(PACKAGE)
        expect(student.page.get_by_label("Python packages")).to_have_value(PACKAGE)
        student.start()
        student.is_in_lab()
        student.stop()
    assert student.build_steps() == []


def test_a_named_server_has_pages_of_its_own(hub: DemoHub, student: Student) -> None:
    page = student.page
    student.log_in(f"hub/spawn/{student.name}/thesis")
    expect(page.get_by_role("heading", name="Start the server thesis")).to_be_visible()
    student.choose(PYTORCH)
    page.get_by_label("Python packages").fill("../secret")
    student.start()
    expect(page.locator("#ds01-pip-problem")).to_be_visible()
    expect(page.get_by_label("Python packages")).to_have_value("../secret")

    hub.forget_images(A_THIRD)
    page.get_by_label("Python packages").fill(A_THIRD)
    with hub.held_build() as held:
        student.start()
        held.result()
        expect(page.get_by_role("heading", name="The server thesis is starting")).to_be_visible()
    student.is_in_lab("thesis")
    (container,) = hub.containers(student.name)
    assert container["Labels"]["ds01.server"] == "thesis"


@pytest.fixture
def plain_student(hub: DemoHub, browser: Browser) -> Iterator[Student]:
    """A student without JavaScript."""
    yield from new_student(hub, browser, javascript=False)


def test_without_javascript_a_server_can_be_started(hub: DemoHub, plain_student: Student) -> None:
    student, page = plain_student, plain_student.page
    hub.forget_images(ANOTHER)
    student.log_in()
    student.choose(PYTORCH)
    page.get_by_label("Python packages").fill(ANOTHER)
    with hub.held_build() as held:
        student.start()
        held.result()
        expect(page.locator("noscript p")).to_contain_text("Without JavaScript")
    page.wait_for_url(re.compile(f"/user/{student.name}/lab"), timeout=BUILD_MS)
    assert len(hub.containers(student.name)) == 1


@pytest.fixture(scope="module")
def deep_hub(make_hub: MakeHub) -> DemoHub:
    return make_hub("/deep/down/")


def test_the_pages_work_below_a_base_url(deep_hub: DemoHub, browser: Browser) -> None:
    for student in new_student(deep_hub, browser):
        student.log_in()
        student.choose(PYTORCH)
        student.page.get_by_label("Python packages").fill(PACKAGE)
        student.start()
        student.is_in_lab()
        assert student.page.url.startswith(f"{deep_hub.url}user/{student.name}/")
