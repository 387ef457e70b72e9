"""recipe -> build context: a Dockerfile whose text is ours alone, lists of packages, scripts.

Layers go from shared to personal, so that of a new recipe most is in the engine's cache. User text
is only ever in files that a script hands to pip or apt; the Dockerfile is the same for every list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ds01_spawner.core.build_plan import (
    BUILD,
    BUILD_UID,
    BuildPlan,
    Step,
    build_files,
    first_steps,
    run,
)
from ds01_spawner.core.build_site import ROOT, BuildSite
from ds01_spawner.core.packages import names
from ds01_spawner.core.recipe import Recipe, image_labels
from ds01_spawner.core.server_image import SERVER_COMMAND

TITLE_PACKAGES = 6
_TITLE_KERNEL = "Python kernel"
_TITLE_CHECK = "Check of the result"
# Kernels and parts of JupyterLab: ours, what a user installed, what the image brought.
_JUPYTER_PATH = (f"{ROOT}/share/jupyter", "{user_base}/share/jupyter", f"{ROOT}/env/share/jupyter")


def derived_plan(
    recipe: Recipe, name: str, base_tag: str, site: BuildSite, scripts: Mapping[str, bytes]
) -> BuildPlan:
    """How the recipe's image is built, as `name`; the same for the same input.

    `scripts` are the files of images/common and images/derived.
    """
    lists = {
        "bundles.txt": recipe.bundle_pip,
        "apt.txt": recipe.apt,
        "requirements.txt": recipe.pip,
    }
    files = build_files(site, {**scripts, "kernel.json": _kernelspec(recipe).encode()})
    return BuildPlan(
        digest=recipe.digest,
        name=name,
        base_tag=base_tag,
        steps=_steps(recipe, base_tag),
        labels=image_labels(recipe),
        files={**files, **{path: _lines(listed) for path, listed in lists.items() if listed}},
    )


def _steps(recipe: Recipe, base_tag: str) -> tuple[Step, ...]:
    user = f"USER {BUILD_UID}:{BUILD_UID}"
    found = [
        *first_steps(base_tag, _TITLE_KERNEL),
        Step(_TITLE_KERNEL, run("env.sh", recipe.module)),
        Step(_TITLE_KERNEL, user),
        Step(_TITLE_KERNEL, run("prove_kernel.sh", recipe.module)),
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
            Step(title, run("pip.sh", f"{BUILD}/bundles.txt", _source(recipe))),
        ]
    if recipe.apt:
        title = _packages("System packages", recipe.apt)
        found += [
            Step(title, "USER root"),
            Step(title, f"COPY apt.txt {BUILD}/"),
            Step(title, run("apt.sh", f"{BUILD}/apt.txt")),
            Step(title, user),
        ]
    if recipe.pip:
        title = _packages("Your packages", names(recipe.pip))
        found += [
            Step(title, f"COPY requirements.txt {BUILD}/"),
            Step(title, run("pip.sh", f"{BUILD}/requirements.txt", _source(recipe))),
        ]
    if recipe.bundle_pip or recipe.apt or recipe.pip:
        found.append(Step(_TITLE_CHECK, run("prove.sh", recipe.module)))
    return tuple(found)


def run_environment(recipe: Recipe, site: BuildSite, home: str) -> dict[str, str]:
    """The variables that a container of the recipe needs, by name; `home` is the user's.

    What a user installs later goes to a folder of this recipe, so that no other image reads it,
    and is held to the framework's versions.
    """
    user_base = f"{home}/.local/share/ds01/{recipe.short}"
    found = {
        "PYTHONUSERBASE": user_base,
        "PIP_CONSTRAINT": f"{ROOT}/constraints.txt",
        # A kernel that another environment left in the home must not take this one's place.
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_PATH": ":".join(_JUPYTER_PATH).format(user_base=user_base),
    }
    if site.ca_pem:
        found |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), f"{ROOT}/ca.pem")
    return found


def _source(recipe: Recipe) -> str:
    return "source-allowed" if recipe.allow_source else "wheels-only"


def _packages(what: str, listed: tuple[str, ...]) -> str:
    more = f" and {len(listed) - TITLE_PACKAGES} more" if len(listed) > TITLE_PACKAGES else ""
    return f"{what}: {', '.join(listed[:TITLE_PACKAGES])}{more}"


def _lines(values: tuple[str, ...]) -> bytes:
    return "".join(f"{value}\n" for value in values).encode()


def _kernelspec(recipe: Recipe) -> str:
    spec = {
        "argv": [f"{ROOT}/env/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"Python 3 ({recipe.framework} {recipe.version})",
        "language": "python",
        "metadata": {"debugger": True},
    }
    return json.dumps(spec, indent=1) + "\n"
