"""What builds may reach, and the bodies of the two containers that see to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ds01_spawner.core.build_gate import Door, bodies, doors, proxy_arguments
from ds01_spawner.core.dockerfile import BuildSite

PROXY = ("proxy.example.org", 3128)


def test_without_settings_it_is_what_packages_come_from() -> None:
    found = doors(BuildSite(), ())
    assert found["pypi.org:443"] == Door(None, private=False)
    assert {"files.pythonhosted.org:443", "deb.debian.org:80", "archive.ubuntu.com:80"} <= set(
        found
    )
    assert not any(door.private or door.via for door in found.values())
    assert {name.rpartition(":")[2] for name in found} == {"80", "443"}


def test_a_mirror_takes_the_place_of_the_public_ones() -> None:
    site = BuildSite(
        index_url="https://Mirror.example.org/simple",
        extra_index_urls=("http://wheels.example.org:8080/", "https://download.pytorch.org/whl"),
        apt_mirror="https://10.1.2.3",
    )
    found = doors(site, ())
    assert {name for name, door in found.items() if door.private} == {
        "mirror.example.org:443",
        "wheels.example.org:8080",
        "download.pytorch.org:443",
        "10.1.2.3:443",
    }
    assert found["download-r2.pytorch.org:443"] == Door(None, private=False)
    assert "files.pythonhosted.org:443" in found, "PyTorch's index has files there"
    assert not {"pypi.org:443", "deb.debian.org:80"} & set(found)


def test_an_index_keeps_its_files_where_it_has_them() -> None:
    found = doors(BuildSite(index_url="https://pypi.org/simple"), ())
    assert "files.pythonhosted.org:443" in found


@pytest.mark.parametrize(
    ("entry", "added"),
    [
        ("files.example.org", {"files.example.org:80", "files.example.org:443"}),
        ("Files.Example.Org.", {"files.example.org:80", "files.example.org:443"}),
        ("mirror:8443", {"mirror:8443"}),
        ("10.1.2.3:1", {"10.1.2.3:1"}),
    ],
)
def test_hosts_of_the_admin(entry: str, added: set[str]) -> None:
    found = doors(BuildSite(), (entry,))
    assert {name for name, door in found.items() if door.private} == added


@pytest.mark.parametrize(
    "entry", ["", "https://a.example", "a b", "*.example.org", "a:0", "a:65536", "a:b", "a/b", "ä"]
)
def test_a_host_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        doors(BuildSite(), (entry,))


@pytest.mark.parametrize(
    ("proxies", "host", "via"),
    [
        ({"https_proxy": "http://proxy.example.org:3128"}, "pypi.org:443", PROXY),
        ({"https_proxy": "http://proxy.example.org:3128"}, "deb.debian.org:80", None),
        ({"HTTP_PROXY": "http://proxy.example.org:3128"}, "deb.debian.org:80", PROXY),
        ({"http_proxy": "http://proxy.example.org"}, "deb.debian.org:80", (PROXY[0], 80)),
        ({"all_proxy": "http://proxy.example.org:3128"}, "pypi.org:443", PROXY),
        ({"all_proxy": "http://proxy.example.org:3128", "no_proxy": "*"}, "pypi.org:443", None),
        ({"all_proxy": "http://proxy.example.org:3128", "no_proxy": "org"}, "pypi.org:443", None),
        (
            {"all_proxy": "http://proxy.example.org:3128", "no_proxy": "i.org"},
            "pypi.org:443",
            PROXY,
        ),
        (
            {"all_proxy": "http://proxy.example.org:3128", "no_proxy": "x, .example.org:443"},
            "mirror.example.org:443",
            None,
        ),
        (
            {"all_proxy": "http://proxy.example.org:3128", "no_proxy": "10.0.0.0/8,pypi.org"},
            "10.1.2.3:80",
            None,
        ),
        (
            {"all_proxy": "http://proxy.example.org:3128", "no_proxy": "192.168.0.0/16"},
            "10.1.2.3:80",
            PROXY,
        ),
    ],
)
def test_the_proxy_of_the_site(
    proxies: dict[str, str], host: str, via: tuple[str, int] | None
) -> None:
    site = BuildSite(proxies=proxies)
    assert doors(site, ("mirror.example.org", "10.1.2.3"))[host].via == via


def test_a_proxy_behind_tls_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="give its http:// address"):
        doors(BuildSite(proxies={"https_proxy": "https://proxy.example.org"}), ())


def test_the_steps_find_the_gate_in_both_spellings() -> None:
    found = proxy_arguments()
    assert found["http_proxy"] == found["HTTPS_PROXY"] == "http://127.0.0.1:3128"
    assert "127.0.0.1" in found["NO_PROXY"]


def test_the_two_containers() -> None:
    reached = {"pypi.org:443": Door(PROXY, private=False)}
    gate, door = bodies("base:1", "teaching", "g", "print()", reached, 60)
    assert gate["HostConfig"]["NetworkMode"] == "bridge"
    assert door["HostConfig"]["NetworkMode"] == "none"
    assert door["HostConfig"]["VolumesFrom"] == ["g"]
    assert gate["Volumes"] == {"/ds01-gate": {}}
    assert (gate["Cmd"][0], door["Cmd"][0]) == ("gate", "door")
    told: Any = {
        "seconds": 60,
        "port": 3128,
        "doors": {"pypi.org:443": {"via": ["proxy.example.org", 3128], "private": False}},
    }
    for body in (gate, door):
        assert json.loads(body["Cmd"][1]) == told
        assert body["Entrypoint"][-1] == "print()"
        assert body["Labels"]["ds01.build"] == "teaching"
        assert body["Labels"]["ds01.hub"] == ""
        assert body["Env"] == ["NVIDIA_VISIBLE_DEVICES=void"]
        host = body["HostConfig"]
        assert (host["CapDrop"], host["AutoRemove"], host["ReadonlyRootfs"]) == (
            ["ALL"],
            True,
            True,
        )
        assert all(host[limit] for limit in ("Memory", "PidsLimit", "NanoCpus"))
