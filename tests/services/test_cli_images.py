"""`ds01-spawner images`: what is listed, built and removed, as people and programs read it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ds01_spawner.cli.main import main
from ds01_spawner.core.devices import Snapshot
from ds01_spawner.services import wiring
from ds01_spawner.services.inventory.simulated import SimulatedInventory
from ds01_spawner.services.settings import Settings
from tests.fakes.engine import FakeEngine
from tests.fakes.images import A_STEP

POLICY = """\
presets:
  course:
    title: The course
    framework: Pytorch
    pip: [six]
    gpus: 1
    hours: 2
    groups: [students]
  plain: {title: Plain, framework: Pytorch, version: 2.8.0}
"""
CATALOG = """\
Pytorch, 2.8.0, [CUDA_AMPERE], aimehub/pytorch
Tensorflow, 2.16.1, [CUDA_AMPERE], aimehub/tensorflow
"""
ABSENT = "  absent: {title: Absent, framework: Tensorflow}\n"
WRONG = "  wrong: {title: Wrong, framework: Pytorch, version: 1.0}\n"


class LastingEngine(FakeEngine):
    """Answers one command after another."""

    async def close(self) -> None:
        pass


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Site:
    """A hub's files, its engine, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.passed = folder, timedelta(0)
        self.engine = LastingEngine()
        self.engine.add_image("base:1")
        self.data = folder / "data"
        self.policy(POLICY)
        (folder / "catalog.repo").write_text(CATALOG)
        (folder / "hub.py").write_text(
            f"c = get_config()\ns = c.DS01Spawner\ns.data_dir = {str(self.data)!r}\n"
            f"s.policy_file = {str(folder / 'policy.yaml')!r}\n"
            f"s.catalog_file = {str(folder / 'catalog.repo')!r}\n"
            "s.image_map = {'*/pytorch': 'base:1', 'python:*': 'base:1'}\n"
            "s.gpus = 'simulated:1xA100-40GB'\n"
            "s.build_network = 'bridge'\n"
        )
        wiring.ledger(Settings(data_dir=str(self.data), gpus="simulated:x")).close()

    def policy(self, text: str) -> None:
        (self.folder / "policy.yaml").write_text(text)

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + self.passed

    def names(self) -> list[str]:
        return sorted(n for i in self.engine.images.values() for n in i["RepoTags"])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path)
    monkeypatch.setattr(wiring, "engine", lambda settings: site.engine)
    monkeypatch.setattr(wiring, "now", site.now)
    return site


@pytest.fixture
def run(site: Site, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Answer]:
    def call(line: str) -> Answer:
        code = main(["--config", str(site.folder / "hub.py"), "images", *line.split()])
        return Answer(code, *capsys.readouterr())

    return call


CUSTOM = """\
images:
  genomics: {image: "registry.example.org/genomics:1", title: Genomics, groups: [bio]}
presets:
  lab: {title: The lab, framework: custom, version: genomics, groups: [bio]}
"""


def test_a_preset_of_an_image_for_a_group_is_built(
    run: Callable[[str], Answer], site: Site
) -> None:
    site.engine.add_image("registry.example.org/genomics:1")
    site.policy(CUSTOM)
    assert [row["result"] for row in run("build --presets --json").json["images"]] == ["built"]
    [row] = run("list --json").json["images"]
    assert row["in_use"] == ["the preset lab"]
    assert not row["stale"]


def test_presets_are_built_step_by_step(run: Callable[[str], Answer], site: Site) -> None:
    planned = run("build --presets --dry-run --json").json["images"]
    assert [(row["preset"], row["result"]) for row in planned] == [
        ("course", "to build"), ("plain", "to build"),
    ]  # fmt: skip
    assert site.names() == ["base:1"]
    made = run("build --presets")
    assert made.code == 0
    assert "course: Your packages: six (step " in made.err
    assert "2 presets" in made.out
    course, plain = (row["image"] for row in run("build --presets --json").json["images"])
    assert course.startswith("ds01_presets/jupyterhub/course:")
    assert [course, plain] == [row["image"] for row in planned]
    assert {course, plain} <= set(site.names())
    built = len(site.engine.builds)
    assert built == 3  # the notebook server's, too
    again = run("build --presets --json")
    assert [row["result"] for row in again.json["images"]] == ["there", "there"]
    assert again.err == ""
    assert len(site.engine.builds) == built


def test_one_that_fails_stops_no_other(run: Callable[[str], Answer], site: Site) -> None:
    async def fail(command: str) -> int:
        return 1 if "pip.sh" in command else 0

    site.policy(POLICY + ABSENT + WRONG)
    site.engine.run = fail
    made = run("build --presets --json")
    assert made.code == 1
    results = {row["preset"]: (row["result"], row["why"]) for row in made.json["images"]}
    assert {name: result for name, (result, _) in results.items()} == {
        "wrong": "failed", "course": "failed", "plain": "built", "absent": "failed",
    }  # fmt: skip
    assert "'1.0' of Pytorch is not offered here" in results["wrong"][1]
    assert "step 'Your packages: six' failed" in results["course"][1]
    assert "aimehub/tensorflow" in results["absent"][1]
    assert "3 failed" in run("build --presets").out


def test_a_full_disk_is_told_and_nothing_is_built(run: Callable[[str], Answer], site: Site) -> None:
    site.engine.disk_free = 1 << 20
    made = run("build --presets --json")
    assert made.code == 1
    assert all("1 MiB" in row["why"] for row in made.json["images"])
    assert site.engine.builds == []


def test_list(run: Callable[[str], Answer], site: Site) -> None:
    run("build --presets")
    told = run("list --json")
    assert told.code == 0
    course = next(row for row in told.json["images"] if "/course:" in row["image"])
    assert set(course) == {
        "image", "owner", "recipe", "base", "size", "last_used", "in_use", "stale"
    }  # fmt: skip
    assert (course["owner"], course["stale"]) == ("", None)
    assert course["in_use"] == ["the preset course"]
    assert course["base"] == site.engine.image("base:1")["Id"]
    assert course["size"] % A_STEP == 0 < course["size"]
    text = run("list").out
    assert "the preset course" in text
    assert "2 images, " in text


def test_prune(run: Callable[[str], Answer], site: Site) -> None:
    run("build --presets")
    site.policy("presets: {}\n")
    site.passed = timedelta(days=1)
    before = site.names()
    assert run("prune --days 100000 --json").json == {"images": [], "freed": 0, "logs": []}
    told = run("prune --days 30 --dry-run --json")
    assert len(told.json["images"]) == 2
    ours = [i["layers"] for i in site.engine.images.values() if "presets" in i["RepoTags"][0]]
    layers = {k: size for image in ours for k, size in image.items() if k != "base:1"}
    assert told.json["freed"] == sum(layers.values())
    assert site.names() == before
    assert "2 images" in run("prune --days 30 --dry-run").out
    assert run("prune --days 30").code == 0
    assert [name for name in site.names() if "presets" in name] == []
    assert "base:1" in site.names()


def test_prune_by_budget(run: Callable[[str], Answer], site: Site) -> None:
    run("build --presets")
    site.policy("presets: {}\n")
    site.passed = timedelta(days=1)
    assert run("prune --days 100000 --budget 0 --json").json["images"] == []
    told = run("prune --days 100000 --budget 1K --dry-run --json").json["images"]
    assert [row["why"] for row in told] == ["all together are more than 1 KiB"] * 2


@pytest.mark.parametrize("arguments", ["--days 0", "--days -3", "--budget lots", "--budget 12"])
def test_prune_takes_no_nonsense(run: Callable[[str], Answer], site: Site, arguments: str) -> None:
    answer = run(f"prune {arguments}")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err


def test_old_logs_go_with_it(run: Callable[[str], Answer], site: Site) -> None:
    run("build --presets")
    logs = sorted((site.data / "builds").glob("*.log"))
    old = logs[0]
    then = (site.now() - timedelta(days=31)).timestamp()
    os.utime(old, (then, then))
    assert run("prune --dry-run --json").json["logs"] == [old.stem]
    assert old.exists()
    assert "1 logs removed" in run("prune").out
    assert sorted((site.data / "builds").glob("*.log")) == logs[1:]


def test_while_the_devices_are_not_known_nothing_is_removed(
    run: Callable[[str], Answer], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which architecture a preset is for here follows from them."""
    run("build --presets")
    site.passed = timedelta(days=400)
    before = site.names()

    async def unknown(self: object, fresh: bool = False) -> Snapshot:
        return Snapshot(known=False, problems=("the driver hangs",))

    monkeypatch.setattr(SimulatedInventory, "snapshot", unknown)
    answer = run("prune")
    assert answer.code == 1
    assert "Nothing was removed" in answer.err
    assert site.names() == before


def test_without_an_engine_it_is_said(run: Callable[[str], Answer], site: Site) -> None:
    site.engine.unreachable = True
    for line in ("list", "prune"):
        answer = run(line)
        assert answer.code == 1
        assert "does not answer" in answer.err or "cannot be reached" in answer.err
