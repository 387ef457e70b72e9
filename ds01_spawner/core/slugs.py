"""Names that the engine accepts, made from names that people have.

Every slug is a bounded, injective function of its input: a name that is already safe stays as it
is, any other becomes a readable part, three dashes and a hash. A safe name never contains three
dashes, so the two kinds cannot meet (DS01's `h.baker@a` and `h_baker` met in one account).
"""

from __future__ import annotations

import hashlib
import re

MAX_SLUG = 32
_HASH_CHARS = 12
_SAFE = re.compile(rf"[a-z0-9](?:[a-z0-9-]{{0,{MAX_SLUG - 2}}}[a-z0-9])?")


def slug(name: str) -> str:
    """A slug of at most 32 characters out of `[a-z0-9-]`, different for different names."""
    if _SAFE.fullmatch(name) and "---" not in name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARS]
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[: MAX_SLUG - _HASH_CHARS - 3]
    return f"{readable.strip('-') or 'x'}---{digest}"


def container_name(prefix: str, user: str, server: str) -> str:
    """The name of a server's container; the default server's has no third part.

    The separator is a full stop, which no slug contains, so that names cannot meet.
    """
    return ".".join((prefix, slug(user), slug(server)) if server else (prefix, slug(user)))


def volume_name(prefix: str, user: str) -> str:
    """The name of a user's workspace volume, shared by all servers of that user."""
    return f"{prefix}.home.{slug(user)}"


def image_repository(user: str, project: str) -> str:
    """The repository of a user's derived images: `ds01-<user key>/<project>`."""
    return f"ds01-{slug(user)}/{slug(project)}"
