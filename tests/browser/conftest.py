"""A hub, a Chromium, and students in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from tests.browser.demo_hub import BUILD_S, DemoHub

if TYPE_CHECKING:
    from docker import APIClient

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE_MS = 30_000  # guards against hanging, not measures
BUILD_MS = 1000 * BUILD_S
# Notes every step of a build that the progress page shows, across its reloads.
WITNESS = """
new MutationObserver(() => {
  const shown = new Set(JSON.parse(sessionStorage.steps || "[]"));
  document.querySelectorAll("#ds01-build li").forEach(li => shown.add(li.textContent));
  sessionStorage.steps = JSON.stringify([...shown]);
}).observe(document, {subtree: true, childList: true});
"""

MakeHub = Callable[..., DemoHub]


@pytest.fixture(scope="session")
def make_hub(
    engine_url: str,
    docker_client: APIClient,
    standin_image: str,
    ca_pem: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MakeHub]:
    """Starts hubs, each at its base URL, with GPUs; they and theirs are gone after the session."""
    hubs: list[DemoHub] = []

    def make(base_url: str, gpus: str = "6xA100-40GB") -> DemoHub:
        hub = DemoHub(
            tmp_path_factory.mktemp("hub"),
            docker_client,
            engine_url=engine_url,
            standin_image=standin_image,
            ca_pem=ca_pem,
            base_url=base_url,
            gpus=gpus,
        )
        hubs.append(hub)
        hub.wait()
        return hub

    yield make
    for hub in hubs:
        hub.close()


@pytest.fixture(scope="session")
def hub(make_hub: MakeHub) -> DemoHub:
    """The demonstration."""
    return make_hub("/")


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Student:
    """Somebody with a browser window of their own."""

    name: str
    hub: DemoHub
    page: Page

    def open(self, path: str) -> None:
        """Go to a page below the hub's base URL, such as hub/home."""
        self.page.goto(self.hub.url + path)

    def log_in(self, path: str = "") -> None:
        """From the log-in page to where it leads."""
        self.open(path or "hub/login")
        self.page.fill("#username_input", self.name)
        self.page.fill("#password_input", self.hub.passwords[self.name])
        self.page.click("#login_submit")
        self.page.wait_for_url(re.compile("/hub/spawn"))

    def choose(self, environment: str, gpu: str = "No GPU") -> None:
        """Choose by what the cards say."""
        self.card(environment).check()
        self.card(gpu).check()

    def card(self, title: str) -> Locator:
        """The choice whose card begins with these words."""
        return self.page.get_by_role("radio", name=re.compile(f"^{re.escape(title)}"))

    def start(self) -> None:
        self.page.get_by_role("button", name="Start", exact=True).click()

    def is_in_lab(self, server: str = "") -> None:
        """Wait until JupyterLab is there."""
        where = f"/user/{self.name}/{server}{'/' if server else ''}lab"
        self.page.wait_for_url(re.compile(re.escape(where)), timeout=BUILD_MS)
        expect(self.page.locator(".jp-Launcher")).to_be_visible(timeout=PATIENCE_MS)

    def build_steps(self) -> list[str]:
        """The steps of builds that this window's progress pages have shown so far."""
        steps: list[str] = self.page.evaluate('JSON.parse(sessionStorage.steps || "[]")')
        return steps

    def stop(self) -> None:
        """Stop the server on the hub's home page."""
        self.open("hub/home")
        self.page.click("#stop")
        expect(self.page.locator("#stop")).to_be_hidden(timeout=PATIENCE_MS)


@pytest.fixture
def student(hub: DemoHub, browser: Browser) -> Iterator[Student]:
    """A student of this test's own, not logged in yet."""
    yield from new_student(hub, browser)


def new_student(
    hub: DemoHub, browser: Browser, javascript: bool = True, name: str = ""
) -> Iterator[Student]:
    """Somebody with a new browser window, and of a name that no other test has."""
    context = browser.new_context(java_script_enabled=javascript, color_scheme="light")
    context.set_default_timeout(PATIENCE_MS)
    if javascript:
        context.add_init_script(WITNESS)
    errors = _errors(context)
    yield Student(name or hub.new_student(), hub, context.new_page())
    context.close()
    assert errors == [], "our pages' own JavaScript fails"


def _errors(context: BrowserContext) -> list[str]:
    """The uncaught errors of the hub's pages; JupyterLab's are not ours."""
    errors: list[str] = []

    def note(page: Page) -> None:
        page.on("pageerror", lambda e: errors.append(str(e)) if "/hub/" in page.url else None)

    context.on("page", note)
    return errors


@pytest.fixture(autouse=True)
def _show_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test, its hub's log: pytest shows it where the test failed."""
    yield
    hub = request.node.funcargs.get("hub")
    if isinstance(hub, DemoHub):
        print(f"--- {hub.log}\n{hub.log.read_text()[-6000:]}")
