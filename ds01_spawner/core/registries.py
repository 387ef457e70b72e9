"""Registries of images: log-ins for them, and why an image could not be fetched.

The log-ins are in Docker's own `config.json`, as `docker login` writes it: by registry, a user's
name and password in base64, or an identity token.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ds01_spawner.core.build_log import clean

DOCKER_HUB = "docker.io"
_HUBS = ("docker.io", "index.docker.io", "registry-1.docker.io")
# A registry may be written as the address of its API, as Docker does with its own.
_REGISTRY = re.compile(
    r"(?:https?://)?([A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-f:]+\](?::\d{1,5})?)(/v[12])?/?"
)
_ASKS = "the registry asks for a log-in, and none is set for it"
_NOT_TAKEN = "the registry did not take the log-in that is set for it"
# The words of engine and registry, in this order -> why, and why if a log-in was given.
_REASONS = [
    (r"no space left on device|disk quota exceeded", "this server's disk is full", ""),
    (
        r"verification failed|unexpected eof|invalid checksum|corrupt input|does not match digest",
        "a part of the image is broken in the registry, or was broken on its way",
        "",
    ),
    (r"x509:", "the engine does not trust the registry's certificate", ""),
    (
        r"toomanyrequests|too many requests",
        "the registry allows no more downloads for now; try again later",
        "",
    ),
    (
        r"no basic auth credentials|unauthorized|authentication required|\b401\b",
        _ASKS,
        _NOT_TAKEN,
    ),
    (
        r"denied|forbidden",
        "the registry has no such image, or asks for a log-in",
        "the registry has no such image, or the log-in that is set for it may not have it",
    ),
    (r"not found|unknown", "the registry has no image of this name", ""),
    (
        r"http response to https client",
        "the registry has no TLS, which the engine's insecure-registries would have to allow",
        "",
    ),
    (
        r"no such host|timeout|deadline|refused|unreachable|dial |connection reset|\beof\b|"
        r"unexpected http status: 5\d\d",
        "the registry could not be reached",
        "",
    ),
]
_HELPERS = ("credsStore", "credHelpers")


@dataclass(frozen=True, slots=True)
class Login:
    """What one registry is given to know this hub by; only its name is ever shown."""

    registry: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)  # instead of the two


def registry_of(image: str) -> str:
    """The registry of an image's name, in lower case; Docker's own where the name has none."""
    first, slash, _ = image.partition("/")
    if slash and (first == "localhost" or set(".:") & set(first) or first != first.lower()):
        return _named(first)
    return DOCKER_HUB


def parse_logins(text: str) -> Mapping[str, Login]:
    """Registry -> its log-in. ValueError says what is wrong, and never what is secret."""
    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("auths", {}), dict):
        raise ValueError('it is not as `docker login` writes it: {"auths": {REGISTRY: …}}')
    for key in _HELPERS:
        if found.get(key):
            raise ValueError(
                f"it leaves the passwords to another program ({key}), which the hub does not run"
            )
    logins = [_login(key, entry) for key, entry in found.get("auths", {}).items()]
    by_registry = {login.registry: login for login in logins}
    if len(by_registry) < len(logins):
        raise ValueError("it has one registry twice")
    return by_registry


def explain_pull(message: str, logged_in: bool) -> str:
    """Why an image could not be fetched, from the engine's message: words without a full stop."""
    for pattern, why, with_login in _REASONS:
        if re.search(pattern, message, re.IGNORECASE):
            return with_login if logged_in and with_login else why
    return clean(message).rstrip(".") or "the engine does not say why"


def _login(key: str, entry: Any) -> Login:
    match = _REGISTRY.fullmatch(key)
    if match is None:
        raise ValueError(f"{key[:100]!r} is not a registry such as registry.example.org:5000")
    registry = _named(match[1])
    if not isinstance(entry, dict) or not all(isinstance(v, str) for v in entry.values()):
        raise ValueError(f'the entry of {registry} is not {{"auth": …}}')
    unknown = sorted(entry.keys() - {"auth", "identitytoken", "email"})
    if unknown:
        raise ValueError(f"the entry of {registry} has {unknown[0][:100]!r}, which is not known")
    if entry.get("identitytoken"):
        return Login(registry, token=entry["identitytoken"])
    try:
        decoded = base64.b64decode(entry.get("auth", ""), validate=True).decode()
    except (binascii.Error, ValueError):
        decoded = ""
    user, colon, password = decoded.rstrip("\0").partition(":")
    if not (user and colon):
        raise ValueError(f"the entry of {registry} has no `auth` that is user:password in base64")
    return Login(registry, user, password)


def _named(registry: str) -> str:
    name = registry.lower()
    return DOCKER_HUB if name in _HUBS else name
