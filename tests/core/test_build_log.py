"""What builds say, as pip, apt and the engine say it, and what a person reads instead."""

# ruff: noqa: E501  (what pip says is kept as it says it)

from __future__ import annotations

import pytest

from ds01_spawner.core.build_log import clean, explain

NONZERO = "The command '/bin/sh /opt/ds01/build/pip.sh' returned a non-zero code: 1"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain\n", "plain"),
        ("\x1b[91mred\x1b[0m", "red"),
        ("10%\r50%\r100% done\n", "100% done"),
        ("a\x00b\x08c", "a b c"),
        ("\x1b]0;title\x07text", "text"),
        ("tab\there", "tab here"),
        ("right\u202eleft", "right left"),
        ("x" * 400, "x" * 300 + "…"),
    ],
)
def test_lines_lose_what_acts_on_a_terminal(line: str, shown: str) -> None:
    assert clean(line) == shown


@pytest.mark.parametrize(
    ("output", "code", "why"),
    [
        (
            """ERROR: Could not find a version that satisfies the requirement nosuch (from versions: none)
ERROR: No matching distribution found for nosuch""",
            1,
            '"No matching distribution found for nosuch": the package index has no package of '
            "this name for this Python.",
        ),
        (
            """ERROR: Could not find a version that satisfies the requirement tabulate==99 (from versions: 0.7, 0.8.7, 0.8.8, 0.8.9, 0.9.0, 0.10.0)
ERROR: No matching distribution found for tabulate==99""",
            1,
            '"No matching distribution found for tabulate==99": the newest that this Python can '
            "have are 0.8.7, 0.8.8, 0.8.9, 0.9.0, 0.10.0.",
        ),
        (
            """  Downloading ds01_x-1-py3-none-any.whl (4.8 kB)
  WARNING: Connection interrupted while downloading.
error: incomplete-download
× Download failed after 6 attempts because not enough bytes were received (2.4 kB/4.8 kB)""",
            1,
            "only a part of ds01_x-1-py3-none-any.whl came from the package index; try again in a "
            "few minutes.",
        ),
        (
            """  Downloading https://mirror.example.org/a/ds01_x-1-py3-none-any.whl (4.8 kB)
ERROR: Could not install packages due to an OSError: ('Connection broken: IncompleteRead(2405 bytes read, 2405 more expected)', IncompleteRead(2405 bytes read))""",
            1,
            "only a part of ds01_x-1-py3-none-any.whl came from the package index; try again in a "
            "few minutes.",
        ),
        (
            """  Downloading ds01_x-1-py3-none-any.whl (26 bytes)
ERROR: Wheel 'ds01-x' located at /tmp/pip-unpack-uq7mon23/ds01_x-1-py3-none-any.whl is invalid.""",
            1,
            "what the package index gave as ds01_x-1-py3-none-any.whl is no package; the "
            "administrator can look what it is.",
        ),
        (
            """  Downloading ds01_x-1-py3-none-any.whl (4.8 kB)
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the package versions, please update the hashes.
    ds01-x from https://mirror.example.org/ds01_x-1-py3-none-any.whl#sha256=00:
        Expected sha256 00
             Got        43""",
            1,
            "ds01_x-1-py3-none-any.whl is not what it should be: its hash is another. If the hash "
            "is in your list, correct it; otherwise the package index is broken, and the "
            "administrator should know.",
        ),
        (
            """ERROR: Could not install packages due to an OSError: HTTPSConnectionPool(host='mirror.example.org', port=443): Max retries exceeded with url: /ds01_x-1-py3-none-any.whl (Caused by ResponseError('too many 500 error responses'))""",
            1,
            "the package index could not be reached; try again in a few minutes.",
        ),
        (
            """ERROR: Ignored the following versions that require a different python version: 9.0 Requires-Python >=3.13
ERROR: Could not find a version that satisfies the requirement ipython==9.0 (from versions: 0.10, 8.37.0)
ERROR: No matching distribution found for ipython==9.0""",
            1,
            '"No matching distribution found for ipython==9.0": its versions are for other '
            "versions of Python than this image has.",
        ),
        (
            """ERROR: Could not find a version that satisfies the requirement docopt (from versions: none)
ERROR: No matching distribution found for docopt
ds01 error: docopt has no ready-made package (wheel), only its source.""",
            1,
            "docopt has no ready-made package (wheel), only its source.",
        ),
        (
            """ERROR: Cannot install torch==2.0 because these package versions have conflicting dependencies.

The conflict is caused by:
    The user requested torch==2.0
    The user requested (constraint) torch==2.8.0+standin""",
            1,
            "torch==2.0 does not go with what the framework image has, torch==2.8.0+standin; ask "
            "for no version of it, or for another framework version.",
        ),
        (
            "ERROR: Cannot install a==1 and b==2 because these package versions have conflicting "
            "dependencies.",
            1,
            "a==1 and b==2 need versions of other packages that exclude each other.",
        ),
        (
            "E: Unable to locate package htopp\nE: Unable to locate package vimm",
            100,
            "\"Unable to locate package htopp, vimm\": this image's distribution has none so named.",
        ),
        (
            """WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError(
ERROR: Could not find a version that satisfies the requirement pandas (from versions: none)
ERROR: No matching distribution found for pandas""",
            1,
            "the package index could not be reached; try again in a few minutes.",
        ),
        (
            "Err:1 http://deb.example.org stable InRelease\n"
            "  Temporary failure resolving 'deb.example.org'\nE: Unable to locate package htop",
            100,
            "the package index could not be reached; try again in a few minutes.",
        ),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'SSLError("
            "SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]"
            " certificate verify failed'",
            1,
            "the package index could not be reached, because its certificate is not trusted; the "
            "administrator can set the certificate authority.",
        ),
        (
            """WARNING: Retrying (Retry(total=0)) after connection broken by 'ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 403 builds may not reach files.example.org:443'))'
ERROR: Could not install packages due to an OSError""",
            1,
            "something wants to reach files.example.org:443, and builds may not; the "
            "administrator can add the host to build_hosts.",
        ),
        (
            # apt went on without
            "E: Failed to fetch https://apt.example.org/x  "
            "Invalid response from proxy: HTTP/1.1 403 builds may not reach apt.example.org:443\n"
            "E: Unable to locate package htop",
            100,
            "\"Unable to locate package htop\": this image's distribution has none so named, nor "
            "was apt.example.org:443 asked, which is not among the administrator's build_hosts.",
        ),
        (
            # a hiccup that pip got over is not the reason
            """WARNING: Retrying (Retry(total=4)) after connection broken by 'ReadTimeoutError("Read timed out.")'
Downloading a-1.0-py3-none-any.whl
ERROR: No matching distribution found for nosuch""",
            1,
            '"No matching distribution found for nosuch": the package index has no package of '
            "this name for this Python.",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            1,
            "this server's disk is full; the administrator can make room.",
        ),
        ("Installing collected packages: big", 137, "it needed more memory than a build may use."),
        ("Killed", 1, "it needed more memory than a build may use."),
        (
            "error: command 'gcc' failed: No such file or directory\n"
            "ERROR: Failed building wheel for uwsgi",
            1,
            "a package has to be compiled, and that failed in this image.",
        ),
        (
            "  ERROR: Failed building wheel for uwsgi",
            1,
            "uwsgi has to be compiled, and that failed in this image.",
        ),
        ("E: Sub-process /usr/bin/dpkg returned an error code (1)", 100,
         "Sub-process /usr/bin/dpkg returned an error code (1)"),
        ("", 1, NONZERO),
    ],
)  # fmt: skip
def test_the_reason_in_a_sentence(output: str, code: int, why: str) -> None:
    assert explain(output.splitlines(), NONZERO, code) == why


def test_the_engine_s_own_failures() -> None:
    full = "write /var/lib/docker/tmp/x: no space left on device"
    assert explain([], full, None) == "this server's disk is full; the administrator can make room."
    assert explain([], "", None) == "it ended without saying why."
