"""A user's own environments: remembered when a start takes one, listed, renamed, deleted.

Nothing is tagged or removed but names in the user's own namespace, `ds01-<user key>/…`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone

from ds01_spawner.core.option_fields import Wrong
from ds01_spawner.core.option_fields import project as valid_project
from ds01_spawner.core.options import Offer, Request
from ds01_spawner.core.own_images import (
    OwnEnvironment,
    contents_of,
    of_labels,
    options_of,
    own_name,
)
from ds01_spawner.core.recipe import BUILT_BY, MANAGED
from ds01_spawner.core.slugs import image_repository, slug
from ds01_spawner.errors import (
    DS01Error,
    EnvironmentInUse,
    EnvironmentNameRefused,
    NoSuchEnvironment,
)
from ds01_spawner.services.builder import LATEST
from ds01_spawner.services.engine import Engine, EngineConflict, EngineNotFound, EngineRefused, Json
from ds01_spawner.services.images import ReadyImage
from ds01_spawner.services.ledger import Ledger
from ds01_spawner.services.reconciler import InLedger

_NEVER = datetime.min.replace(tzinfo=timezone.utc)


class Environments:
    """The environments of one hub's users; `builds` says whether a recipe is being built."""

    def __init__(
        self, engine: Engine, in_ledger: InLedger, hub: str, builds: Callable[[str], bool]
    ) -> None:
        self._engine, self._in_ledger = engine, in_ledger
        self._hub, self._builds = hub, builds

    async def note(self, user: str, request: Request, offer: Offer, image: ReadyImage) -> None:
        """Remember that a start took this image."""
        made = OwnEnvironment(
            user, request.project, image.name, image.digest,
            contents_of(request), options_of(request, offer),
        )  # fmt: skip
        await self._in_ledger(Ledger.note_environment, self._hub, made)

    async def of(self, user: str) -> tuple[OwnEnvironment, ...]:
        """A user's environments, the last used first.

        The images themselves tell of what the ledger has lost; while the engine does not answer,
        whether they are there is not known.
        """
        known = await self._in_ledger(Ledger.environments, self._hub, user)
        try:
            found = await self._engine.list_images({MANAGED: "true", BUILT_BY: self._hub})
        except (DS01Error, EngineRefused):
            return known
        names = {str(n): i.get("Labels") or {} for i in found for n in i.get("RepoTags") or ()}
        told = [replace(one, here=one.image in names) for one in known]
        images = {one.image for one in known}
        lost = (n for n in names if n not in images)
        told += filter(None, (of_labels(user, n, names[n], self._hub) for n in lost))
        return tuple(sorted(told, key=lambda one: one.used or _NEVER, reverse=True))

    async def find(self, user: str, key: str) -> OwnEnvironment:
        """The user's environment of this key. Raises NoSuchEnvironment."""
        for one in await self.of(user):
            if one.key == key:
                return one
        raise NoSuchEnvironment

    async def delete(self, user: str, key: str) -> OwnEnvironment:
        """Take the user's name from the image; with its last name the image goes.

        Raises NoSuchEnvironment, EnvironmentInUse, or EngineUnavailable.
        """
        one = await self.find(user, key)
        await self._remove_names(one)
        await self._in_ledger(Ledger.forget_environment, self._hub, user, one.image)
        return one

    async def rename(self, user: str, key: str, project: str) -> OwnEnvironment:
        """Have it in another project, the name of the image with it.

        Raises NoSuchEnvironment, EnvironmentNameRefused, EnvironmentInUse, or EngineUnavailable.
        """
        one = await self.find(user, key)
        try:
            project = valid_project(project)
        except Wrong as wrong:
            allowed = f" Allowed: {', '.join(wrong.allowed)}." if wrong.allowed else ""
            raise EnvironmentNameRefused(f"{wrong.problem}{allowed}") from None
        repository, tag = image_repository(user, project), one.image.rpartition(":")[2]
        named = f"{repository}:{tag}"
        options = {**one.options, "project": project}
        renamed = replace(one, project=project, image=named, options=options)
        if named != one.image:
            if any(other.image == named for other in await self.of(user)):
                raise EnvironmentNameRefused(f"you have the very same already as {project}.")
            await self._move(one, repository, tag)
        await self._in_ledger(Ledger.rename_environment, self._hub, one.image, renamed)
        return renamed

    async def _move(self, one: OwnEnvironment, repository: str, tag: str) -> None:
        try:
            found = await self._engine.inspect_image(one.image)
        except EngineNotFound:  # it is built under its new name when it is started
            return
        image = str(found["Id"])
        with suppress(EngineNotFound):
            if (await self._engine.inspect_image(f"{repository}:{tag}"))["Id"] != image:
                raise EnvironmentNameRefused("another image has that name on this server.")
        names = await self._names(one, found)
        if names:
            await self._free(one, found, names)
            await self._engine.tag_image(image, repository, tag)
        await self._remove_names(one)

    async def _remove_names(self, one: OwnEnvironment) -> None:
        """Remove the user's names of the image, the one that tells of it last."""
        try:
            image = await self._engine.inspect_image(one.image)
        except EngineNotFound:
            return
        names = await self._names(one, image)
        if names:
            await self._free(one, image, names)
        for name in names:
            try:
                with suppress(EngineNotFound):
                    await self._engine.remove_image(name)
            except EngineConflict as conflict:
                raise EnvironmentInUse(one.project, "a container has its image") from conflict

    async def _names(self, one: OwnEnvironment, image: Json) -> tuple[str, ...]:
        """The user's names of this image: the moving one, if it is here now, and its own.

        None of an image of the catalog's, or of another hub's that took the name.
        """
        own = own_name(one.image)
        labels = (image.get("Config") or {}).get("Labels") or {}
        if own is None or own.owner != slug(one.user):
            return ()
        if labels.get(BUILT_BY, self._hub) != self._hub:
            return ()
        latest = f"{own.repository}:{LATEST}"
        with suppress(EngineNotFound):
            if (await self._engine.inspect_image(latest))["Id"] == image["Id"]:
                return latest, one.image
        return (one.image,)

    async def _free(self, one: OwnEnvironment, image: Json, names: Collection[str]) -> None:
        """Refuse what is in use: by a build, or a container of anybody's, be it stopped.

        A container that was made by another's name of the image is no reason while that is there.
        """
        if self._builds(one.recipe):
            raise EnvironmentInUse(one.project, "it is being built")
        alone = not set(image.get("RepoTags") or ()) - set(names)
        for container in await self._engine.list_containers({}, all=True):
            by_name = container.get("Image") in names
            if by_name or (alone and container.get("ImageID") == image["Id"]):
                theirs = (container.get("Labels") or {}).get("ds01.user") == one.user
                who = "a server of yours" if theirs else "a container of somebody else's"
                ended = "" if container.get("State") == "running" else ", which does not run,"
                raise EnvironmentInUse(one.project, f"{who}{ended} has it")
