"""`ds01-spawner images list|build|prune`: the derived images of this host, and their upkeep."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds01_spawner.cli.opened import Opened, run
from ds01_spawner.cli.output import FINE, NO, UNUSABLE, add_json, answer, clean, complain, table
from ds01_spawner.core.units import format_size, parse_size
from ds01_spawner.core.upkeep import Held, Removal, total
from ds01_spawner.services import wiring
from ds01_spawner.services.build_record import BuildEvent, old_logs

if TYPE_CHECKING:
    from ds01_spawner.hub.prebuild import Prebuilt

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Register the commands."""
    top = subparsers.add_parser("images", help="the environments that are built on this host")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    one = commands.add_parser("list", help="all of them, the last used first")
    add_json(one)
    one.set_defaults(handler=list_)

    one = commands.add_parser("build", help="build what is not there before somebody waits for it")
    one.add_argument(
        "--presets", action="store_true", required=True, help="the environments of all presets"
    )
    one.add_argument("--dry-run", action="store_true", help="only tell what would be built")
    add_json(one)
    one.set_defaults(handler=build)

    one = commands.add_parser("prune", help="remove those that nobody used for long")
    one.add_argument("--days", metavar="N", type=int, help="instead of keep_images_days")
    one.add_argument(
        "--budget", metavar="SIZE", help="instead of images_budget, such as 200G; 0: no budget"
    )
    one.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    add_json(one)
    one.set_defaults(handler=prune)


def list_(args: argparse.Namespace) -> int:
    """All derived images, a row for each name."""
    from ds01_spawner.hub.prebuild import opened_upkeep  # the hub's side takes a second

    async def look(hub: Opened) -> tuple[Held, ...]:
        upkeep, _ = await opened_upkeep(*_parts(hub))
        return await upkeep.look()

    images = run(args, look)
    rows = [row for image in images for row in _rows(image)]
    lines = [
        (row["image"], row["owner"] or "-", f"used {row['last_used'][:10]}",
         format_size(row["size"]), _state(row))
        for row in rows
    ]  # fmt: skip
    size = total(images)
    answer(
        args,
        {"images": rows, "size": size},
        [*table(lines), f"{len(images)} images, {format_size(size)} on top of their frameworks; "
         "what several share is counted once"],
    )  # fmt: skip
    return FINE


def build(args: argparse.Namespace) -> int:
    """Build the presets' environments one by one; the exit code is 1 when one failed."""
    from ds01_spawner.hub.prebuild import FAILED, opened_upkeep

    def tell(preset: str) -> Any:
        told: list[str] = []

        def event(event: BuildEvent) -> None:
            step = f" (step {event.step} of {event.steps})" if event.step else ""
            text = f"{preset}: {event.title}{step}"
            if [text] != told[-1:]:
                told.append(text)
                print(clean(text), file=sys.stderr, flush=True)

        return event

    async def make(hub: Opened) -> tuple[Prebuilt, ...]:
        _, prebuilding = await opened_upkeep(*_parts(hub))
        return await prebuilding.run(tell, dry_run=args.dry_run)

    made = run(args, make)
    rows = [
        {"image": one.image, "preset": one.preset, "result": one.result, "why": one.why}
        for one in made
    ]
    lines = [(one.preset, one.result, one.why or one.image) for one in made]
    failed = sum(one.result == FAILED for one in made)
    end = f"{len(made)} presets" + (f", {failed} failed" if failed else "")
    answer(args, {"images": rows}, [*table(lines), end])
    return NO if failed else FINE


def prune(args: argparse.Namespace) -> int:
    """Remove what may go; the exit code is 1 when what presets need is not known."""
    from ds01_spawner.hub.prebuild import opened_upkeep

    if args.days is not None and args.days < 1:
        complain(f"{args.days} is no number of days: give 1 or more.")
        return UNUSABLE
    try:
        budget = None if args.budget is None else _budget(args.budget)
    except ValueError as wrong:
        complain(f"--budget: {wrong}.")
        return UNUSABLE

    async def remove(hub: Opened) -> tuple[tuple[Removal, ...], list[Path]] | None:
        upkeep, prebuilding = await opened_upkeep(*_parts(hub))
        if not prebuilding.known:
            return None
        settings, now = hub.settings, wiring.now()
        gone = await upkeep.prune(
            now,
            days=args.days or settings.keep_images_days,
            budget=(settings.images_budget if budget is None else budget) or None,
            dry_run=args.dry_run,
        )
        before = now - timedelta(days=settings.keep_build_logs_days)
        logs = old_logs(Path(settings.data_dir) / "builds", before)
        for path in () if args.dry_run else logs:
            path.unlink(missing_ok=True)
        return gone, logs

    done = run(args, remove)
    if done is None:
        complain(
            "Nothing was removed: which GPUs this host has is not known now, and so not what its "
            "presets need. Try again when `ds01-spawner gpus` shows them."
        )
        return NO
    gone, logs = done
    rows = [
        {**row, "why": removal.why, "freed": removal.freed}
        for removal in gone for row in _rows(removal.image)
    ]  # fmt: skip
    lines = [
        (" ".join(removal.image.names), format_size(removal.freed), removal.why)
        for removal in gone
    ]  # fmt: skip
    freed, word = sum(removal.freed for removal in gone), "to remove" if args.dry_run else "removed"
    answer(
        args,
        {"images": rows, "freed": freed, "logs": [path.stem for path in logs]},
        [*table(lines), f"{len(gone)} images ({format_size(freed)}) and {len(logs)} logs {word}"],
    )
    return FINE


def _budget(text: str) -> int:
    return 0 if text == "0" else parse_size(text)


def _parts(hub: Opened) -> Any:
    return hub.settings, hub.engine, hub.ledger, hub.inventory


def _rows(image: Held) -> Iterable[dict[str, Any]]:
    """A row for each name that says what the image is."""
    for name in (*image.names, *image.others):
        if name in image.owners:
            yield {
                "image": name,
                "owner": image.owners[name],
                "recipe": image.recipe,
                "base": image.base,
                "size": image.size,
                "last_used": image.used.isoformat(),
                "in_use": list(image.in_use),
                "stale": image.stale or None,
            }


def _state(row: dict[str, Any]) -> str:
    told = [*row["in_use"], *([row["stale"]] if row["stale"] else [])]
    return "; ".join(told) or "-"
