"""What a start would send, without starting: the command `render`.

It takes the very way of a start (`offer_of`, `options.parse`, `Images`, `container_plan`) and
changes nothing; what only a start knows is a placeholder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from jupyterhub.app import JupyterHub
from jupyterhub.objects import Hub, Server
from jupyterhub.utils import url_escape_path
from traitlets.config import Config

from ds01_spawner.core.container import create_body
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.exemptions import Exempt, exempt
from ds01_spawner.core.limits import HostCapacity, effective
from ds01_spawner.core.options import Request, parse
from ds01_spawner.hub import planning
from ds01_spawner.hub.offers import offer_of
from ds01_spawner.hub.spawner import DS01Spawner
from ds01_spawner.services import wiring
from ds01_spawner.services.accounts import account_of
from ds01_spawner.services.images import Images
from ds01_spawner.services.injection import chosen
from ds01_spawner.services.settings import Settings, from_config

LEASE, DEVICE, UID, HUB, TOKEN = "<lease>", "<device>", "<uid>", "<hub>", "<token>"
TOKENS = ("JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN")
HUBS_OWN = ("JUPYTERHUB_", "JPY_", "TENSORBOARD_PROXY_URL")


async def render(
    config: Config, user: str, groups: tuple[str, ...], options: Any
) -> dict[str, Any]:
    """The image's name, its Dockerfile and the container's create body, as they would be sent.

    Raises OptionsRefused, and the errors of files and engine.
    """
    settings = from_config(config)
    asker = replace(_spawner(config, user).asker(), groups=groups, options=options)
    engine, inventory = wiring.engine(settings), wiring.inventory(settings)
    try:
        info = await engine.info()
        snapshot = await inventory.snapshot()
        capacity = HostCapacity(float(info["NCPU"]), int(info["MemTotal"]))
        policy = wiring.policy_file(settings).current()
        limits = effective(policy, user, groups, capacity)
        catalog = wiring.catalog_file(settings).current()
        way = await chosen(engine, settings.gpu_injection, snapshot)
        offer = offer_of(settings, catalog, policy, limits, asker.ceilings, groups, snapshot, way)
        request = parse(options, offer)
        image, dockerfile = await Images(engine, settings).preview(request, user, offer)
    finally:
        await inventory.close()
        await engine.close()
    environment = _without_the_hubs(asker.environment())
    plan = planning.container_plan(
        replace(asker, environment=lambda: environment),
        request,
        planning.resources(offer.limits, request, capacity, settings),
        image,
        _grant(request, snapshot, exempt(policy.exemptions, user)),
        _owner(settings, user),
        settings,
        way.way,
    )
    return {"image": image.name, "dockerfile": dockerfile, "container": create_body(plan)}


def _spawner(config: Config, user: str) -> DS01Spawner:
    """A spawner as the hub would make it, as far as its settings go."""
    escaped = url_escape_path(user)
    url = f"{_base_url(config)}user/{escaped}/"
    account = SimpleNamespace(name=user, escaped_name=escaped, url=url, groups=[])
    spawner = DS01Spawner(config=config, user=account, hub=Hub(), api_token=TOKEN)
    spawner._server = Server(base_url=account.url)  # as with the hub's own, of its database
    return spawner


def _base_url(config: Config) -> str:
    """Below which the hub will serve: a setting of its own, or the path of its address."""
    hub = config.JupyterHub
    told = {key: hub[key] for key in ("bind_url", "base_url") if key in hub}
    return str(JupyterHub(config=Config(JupyterHub=told)).base_url)


def _grant(request: Request, snapshot: Snapshot, exempted: Exempt) -> planning.Grant:
    """A grant of devices that stand for any of those that would do."""
    fit = request.needs.architectures if request.needs else (request.architecture,)
    would_do = [device for device in snapshot.devices if device.architecture in fit]
    devices = tuple(
        replace(device, uuid=DEVICE, card_name=DEVICE, nodes=_nodes(number, would_do))
        for number, device in enumerate(would_do[: request.gpus])
    )
    slots = (DEVICE,) * len(devices)
    units = DEVICE if devices else "0"
    architecture = DEVICE if devices and len(fit) > 1 else None
    seats = request.wanted.seats
    seat = DEVICE if seats > 1 else ""
    until, idle_until = (LEASE if time else "" for time in (exempted.runtime, exempted.idle))
    return planning.Grant(
        LEASE, LEASE, LEASE, devices, slots, units, LEASE, LEASE, LEASE, until, idle_until,
        architecture, seat, seats,
    )  # fmt: skip


def _nodes(number: int, devices: list[Device]) -> tuple[str, ...]:
    """The device files of one of several devices: those of them all, and its own."""
    shared = [node for node in devices[0].nodes if all(node in d.nodes for d in devices)]
    own = f"<device {number + 1}>" if number else DEVICE
    return tuple(node if node in shared else own for node in devices[0].nodes)


def _without_the_hubs(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with placeholders for what the running hub decides."""
    return {
        key: TOKEN if key in TOKENS else HUB if key.startswith(HUBS_OWN) else value
        for key, value in environment.items()
    }


def _owner(settings: Settings, user: str) -> str:
    found = account_of(user) if settings.system_accounts else None
    return str(found) if found else f"{UID}:{UID}"
