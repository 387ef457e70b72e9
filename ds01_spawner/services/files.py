"""Catalog and policy on disk: read again when they change, the last good copy kept.

`current()` costs a few `stat` calls while nothing changed. An edit that cannot be used stays out:
the copy before it goes on, `problem` says why, and the log is told once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from ds01_spawner.core import catalog as catalogs
from ds01_spawner.core import policy as policies
from ds01_spawner.core.catalog import Catalog
from ds01_spawner.core.policy import Policy
from ds01_spawner.errors import DS01Error, FileUnusable, Finding, PolicyRefused

log = logging.getLogger(__name__)

OVERRIDES = "user-overrides.yaml"  # beside the policy, as DS01 has it
MEMBERS_FOLDER = "groups"
MEMBERS_SUFFIX = ".members"
ARCHIVED = "archived"  # DS01's list of people who left: no group
STARTER_ROWS = "starter.repo"

Stamp = tuple[tuple[str, int, int, int, int], ...]


def read_text(path: Path) -> str:
    """The text of a file. Raises FileUnusable, in words."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FileUnusable(path, (error.strerror or type(error).__name__).lower()) from error
    except UnicodeDecodeError as error:
        raise FileUnusable(path, "it is not UTF-8 text") from error


def starter_catalog() -> Catalog:
    """The catalog that comes with the project."""
    rows = resources.files("ds01_spawner").joinpath("data", STARTER_ROWS)
    return catalogs.parse(rows.read_text(encoding="utf-8"))


def _stamp(*paths: Path) -> Stamp:
    """What changes when one of the files does; ctime tells of a repaired permission, too."""
    stamps = []
    for path in paths:
        try:
            s = path.stat()
        except OSError:
            continue
        stamps.append((str(path), s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino))
    return tuple(stamps)


def _may_pass(error: DS01Error) -> bool:
    """Whether the file could not be read, rather than not be used: then it is tried again."""
    return isinstance(error.__cause__, OSError)


# --- catalog ---------------------------------------------------------------------------------


class CatalogFile:
    """The catalog of a file, or, without one, the starter catalog.

    `fallback` is rows in the catalog's format, used only while the file is missing or empty and
    no earlier copy is known; `banner` then says so, for the form. Raises FileUnusable when there
    is nothing to begin with, and for a fallback row that is not usable.
    """

    def __init__(self, path: Path | None, fallback: Sequence[str] = ()) -> None:
        self.path = path
        self.banner = ""  # what people should know about the catalog in use
        self.problem = ""  # why the newest edit is not in use, for admins
        self._fallback = _fallback_catalog(fallback)
        self._has_copy = False
        self._seen: Stamp | None = None
        self._catalog = starter_catalog() if path is None else self._first(path)

    def current(self) -> Catalog:
        """The catalog, now."""
        if self.path is not None:
            stamp = _stamp(self.path)
            if stamp != self._seen:
                self._reload(self.path, stamp)
        return self._catalog

    def _first(self, path: Path) -> Catalog:
        self._seen = _stamp(path)
        why = _missing_or_empty(path)
        if why and self._fallback.entries:
            self.banner = (
                f"The image catalog {why}, so only the administrator's substitute images are "
                "offered for now."
            )
            self.problem = f"The catalog {path} {why}."
            log.warning("%s The fallback images are in use.", self.problem)
            return self._fallback
        catalog = _read_catalog(path)
        self._has_copy = True
        return catalog

    def _reload(self, path: Path, stamp: Stamp) -> None:
        try:
            self._catalog = _read_catalog(path)
        except FileUnusable as error:
            stays = "earlier copy stays" if self._has_copy else "fallback images stay"
            if self.problem != error.message:
                log.warning("%s The %s in use.", error.message, stays)
            self.problem = error.message
            self._seen = None if _may_pass(error) else stamp
            return
        self._seen, self._has_copy = stamp, True
        self.problem = self.banner = ""
        log.info("The catalog %s was read: %d entries.", path, len(self._catalog.entries))


def _missing_or_empty(path: Path) -> str:
    try:
        return "" if path.read_text("utf-8", "replace").strip() else "is empty"
    except FileNotFoundError:
        return "is missing"
    except OSError:
        return ""


def _fallback_catalog(rows: Sequence[str]) -> Catalog:
    catalog = catalogs.parse("\n".join(rows))
    for problem in catalog.problems:
        raise FileUnusable("fallback_images", f"row {problem.line} {problem.text.rstrip('.')}")
    return catalog


def _read_catalog(path: Path) -> Catalog:
    """The entries of a file. Raises FileUnusable for a file without any."""
    catalog = catalogs.parse(read_text(path))
    if catalog.entries:
        return catalog
    if catalog.problems:
        first = catalog.problems[0]
        raise FileUnusable(path, f"no row is usable; line {first.line} {first.text.rstrip('.')}")
    raise FileUnusable(path, "it is empty")


# --- policy ----------------------------------------------------------------------------------


class PolicyFile:
    """The policy of a file and, as DS01 lays them out, of its neighbours.

    Beside the policy are `user-overrides.yaml` and `groups/<group>.members`. Without a path: the
    built-in limits for everyone. The first load raises PolicyRefused or FileUnusable.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.problem = ""  # why the newest edit is not in use, for admins
        self._seen: Stamp | None = None
        if path is None:
            self._policy = Policy()
        else:
            self._seen = _stamp(*_files_of(path))
            self._policy = read_policy(path)

    def current(self) -> Policy:
        """The policy, now."""
        if self.path is not None:
            stamp = _stamp(*_files_of(self.path))
            if stamp != self._seen:
                self._reload(self.path, stamp)
        return self._policy

    def _reload(self, path: Path, stamp: Stamp) -> None:
        try:
            self._policy = read_policy(path)
        except DS01Error as error:
            if self.problem != error.message:
                log.warning("The policy changed; the earlier one stays in use. %s", error.message)
            self.problem = error.message
            self._seen = None if _may_pass(error) else stamp
            return
        self._seen, self.problem = stamp, ""
        log.info("The policy %s was read.", path)


def read_policy(path: Path) -> Policy:
    """The policy of a file and its neighbours. Raises PolicyRefused or FileUnusable.

    A group without members is a notice; a members file that cannot be read is a refusal, since
    its people would silently be in another group.
    """
    members = _members(path.parent / MEMBERS_FOLDER)
    policy = policies.parse(
        read_text(path),
        members,
        path.name,
        overrides=_text_if_there(path.parent / OVERRIDES),
        overrides_source=OVERRIDES,
    )
    missing = tuple(
        Finding(
            f"{MEMBERS_FOLDER}/{name}{MEMBERS_SUFFIX}",
            f"is missing, and the policy lists no members of {name}.",
            "Without it, only JupyterHub's group of this name counts.",
        )
        for name, group in policy.groups.items()
        if name not in members and not group.members and name != policy.default_group
    )
    return replace(policy, notices=policy.notices + missing)


def _text_if_there(path: Path) -> str | None:
    try:
        return read_text(path)
    except FileUnusable as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _files_of(path: Path) -> list[Path]:
    folder = path.parent / MEMBERS_FOLDER
    try:
        members = _members_files(folder)
    except OSError:
        members = []
    return [path, path.parent / OVERRIDES, folder, *members]


def _members_files(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())  # glob() hides a folder that may not be read
    except FileNotFoundError:
        return []
    return [p for p in found if p.suffix == MEMBERS_SUFFIX and p.stem != ARCHIVED]


def _members(folder: Path) -> Mapping[str, tuple[str, ...]]:
    members: dict[str, tuple[str, ...]] = {}
    problems: list[Finding] = []
    cause: BaseException | None = None
    try:
        paths = _members_files(folder)
    except OSError as error:
        raise FileUnusable(folder, (error.strerror or str(error)).lower()) from error
    for path in paths:
        where = f"{MEMBERS_FOLDER}/{path.name}"
        try:
            lines = read_text(path).splitlines()
        except FileUnusable as error:
            hint = "Repair it: without it its people would be in another group."
            problems.append(Finding(where, error.message, hint))
            cause = error.__cause__
            continue
        names = [line.split("#", 1)[0].strip() for line in lines]
        for number, name in enumerate(names, start=1):
            if len(name.split()) > 1:
                hint = "Write one user name a line."
                problems.append(Finding(f"{where}:{number}", f"{name[:60]!r} is no name.", hint))
        members[path.stem] = tuple(name for name in names if name)
    if problems:
        raise PolicyRefused(problems) from cause
    return members
