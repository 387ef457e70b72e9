"""Hostile package lists and names end in a clear refusal or an exact install, on a real engine."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import yaml
from packaging.requirements import Requirement

from ds01_spawner.core import policy
from ds01_spawner.core.build_gate import doors
from ds01_spawner.core.build_plan import Step
from ds01_spawner.core.build_site import BuildSite
from ds01_spawner.core.catalog import parse as parse_catalog
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.options import Offer, parse
from ds01_spawner.core.policy import PackageRules
from ds01_spawner.core.posted import from_form
from ds01_spawner.core.recipe import Recipe, image_name
from ds01_spawner.errors import BuildFailed, DS01Error, OptionsRefused, PolicyRefused
from ds01_spawner.hub.refusals import to_http_error
from ds01_spawner.services.base_images import BaseImage, BaseImages
from ds01_spawner.services.build_network import GatedNetwork
from ds01_spawner.services.builder import Builder, Remembered
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.images import plan_of
from tests.engine import hostile

if TYPE_CHECKING:
    from docker import APIClient

pytestmark = pytest.mark.any_hub

SEED = 20
USER = "test-hostile"
OFFER = Offer(
    catalog=parse_catalog("Pytorch, 2.8.0, [CUDA_ADA], a/b\n"),
    architectures=("CUDA_ADA",),
    limits=Limits(),
    packages=PackageRules(),
)
LISTS = [*hostile.lists(SEED, 130), *hostile.hashed(SEED, 10)]
APT = [*(payload for payload in hostile.PAYLOADS[::3]), "tre.", "tree+", "t+ree", "l.+b", "0.."]
NAMES = [*hostile.names(SEED, 40)]
OURS = re.compile(r"ds01-[a-z0-9-]+/[a-z0-9-]+:([0-9a-f]{16}|latest)")
# pip checks what it fetches: what the framework image has is there already.
TORCH = f"torch==2.8.0 --hash=sha256:{'0' * 64}"
# On top of an environment of the site without this index: what a user's packages would add to it.
LAYERS = """\
FROM {image}
USER root
COPY build/ca.pem /opt/ds01/ca.pem
COPY build/site.env {list} /opt/ds01/build/
{user}
RUN ["/bin/sh", "/opt/ds01/build/{script}", "/opt/ds01/build/{list}", "wheels-only"]
USER 65500:65500
RUN ["/bin/sh", "/opt/ds01/build/prove.sh", "torch"]
"""


@dataclass
class Bench:
    """Builds on the tests' engine, of lists as the form's way has read them."""

    engine: DockerEngine
    client: APIClient
    base: BaseImage
    folder: Path
    site: BuildSite
    plain: str = ""  # an environment without packages
    before: dict[str, str] = field(default_factory=dict)
    made: Remembered = field(default_factory=Remembered)

    def recipe(self, **lists: Any) -> Recipe:
        return Recipe(self.base.identity, "Pytorch", "2.8.0", "CUDA_ADA", **lists)

    def builder(self, site: BuildSite) -> Builder:
        network = GatedNetwork(
            self.engine, hub=f"{USER}-{uuid4().hex[:8]}", doors=doors(site, ()), seconds=600,
            new_id=lambda: uuid4().hex,
        )  # fmt: skip
        return Builder(
            self.engine, concurrency=1, memory=2 << 30, cpus=2, timeout_s=600,
            log_dir=self.folder, now=lambda: datetime.now(timezone.utc), made=self.made,
            network=network, gate_image=self._gate_image,
        )  # fmt: skip

    async def _gate_image(self) -> str:
        return self.base.tag

    async def build(self, made: Recipe, user: str = USER, project: str = "p") -> str:
        """The recipe's list on top of `plain`, under the recipe's name."""
        plan = plan_of(made, image_name(made, user, project), self.base.tag, self.site)
        listed, script, run_by = "requirements.txt", "pip.sh", "USER 65500:65500"
        if made.apt:
            listed, script, run_by = "apt.txt", "apt.sh", "USER root"
        text = LAYERS.format(image=self.plain, list=listed, script=script, user=run_by)
        steps = tuple(Step("Step", line) for line in text.splitlines())
        return await self.builder(self.site).ensure(replace(plan, steps=steps), lambda event: None)

    def tags(self) -> dict[str, str]:
        """Every name of every image, and its id."""
        found = self.client.images(all=True)
        return {
            tag: image["Id"]
            for image in found
            for tag in image["RepoTags"] or ()
            if tag != "<none>:<none>"
        }

    def installed(self, image: str) -> dict[str, str]:
        """What the environment has by name; fails if anything hostile has left its mark."""
        script = (
            f"find / -xdev -name '*{hostile.MARK}*' >&2; "
            "/opt/ds01/env/bin/python -m pip list --format=json --disable-pip-version-check"
        )
        container = self.client.create_container(image, ["sh", "-c", script], user="0")["Id"]
        try:
            self.client.start(container)
            assert self.client.wait(container, timeout=120)["StatusCode"] == 0
            assert self.client.logs(container, stdout=False, stderr=True) == b""
            listing = json.loads(self.client.logs(container, stdout=True, stderr=False))
        finally:
            self.client.remove_container(container, force=True, v=True)
        return {hostile.canonical(one["name"]): one["version"] for one in listing}


@pytest.fixture(scope="module")
def index(docker_client: APIClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    network = docker_client.inspect_network("bridge")
    made = hostile.Wheels(
        str(network["IPAM"]["Config"][0]["Gateway"]), tmp_path_factory.mktemp("index")
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
async def bench(
    engine_url: str,
    docker_client: APIClient,
    standin_image: str,
    ca_pem: bytes,
    index: hostile.Wheels,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bench]:
    engine = DockerEngine(engine_url)
    base = await BaseImages(engine, {"test-hostile/*": standin_image}).resolve(
        "test-hostile/pytorch", lambda event: None
    )
    site = BuildSite(index_url=index.url, ca_pem=ca_pem + index.authority)
    folder = tmp_path_factory.mktemp("logs")
    made = Bench(engine, docker_client, base, folder, site)
    old = made.tags()
    plain_site = BuildSite(ca_pem=ca_pem)
    plain = plan_of(made.recipe(), image_name(made.recipe(), USER, "p"), base.tag, plain_site)
    made.plain = await made.builder(plain_site).ensure(plain, lambda event: None)
    # As a neighbour could have named them: what a name that is taken apart wrongly would hit.
    for decoy in ("ds01/p:latest", "ds01-x:latest", "pytorch:latest", "etc/passwd:latest"):
        repository, tag = decoy.split(":")
        docker_client.tag(standin_image, repository, tag, force=True)
    made.before = made.tags()
    yield made
    for tag in made.tags().keys() - old.keys():
        docker_client.remove_image(tag, force=True)
    await engine.close()


def read(key: str, text: str) -> tuple[str, ...] | None:
    """A posted list as a start would have it; None if it is refused, which is in clear words."""
    try:
        options, unread = from_form({"environment": ["Pytorch|2.8.0|CUDA_ADA"], key: [text]})
        if unread:
            raise OptionsRefused(unread)
        found: tuple[str, ...] = getattr(parse(options, OFFER), key)
    except OptionsRefused as refused:
        check_words(refused)
        assert {problem.field for problem in refused.problems} == {key}
        return None
    return found


def check_words(refused: DS01Error) -> None:
    """A refusal can be shown anywhere, is of a bearable length, and says what to do."""
    assert str(refused).isprintable()
    assert len(str(refused)) < 3000
    assert refused.next_step
    shown: Any = to_http_error(refused)
    assert "<script" not in shown.jupyterhub_html_message
    assert "<img" not in shown.jupyterhub_html_message


def wanted(lines: tuple[str, ...]) -> dict[str, str]:
    """What an accepted list has to install."""
    found = {}
    for line in lines:
        text, *hashes = line.split(" --hash=")
        asked = Requirement(text)
        if asked.marker is None or asked.marker.evaluate():
            allowed = asked.specifier.filter(hostile.VERSIONS)
            files = {hostile.option(asked.name, v).removeprefix("--hash="): v for v in allowed}
            versions = [files[x] for x in files if x in hashes or not hashes]
            found[asked.name] = max(versions, key=_version)
            found |= {f"{hostile.PREFIX}-extra": "1.5"} if asked.extras else {}
    return found


def _version(text: str) -> tuple[bool, str]:
    return not text.startswith("3"), text  # no pre-release where another one will do


async def test_lists_are_refused_or_installed_exactly(bench: Bench, index: hostile.Wheels) -> None:
    accepted: dict[bool, list[tuple[str, ...]]] = {True: [], False: []}
    refused = 0
    for listed in LISTS:
        lines = read("pip", listed.text)
        if listed.installs is not None:
            assert lines is not None, listed.text
            assert wanted(lines) == listed.installs, listed.text
        if lines is None:
            refused += 1
        elif lines:
            accepted[any(" --hash=" in line for line in lines)].append(lines)
    assert refused >= 40
    assert len(accepted[False]) >= 70
    assert len(accepted[True]) >= 10
    had = bench.installed(bench.plain)
    for with_hashes, batch in accepted.items():
        index.asked.clear()
        lines = tuple(line for lines in batch for line in lines)
        there = (TORCH,) if with_hashes else ()
        image = await bench.build(bench.recipe(pip=(*lines, *there)))
        now = bench.installed(image)
        assert {name: now[name] for name in now if now[name] != had.get(name)} == wanted(lines)
        assert had.keys() <= now.keys()
        assert now["torch"] == "2.8.0+standin"
        pages = {path.split("/")[2] for path in index.asked if path.startswith("/simple/")}
        assert pages <= {Requirement(line.partition(" --hash=")[0]).name for line in lines} | {
            f"{hostile.PREFIX}-extra"
        }


NEEDS = f"{hostile.PREFIX}-needs"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            f"{hostile.PREFIX}-x==1.0 {hostile.option(f'{hostile.PREFIX}-y', '1.0')}",
            f"gave for {hostile.PREFIX}-x==1.0 does not match its hash",
        ),
        (f"{NEEDS}==1.0 {hostile.option(NEEDS, '1.0')}", f"{hostile.PREFIX}-sub is needed, too"),
    ],
    ids=["another file", "a package that is not listed"],
)
async def test_with_hashes_nothing_else_is_installed(bench: Bench, line: str, why: str) -> None:
    lines = read("pip", line)
    assert lines == (line,)
    with pytest.raises(BuildFailed) as failed:
        await bench.build(bench.recipe(pip=lines))
    assert why in failed.value.message
    check_words(failed.value)


async def test_system_packages_are_refused_or_are_those_very_ones(bench: Bench) -> None:
    accepted: list[str] = []
    for text in APT:
        accepted += read("apt", text) or ()
    assert {"tre.", "tree+", "t+ree", "l.+b", "0.."} <= set(accepted)
    assert len(accepted) < len(APT) - 20
    with pytest.raises(BuildFailed) as failed:  # none of them is a package; some are patterns
        await bench.build(bench.recipe(apt=tuple(accepted)))
    told = re.search(r"Unable to locate package ([^\"]+)", failed.value.message)
    assert told is not None
    assert set(told[1].split(", ")) == set(accepted)
    check_words(failed.value)


async def test_names_stay_in_their_namespace(bench: Bench) -> None:
    made = bench.recipe(pip=(f"{hostile.PREFIX}-named==1.0",))
    names: dict[str, tuple[str, str]] = {}
    for name in NAMES:
        await bench.build(made, user=name)
        pairs = [(name, "p")]
        try:
            project = parse({"project": name}, OFFER).project
        except OptionsRefused as refused:
            check_words(refused)
        else:
            assert project == name
            await bench.build(made, USER, project)
            pairs.append((USER, project))
        for pair in pairs:
            assert names.setdefault(image_name(made, *pair), pair) == pair
    assert all(OURS.fullmatch(name) for name in names)
    assert names.keys() <= bench.tags().keys()


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_presets_are_known_or_refused_whatever_their_name(name: str) -> None:
    with pytest.raises(OptionsRefused) as refused:
        parse({"preset": name}, OFFER)
    check_words(refused.value)
    text = yaml.safe_dump({"presets": {name: {"title": "T", "framework": "Pytorch"}}})
    try:
        known = policy.parse(text)
    except PolicyRefused as refusal:
        assert all(line.isprintable() for line in str(refusal).splitlines())
        assert len(str(refusal)) < 3000
    else:
        assert known.presets.keys() == {name}
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)


def test_no_image_of_anybody_else_was_named_renamed_or_removed(bench: Bench) -> None:
    """The last test of this module: after all that."""
    now = bench.tags()
    latest = {f"{name.rpartition(':')[0]}:latest" for name in bench.before if OURS.fullmatch(name)}
    assert {k: v for k, v in bench.before.items() if k not in latest}.items() <= now.items()
    assert [name for name in now.keys() - bench.before.keys() if not OURS.fullmatch(name)] == []
    assert len(LISTS) + len(APT) + len(NAMES) >= 200
