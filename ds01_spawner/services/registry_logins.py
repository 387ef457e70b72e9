"""The file of log-ins for private registries, read anew for each pull."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

from ds01_spawner.core.registries import Login, parse_logins, registry_of
from ds01_spawner.errors import SettingUnusable
from ds01_spawner.services.settings import SECTION

_OTHERS = 0o077


class RegistryLogins:
    """Log-ins by registry, from `file`; None: there are none."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    async def of(self, image: str) -> Login | None:
        """The log-in for the registry of this image's name. Raises SettingUnusable."""
        if self._file is None:
            return None
        return (await asyncio.to_thread(self.read)).get(registry_of(image))

    def read(self) -> dict[str, Login]:
        """All of them, by registry; reads a file. Raises SettingUnusable."""
        if self._file is None:
            return {}
        try:
            with self._file.open("rb") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & _OTHERS:
                    raise ValueError(f"others may read it: chmod 600 {self._file}")
                return dict(parse_logins(file.read().decode()))
        except OSError as error:
            why = str(error.strerror)
        except ValueError as error:  # UnicodeDecodeError shows what it cannot read
            why = "it is not JSON" if isinstance(error, UnicodeError) else str(error)
        raise SettingUnusable(f"c.{SECTION}.registry_auth_file", f"{self._file}: {why}.")
