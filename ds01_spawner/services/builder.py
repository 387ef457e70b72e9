"""Derived images: found by their digest, else built, once for all who want the same."""

from __future__ import annotations

import asyncio
import functools
import io
import logging
import tarfile
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from ds01_spawner.core.build_log import explain
from ds01_spawner.core.build_plan import BuildPlan
from ds01_spawner.errors import BuildFailed
from ds01_spawner.services.build_network import BuildNetwork
from ds01_spawner.services.build_output import EndlessOutput
from ds01_spawner.services.build_record import BuildEvent, BuildRecord
from ds01_spawner.services.engine import Engine, EngineNotFound, EngineRefused, EngineStreamError
from ds01_spawner.services.shared_work import Line, SharedWork

log = logging.getLogger(__name__)
LATEST = "latest"
_TITLE_LINE = "Waiting for other builds"
_TAIL_SHOWN = 40
OnEvent = Callable[[BuildEvent], None]

__all__ = ["BuildEvent", "Builder", "to_tar"]


class MadeImages(Protocol):
    """Recipe digest -> id of the image that was built of it."""

    async def image_of(self, recipe: str) -> str | None:
        """The id; None where none was built."""
        ...

    async def set_image(self, recipe: str, image: str) -> None:
        """Remember the id, in place of an earlier one."""
        ...


class Remembered(MadeImages):
    """What was built by this process."""

    def __init__(self) -> None:
        self._images: dict[str, str] = {}

    async def image_of(self, recipe: str) -> str | None:
        """The id; None where none was built."""
        return self._images.get(recipe)

    async def set_image(self, recipe: str, image: str) -> None:
        """Remember the id, in place of an earlier one."""
        self._images[recipe] = image


class Builder:
    """Builds with the engine's classic builder: it has limits, and ends when it is cancelled.

    `memory` in bytes and `cpus` bound each step, `timeout_s` the whole; `network` is where steps
    run, guarded by containers of `gate_image`, which has a Python. Only an image in `made` is
    taken for the recipe's: labels are inherited by whatever is made of an image, a commit of
    somebody's container too.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        concurrency: int,
        memory: int | None,
        cpus: float | None,
        timeout_s: float,
        log_dir: Path,
        now: Callable[[], datetime],
        made: MadeImages,
        network: BuildNetwork,
        gate_image: Callable[[], Awaitable[str]],
    ) -> None:
        self._engine = engine
        self._memory, self._cpus, self._timeout_s = memory, cpus, timeout_s
        self._log_dir = log_dir
        self._now = now
        self._made = made
        self._network, self._gate_image = network, gate_image
        self._line = Line(concurrency)
        self._shared: SharedWork[BuildEvent, str] = SharedWork()

    async def ensure(self, plan: BuildPlan, on_event: OnEvent) -> str:
        """The id of the plan's image, which has the plan's name on return.

        Raises BuildFailed, BuildNetworkUnusable, DiskFull or EngineUnavailable. When the caller is
        cancelled, the build goes on for those who still want it; when there is none, it has
        ended on return.
        """
        found = await self._find(plan)
        if found is not None:
            return found
        build = functools.partial(self._in_turn, plan)
        image = await self._shared.join(plan.digest, build, on_event)
        await self._name(image, plan.name)
        return image

    def builds(self, digest: str) -> bool:
        """Whether the plan of this digest is being built, or waits for it."""
        return self._shared.works_on(digest)

    def log_path(self, plan: BuildPlan) -> Path:
        """Where the log of the plan's last build is, named by its id."""
        return self._log_dir / f"{plan.short}.log"

    async def _find(self, plan: BuildPlan) -> str | None:
        """The image that was built by this very plan, for whomever; it then has this name."""
        image = await self._made.image_of(plan.digest)
        if image is None:
            return None
        try:
            found = await self._engine.inspect_image(image)
            if plan.name not in (found.get("RepoTags") or ()):
                await self._name(image, plan.name)
        except EngineNotFound:  # removed since
            return None
        return image

    async def _name(self, image: str, image_name: str) -> None:
        repository, _, tag = image_name.rpartition(":")
        await self._engine.tag_image(image, repository, tag)
        await self._engine.tag_image(image, repository, LATEST)

    async def _in_turn(self, plan: BuildPlan, tell: OnEvent) -> str:
        count = len({step.title for step in plan.steps}) + 1

        def in_line(position: int) -> None:
            tell(BuildEvent(0, count, _TITLE_LINE, f"place {position} in the line"))

        async with self._line.place(in_line):
            # It may have been built between the first look and now.
            image = await self._find(plan)
            if image is None:
                image = await self._build(plan, tell)
                await self._made.set_image(plan.digest, image)
            return image

    async def _build(self, plan: BuildPlan, tell: OnEvent) -> str:
        self._log_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        record = BuildRecord(self.log_path(plan), plan.steps, tell, self._now)
        ending = "The build was given up."
        try:
            async with self._network.open(await self._gate_image()) as joined:
                image = await asyncio.wait_for(
                    self._engine.build(
                        to_tar(plan.context),
                        tag=plan.name,
                        labels=plan.labels,
                        buildargs=joined.buildargs,
                        memory=self._memory,
                        cpus=self._cpus,
                        network=joined.network,
                        on_line=record.add,
                    ),
                    self._timeout_s,
                )
            ending = f"Built {image}."
            return image
        except (EngineRefused, asyncio.TimeoutError) as error:
            failed = self._failure(error, record, plan)
            ending = failed.message
            raise failed from error
        finally:
            record.close(ending)

    def _failure(
        self, error: EngineRefused | asyncio.TimeoutError, record: BuildRecord, plan: BuildPlan
    ) -> BuildFailed:
        tail = tuple(record.tail)
        if isinstance(error, EndlessOutput):
            why = "it printed without end."
        elif isinstance(error, EngineRefused):
            code = error.code if isinstance(error, EngineStreamError) else None
            why = explain(tail, error.message, code)
        else:
            why = (
                f"it took longer than the {self._timeout_s / 60:g} minutes that a build may take; "
                "try with fewer packages."
            )
        detail = f"recipe {plan.short}: {error!r}; the log is {self.log_path(plan)}"
        return BuildFailed(
            record.title,
            why,
            log_id=plan.short,
            log_tail="\n".join(tail[-_TAIL_SHOWN:]),
            detail=detail,
        )


def to_tar(files: Mapping[str, bytes]) -> bytes:
    """A build context as a tar: the same bytes for the same files, all of them root's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, content in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()
