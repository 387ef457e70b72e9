"""recipe -> build context: a Dockerfile whose text is ours alone, lists of packages, scripts.

Layers go from shared to personal, so that of a new recipe most is in the engine's cache. User text
is only ever in files that a script hands to pip or apt; the Dockerfile is the same for every list.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ds01_spawner.core.packages import names
from ds01_spawner.core.recipe import Recipe

ROOT = "/opt/ds01"
BUILD = f"{ROOT}/build"
SERVER_COMMAND = f"{ROOT}/server/bin/jupyterhub-singleuser"
# The uid of steps that install what users chose, and of nobody who logs in: above the accounts
# of people and system users (Debian policy 9.2), below those of the hub's own users.
BUILD_UID = 65500
# The engine knows these build arguments: they reach the steps, but neither history nor cache key.
PROXY_NAMES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
TITLE_PACKAGES = 6
_BASE_TAG = re.compile(r"ds01-base/[a-z0-9-]+:[a-f0-9]{12}")
_URL = re.compile(r"[!-~]+")
_TITLE_BASE = "Framework image"
_TITLE_SERVER = "Notebook server"
_TITLE_KERNEL = "Python kernel"
_TITLE_CHECK = "Check of the result"
TITLE_END = "Finishing"  # the engine adds a step of its own for the labels


@dataclass(frozen=True, slots=True)
class BuildSite:
    """Where builds of this site find packages. Addresses hold no credentials: ValueError.

    `proxies` are variables such as `https_proxy`; `ca_pem` are certificate authorities that the
    site's mirror or proxy needs besides those of the image.
    """

    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()
    ca_pem: bytes | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)
    apt_mirror: str = ""  # `https://mirror.example.org`: has /debian and /ubuntu below

    def __post_init__(self) -> None:
        """Refuse what would put a secret or a line of its own into a build."""
        for url in (self.index_url, *self.extra_index_urls, self.apt_mirror):
            if url:
                _check_url(url)
        for name, value in self.proxies.items():
            if name.lower() not in PROXY_NAMES:
                raise ValueError(
                    f"{name!r} is no proxy variable; there are {', '.join(PROXY_NAMES)}."
                )
            if name.lower() != "no_proxy":
                _check_url(value)

    @property
    def trusted_hosts(self) -> str:
        """The indexes without TLS, which pip uses only when it is told to."""
        urls = [urlsplit(url) for url in (self.index_url, *self.extra_index_urls)]
        return " ".join(dict.fromkeys(url.netloc for url in urls if url.scheme == "http"))

    @property
    def fingerprint(self) -> str:
        """What of the site decides which packages a recipe gets: the addresses of the indexes."""
        told = [self.index_url, *self.extra_index_urls]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16] if any(told) else ""

    @property
    def build_args(self) -> dict[str, str]:
        """The proxies, for the engine's build call: in both spellings, as tools read either."""
        lower = {name.lower(): value for name, value in self.proxies.items() if value}
        return {**lower, **{name.upper(): value for name, value in lower.items()}}


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of the Dockerfile and what it is to a person."""

    title: str
    instruction: str


def steps(recipe: Recipe, base_tag: str) -> tuple[Step, ...]:
    """The Dockerfile, instruction by instruction, each with its title."""
    if not _BASE_TAG.fullmatch(base_tag):
        raise ValueError(f"{base_tag!r} is not a local name of a base image")
    user = f"USER {BUILD_UID}:{BUILD_UID}"
    found = [
        Step(_TITLE_BASE, f"FROM {base_tag}"),
        # Where NVIDIA's runtime is the engine's default, steps would get what the image says: all.
        Step(_TITLE_BASE, "ENV NVIDIA_VISIBLE_DEVICES=void"),
        Step(_TITLE_BASE, "USER root"),
        Step(_TITLE_BASE, "WORKDIR /"),
        Step(_TITLE_SERVER, f"COPY common {BUILD}/"),
        Step(_TITLE_SERVER, _run("server.sh", str(recipe.hub_major), recipe.module)),
        Step(_TITLE_KERNEL, f"COPY kernel {BUILD}/"),
        Step(_TITLE_KERNEL, _run("env.sh", recipe.module)),
        Step(_TITLE_KERNEL, user),
        Step(_TITLE_KERNEL, _run("prove_server.sh", recipe.module)),
        # Before the packages, so that a new list finds these steps in the engine's cache.
        Step(_TITLE_KERNEL, f'ENV PATH="{ROOT}/env/bin:$PATH"'),
        Step(_TITLE_KERNEL, "HEALTHCHECK NONE"),
        Step(_TITLE_KERNEL, "STOPSIGNAL SIGTERM"),
        Step(_TITLE_KERNEL, "ENTRYPOINT []"),
        Step(_TITLE_KERNEL, f'CMD ["{SERVER_COMMAND}"]'),
    ]
    if recipe.bundle_pip:
        title = _packages("Bundles", names(recipe.bundle_pip))
        found += [
            Step(title, f"COPY bundles.txt {BUILD}/"),
            Step(title, _run("pip.sh", f"{BUILD}/bundles.txt", _source(recipe))),
        ]
    if recipe.apt:
        title = _packages("System packages", recipe.apt)
        found += [
            Step(title, "USER root"),
            Step(title, f"COPY apt.txt {BUILD}/"),
            Step(title, _run("apt.sh", f"{BUILD}/apt.txt")),
            Step(title, user),
        ]
    if recipe.pip:
        title = _packages("Your packages", names(recipe.pip))
        found += [
            Step(title, f"COPY requirements.txt {BUILD}/"),
            Step(title, _run("pip.sh", f"{BUILD}/requirements.txt", _source(recipe))),
        ]
    if recipe.bundle_pip or recipe.apt or recipe.pip:
        found.append(Step(_TITLE_CHECK, _run("prove.sh", recipe.module)))
    return tuple(found)


def build_context(
    recipe: Recipe, base_tag: str, site: BuildSite, scripts: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The files of the build context by path, Dockerfile included; the same for the same input.

    `scripts` are the files of images/derived by their path there (`common/…`, `kernel/…`).
    """
    lines = "".join(f"{step.instruction}\n" for step in steps(recipe, base_tag))
    files = {
        **scripts,
        "Dockerfile": lines.encode(),
        "common/site.env": _site_env(site).encode(),
        "kernel/kernel.json": _kernelspec(recipe).encode(),
        "kernel/pip.conf": _pip_conf(site).encode(),
    }
    if site.ca_pem:
        files["common/ca.pem"] = site.ca_pem
    if recipe.bundle_pip:
        files["bundles.txt"] = _lines(recipe.bundle_pip)
    if recipe.apt:
        files["apt.txt"] = _lines(recipe.apt)
    if recipe.pip:
        files["requirements.txt"] = _lines(recipe.pip)
    return files


def run_environment(recipe: Recipe, site: BuildSite, home: str) -> dict[str, str]:
    """The variables that a container of the recipe needs, by name; `home` is the user's.

    What a user installs later goes to a folder of this recipe, so that no other image reads it,
    and is held to the framework's versions.
    """
    found = {
        "PYTHONUSERBASE": f"{home}/.local/share/ds01/{recipe.short}",
        "PIP_CONSTRAINT": f"{ROOT}/constraints.txt",
        # A kernel that another environment left in the home must not take this one's place.
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    if site.ca_pem:
        found |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), f"{ROOT}/ca.pem")
    return found


def _run(script: str, *arguments: str) -> str:
    """A RUN without a shell of the image's choosing; the words are ours, never a user's."""
    return f"RUN {json.dumps(['/bin/sh', f'{BUILD}/{script}', *arguments])}"


def _source(recipe: Recipe) -> str:
    return "source-allowed" if recipe.allow_source else "wheels-only"


def _packages(what: str, listed: tuple[str, ...]) -> str:
    more = f" and {len(listed) - TITLE_PACKAGES} more" if len(listed) > TITLE_PACKAGES else ""
    return f"{what}: {', '.join(listed[:TITLE_PACKAGES])}{more}"


def _lines(values: tuple[str, ...]) -> bytes:
    return "".join(f"{value}\n" for value in values).encode()


def _site_env(site: BuildSite) -> str:
    """What the build's scripts read of the site; a file, so that history does not show it."""
    values = {
        "PIP_INDEX_URL": site.index_url,
        "PIP_EXTRA_INDEX_URL": " ".join(site.extra_index_urls),
        "PIP_TRUSTED_HOST": site.trusted_hosts,
        "DS01_APT_MIRROR": site.apt_mirror.rstrip("/"),
    }
    return "".join(f"export {k}={shlex.quote(v)}\n" for k, v in values.items() if v)


def _pip_conf(site: BuildSite) -> str:
    """pip's configuration for whoever uses the environment later: the same index."""
    values = {
        "index-url": site.index_url,
        "extra-index-url": " ".join(site.extra_index_urls),
        "trusted-host": site.trusted_hosts,
        "cert": f"{ROOT}/ca.pem" if site.ca_pem else "",
    }
    told = "".join(f"{key} = {value}\n" for key, value in values.items() if value)
    return f"[global]\ndisable-pip-version-check = true\n{told}"


def _kernelspec(recipe: Recipe) -> str:
    spec = {
        "argv": [f"{ROOT}/env/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"Python 3 ({recipe.framework} {recipe.version})",
        "language": "python",
        "metadata": {"debugger": True},
    }
    return json.dumps(spec, indent=1) + "\n"


def _check_url(url: str) -> None:
    shown = url.rsplit("@", 1)[-1][:80]
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError(
            f"the address …@{shown!s} holds a name or password, which builds would keep for "
            "everyone to read; use a mirror without a log-in, or one on this host that adds it."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not _URL.fullmatch(url):
        raise ValueError(f"{shown!r} is not an address such as https://mirror.example.org/simple.")
