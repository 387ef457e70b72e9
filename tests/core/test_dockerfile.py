"""The build context: one Dockerfile for every list, and user text in files only."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ds01_spawner.core.build_plan import BuildPlan
from ds01_spawner.core.build_site import BuildSite
from ds01_spawner.core.dockerfile import derived_plan, run_environment
from ds01_spawner.core.recipe import Recipe

TAG = "ds01-base:aimehub-pytorch---0123456789ab-0123456789ab"
SCRIPTS = {"lib.sh": b"lib", "env.sh": b"env"}
GOLDEN = f"""\
FROM {TAG}
ENV NVIDIA_VISIBLE_DEVICES=void
USER root
WORKDIR /
COPY build /opt/ds01/build/
RUN ["/bin/sh", "/opt/ds01/build/env.sh", "torch"]
USER 65500:65500
RUN ["/bin/sh", "/opt/ds01/build/prove_kernel.sh", "torch"]
ENV PATH="/opt/ds01/env/bin:$PATH"
HEALTHCHECK NONE
STOPSIGNAL SIGTERM
ENTRYPOINT []
CMD ["/opt/ds01/server/bin/jupyterhub-singleuser"]
COPY bundles.txt /opt/ds01/build/
RUN ["/bin/sh", "/opt/ds01/build/pip.sh", "/opt/ds01/build/bundles.txt", "wheels-only"]
USER root
COPY apt.txt /opt/ds01/build/
RUN ["/bin/sh", "/opt/ds01/build/apt.sh", "/opt/ds01/build/apt.txt"]
USER 65500:65500
COPY requirements.txt /opt/ds01/build/
RUN ["/bin/sh", "/opt/ds01/build/pip.sh", "/opt/ds01/build/requirements.txt", "wheels-only"]
RUN ["/bin/sh", "/opt/ds01/build/prove.sh", "torch"]
"""


def recipe(**changes: Any) -> Recipe:
    facts: dict[str, Any] = {
        "base": "sha256:" + "a" * 64,
        "framework": "Pytorch",
        "version": "2.8.0",
        "architecture": "CUDA_ADA",
    }
    return Recipe(**{**facts, **changes})


FULL = recipe(bundle_pip=("scipy",), apt=("htop",), pip=("pandas>=2", "rich[jupyter]"))


def plan(made: Recipe, site: BuildSite | None = None, tag: str = TAG) -> BuildPlan:
    return derived_plan(made, "ds01-alice/p:0123", tag, site or BuildSite(), SCRIPTS)


def dockerfile(made: Recipe) -> str:
    return plan(made).dockerfile


def test_the_dockerfile() -> None:
    assert dockerfile(FULL) == GOLDEN


def test_a_recipe_without_packages_is_the_beginning_of_every_other() -> None:
    plain = dockerfile(recipe())
    assert GOLDEN.startswith(plain)
    assert "pip.sh" not in plain
    assert dockerfile(recipe(pip=("pandas",))).startswith(plain)


def test_lists_are_files() -> None:
    context = plan(FULL).context
    assert context["bundles.txt"] == b"scipy\n"
    assert context["apt.txt"] == b"htop\n"
    assert context["requirements.txt"] == b"pandas>=2\nrich[jupyter]\n"
    assert context["build/lib.sh"] == b"lib"
    assert context["Dockerfile"].decode() == GOLDEN
    assert plan(FULL).context == context


@pytest.mark.parametrize(
    "hostile",
    [
        {"pip": ('tomli; python_version < "3.11"', "evil==1;extra=='RUN reboot'")},
        {"framework": "Pytorch\nRUN reboot", "version": '"]\nRUN reboot'},
        {"framework": "$(reboot)", "version": "${HOME}", "architecture": "`reboot`"},
    ],
)
def test_no_text_of_others_is_in_an_instruction(hostile: dict[str, Any]) -> None:
    made = recipe(**hostile)
    text = dockerfile(made)
    assert "reboot" not in text
    assert "tomli" not in text
    assert "HOME" not in text
    kernel = json.loads(plan(made).context["build/kernel.json"])
    assert kernel["argv"][0] == "/opt/ds01/env/bin/python"
    assert made.version in kernel["display_name"]


@pytest.mark.parametrize(
    "tag", ["ubuntu:latest", f"{TAG}\nRUN reboot", "ds01-base/x:latest", "", f" {TAG}"]
)
def test_from_takes_local_names_of_base_images_only(tag: str) -> None:
    with pytest.raises(ValueError, match="not a local name"):
        plan(recipe(), tag=tag)


def test_titles_are_for_people() -> None:
    titles = list(dict.fromkeys(step.title for step in plan(FULL).steps))
    assert titles == [
        "Framework image",
        "Python kernel",
        "Bundles: scipy",
        "System packages: htop",
        "Your packages: pandas, rich",
        "Check of the result",
    ]
    many = recipe(pip=tuple(f"p{i}" for i in range(9)))
    assert plan(many).steps[-2].title == "Your packages: p0, p1, p2, p3, p4, p5 and 3 more"


def test_a_site_s_index_and_authorities_go_into_files() -> None:
    site = BuildSite(
        index_url="https://mirror.example.org/simple",
        extra_index_urls=("https://wheels.example.org/simple", "http://10.0.0.1:8080/simple"),
        ca_pem=b"PEM",
        proxies={"HTTPS_PROXY": "http://proxy.example.org:3128", "no_proxy": "example.org"},
        apt_mirror="https://mirror.example.org/",
    )
    context = plan(FULL, site).context
    assert context["Dockerfile"].decode() == GOLDEN
    assert context["build/ca.pem"] == b"PEM"
    assert context["build/site.env"].decode() == (
        "export PIP_INDEX_URL=https://mirror.example.org/simple\n"
        "export PIP_EXTRA_INDEX_URL="
        "'https://wheels.example.org/simple http://10.0.0.1:8080/simple'\n"
        "export PIP_TRUSTED_HOST=10.0.0.1:8080\n"
        "export DS01_APT_MIRROR=https://mirror.example.org\n"
    )
    told = context["build/pip.conf"].decode()
    assert "cert = /opt/ds01/ca.pem\n" in told
    assert "trusted-host = 10.0.0.1:8080\n" in told, "pip ignores an index without TLS"
    # Proxies reach the steps through the build call: they are in no file and no history.
    assert not any(b"proxy" in content for content in context.values())
    assert site.build_args["https_proxy"] == site.build_args["HTTPS_PROXY"]
    assert site.build_args["NO_PROXY"] == "example.org"


def test_the_fingerprint_is_of_the_indexes_alone() -> None:
    assert BuildSite().fingerprint == ""
    assert BuildSite(ca_pem=b"x", proxies={"http_proxy": "http://p.example"}).fingerprint == ""
    one = BuildSite(index_url="https://a.example/simple")
    assert one.fingerprint
    assert one.fingerprint != BuildSite(index_url="https://b.example/simple").fingerprint
    assert one.fingerprint != BuildSite(extra_index_urls=(one.index_url,)).fingerprint


@pytest.mark.parametrize(
    ("site", "why"),
    [
        ({"index_url": "https://me:secret@mirror.example.org/simple"}, "name or password"),
        ({"extra_index_urls": ("https://token@mirror.example.org/",)}, "name or password"),
        ({"proxies": {"https_proxy": "http://me:secret@proxy.example.org"}}, "name or password"),
        ({"apt_mirror": "http://me:secret@mirror.example.org"}, "name or password"),
        ({"index_url": "file:///srv/simple"}, "is not an address"),
        ({"index_url": "https://mirror.example.org/ --pre"}, "is not an address"),
        ({"index_url": "https://mirror.example.org/\nRUN reboot"}, "is not an address"),
        ({"proxies": {"LD_PRELOAD": "http://x.example"}}, "is no proxy variable"),
    ],
)
def test_a_site_that_would_leave_secrets_in_images_is_refused(
    site: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why) as refusal:
        BuildSite(**site)
    assert "secret" not in str(refusal.value)
    assert "token@" not in str(refusal.value)


def test_what_a_user_installs_later_goes_to_a_folder_of_this_recipe() -> None:
    environment = run_environment(FULL, BuildSite(), "/workspace")
    assert environment["PYTHONUSERBASE"] == f"/workspace/.local/share/ds01/{FULL.short}"
    assert environment["PIP_CONSTRAINT"] == "/opt/ds01/constraints.txt"
    assert "SSL_CERT_FILE" not in environment
    trusted = run_environment(FULL, BuildSite(ca_pem=b"PEM"), "/workspace")
    assert trusted["SSL_CERT_FILE"] == trusted["REQUESTS_CA_BUNDLE"] == "/opt/ds01/ca.pem"
