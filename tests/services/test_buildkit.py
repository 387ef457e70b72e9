"""What BuildKit's client prints, told as the classic builder tells it."""

from __future__ import annotations

import pytest

from ds01_spawner.errors import SettingUnusable
from ds01_spawner.services import wiring
from ds01_spawner.services.build_output import BuildOutput
from ds01_spawner.services.buildkit import BuildKitEngine, Problem, classic, numbers_of
from ds01_spawner.services.settings import Settings
from tests.fakes.contract_bench import tar

DOCKERFILE = b"""\
FROM base:1
ENV NVIDIA_VISIBLE_DEVICES=void
USER root
COPY build /opt/ds01/build/
RUN ["/bin/sh", "/opt/ds01/build/env.sh", "torch"]
"""
NUMBERS = [
    (1, "FROM base:1"),
    (4, "COPY build /opt/ds01/build/"),
    (5, 'RUN ["/bin/sh", "/opt/ds01/build/env.sh", "torch"]'),
]
OLD = """\
#2 [internal] load build definition from Dockerfile
#2 DONE 0.0s
#4 [1/3] FROM docker.io/library/base:1
#4 sha256:ee47a7659215fd0c86355eb19267db788a159a706cc7407cbc62f4b4ebfe2476
#4 CACHED
#5 [2/3] COPY build /opt/ds01/build/
#5 DONE 0.7s
#6 [3/3] RUN ["/bin/sh", "/opt/ds01/build/env.sh", "torch"]
#6 0.451 Collecting ipykernel
#6 0.472 ds01 error: no space left
#6 ERROR: executor failed running [/bin/sh /opt/ds01/build/env.sh torch]: exit code: 3
------
 > [3/3] RUN ["/bin/sh", "/opt/ds01/build/env.sh", "torch"]:
------
executor failed running [/bin/sh /opt/ds01/build/env.sh torch]: exit code: 3
"""
NEW = """\
#1 [internal] load build definition from -
#1 transferring dockerfile: 120B done
#6 [1/3] FROM docker.io/library/base:1
#7 [stage-0 2/3] COPY build /opt/ds01/build/
#8 [stage-0 3/3] RUN ["/bin/sh", "/opt/ds01/build/env.sh", "torch"]
#8 0.451 Collecting ipykernel
#8 0.472 ds01 error: no space left
#8 ERROR: process "/bin/sh /opt/ds01/build/env.sh torch" did not complete successfully: exit code: 3
------
Dockerfile:5
--------------------
ERROR: failed to solve: process "/bin/sh /opt/ds01/build/env.sh torch" did not complete \
successfully: exit code: 3
"""


def test_the_steps_that_it_counts() -> None:
    assert numbers_of(tar({"Dockerfile": DOCKERFILE})) == NUMBERS


@pytest.mark.parametrize("output", [OLD, NEW], ids=["20.10", "28"])
def test_steps_and_output_are_told_as_by_the_classic_builder(output: str) -> None:
    problem = Problem()
    items = classic(output.splitlines(keepends=True), NUMBERS, problem)
    assert list(BuildOutput(lambda: 0.0).lines(items)) == [
        "Step 1/5 : FROM base:1",
        "Step 4/5 : COPY build /opt/ds01/build/",
        'Step 5/5 : RUN ["/bin/sh", "/opt/ds01/build/env.sh", "torch"]',
        "Collecting ipykernel",
        "ds01 error: no space left",
    ]
    assert problem.code == 3
    assert "env.sh torch" in problem.message
    assert "non-zero code: 3" in problem.message


def test_it_is_not_used_where_builds_are_to_be_isolated() -> None:
    with pytest.raises(SettingUnusable, match="default network only"):
        wiring.engine(Settings(builder="buildkit"))
    chosen = Settings(builder="buildkit", build_network="bridge")
    assert isinstance(wiring.engine(chosen), BuildKitEngine)


@pytest.mark.parametrize(
    "line",
    [
        "ERROR: failed to solve: no-such-base:1: not found",
        "ERROR: BuildKit is enabled but the buildx component is missing or broken.",
    ],
)
def test_what_is_no_step_s_fault_is_told_in_its_words(line: str) -> None:
    problem = Problem()
    assert list(classic([f"{line}\n"], NUMBERS, problem)) == []
    assert (problem.message, problem.code) == (line.removeprefix("ERROR: "), None)
