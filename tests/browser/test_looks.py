"""What can be measured of the looks: contrast, focus, width. The rest was looked at by people."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Student

# For each text of the page's main part: its contrast with what is behind it (WCAG 2.2, 1.4.3).
LOW_CONTRAST = """
least => {
  const parse = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = color => {
    const [r, g, b] = color.slice(0, 3).map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const over = (top, below) => {
    const a = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map(i => top[i] * a + below[i] * (1 - a));
  };
  const behind = element => {
    const color = parse(getComputedStyle(element).backgroundColor);
    if (color.length < 4 || !element.parentElement) { return color; }
    return over(color, behind(element.parentElement));
  };
  const low = [];
  const texts = document.createTreeWalker(document.querySelector("h1").parentElement, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, words = texts.currentNode.textContent.trim();
    if (!words || !element.checkVisibility() || element.closest("style, script, noscript")) { continue; }
    const back = behind(element), front = over(parse(getComputedStyle(element).color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least) { low.push(`${ratio.toFixed(2)} ${words}`); }
  }
  return low;
}
"""  # noqa: E501
FOCUSED = """
() => {
  const element = document.activeElement, style = getComputedStyle(element);
  const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
  return [element.id || element.name || element.textContent.trim(), ring || style.boxShadow !== "none"];
}
"""  # noqa: E501


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1280])
def test_the_form_is_readable_in_both_themes_and_at_all_widths(
    student: Student, theme: str, width: int
) -> None:
    page = student.page
    page.set_viewport_size({"width": width, "height": 800})
    student.log_in()
    page.evaluate("theme => localStorage.setItem('jupyterhub-bs-theme', theme)", theme)
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", theme)
    for fold in page.locator("details").all():
        fold.locator("summary").click()
    assert page.evaluate(LOW_CONTRAST, 4.5) == []
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wider) == 0


def test_the_keyboard_reaches_all_and_shows_where_it_is(student: Student) -> None:
    page = student.page
    student.log_in()
    page.locator("h1").click()
    seen: dict[str, bool] = {}
    while "ds01-start" not in seen and len(seen) < 60:
        page.keyboard.press("Tab")
        name, shown = page.evaluate(FOCUSED)
        seen[name] = shown
    assert {"environment", "gpus", "bundles", "ds01-pip", "ds01-apt", "ds01-start"} <= set(seen)
    assert [name for name, shown in seen.items() if not shown] == []
