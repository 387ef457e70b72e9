"""The settings that a command works with: of a jupyterhub_config.py, else the defaults."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

from traitlets import TraitError
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from ds01_spawner.errors import FileUnusable
from ds01_spawner.services.settings import SECTION, Settings, from_config


def settings(args: argparse.Namespace) -> Settings:
    """The settings of `--config`, or the defaults. Raises FileUnusable, in words."""
    if not args.config:
        return from_config(Config())
    path = Path(args.config).absolute()
    if not path.is_file():
        raise FileUnusable(args.config, "there is no such file")
    section = load(path).get(SECTION, Config())
    known = Settings.class_trait_names(config=True)  # the rest is the spawner's own
    try:
        return from_config(Config({SECTION: {k: v for k, v in section.items() if k in known}}))
    except TraitError as error:
        raise FileUnusable(args.config, str(error).rstrip(".")) from error


def load(path: Path) -> Config:
    """What a configuration file sets. It runs, as it does in the hub, and starts nothing."""
    try:
        with redirect_stdout(sys.stderr):  # what it prints is not this command's answer
            return Config(PyFileConfigLoader(path.name, path=str(path.parent)).load_config())
    except SystemExit:
        raise FileUnusable(path, "it ends the program") from None
    except Exception as error:
        raise FileUnusable(path, f"{type(error).__name__}: {error}") from error
