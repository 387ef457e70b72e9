"""Images of the admin's own on a real engine: to members alone, with all that others' have."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.engine.hub_process import POLICY, Hub, inside
from tests.engine.image_bench import KERNEL

if TYPE_CHECKING:
    from docker import APIClient

    from tests.engine.conftest import MakeHub

SERVER_PYTHON = "/opt/ds01/server/bin/python"
# What an image may say of itself is not what a container of it is known by.
IMAGES = {
    "genomics": (
        "RUN echo 'from the lab' >/etc/lab\n"
        "LABEL ds01.custom_image=forged aime.mlc.CUSTOM_IMAGE=forged ds01.framework=forged\n"
    ),
    "pythonless": "RUN rm -r /usr/bin/python3*\n",
    "eager": "ONBUILD RUN touch /x\n",
}
OWN = """\
groups: {bio: {members: [alice]}}
images:
  genomics: {image: "ds01-test.invalid/genomics:1", title: G, framework: Pytorch, groups: [bio]}
  pythonless: {image: "ds01-test.invalid/pythonless:1", title: P}
  eager: {image: "ds01-test.invalid/eager:1", title: E}
  absent: {image: "ds01-test.invalid/absent:1", title: A}
"""
EXTRA = """\
c.DS01Spawner.image_map = {"ds01-test.invalid/*": "ds01-test.invalid/*", "*": %r}
"""


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub, docker_client: APIClient, standin_image: str) -> Iterator[Hub]:
    names = {name: f"ds01-test.invalid/{name}:1" for name in IMAGES}
    for name, lines in IMAGES.items():
        dockerfile = io.BytesIO(f"FROM {standin_image}\n{lines}".encode())
        answers = docker_client.build(fileobj=dockerfile, tag=names[name], rm=True, decode=True)
        assert not [answer for answer in answers if "error" in answer]
    hub = make_hub(policy=POLICY + OWN, extra=EXTRA % standin_image)
    for user in ("alice", "bob"):
        hub.make_user(user)
    yield hub
    for name in names.values():
        docker_client.remove_image(name, force=True)


def test_a_member_s_server_has_its_kernel_and_is_labelled_as_custom(
    hub: Hub, docker_client: APIClient
) -> None:
    chosen = {"framework": "Pytorch", "version": "genomics"}
    refused = hub.start("bob", **chosen)
    assert (refused.status, hub.holds()) == (400, True)
    assert "'genomics' of Pytorch is not offered here. Allowed: latest, 2.8.0." in refused.message
    outcome = hub.start("alice", **chosen)
    assert outcome.status == 201, outcome.message
    container = hub.container_of("alice")
    labels = container["Config"]["Labels"]
    image = "ds01-test.invalid/genomics:1"
    assert [labels[n] for n in ("ds01.image", "ds01.custom_image", "aime.mlc.CUSTOM_IMAGE")] == (
        [image] * 3
    )
    assert labels["ds01.framework"] == labels["aime.mlc.FRAMEWORK"] == "Pytorch-genomics"
    assert container["Config"]["Image"].startswith("ds01-alice/default:")
    code = "import torch; print(torch.__version__, open('/etc/lab').read())"
    told = inside(docker_client, container["Id"], [SERVER_PYTHON, "-I", "-c", KERNEL, code])
    assert "2.8.0+standin from the lab" in told
    assert hub.page("/user/alice/api", hub.token_of("alice")).status_code == 200
    hub.stop("alice")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pythonless", "This image has no Python."),
        ("eager", "it has ONBUILD instructions, which would run in each build"),
        ("absent", "The image ds01-test.invalid/absent:1 is not on this server and could not be"),
    ],
)
def test_one_that_is_no_base_is_told_in_words(hub: Hub, name: str, told: str) -> None:
    outcome = hub.start("bob", framework="custom", version=name)
    assert outcome.status != 201
    assert told in outcome.message
    assert hub.holds()
