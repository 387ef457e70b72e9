"""What the ledger keeps of users' environments: which image, when last used, the way back to it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime

from ds01_spawner.core.own_images import Contents, OwnEnvironment
from ds01_spawner.services.ledger_file import READ, LedgerFile
from ds01_spawner.services.ledger_rows import text_of


class OwnImages(LedgerFile):
    """The environments that were started, by hub, user and name of the image."""

    def note_environment(self, hub: str, environment: OwnEnvironment) -> None:
        """Remember it as used now, in place of what was known of an image of this name."""
        with self._transaction() as db:
            _put(db, hub, environment, text_of(self._now()))

    def environments(self, hub: str, user: str) -> tuple[OwnEnvironment, ...]:
        """A user's environments, the last used first."""
        with self._transaction(READ) as db:
            query = "SELECT * FROM environment WHERE hub = ? AND user = ? ORDER BY used DESC, image"
            return tuple(map(_environment, db.execute(query, (hub, user))))

    def all_environments(self) -> tuple[OwnEnvironment, ...]:
        """Everybody's, of all hubs of this file."""
        with self._transaction(READ) as db:
            rows = db.execute("SELECT * FROM environment ORDER BY user, used DESC, image")
            return tuple(map(_environment, rows))

    def rename_environment(self, hub: str, image: str, renamed: OwnEnvironment) -> None:
        """Put `renamed` in the place of the environment with this image, used when that was."""
        with self._transaction() as db:
            used = text_of(renamed.used or self._now())
            _delete(db, hub, renamed.user, image)
            _put(db, hub, renamed, used)

    def forget_environment(self, hub: str, user: str, image: str) -> bool:
        """Forget it. False: it was not known."""
        with self._transaction() as db:
            return _delete(db, hub, user, image)

    def forget_unused(self, before: datetime, here: Iterable[str]) -> int:
        """Forget those last used before, but for images of these names; how many they were."""
        with self._transaction() as db:
            old = db.execute(
                "SELECT hub, user, image FROM environment WHERE used < ?", (text_of(before),)
            ).fetchall()
            kept = set(here)
            return sum(_delete(db, *row) for row in old if row["image"] not in kept)

    def note_in_use(self, images: Iterable[str]) -> None:
        """Count the environments whose image has such a name as used now."""
        with self._transaction() as db:
            now = text_of(self._now())
            rows = [(now, image) for image in images]
            db.executemany("UPDATE environment SET used = ? WHERE image = ?", rows)

    def images(self) -> Mapping[str, str]:
        """Recipe -> id of the image that was built of it; some may be gone from the engine."""
        with self._transaction(READ) as db:
            return dict(db.execute("SELECT recipe, id FROM image").fetchall())

    def forget_image(self, recipe: str, image: str) -> None:
        """Forget that this image was built of a recipe; not one that took its place since."""
        with self._transaction() as db:
            db.execute("DELETE FROM image WHERE recipe = ? AND id = ?", (recipe, image))


def _put(db: sqlite3.Connection, hub: str, one: OwnEnvironment, used: str) -> None:
    db.execute(
        "INSERT OR REPLACE INTO environment VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'local')",
        (
            hub, one.user, one.image, one.recipe, one.project,
            json.dumps(asdict(one.contents)), json.dumps(dict(one.options)), used,
        ),
    )  # fmt: skip


def _delete(db: sqlite3.Connection, hub: str, user: str, image: str) -> bool:
    query = "DELETE FROM environment WHERE hub = ? AND user = ? AND image = ?"
    return db.execute(query, (hub, user, image)).rowcount > 0


def _environment(row: sqlite3.Row) -> OwnEnvironment:
    found = json.loads(row["contents"])
    lists = {key: tuple(found[key]) for key in ("bundles", "pip", "apt")}
    return OwnEnvironment(
        user=row["user"],
        project=row["project"],
        image=row["image"],
        recipe=row["recipe"],
        contents=Contents(**{**found, **lists}),
        options=json.loads(row["options"]),
        used=datetime.fromisoformat(row["used"]),
    )
