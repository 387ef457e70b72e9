"""What builds say, as pip, apt and the engine say it, and what a person reads instead."""

# ruff: noqa: E501  (what pip says is kept as it says it)

from __future__ import annotations

import pytest

from ds01_spawner.core.build_log import clean, explain

MEMORY = "it needed more memory than a build may use; try with fewer packages."
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
        (
            "Looking in indexes: https://me:p%40ss@index.example.org/simple, http://token@x/",
            "Looking in indexes: https://***@index.example.org/simple, http://***@x/",
        ),
        ("torch @ https://x/a@b", "torch @ https://x/a@b"),
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
            "this name that this Python can have; look how it is written.",
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
            "the file that the package index gave for ds01-x does not match its hash; renew the "
            "hashes of your list, or try again if it has none.",
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
            "versions of Python than this image has (9.0 needs Python >=3.13); ask for one of 0.10, "
            "8.37.0, or choose a newer framework version.",
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
            "for another version of it, or for none, or choose another framework version.",
        ),
        (
            "ERROR: Cannot install a==1 and b==2 because these package versions have conflicting "
            "dependencies.",
            1,
            "a==1 and b==2 need versions of other packages that exclude each other; ask for other "
            "versions, or for none.",
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
            "this name that this Python can have; look how it is written.",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            1,
            "this server's disk is full; the administrator can make room.",
        ),
        ("Installing collected packages: big", 137, MEMORY),
        ("Killed", 1, MEMORY),
        (
            "error: command 'gcc' failed: No such file or directory\n"
            "ERROR: Failed building wheel for uwsgi",
            1,
            "uwsgi has to be compiled, and this image lacks a compiler; add the system package "
            "build-essential, or ask for a version of uwsgi that has a wheel.",
        ),
        (
            "  ERROR: Failed building wheel for uwsgi",
            1,
            "uwsgi has to be compiled, and that failed in this image; ask for a version of it that "
            "has a wheel.",
        ),
        ("E: Sub-process /usr/bin/dpkg returned an error code (1)", 100,
         "Sub-process /usr/bin/dpkg returned an error code (1)"),
        ("", 1, NONZERO),
    ],
)  # fmt: skip
def test_the_reason_in_a_sentence(output: str, code: int, why: str) -> None:
    assert explain(output.splitlines(), NONZERO, code) == why


NO_NAME = (
    '"No matching distribution found for nosuch": the package index has no package of this name '
    "that this Python can have; look how it is written."
)
HELD = "does not go with what the framework image has, torch==2.8.0+cu126; ask for another version"
EXCLUDE = (
    "xa 1.0 (needs tiny==1.0) and xb 1.0 (needs tiny==1.1) need versions of other packages that "
    "exclude each other; ask for other versions, or for none."
)
OTHER_FILE = (
    "the file that the package index gave for tiny==1.0 does not match its hash; renew the hashes "
    "of your list, or try again if it has none."
)
NOT_LISTED = (
    "sub{} is needed, too, and your list with hashes has none for it; make the list with "
    "`pip-compile --generate-hashes`, or leave all hashes out."
)


@pytest.mark.parametrize(
    ("pip", "output", "why"),
    [
        # no such package
        (
            "20.0.2",
            """ERROR: Could not find a version that satisfies the requirement nosuch (from -r /opt/ds01/build/requirements.txt (line 1)) (from versions: none)
ERROR: No matching distribution found for nosuch (from -r /opt/ds01/build/requirements.txt (line 1))""",
            NO_NAME,
        ),
        (
            "20.3.4",
            """ERROR: Could not find a version that satisfies the requirement nosuch
ERROR: No matching distribution found for nosuch""",
            NO_NAME,
        ),
        (
            "20.3.4",
            """ERROR: Could not find a version that satisfies the requirement tiny==9
ERROR: No matching distribution found for tiny==9""",
            '"No matching distribution found for tiny==9": the package index has no such version for '
            "this Python; ask for another one.",
        ),
        (
            "25.3",
            """INFO: pip is looking at multiple versions of wants to determine which version is compatible with other requirements. This could take a while.
ERROR: Could not find a version that satisfies the requirement nosuch>=1 (from wants) (from versions: none)
ERROR: No matching distribution found for nosuch>=1""",
            '"No matching distribution found for nosuch>=1" (needed by wants): the package index has '
            "no package of this name that this Python can have; look how it is written.",
        ),
        (
            "20.0.2",
            """ERROR: Could not find a version that satisfies the requirement nosuch>=1 (from wants->-r /opt/ds01/build/requirements.txt (line 1)) (from versions: none)
ERROR: No matching distribution found for nosuch>=1 (from wants->-r /opt/ds01/build/requirements.txt (line 1))""",
            '"No matching distribution found for nosuch>=1" (needed by wants): the package index has '
            "no package of this name that this Python can have; look how it is written.",
        ),
        # no such version
        (
            "20.0.2",
            """ERROR: Could not find a version that satisfies the requirement tiny==9 (from -r /opt/ds01/build/requirements.txt (line 1)) (from versions: 1.0, 1.1)
ERROR: No matching distribution found for tiny==9 (from -r /opt/ds01/build/requirements.txt (line 1))""",
            '"No matching distribution found for tiny==9": the newest that this Python can have are '
            "1.0, 1.1.",
        ),
        # a newer Python
        (
            "24.3.1",
            """ERROR: Ignored the following versions that require a different python version: 2.0 Requires-Python >=3.99
ERROR: Could not find a version that satisfies the requirement newpy (from versions: none)
ERROR: No matching distribution found for newpy""",
            '"No matching distribution found for newpy": its versions are for other versions of '
            "Python than this image has (2.0 needs Python >=3.99); ask for an older one, or choose a "
            "newer framework version.",
        ),
        (
            "22.3.1",
            "ERROR: Package 'newpy' requires a different Python: 3.8.10 not in '>=3.10'",
            "newpy needs Python >=3.10, and this image has 3.8.10; ask for an older version of it, "
            "or choose a newer framework version.",
        ),
        (
            "20.0.2",
            "ERROR: Package 'newpy' requires a different Python: 3.8.10 not in '>=3.10,<4'",
            "newpy needs Python >=3.10,<4, and this image has 3.8.10; ask for an older version of "
            "it, or choose a newer framework version.",
        ),
        # what the framework image has
        (
            "20.3.4",
            """ERROR: Could not find a version that satisfies the requirement torch==2.0
ERROR: No matching distribution found for torch==2.0
ds01: the framework image has torch==2.8.0+cu126""",
            f"torch==2.0 {HELD}, or for none, or choose another framework version.",
        ),
        (
            "20.3.4",
            """ERROR: Could not find a version that satisfies the requirement torch<2.5 (from wants-old-torch)
ERROR: No matching distribution found for torch<2.5
ds01: the framework image has torch==2.8.0+cu126""",
            f"torch<2.5 (needed by wants-old-torch) {HELD}, or for none, or choose another "
            "framework version.",
        ),
        (
            "22.3.1",
            """ERROR: Cannot install -r /opt/ds01/build/requirements.txt (line 1) because these package versions have conflicting dependencies.
The conflict is caused by:
    wants-old-torch 1.0 depends on torch<2.5
    The user requested (constraint) torch==2.8.0+cu126
To fix this you could try to:
1. loosen the range of package versions you've specified
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency-resolution/""",
            f"wants-old-torch 1.0 (needs torch<2.5) {HELD} of it, or for none, or choose another "
            "framework version.",
        ),
        (
            "25.3",
            """ERROR: Cannot install torch==2.0 because these package versions have conflicting dependencies.
The conflict is caused by:
    The user requested torch==2.0
    The user requested (constraint) torch==2.8.0+cu126
Additionally, some packages in these conflicts have no matching distributions available for your environment:
    torch
To fix this you could try to:
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency-resolution/""",
            f"torch==2.0 {HELD} of it, or for none, or choose another framework version.",
        ),
        # two that exclude each other
        (
            "20.3.4",
            """ERROR: Cannot install -r lists/dual.txt (line 1) and -r lists/dual.txt (line 2) because these package versions have conflicting dependencies.
The conflict is caused by:
    xa 1.0 depends on tiny==1.0
    xb 1.0 depends on tiny==1.1
To fix this you could try to:
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/user_guide/""",
            EXCLUDE,
        ),
        (
            "25.3",
            """ERROR: Cannot install -r lists/dual.txt (line 1) and -r lists/dual.txt (line 2) because these package versions have conflicting dependencies.
The conflict is caused by:
    xa 1.0 depends on tiny==1.0
    xb 1.0 depends on tiny==1.1
Additionally, some packages in these conflicts have no matching distributions available for your environment:
    tiny
To fix this you could try to:""",
            EXCLUDE,
        ),
        # hashes: these words are the same in pip 20.0 to 25.3
        (
            "20.0.2",
            """ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the package versions, please update the hashes. Otherwise, examine the package contents carefully; someone may have tampered with them.
    tiny==1.0 from https://index.example/files/tiny-1.0-py3-none-any.whl (from -r lists/hash-bad.txt (line 1)):
        Expected sha256 0000000000000000000000000000000000000000000000000000000000000000""",
            OTHER_FILE,
        ),
        (
            "25.3",
            """ERROR: In --require-hashes mode, all requirements must have their versions pinned with ==. These do not:
    sub>=1 from https://index.example/files/sub-1.0-py3-none-any.whl (from dep==1.0->-r lists/hash-dep.txt (line 1))""",
            NOT_LISTED.format(">=1"),
        ),
        (
            "25.3",
            """ERROR: Hashes are required in --require-hashes mode, but they are missing from some requirements. Here is a list of those requirements along with the hashes their downloaded archives actually had. Add lines like these to your requirements files to prevent tampering. (If you did not enable --require-hashes manually, note that it turns on automatically when any package has a hash.)
    sub==1.0 --hash=sha256:3786dab42f38762549c7f2dc3cb58d564f0675f96251f3faa8e5df067f181ded""",
            NOT_LISTED.format("==1.0"),
        ),
        # what has to be built
        (
            "20.0.2",
            """Collecting cfail
    gcc -Wsign-compare -c q.c -o q.o
    unable to execute 'gcc': No such file or directory
    error: command 'gcc' failed with exit status 1
  ERROR: Failed building wheel for cfail
    Running setup.py install for cfail: finished with status 'error'
    ERROR: Command errored out with exit status 1:""",
            "cfail has to be compiled, and this image lacks a compiler; add the system package "
            "build-essential, or ask for a version of cfail that has a wheel.",
        ),
        (
            "22.3.1",
            """      error: command '/usr/bin/gcc' failed with exit code 1
      q.c:1:10: fatal error: Python.h: No such file or directory
error: legacy-install-failure
× Encountered error while trying to install package.
╰─> cfail
    Running setup.py install for cfail: finished with status 'error'""",
            "cfail has to be compiled, and this image lacks Python's headers; add the system "
            "package python3-dev, or ask for a version of cfail that has a wheel.",
        ),
        (
            "25.3",
            """  × Building wheel for cfail (pyproject.toml) did not run successfully.
      error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory
  ERROR: Failed building wheel for cfail
error: failed-wheel-build-for-install
× Failed to build installable wheels for some pyproject.toml based projects
╰─> cfail""",
            "cfail has to be compiled, and this image lacks a compiler; add the system package "
            "build-essential, or ask for a version of cfail that has a wheel.",
        ),
        (
            "25.3",
            """Collecting other
  × installing build dependencies for onlysrc did not run successfully.
      ERROR: Could not find a version that satisfies the requirement setuptools>=40.8.0 (from versions: none)
      ERROR: No matching distribution found for setuptools>=40.8.0
ERROR: Failed to build 'onlysrc' when installing build dependencies for onlysrc""",
            "onlysrc has to be compiled, and that failed in this image; ask for a version of it "
            "that has a wheel.",
        ),
        (
            "22.3.1",
            """Collecting gen
  × python setup.py egg_info did not run successfully.
error: metadata-generation-failed
× Encountered error while generating package metadata.
╰─> See above for output.""",
            "gen has to be compiled, and that failed in this image; ask for a version of it that "
            "has a wheel.",
        ),
        (
            "20.0.2",
            """Collecting gen
    RuntimeError: nothing works
ERROR: Command errored out with exit status 1: python setup.py egg_info Check the logs for full command output.""",
            "gen has to be compiled, and that failed in this image; ask for a version of it that "
            "has a wheel.",
        ),
        (
            "25.3",
            """error: metadata-generation-failed
× Encountered error while generating package metadata.
╰─> tokenizers
      error: can't find Rust compiler""",
            "tokenizers has to be compiled, and this image lacks Rust; add the system package "
            "cargo, or ask for a version of tokenizers that has a wheel.",
        ),
        # the disk
        (
            "23.3.2",
            "ERROR: Could not install packages due to an OSError: [Errno 122] Disk quota exceeded",
            "this server's disk is full; the administrator can make room.",
        ),
        # the network
        (
            "25.3",
            """WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by 'NameResolutionError("HTTPSConnection(host='pypi.org', port=443): Failed to resolve 'pypi.org' ([Errno -3] Temporary failure in name resolution)")': /simple/tiny/
ERROR: Could not find a version that satisfies the requirement tiny (from versions: none)
ERROR: No matching distribution found for tiny""",
            "the package index could not be reached; try again in a few minutes.",
        ),
    ],
)
def test_every_pip_s_words_are_understood(pip: str, output: str, why: str) -> None:
    assert explain(output.splitlines(), NONZERO, 1) == why, pip


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (
            """Package awk is a virtual package provided by:
  original-awk 2022-09-12-1
  mawk 1.3.4.20200120-3.1
E: Package 'awk' has no installation candidate""",
            "awk is no package that can be installed; write one of those that do what it stands "
            "for: original-awk, mawk.",
        ),
        (
            "E: Package 'python-tk' has no installation candidate",
            "python-tk is no package that can be installed.",
        ),
        (
            """E: Failed to fetch http://deb.debian.org/debian/pool/main/h/htop/htop_3.2.1-1_amd64.deb  404  Not Found [IP: 151.101.2.132 80]
E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?""",
            "the package mirror lacks a file that its own list names, "
            "http://deb.debian.org/debian/pool/main/h/htop/htop_3.2.1-1_amd64.deb; try again in a "
            "few minutes.",
        ),
        (
            """The following packages have unmet dependencies:
 libcudnn9-dev-cuda-12 : Depends: libcudnn9-cuda-12 (= 9.1.0-1) but 9.5.1-1 is to be installed
E: Unable to correct problems, you have held broken packages.""",
            "the system packages do not fit what the image has installed (libcudnn9-dev-cuda-12: "
            "Depends: libcudnn9-cuda-12 (= 9.1.0-1) but 9.5.1-1 is to be installed); leave one out.",
        ),
        (
            """Errors were encountered while processing:
 postfix
E: Sub-process /usr/bin/dpkg returned an error code (1)""",
            "postfix could not be set up in this image; leave that package out.",
        ),
    ],
)
def test_apt_s_words_are_understood(output: str, why: str) -> None:
    assert explain(output.splitlines(), NONZERO, 100) == why


def test_the_engine_s_own_failures() -> None:
    full = "write /var/lib/docker/tmp/x: no space left on device"
    assert explain([], full, None) == "this server's disk is full; the administrator can make room."
    assert explain([], "", None) == "it ended without saying why."
