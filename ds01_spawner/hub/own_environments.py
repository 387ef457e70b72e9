"""The user's own environments on the form: what it shows of them, and what their buttons do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ds01_spawner.core.options import Offer
from ds01_spawner.core.own_images import OwnEnvironment
from ds01_spawner.errors import EnvironmentInUse
from ds01_spawner.hub.refusals import QuietForm

if TYPE_CHECKING:
    from ds01_spawner.hub.spawner import DS01Spawner

AGAIN, RENAME, DELETE, NAME = "again", "rename", "delete", "environment-name"
FIELDS = (AGAIN, RENAME, DELETE, NAME)
FIRST, MOST = 3, 12  # shown at once, and in all
MAX_PACKAGES = 8


def shown(
    environments: Sequence[OwnEnvironment], offer: Offer, spelled: Callable[[str], str]
) -> dict[str, Any]:
    """What the form's template reads of them, the last used first; not more than 12."""
    rows = [_row(one, offer, spelled) for one in environments[:MOST]]
    left_out = len(environments) - len(rows)
    return {"first": rows[:FIRST], "others": rows[FIRST:], "left_out": left_out}


def _row(one: OwnEnvironment, offer: Offer, spelled: Callable[[str], str]) -> dict[str, Any]:
    what = one.contents
    preset = offer.presets.get(str(one.options.get("preset")))
    lists = ((what.bundles, "Bundles"), (what.pip, "Packages"), (what.apt, "System packages"))
    return {
        "key": one.key,
        "project": one.project,
        "title": spelled(f"{what.framework} {what.version}"),
        "preset": preset.title if preset else "",
        "lines": [f"{name}: {_some(names)}" for names, name in lists if names],
        "gpus": _gpus(one.options),
        "used": one.used,
        "here": one.here,
    }


def _some(names: Sequence[str]) -> str:
    more = len(names) - MAX_PACKAGES
    return ", ".join(names[:MAX_PACKAGES]) + (f" and {more} more" if more > 0 else "")


def _gpus(options: Mapping[str, Any]) -> str:
    """What it starts with; empty where its preset, or the default, says it."""
    count, kind = options.get("gpus"), options.get("gpu", "any")
    if count is None:
        return ""
    if not count:
        return "no GPU"
    return f"{count} GPU{'s' if count > 1 else ''}" + ("" if kind == "any" else f" ({kind})")


async def pressed(
    spawner: DS01Spawner, form_data: Mapping[str, list[str]]
) -> dict[str, Any] | None:
    """Do what the button of an environment says; of one to start again, its options.

    Raises QuietForm when one was renamed or deleted: nothing starts, the form is shown again.
    """
    runtime, user = spawner.runtime, spawner.user.name
    again, rename, delete = ("".join(form_data.get(key, ())) for key in (AGAIN, RENAME, DELETE))
    if again:
        return dict((await runtime.environments.find(user, again)).options)
    if rename:
        await _none_starts(spawner, rename)
        name = "".join(form_data.get(NAME, ())).strip()
        one = await runtime.environments.rename(user, rename, name)
        _tell(spawner, one, "rename", f"The environment is called {one.project} now.")
    if delete:
        await _none_starts(spawner, delete)
        one = await runtime.environments.delete(user, delete)
        _tell(spawner, one, "delete", f"The environment {one.project} was deleted.")
    if rename or delete:
        raise QuietForm
    return None


async def _none_starts(spawner: DS01Spawner, key: str) -> None:
    """Refuse while a server of the user's is on its way: its container may be made in a moment."""
    if any(other.pending for other in spawner.user.spawners.values()):
        one = await spawner.runtime.environments.find(spawner.user.name, key)
        raise EnvironmentInUse(one.project, "a server of yours is starting or stopping")


def _tell(spawner: DS01Spawner, one: OwnEnvironment, what: str, words: str) -> None:
    runtime, user = spawner.runtime, spawner.user.name
    runtime.done[user] = words
    runtime.events.write(f"image.{what}", user, image=one.image)
