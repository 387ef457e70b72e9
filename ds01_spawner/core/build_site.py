"""Where builds of this site find packages, and how it is told to them."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ROOT = "/opt/ds01"  # in images: what is ours
# The engine knows these build arguments: they reach the steps, but neither history nor cache key.
PROXY_NAMES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
_URL = re.compile(r"[!-~]+")


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

    @property
    def files(self) -> dict[str, bytes]:
        """What steps read of it by name: files, so that no history shows it."""
        found = {"site.env": self._site_env().encode(), "pip.conf": self._pip_conf().encode()}
        return {**found, "ca.pem": self.ca_pem} if self.ca_pem else found

    def _site_env(self) -> str:
        values = {
            "PIP_INDEX_URL": self.index_url,
            "PIP_EXTRA_INDEX_URL": " ".join(self.extra_index_urls),
            "PIP_TRUSTED_HOST": self.trusted_hosts,
            "DS01_APT_MIRROR": self.apt_mirror.rstrip("/"),
        }
        return "".join(f"export {k}={shlex.quote(v)}\n" for k, v in values.items() if v)

    def _pip_conf(self) -> str:
        """pip's configuration for whoever uses the environment later: the same index."""
        values = {
            "index-url": self.index_url,
            "extra-index-url": " ".join(self.extra_index_urls),
            "trusted-host": self.trusted_hosts,
            "cert": f"{ROOT}/ca.pem" if self.ca_pem else "",
        }
        told = "".join(f"{key} = {value}\n" for key, value in values.items() if value)
        return f"[global]\ndisable-pip-version-check = true\n{told}"


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
