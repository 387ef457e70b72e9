"""settings -> adapters: the one place where each outside thing is chosen.

The hub and the command line use the same. Nothing here speaks to the engine or the devices yet.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

from ds01_spawner.core.build_gate import ISOLATED, Door, doors
from ds01_spawner.core.build_site import BuildSite
from ds01_spawner.core.faults import FaultRule
from ds01_spawner.core.imagemap import pattern_problems
from ds01_spawner.errors import SettingUnusable
from ds01_spawner.services.build_network import BuildNetwork, GatedNetwork, SharedNetwork
from ds01_spawner.services.buildkit import BuildKitEngine
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.engine import Engine
from ds01_spawner.services.events import EventFile
from ds01_spawner.services.files import CatalogFile, PolicyFile
from ds01_spawner.services.inventory.base import Inventory, NoDevices, Together
from ds01_spawner.services.inventory.nvml import NvmlInventory
from ds01_spawner.services.inventory.rocm import RocmInventory
from ds01_spawner.services.inventory.simulated import SimulatedInventory
from ds01_spawner.services.ledger import Ledger
from ds01_spawner.services.registry_logins import RegistryLogins
from ds01_spawner.services.settings import SECTION, Settings
from ds01_spawner.services.uids import Uids

BUILD_SPARE_S = 120
DEFAULT_NETWORK = "bridge"


def now() -> datetime:
    """The present, aware, UTC."""
    return datetime.now(timezone.utc)


def new_id() -> str:
    """A random name, 122 bits."""
    return uuid4().hex


def catalog_file(settings: Settings) -> CatalogFile:
    """The catalog that the settings name, or the starter catalog."""
    problems = pattern_problems(settings.image_map)
    if problems:
        raise SettingUnusable(f"c.{SECTION}.image_map", problems[0])
    path = Path(settings.catalog_file) if settings.catalog_file else None
    return CatalogFile(path, settings.fallback_images)


def policy_file(settings: Settings) -> PolicyFile:
    """The policy that the settings name, or the built-in limits."""
    return PolicyFile(Path(settings.policy_file) if settings.policy_file else None)


def engine(settings: Settings) -> Engine:
    """The container engine, and what builds on it."""
    if settings.builder == "classic":
        return DockerEngine(settings.engine_url)
    if settings.build_network != DEFAULT_NETWORK:
        raise SettingUnusable(
            f"c.{SECTION}.builder",
            "BuildKit builds on the engine's default network only, from where packages reach "
            "whatever they like while they are installed. If that is meant, set "
            f'build_network = "{DEFAULT_NETWORK}" with it',
        )
    return BuildKitEngine(settings.engine_url)


def inventory(settings: Settings, on_change: Callable[[], None] = lambda: None) -> Inventory:
    """Where the devices are read from. A broken driver means no device, never simulated ones.

    `on_change` is called when they are seen to have changed.
    """
    if settings.simulated:
        return SimulatedInventory(settings.gpus.partition(":")[2], settings.hub_id)
    if settings.gpus == "none":
        return NoDevices()
    return Together(
        NvmlInventory(now=now, on_change=on_change), RocmInventory(now=now, on_change=on_change)
    )


def data_folder(settings: Settings) -> Path:
    """The hub's own folder, made where missing, readable by the hub alone."""
    data = Path(settings.data_dir)
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    return data


def ledger(settings: Settings) -> Ledger:
    """The ledger of the data folder."""
    return Ledger(
        data_folder(settings) / "ledger.sqlite",
        simulated=settings.simulated,
        now=now,
        new_id=new_id,
        gpu_ceiling_h=settings.gpu_lease_ceiling_h,
        hold_ceiling_h=settings.gpu_hold_ceiling_h,
        fault_rule=FaultRule(settings.gpu_faults, settings.gpu_faults_h),
    )


def uids(settings: Settings) -> Uids:
    """The user numbers of the data folder."""
    return Uids(data_folder(settings) / "uids.sqlite")


def event_file(settings: Settings) -> EventFile:
    """The event log of the data folder."""
    return EventFile(data_folder(settings) / "events.jsonl", now)


def build_site(settings: Settings) -> BuildSite:
    """Where builds of this site find packages."""
    try:
        return BuildSite(
            index_url=settings.package_index,
            extra_index_urls=tuple(settings.extra_package_indexes),
            ca_pem=Path(settings.ca_file).read_bytes() if settings.ca_file else None,
            proxies=settings.proxies,
            apt_mirror=settings.apt_mirror,
        )
    except OSError as error:
        raise SettingUnusable(f"c.{SECTION}.ca_file", f"{error.strerror}.") from error
    except ValueError as error:
        raise SettingUnusable(f"c.{SECTION}, the package addresses", str(error)) from error


def registry_logins(settings: Settings) -> RegistryLogins:
    """The log-ins of private registries, looked at once: a file that cannot be used is refused."""
    file = settings.registry_auth_file
    logins = RegistryLogins(Path(file) if file else None)
    logins.read()
    return logins


def build_doors(settings: Settings, site: BuildSite) -> dict[str, Door]:
    """What isolated builds may reach."""
    try:
        return doors(site, settings.build_hosts)
    except ValueError as error:
        raise SettingUnusable(f"c.{SECTION}.build_hosts or proxies", str(error)) from error


def build_network(
    engine: Engine, settings: Settings, site: BuildSite, of_command: bool = False
) -> BuildNetwork:
    """Where builds run: the hub's, or those of a command beside it."""
    if settings.build_network != ISOLATED:
        return SharedNetwork(settings.build_network, site.build_args)
    return GatedNetwork(
        engine,
        hub=settings.hub_id,
        doors=build_doors(settings, site),
        seconds=settings.build_timeout + BUILD_SPARE_S,
        new_id=new_id,
        of_command=of_command,
    )
