"""Looks at a host and its engine for `ds01-spawner doctor`; `core.checks` judges what it sees.

It reads. One question cannot be read from anywhere: whether the engine has a driver for GPUs.
It is asked as the hub does at its start, and nothing of that stays (`services.injection`).
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from ds01_spawner.core import checks
from ds01_spawner.core.build_gate import ISOLATED
from ds01_spawner.core.checks import Check, judged
from ds01_spawner.core.policy import Policy
from ds01_spawner.core.runs import of_other_maker
from ds01_spawner.errors import BaseImageRefused, DecisionsUnread, DS01Error
from ds01_spawner.services import ledger_decided, wiring
from ds01_spawner.services.base_images import BaseImages
from ds01_spawner.services.buildkit import COMMAND
from ds01_spawner.services.engine import Engine, EngineNotFound, EngineRefused
from ds01_spawner.services.injection import proven
from ds01_spawner.services.ledger_opening import count_leases
from ds01_spawner.services.settings import Settings

NVIDIA_CONFIG = Path("/etc/nvidia-container-runtime/config.toml")
MOUNTS, ROUTES = Path("/proc/self/mountinfo"), Path("/proc/net/route")


async def checkup(settings: Settings) -> list[Check]:
    """All findings, in the order in which one mends them. Never raises a DS01Error."""
    found = [policy(settings), catalog(settings), registries(settings), *data(settings)]
    engine = wiring.engine(settings)
    try:
        async for check in _of_engine(engine, settings):
            found.append(check)
    except (DS01Error, EngineRefused) as error:
        detail = f"{settings.engine_url} does not answer: {getattr(error, 'detail', '') or error}"
        fix = (
            "See that it runs (systemctl status docker) and that engine_url is right, and run "
            "this as root or in the group docker."
        )
        found.append(Check("engine", False, detail, fix))
    finally:
        await engine.close()
    return found


# --- files -----------------------------------------------------------------------------------


def policy(settings: Settings) -> Check:
    """Whether the policy can be used."""
    try:
        used = wiring.policy_file(settings).current()
    except DS01Error as error:
        return Check("policy", False, error.message.strip(), error.next_step)
    where = settings.policy_file or "the built-in limits"
    parts = f"{len(used.groups)} groups, {len(used.presets)} presets, {len(used.notices)} notices"
    idle = ", ".join(_without_effect(settings, used))
    problem = f"runs_on {idle} names only the other maker's architectures" if idle else ""
    fix = "No rule takes an image from one maker's GPUs to the other's: correct it, or delete it."
    return judged("policy", f"{where}: {parts}", problem, fix)


def _without_effect(settings: Settings, used: Policy) -> tuple[str, ...]:
    try:
        rows = wiring.catalog_file(settings).current()
        rows = rows.with_rows(image.entry for image in used.images.values())
        return of_other_maker(rows, used.runs_on)
    except DS01Error:
        return ()  # the finding on the catalog tells it


def catalog(settings: Settings) -> Check:
    """Whether the catalog can be used, as it is and not by its substitutes."""
    try:
        files = wiring.catalog_file(settings)
    except DS01Error as error:
        return Check("catalog", False, error.message, error.next_step)
    used = files.current()
    where = settings.catalog_file or "the starter catalog"
    lines = ", ".join(f"line {note.line}" for note in used.problems[:5])
    problem = files.problem or (lines and f"what is written in {lines} is not used")
    fix = f"`ds01-spawner catalog check {settings.catalog_file}` tells what is wrong."
    return judged("catalog", f"{where}: {len(used.entries)} entries", problem, fix)


def registries(settings: Settings) -> Check:
    """Whether the log-ins of private registries can be used; their registries alone are told."""
    try:
        known = wiring.registry_logins(settings).read()
    except DS01Error as error:
        return Check("registries", False, error.message, error.next_step)
    detail = f"log-ins for {', '.join(sorted(known))}" if known else "no log-ins"
    return Check("registries", True, detail)


def data(settings: Settings) -> Iterator[Check]:
    """The hub's own folder, and the ledger in it."""
    folder = Path(settings.data_dir)
    try:
        yield _folder(folder)
        yield _decided(settings)
        if not settings.ledger_path.exists():
            yield Check("ledger", True, "not there yet, the hub makes it at its start")
            return
        leases = count_leases(settings.ledger_path, simulated=settings.simulated)
        yield Check("ledger", True, f"{settings.ledger_path}: {leases} leases")
    except OSError as error:
        yield Check(
            "data folder", False, f"{folder}: {error.strerror}", "Run this as the hub's user."
        )
    except DS01Error as error:
        yield Check("ledger", False, f"{error.message} {error.detail}".strip(), error.next_step)


def _decided(settings: Settings) -> Check:
    """What a lost ledger would be made anew with, besides labels."""
    folder = Path(settings.data_dir)
    file, unread = folder / ledger_decided.FILE, folder / ledger_decided.UNREAD
    try:
        decided = ledger_decided.read(file, simulated=settings.simulated)
    except DecisionsUnread as error:
        return Check("decisions", False, error.message, error.next_step)
    if unread.exists():
        told = DecisionsUnread(unread, "the hub has put it aside")
        return Check("decisions", False, told.message, f"{told.next_step} Then delete the file.")
    if decided is None:
        return Check("decisions", True, "nothing is decided yet")
    marks = len(decided.aside) + len(decided.struck)
    parts = [f"{marks} GPUs set aside", *(["drained"] if decided.drained is not None else [])]
    return Check("decisions", True, f"{file}: {', '.join(parts)}")


def _folder(folder: Path) -> Check:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    kind = checks.filesystem_of(str(there.resolve()), _text(MOUNTS))
    detail = f"{folder} ({kind})" if there == folder else f"{folder} ({kind}), not there yet"
    if checks.is_remote(kind):
        fix = "Set data_dir to a folder on a local disk: on a network one locks do not hold."
        return Check("data folder", False, f"{detail}: it is another machine's", fix)
    if not os.access(there, os.W_OK | os.X_OK):
        return Check("data folder", False, f"{detail}: not writable", "Run this as the hub's user.")
    open_ = there == folder and stat.S_IMODE(folder.stat().st_mode) & 0o077
    problem = "others of this host may look into it" if open_ else ""
    return judged("data folder", detail, problem, f"chmod 700 {folder}")


# --- the engine and the devices ------------------------------------------------------------------


async def _of_engine(engine: Engine, settings: Settings) -> AsyncIterator[Check]:
    yield checks.engine(await engine.version())
    info = await engine.info()
    yield checks.clock(info, wiring.now())
    yield checks.storage(info)
    yield checks.disk(await engine.free_disk(), settings.min_free_disk)
    yield checks.cgroup(info)
    yield checks.limits(info)
    yield checks.warnings(info)
    yield await network(engine, settings)
    yield checks.builder(settings.builder, shutil.which(COMMAND))
    yield await build_network(engine, settings)
    of_policy = await custom_images(engine, settings)
    if of_policy is not None:
        yield of_policy
    inventory = wiring.inventory(settings)
    try:
        snapshot = await inventory.snapshot()
    finally:
        await inventory.close()
    yield checks.inventory(snapshot)
    choice = await proven(
        engine, settings.gpu_injection, snapshot, f"{settings.hub_id}-doctor", wiring.new_id
    )
    yield checks.gpu_way(choice, snapshot, info)
    yield checks.legacy(info, _text(NVIDIA_CONFIG))


async def network(engine: Engine, settings: Settings) -> Check:
    """The servers' network, or room for it."""
    problem = await engine.network_problem(
        settings.network,
        subnet=settings.network_subnet,
        labels={"ds01.hub": settings.hub_id},
    )
    local = settings.engine_url.startswith("unix://")
    routes = checks.routes_of(_text(ROUTES)) if local else []
    return checks.network(settings.network, settings.network_subnet, problem, routes)


async def custom_images(engine: Engine, settings: Settings) -> Check | None:
    """Whether the policy's own images are here and can be used; None: it has none."""
    try:
        images = wiring.policy_file(settings).current().images
        rows = wiring.catalog_file(settings).current()
    except DS01Error:
        return None  # the findings on these files tell it
    bases = BaseImages(engine, settings.image_map)
    states, wrong = {}, {}
    for name, image in images.items():
        if rows.hides(image.entry):
            wrong[name] = "a row of the catalog has this framework and version, and comes first"
        try:
            found = await bases.find(image.entry.image)
            states[name] = "is here" if found else "is fetched at its first start"
        except BaseImageRefused as refused:
            states[name], wrong[name] = "is here", refused.message
    return checks.custom_images(states, wrong) if images else None


async def build_network(engine: Engine, settings: Settings) -> Check:
    """Where packages are installed, and what they reach there."""
    name, problem = settings.build_network, ""
    try:
        reached = wiring.build_doors(settings, wiring.build_site(settings))
        if name != ISOLATED:
            await engine.inspect_network(name)
    except DS01Error as error:
        return Check("build network", False, error.message, error.next_step)
    except EngineNotFound:
        problem = "there is no such network"
    return checks.build_network(name, reached, problem)


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""
