"""Started by the folder's path, with no package of its own: see `process`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    sys.path.append(str(Path(__file__).resolve().parents[4]))
    from ds01_spawner.services.inventory.probe.process import main

    main()
