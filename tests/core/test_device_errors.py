"""Words of runtimes, as they were met, and the error that a person is told."""

from __future__ import annotations

import pytest

from ds01_spawner import errors
from ds01_spawner.core.device_errors import device_error

HOOK = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: error during container init: error "
    "running hook #0: error running hook: exit status 1, stdout: , stderr: Auto-detected mode as "
    "'legacy'\n"
)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (HOOK + "nvidia-container-cli: device error: GPU-9: unknown device", errors.DeviceGone),
        (
            'error gathering device information while adding custom device "/dev/dri/renderD129": '
            "no such file or directory",
            errors.DeviceGone,
        ),
        (
            'could not select device driver "" with capabilities: [[gpu]]',
            errors.NoDeviceDriver,
        ),
        (
            'could not select device driver "cdi" with capabilities: []',
            errors.NoDeviceDriver,
        ),
        (
            "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=GPU-9",
            errors.DeviceNotDescribed,
        ),
        (
            "OCI runtime create failed: could not apply required modification to OCI "
            "specification: error modifying OCI spec: failed to inject CDI devices: unresolvable "
            "CDI devices runtime.nvidia.com/gpu=GPU-9: unknown",
            errors.DeviceNotDescribed,
        ),
        (
            HOOK + "nvidia-container-cli: initialization error: nvml error: driver/library "
            "version mismatch: unknown",
            errors.DriverBroken,
        ),
        (
            HOOK + "nvidia-container-cli: initialization error: nvml error: driver not loaded",
            errors.DriverBroken,
        ),
        (
            HOOK + "nvidia-container-cli: initialization error: load library failed: "
            "libnvidia-ml.so.1: cannot open shared object file: no such file or directory",
            errors.DriverBroken,
        ),
        (
            HOOK + "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8, "
            "please update your driver to a newer version, or use an earlier cuda container",
            errors.CudaTooNew,
        ),
        (
            HOOK + "nvidia-container-cli: initialization error: driver rpc error: timed out",
            errors.DeviceTimeout,
        ),
        (
            HOOK + "nvidia-container-cli: initialization error: driver error: timed out",
            errors.DeviceTimeout,
        ),
        (
            HOOK + "nvidia-container-cli: initialization error: nvcgo rpc error: timed out",
            errors.DeviceTimeout,
        ),
        (HOOK + "nvidia-container-cli: mount error: something new", errors.DeviceRefused),
    ],
)
def test_the_errors(text: str, error: type[errors.DeviceRefused]) -> None:
    found = device_error(text)
    assert type(found) is error
    assert found.detail == text
    assert text not in str(found)
    assert found.message.startswith("The GPU that was reserved for you could not be attached")
    assert found.next_step.endswith(".")


@pytest.mark.parametrize(
    "text",
    [
        "",
        'exec: "jupyterhub-singleuser": executable file not found in $PATH',
        "driver failed programming external connectivity on endpoint ds01-alice: timed out",
        "No such container: ds01-alice",
    ],
)
def test_other_words_are_not_about_a_device(text: str) -> None:
    assert device_error(text) is None


def test_each_error_has_words_and_a_code_of_its_own() -> None:
    kinds = errors.DeviceRefused.__subclasses__()
    assert len({kind.code for kind in kinds} | {"device_refused"}) == len(kinds) + 1
    assert len({kind("").message for kind in kinds}) == len(kinds)
