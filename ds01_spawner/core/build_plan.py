"""What is asked of a builder: a Dockerfile whose text is ours alone, and files beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ds01_spawner.core.build_site import ROOT, BuildSite

BUILD = f"{ROOT}/build"
# The uid of steps that install what users chose, and of nobody who logs in: above the accounts
# of people and system users (Debian policy 9.2), below those of the hub's own users.
BUILD_UID = 65500
DIGEST_CHARS = 16  # of a digest, in names
TITLE_END = "Finishing"  # the engine adds a step of its own for the labels
TITLE_BASE = "Framework image"
_BASE_TAG = re.compile(r"ds01-base:[a-z0-9-]+")


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of the Dockerfile and what it is to a person."""

    title: str
    instruction: str


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """One image to be built: `digest` says all that decides what is in it."""

    digest: str  # 64 hex digits
    name: str  # of the image, repository and tag
    base_tag: str
    steps: tuple[Step, ...]
    labels: Mapping[str, str]
    files: Mapping[str, bytes]  # beside the Dockerfile, by path

    @property
    def short(self) -> str:
        """The part of the digest that is in names."""
        return self.digest[:DIGEST_CHARS]

    @property
    def dockerfile(self) -> str:
        """Its text."""
        return "".join(f"{step.instruction}\n" for step in self.steps)

    @property
    def context(self) -> dict[str, bytes]:
        """The files of the build context by path; the same for the same plan."""
        return {**self.files, "Dockerfile": self.dockerfile.encode()}


def first_steps(base_tag: str, title: str, base_title: str = TITLE_BASE) -> tuple[Step, ...]:
    """The base, and the scripts; `base_tag` is a local name, so that no registry is asked."""
    if not _BASE_TAG.fullmatch(base_tag):
        raise ValueError(f"{base_tag!r} is not a local name of a base image")
    return (
        Step(base_title, f"FROM {base_tag}"),
        # Where NVIDIA's runtime is the engine's default, steps would get what the image says: all.
        Step(base_title, "ENV NVIDIA_VISIBLE_DEVICES=void"),
        Step(base_title, "USER root"),
        Step(base_title, "WORKDIR /"),
        Step(title, f"COPY build {BUILD}/"),
    )


def build_files(site: BuildSite, scripts: Mapping[str, bytes]) -> dict[str, bytes]:
    """What `first_steps` copies: the scripts by name, and what they are told of the site."""
    return {f"build/{name}": content for name, content in {**scripts, **site.files}.items()}


def run(script: str, *arguments: str) -> str:
    """A RUN without a shell of the image's choosing; the words are ours, never a user's."""
    return f"RUN {json.dumps(['/bin/sh', f'{BUILD}/{script}', *arguments])}"
