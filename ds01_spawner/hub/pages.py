"""The form's way in and out: what the hub calls to show it, to read it, and to judge options."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ds01_spawner.core.options import parse
from ds01_spawner.core.posted import from_form
from ds01_spawner.core.sharing import shared
from ds01_spawner.errors import Draining, DS01Error, OptionsRefused
from ds01_spawner.hub import form, own_environments
from ds01_spawner.hub.refusals import QuietForm, to_http_error
from ds01_spawner.services.engine import EngineRefused
from ds01_spawner.services.ledger import Ledger
from ds01_spawner.services.metrics import REFUSALS

if TYPE_CHECKING:
    from ds01_spawner.hub.runtime import Runtime
    from ds01_spawner.hub.spawner import DS01Spawner


LINE = "line"  # the name of the form's buttons about the line: wait, leave, start


async def render_form(spawner: DS01Spawner) -> str:
    """The options form of this user, now; trouble is told in its place."""
    try:
        return form.render(await _facts(spawner))
    except DS01Error as error:
        return form.render_trouble(error)


async def _facts(spawner: DS01Spawner) -> form.Facts:
    runtime, user = spawner.runtime, spawner.user.name
    offer, snapshot = await runtime.offer(user, spawner.group_names, spawner.ceilings)
    leases = await runtime.leases()
    own = [x for x in leases if (x.hub, x.user) == (runtime.settings.hub_id, user)]
    taken = {uuid for lease in leases if lease.seats == 1 for uuid in lease.devices}
    marked = {cordon.device for cordon in await runtime.in_ledger(Ledger.cordons)}
    aside = {d.uuid for d in snapshot.devices if not marked.isdisjoint((d.uuid, d.parent))}
    taken |= aside
    promised, seats = await runtime.line.promised(user)
    taken |= promised
    with suppress(DS01Error, EngineRefused):  # a start asks again, and is refused if it must be
        taken |= set(await runtime.reconciler.foreign_devices(snapshot))
    # The page of a refused post shows what was posted; that of a GET the link's or saved choice.
    server, posted, problems = runtime.rejected.pop(user, (spawner.name, None, ()))
    handler = getattr(spawner, "handler", None)
    if handler is not None and handler.request.method == "GET":
        server, posted, problems = spawner.name, _linked(handler), ()
    place = await runtime.line.place(user, server, offer)
    if place is not None and posted is None:
        posted = dict(place.options)
    return form.Facts(
        offer=offer,
        snapshot=snapshot,
        taken=frozenset(taken),
        aside=frozenset(aside),
        shared=shared(
            [*seats, *((u, x.seat, x.seats, x in own) for x in leases for u in x.devices)]
        ),
        own_units=sum(lease.units for lease in own),
        own_servers=len(own),
        chosen=posted or spawner.user_options,
        problems=problems,
        notices=await _notices(runtime, user),
        place=place,
        environments=await runtime.environments.of(user),
        done=runtime.done.pop(user, ""),
    )


async def _notices(runtime: Runtime, user: str) -> tuple[str, ...]:
    drained = await runtime.in_ledger(Ledger.drained)
    paused = await runtime.in_ledger(Ledger.paused, runtime.settings.hub_id, user)
    refusals = (None if drained is None else Draining(drained), paused)
    return (*runtime.notices(), *(str(refusal) for refusal in refusals if refusal))


def _linked(handler: Any) -> dict[str, Any] | None:
    """The preset that the form's address names, as either hub version writes it."""
    for key in ("opt-preset", "preset"):
        values = handler.request.query_arguments.get(key)
        if values:
            return {"preset": values[-1].decode("utf-8", "replace")}
    return None


async def read_form(form_data: Mapping[str, list[Any]], spawner: DS01Spawner) -> dict[str, Any]:
    """The options of a posted form, checked; a refused form is shown again as it was.

    The hub shows it through the user's default server, whichever one was to start, and without
    clearing the handler of that server's last GET.
    """
    runtime, user = spawner.runtime, spawner.user.name
    spawner.handler = spawner.user.spawner.handler = None
    try:
        offer, _ = await runtime.offer(user, spawner.group_names, spawner.ceilings)
        # What a button of the line says; without, the form's own start.
        asked = "".join(form_data.get(LINE, ()))
        own = await own_environments.pressed(spawner, form_data)
        buttons = (LINE, *own_environments.FIELDS)
        shown = {key: values for key, values in form_data.items() if key not in buttons}
        options, unread = (own, ()) if own else from_form(shown, offer.presets)
        if asked == "start":
            options = await runtime.line.options(user, spawner.name) or options
        runtime.rejected[user] = (spawner.name, options, ())
        try:
            if unread:
                raise OptionsRefused(unread)
            request = parse(options, offer)
            if asked == "wait":
                await runtime.line.join(user, spawner.name, request, offer, options)
        except OptionsRefused as refused:
            if asked != "leave":
                runtime.rejected[user] = (spawner.name, options, refused.problems)
                raise
        if asked == "leave":
            await runtime.line.leave(user, spawner.name)
    except DS01Error as error:
        REFUSALS.labels(code=error.code).inc()
        raise to_http_error(error) from None
    if asked in ("wait", "leave"):
        raise QuietForm  # nothing starts: the form is shown again
    return options


async def validate_options(spawner: DS01Spawner, options: object) -> None:
    """Refuse wrong options before anything is touched, on every way to a start."""
    try:
        offer, _ = await spawner.runtime.offer(
            spawner.user.name, spawner.group_names, spawner.ceilings
        )
        parse(options, offer)
    except DS01Error as error:
        REFUSALS.labels(code=error.code).inc()
        raise to_http_error(error) from None
