"""`ds01-spawner catalog` and `policy`: answers, JSON, exit codes, errors in words."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ds01_spawner.cli.main import main
from ds01_spawner.cli.policy import this_host
from ds01_spawner.core.limits import Limits

GIB = 1 << 30
CATALOG = """\
Pytorch, 2.8.0, [CUDA_ADA], aimehub/pytorch-2.8.0
Tensorflow, 2.14.0, [CUDA_ADA;CUDA_AMPERE], aimehub/tensorflow-2.14.0
Pytorch, 2.7.1, [CUDA_AMPERE], aimehub/pytorch-2.7.1
"""
POLICY = """\
defaults: {max_cpus: 9999, memory: 1g, max_runtime: 24h}
groups: {student: {}, staff: {members: [eve], memory: 2g}}
user_overrides: {eve: {max_runtime_h: null}}
presets: {small: {title: Small, framework: Pytorch}}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "cat.repo").write_text(CATALOG)
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "bad.repo").write_text("Pytorch, 1\n" + CATALOG + CATALOG.splitlines()[0] + "\n")
    (tmp_path / "bad.yaml").write_text("defaults:\n  max_cpu: 3\n")
    (tmp_path / "hub.py").write_text(
        "print('loading')\nc = get_config()\n"
        f"c.DS01Spawner.catalog_file = {str(tmp_path / 'cat.repo')!r}\n"
        f"c.DS01Spawner.policy_file = {str(tmp_path / 'policy.yaml')!r}\n"
        "c.DS01Spawner.mem_limit = '1G'\nc.JupyterHub.port = 1\n"
    )
    return tmp_path


class Answer:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(here)

    def call(line: str) -> Answer:
        try:
            code = main(line.split())
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


# --- catalog ---------------------------------------------------------------------------------


def test_catalog_list(run: Any) -> None:
    told = run("catalog list --file cat.repo --json")
    assert told.code == 0
    assert told.json[1] == {
        "framework": "Tensorflow",
        "version": "2.14.0",
        "architectures": ["CUDA_ADA", "CUDA_AMPERE"],
        "image": "aimehub/tensorflow-2.14.0",
        "line": 2,
    }
    assert [row["line"] for row in told.json] == [1, 2, 3]


def test_catalog_list_of_one_architecture(run: Any) -> None:
    told = run("catalog list --file cat.repo --arch CUDA_AMPERE --json")
    assert [row["line"] for row in told.json] == [2, 3]
    assert run("catalog list --file cat.repo --arch ROCM6 --json").json == []


def test_catalog_list_for_people(run: Any) -> None:
    told = run("catalog list --file cat.repo")
    assert told.out.splitlines()[0].split() == [
        "Pytorch", "2.8.0", "CUDA_ADA", "aimehub/pytorch-2.8.0",
    ]  # fmt: skip


def test_without_a_file_or_configuration_the_starter_catalog_is_listed(run: Any) -> None:
    assert len(run("catalog list --json").json) > 20


def test_catalog_check(run: Any) -> None:
    told = run("catalog check bad.repo --json")
    assert told.code == 1
    assert told.json["entries"] == 4
    assert [(p["line"], set(p)) for p in told.json["problems"]] == [(1, {"line", "problem"})]
    assert [(n["line"], set(n)) for n in told.json["notices"]] == [(5, {"line", "notice"})]
    people = run("catalog check bad.repo")
    assert people.out.startswith("bad.repo:1: has 2 of 4 columns")
    assert people.out.endswith("4 entries, 1 problems, 1 notices\n")


def test_catalog_check_of_good_and_empty_files(run: Any, here: Path) -> None:
    assert run("catalog check cat.repo").code == 0
    (here / "empty.repo").write_text("\n")
    told = run("catalog check empty.repo --json")
    assert (told.code, told.json["entries"]) == (1, 0)


def test_catalog_resolve(run: Any) -> None:
    line = "catalog resolve --file cat.repo --framework Tensorflow --version latest --arch CUDA_ADA"
    assert run(f"{line} --json").json == {
        "framework": "Tensorflow",
        "version": "2.14.0",
        "architecture": "CUDA_ADA",
        "image": "aimehub/tensorflow-2.14.0",
        "line": 2,
    }
    assert run(line).out == "aimehub/tensorflow-2.14.0\n"


@pytest.mark.parametrize(
    ("framework", "version", "words"),
    [
        ("Pytorch", "9", "no Pytorch 9 for CUDA_AMPERE. It has: Pytorch 2.7.1."),
        ("Pytorch", "2.8.0", "no Pytorch 2.8.0 for CUDA_AMPERE. It has: Pytorch 2.7.1."),
        ("pytorch", "latest", "no pytorch for CUDA_AMPERE. It has: Tensorflow, Pytorch."),
    ],
)
def test_what_the_catalog_does_not_have_is_a_no(
    run: Any, framework: str, version: str, words: str
) -> None:
    told = run(
        f"catalog resolve --file cat.repo --framework {framework} --version {version} "
        "--arch CUDA_AMPERE"
    )
    assert (told.code, told.out) == (1, "")
    assert words in told.err


# --- policy ----------------------------------------------------------------------------------


def test_policy_check(run: Any) -> None:
    told = run("policy check policy.yaml --json")
    assert told.code == 0
    assert told.json == {
        "groups": ["student", "staff"],
        "users": ["eve"],
        "presets": ["small"],
        "problems": [],
        "notices": [],
    }
    assert run("policy check policy.yaml").out.endswith("no problems, 0 notices\n")


def test_policy_check_of_a_bad_file(run: Any) -> None:
    told = run("policy check bad.yaml --json")
    assert told.code == 1
    assert told.json["problems"] == [
        {
            "where": "bad.yaml:2: defaults.max_cpu",
            "problem": "is not a known key.",
            "hint": "Did you mean max_cpus?",
        }
    ]
    assert run("policy check bad.yaml").out.splitlines() == [
        "bad.yaml:2: defaults.max_cpu: is not a known key. Did you mean max_cpus?",
        "1 problems: this policy would be refused",
    ]


def test_policy_check_sees_the_neighbours(run: Any, here: Path) -> None:
    (here / "user-overrides.yaml").write_text("max: {max_cpus: two}\n")
    told = run("policy check policy.yaml --json")
    assert [p["where"] for p in told.json["problems"]] == ["user-overrides.yaml:1: max.max_cpus"]


def test_policy_explain(run: Any) -> None:
    told = run("policy explain --file policy.yaml --user eve --no-host --json")
    assert told.code == 0
    assert set(told.json) == {"user", "group", "limits", "from"}
    assert list(told.json["limits"]) == [f.name for f in fields(Limits)]
    limits, sources = told.json["limits"], told.json["from"]
    assert (told.json["user"], told.json["group"]) == ("eve", "staff")
    assert (limits["memory"], sources["memory"]) == (2 * GIB, "group staff")
    assert (limits["max_cpus"], sources["max_cpus"]) == (9999, "defaults")
    assert (limits["max_runtime_h"], sources["max_runtime_h"]) == (None, "user eve")


def test_policy_explain_clamps_to_this_host(run: Any) -> None:
    told = run("policy explain --file policy.yaml --user ann --json").json
    assert (told["limits"]["max_cpus"], told["from"]["max_cpus"]) == (this_host().cpus, "host")


def test_policy_explain_takes_jupyterhubs_groups(run: Any) -> None:
    told = run("policy explain --file policy.yaml --user ann --group x --group staff --json")
    assert told.json["group"] == "staff"


def test_policy_explain_for_people(run: Any) -> None:
    told = run("policy explain --file policy.yaml --user eve --no-host")
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in told.out.splitlines()[1:]}
    assert told.out.splitlines()[0] == "eve, group staff"
    assert rows["memory"].split("  ")[0] == "2 GiB"
    assert rows["max_runtime_h"].startswith("no limit")
    assert rows["allow_full_gpu"].startswith("true")


def test_policy_explain_tells_exemptions_and_where_they_are_written(run: Any, here: Path) -> None:
    (here / "exempt.yaml").write_text(
        "exemptions:\n"
        "- {username: eve, exempt_from: [max_runtime_h], expires_on: 2020-01-31, reason: past}\n"
        "- username: eve\n"
        "  exempt_from: [max_runtime_h, idle_timeout_h]\n"
        "  expires_on: 2999-01-01T12:00+02:00\n"
        "  reason: thesis\n"
        "- {username: ann, exempt_from: [max_runtime_h], expires_on: 2999-01-31, reason: hers}\n"
    )
    told = run("policy explain --file exempt.yaml --user eve --no-host --json").json
    assert [one.pop("expired") for one in told["exemptions"]] == [True, False]
    assert told["exemptions"][1] == {
        "exempt_from": ["idle_timeout_h", "max_runtime_h"],
        "expires_on": "2999-01-01T10:00:00+00:00",
        "reason": "thesis",
        "from": "exempt.yaml:3: exemptions.1",
    }
    shown = run("policy explain --file exempt.yaml --user eve --no-host").out.splitlines()[-2:]
    assert shown == [
        "was exempt from max_runtime_h until 2020-02-01 00:00 UTC: past "
        "(exempt.yaml:2: exemptions.0)",
        "exempt from idle_timeout_h and max_runtime_h until 2999-01-01 10:00 UTC: thesis "
        "(exempt.yaml:3: exemptions.1)",
    ]
    assert "exemptions" not in run("policy explain --file exempt.yaml --user bob --json").json


IMAGES = """\
groups: {bio: {members: [eve]}}
images:
  genomics: {image: lab/genomics, title: G, groups: [bio]}
  stats: {image: lab/stats, title: S, groups: [r-users]}
"""


def test_policy_tells_of_custom_images_and_who_may_have_them(run: Any, here: Path) -> None:
    (here / "images.yaml").write_text(IMAGES)
    told = run("policy check images.yaml --json").json
    assert told["images"] == ["genomics", "stats"]
    assert "2 custom images" in run("policy check images.yaml").out
    for user, more, theirs in (
        ("eve", "", ["genomics"]),
        ("bob", "", []),
        ("bob", "--group r-users", ["stats"]),
    ):
        line = f"policy explain --file images.yaml --user {user} {more} --no-host"
        assert run(f"{line} --json").json["images"] == theirs
        assert run(line).out.endswith(f"custom images: {', '.join(theirs) or 'none'}\n")


# --- configuration, errors, exit codes -----------------------------------------------------------


def test_files_come_from_the_hubs_configuration(run: Any) -> None:
    told = run("--config hub.py catalog list --json")
    assert [row["line"] for row in told.json] == [1, 2, 3]  # what it prints is not in the answer
    assert told.err == "loading\n"
    told = run("--config hub.py policy explain --user eve --no-host --json")
    assert told.json["group"] == "staff"


def test_the_banner_of_fallback_images_is_told(run: Any, here: Path) -> None:
    (here / "hub.py").write_text(
        "c.DS01Spawner.catalog_file = 'none.repo'\n"
        "c.DS01Spawner.fallback_images = ['Pytorch, 1, [CUDA], a/b']\n"
    )
    told = run("--config hub.py catalog list --json")
    assert [row["image"] for row in told.json] == ["a/b"]
    assert "The image catalog is missing" in told.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("catalog list --file none.repo", "none.repo cannot be used: no such file or directory."),
        ("catalog list --arch CUDA_ADAA", "Did you mean CUDA_ADA?"),
        ("catalog resolve --framework P --version 1 --arch X", "'X' is not an architecture."),
        ("catalog check none.repo", "none.repo cannot be used"),
        ("catalog", "usage:"),
        ("nonsense", "usage:"),
        ("policy check none.yaml", "none.yaml cannot be used"),
        ("policy explain --user u --file bad.yaml", "bad.yaml:2: defaults.max_cpu: is not a known"),
        ("policy explain --file policy.yaml", "usage:"),
        ("--config none.py policy explain --user u", "none.py cannot be used: there is no such"),
        ("--config bad.yaml policy explain --user u", "bad.yaml cannot be used: SyntaxError"),
        ("--config ends.py policy explain --user u", "ends.py cannot be used: it ends the program"),
        (
            "--config wrong.py policy explain --user u",
            "wrong.py cannot be used: c.DS01Spawner.gpus",
        ),
    ],
)
def test_unusable_input_is_2_and_said_in_words(run: Any, here: Path, line: str, words: str) -> None:
    (here / "ends.py").write_text("raise SystemExit(3)\n")
    (here / "wrong.py").write_text("c.DS01Spawner.gpus = 'all'\n")
    told = run(line)
    assert (told.code, told.out) == (2, "")
    assert words in told.err
    assert "Traceback" not in told.err


def test_control_characters_do_not_reach_a_terminal(run: Any, here: Path) -> None:
    (here / "bad.yaml").write_text('defaults: {"\\e[31mx": 1}\n')
    assert "\x1b" not in run("policy check bad.yaml").out


def test_version_and_help(run: Any) -> None:
    assert run("--version").code == 0
    told = run("--help")
    assert told.code == 0
    assert "catalog" in told.out
    assert "policy" in told.out
