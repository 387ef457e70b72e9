"""What builds may reach, and the two containers that see to it.

All steps of a build share the network of the door, a container without any network but its own
loopback. A port there is served by the gate, a container on the engine's default network, as a
proxy that connects to the listed hosts and to nothing else. So a step can do nothing in a network
that harms anybody: there is nobody in it, no name server either. Both run `images/gate/gate.py`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ds01_spawner.core.build_site import BuildSite

ISOLATED = "isolated"
PORT = 3128
LABEL = "ds01.build"  # on both containers: whose hub's build it is
READY, FAILED = "ready", "failed"  # lines of their output
_MEETING = "/ds01-gate"
_MEMORY = 128 << 20
_PIDS = 128
_CPU_NS = 1_000_000_000
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253})(?::(\d{1,5}))?")
# Where packages are when no setting says otherwise, and what the catalog's images have among
# their apt sources besides the distribution.
_PYPI = ("pypi.org", "files.pythonhosted.org")
_DISTRIBUTIONS = (
    "deb.debian.org",
    "security.debian.org",
    "archive.ubuntu.com",
    "security.ubuntu.com",
    "ports.ubuntu.com",
)
_VENDORS = ("developer.download.nvidia.com", "repo.radeon.com")
# Indexes that have their files at another host.
_FILES_OF = {
    "pypi.org": ("files.pythonhosted.org",),
    "download.pytorch.org": ("download-r2.pytorch.org", "files.pythonhosted.org"),
}
# Any Python 3 will do. When it fails, what it said stays readable for a moment.
_START = (
    "for python in python3 /opt/conda/bin/python python /usr/bin/python3; do "
    'if command -v "$python" >/dev/null; then "$python" -I -S -c "$0" "$@" && exit; break; fi; '
    f"done; echo {FAILED}; sleep 10"
)


@dataclass(frozen=True, slots=True)
class Door:
    """How one host and port is reached: by a proxy of the site or directly.

    `private`: also at an address of a private network, for the admin named the host.
    """

    via: tuple[str, int] | None
    private: bool


def doors(site: BuildSite, hosts: Iterable[str]) -> dict[str, Door]:
    """All that builds may reach, by `host:port`.

    Those are the site's indexes and mirror, or the public ones, and `hosts` (`name` or
    `name:port`). ValueError for what cannot be read or used.
    """
    found: dict[str, Door] = {}
    public = [*_VENDORS, *(() if site.index_url else _PYPI)]
    if not site.apt_mirror:
        public += _DISTRIBUTIONS
    named = [urlsplit(url) for url in (site.index_url, *site.extra_index_urls) if url]
    for url in named:
        public += _FILES_OF.get(url.hostname or "", ())
    if site.apt_mirror:
        named.append(urlsplit(site.apt_mirror))
    for host in public:
        for scheme, port in _PORTS.items():
            found[f"{host}:{port}"] = Door(_proxy(site, scheme, host), False)
    for url in named:
        host, port = (url.hostname or "").rstrip("."), url.port or _PORTS[url.scheme]
        found[f"{host}:{port}"] = Door(_proxy(site, url.scheme, host), True)
    for entry in hosts:
        for host, port in _ports_of(entry):
            scheme = "http" if port == _PORTS["http"] else "https"
            found[f"{host}:{port}"] = Door(_proxy(site, scheme, host), True)
    return found


def _ports_of(entry: str) -> list[tuple[str, int]]:
    match = _HOST.fullmatch(entry)
    if match is None or int(match[2] or 1) not in range(1, 65536):
        raise ValueError(f"{entry!r} is not a host such as files.example.org or mirror:8443.")
    host = match[1].lower().rstrip(".")
    return [(host, int(match[2]))] if match[2] else [(host, port) for port in _PORTS.values()]


def _proxy(site: BuildSite, scheme: str, host: str) -> tuple[str, int] | None:
    """The site's proxy in front of a host."""
    proxies = {name.lower(): value for name, value in site.proxies.items()}
    told = proxies.get(f"{scheme}_proxy") or proxies.get("all_proxy")
    if not told or _without_proxy(host, proxies.get("no_proxy", "")):
        return None
    url: SplitResult = urlsplit(told)
    if url.scheme != "http":
        raise ValueError(
            f"the proxy {told} is itself reached by TLS, which isolated builds cannot do; give "
            "its http:// address (what is fetched through it is encrypted all the same)."
        )
    return url.hostname or "", url.port or _PORTS["http"]


def _without_proxy(host: str, no_proxy: str) -> bool:
    for entry in re.split(r"[,\s]+", no_proxy.lower()):
        name = entry.lstrip(".*").partition(":")[0]
        if entry == "*" or (name and (host == name or host.endswith(f".{name}"))):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue  # one of the two is a name
    return False


def proxy_arguments() -> dict[str, str]:
    """The build arguments by which the tools of a step find the gate."""
    gate = f"http://127.0.0.1:{PORT}"
    lower = {"http_proxy": gate, "https_proxy": gate, "no_proxy": "localhost,127.0.0.1,::1"}
    return lower | {name.upper(): value for name, value in lower.items()}


def bodies(
    image: str, hub: str, gate: str, script: str, reached: Mapping[str, Door], seconds: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The create bodies of a gate, to be named `gate`, and its door.

    `image` has a Python. After `seconds` both end and are removed by the engine, if nobody did.
    """
    told = {"seconds": seconds, "port": PORT, "doors": {k: asdict(d) for k, d in reached.items()}}
    arguments = [script, json.dumps(told, sort_keys=True)]
    return (
        _body(image, hub, "gate", arguments, {"NetworkMode": "bridge"})
        | {"Volumes": {_MEETING: {}}},
        _body(image, hub, "door", arguments, {"NetworkMode": "none", "VolumesFrom": [gate]}),
    )


def _body(
    image: str, hub: str, part: str, arguments: list[str], network: Mapping[str, Any]
) -> dict[str, Any]:
    script, told = arguments
    return {
        "Image": image,
        "Entrypoint": ["/bin/sh", "-c", _START, script],
        "Cmd": [part, told],
        "Env": ["NVIDIA_VISIBLE_DEVICES=void"],
        # Root, for the folder where the two meet is root's; without any of its powers.
        "User": "0:0",
        "WorkingDir": "/",
        # An image may say that it is a server of ours.
        "Labels": {"ds01.hub": "", "ds01.lease": "", "ds01.managed": "false", LABEL: hub},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "AutoRemove": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "IpcMode": "private",
            "PidsLimit": _PIDS,
            "Memory": _MEMORY,
            "MemorySwap": _MEMORY,
            "NanoCpus": _CPU_NS,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
            **network,
        },
    }
