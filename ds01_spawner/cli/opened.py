"""The parts of a hub that a command works with, opened for as long as it runs."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from ds01_spawner.cli.config import settings as settings_of
from ds01_spawner.errors import EngineRefusal, LedgerUnusable
from ds01_spawner.services import wiring
from ds01_spawner.services.engine import Engine, EngineRefused
from ds01_spawner.services.inventory.base import Inventory
from ds01_spawner.services.ledger import Ledger
from ds01_spawner.services.reconcile import EVENT_OF_ACTION, Action, Rules
from ds01_spawner.services.reconciler import Reconciler
from ds01_spawner.services.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opened:
    """Engine, ledger, devices and reconciler of a hub, which may be running meanwhile."""

    settings: Settings
    engine: Engine
    ledger: Ledger
    inventory: Inventory
    reconciler: Reconciler


def run(args: argparse.Namespace, command: Callable[[Opened], Awaitable[T]]) -> T:
    """Run a command on the hub of the configuration.

    Raises LedgerUnusable where the hub has no ledger: making one here would turn every server of
    the hub into one without a lease.
    """
    settings = settings_of(args)
    if not has_ledger(settings):
        raise LedgerUnusable(
            settings.ledger_path,
            "there is none",
            "Start the hub once, which makes it, or name its configuration with --config.",
        )
    return asyncio.run(_run(settings, command))


def has_ledger(settings: Settings) -> bool:
    """Whether the hub ever ran here. Raises LedgerUnusable where one may not look."""
    try:
        settings.ledger_path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise LedgerUnusable(
            settings.ledger_path, f"{error.strerror}", "Run this as the user of the hub."
        ) from error
    return True


async def _run(settings: Settings, command: Callable[[Opened], Awaitable[T]]) -> T:
    async with _opened(settings) as hub:
        try:
            return await command(hub)
        except EngineRefused as error:
            raise EngineRefusal("tell of its containers", str(error)) from error


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Opened]:
    ledger = wiring.ledger(settings)
    engine, inventory = wiring.engine(settings), wiring.inventory(settings)
    events = wiring.event_file(settings)

    async def in_ledger(method: Callable[..., T], *args: Any) -> T:
        return method(ledger, *args)

    def tell(action: Action) -> None:
        user = action.lease.user if action.lease else ""
        events.write(EVENT_OF_ACTION[action.action], user, object=action.object, why=action.why)

    reconciler = Reconciler(
        engine,
        in_ledger,
        hub=settings.hub_id,
        now=wiring.now,
        simulated=settings.simulated,
        on_event=tell,
        rules=Rules(warn_before=timedelta(minutes=settings.warn_before_minutes)),
    )
    try:
        yield Opened(settings, engine, ledger, inventory, reconciler)
    finally:
        await inventory.close()
        await engine.close()
        ledger.close()
