"""Package names as people write them -> names that a build can be given, or a sentence.

Rules are PEP 508's through `packaging`, Debian's policy 5.6.1 for system packages, and what pip and
apt would misread: pip takes `x.whl` for a file, ` -` for an option and expands `${HOME}`, apt takes
`bash-` for "remove bash" and older ones `a.*` for a pattern. Behind a requirement may stand hashes,
as pip writes them: `name==1.0 --hash=sha256:…`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

MAX_REQUIREMENT = 300  # characters, without hashes
MAX_HASHES = 400  # of one requirement: a version has a file for each Python and machine
MAX_APT_NAME = 80
HASH = " --hash="
_ANY = "==="
_MAX_SHOWN = 60
# What is left of PEP 508 after `$`, `{`, `#`, `\\`, backtick and all that is not ASCII.
_SAFE = re.compile(r"[A-Za-z0-9 ._,;:/@%?=<>!~+*()\[\]\"'&-]+")
_APT = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_ARCHIVE = re.compile(r"\.(whl|zip|egg|tar|tgz|tbz|txz|tlz|tar\.[a-z0-9]+)$", re.IGNORECASE)
_WHEEL = re.compile(r"\.whl(#sha256=[0-9a-f]{64})?$")
_COMMENT = re.compile(r"(?:^|\s)#")
_VCS = re.compile(r"(git|hg|svn|bzr)\+", re.IGNORECASE)
_URL_HASH = re.compile(r"#sha256=[0-9a-f]{64}(?= |$)")
_OPTION = re.compile(r"\s-")
# Those that pip takes for strong (its STRONG_HASHES), with their hex digits.
_HASH = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


class Rules(Protocol):
    """What of the policy's package rules is read here."""

    @property
    def allow_urls(self) -> bool:
        """Whether `name @ https://…` is allowed."""

    @property
    def allow_source(self) -> bool:
        """Whether what is no wheel may be installed."""

    @property
    def pip_allow(self) -> tuple[str, ...] | None:
        """The only Python packages allowed; None: all."""

    @property
    def apt_allow(self) -> tuple[str, ...] | None:
        """The only system packages allowed; None: all."""


def pip_requirement(text: str, rules: Rules) -> str:
    """The canonical form of one requirement: `Pandas >=2` is `pandas>=2`.

    Raises ValueError, with a sentence, for whatever is no name with versions, extras, a marker or
    hashes.
    """
    line, hashes = _parts(without_comment(text))
    told = _shown(line)
    if len(line) > MAX_REQUIREMENT:
        raise ValueError(f"{told} is longer than {MAX_REQUIREMENT} characters.")
    parsed = _parsed(line, told)
    name = canonicalize_name(parsed.name)
    if rules.pip_allow is not None and name not in map(canonicalize_name, rules.pip_allow):
        raise ValueError(
            f"{name} is not among the packages that the administrator allows: "
            f"{', '.join(sorted(rules.pip_allow)) or 'none'}."
        )
    if parsed.url is not None:
        _check_url(parsed.url, told, rules)
    written = _written(parsed)
    if _OPTION.search(written):
        raise ValueError(f"{told} has a part that pip would take for an option.")
    return written + "".join(f"{HASH}{value}" for value in _hashes(hashes, parsed, told))


def without_comment(line: str) -> str:
    """A line of a requirements file without its comment, as pip takes that away."""
    comment = _COMMENT.search(line)
    return (line[: comment.start()] if comment else line).replace("\t", " ").strip()


def _parts(line: str) -> tuple[str, list[str]]:
    """The requirement, and what its options `--hash` say."""
    line, option, more = line.partition(" --hash")
    words = f"{option}{more}".replace("--hash=", " --hash ").split(" --hash")
    return line.rstrip(), [word.strip() for word in words[1:]]


def _parsed(line: str, told: str) -> Requirement:
    why = _why_no_name(line)
    if not why:
        try:
            parsed = Requirement(line)
        except InvalidRequirement:
            why = "is not a package; write a name, and versions if needed, such as pandas>=2."
        else:
            versions = str(parsed.specifier)  # `===` takes any text
            if "/" in versions or _ARCHIVE.search(versions):
                why = "is a file; write the package's name."
            elif _ANY in versions and len(parsed.specifier) > 1:
                why = "has === beside other versions; write == in its place."
            else:
                return parsed
    raise ValueError(f"{told} {why}")


def _hashes(written: Iterable[str], parsed: Requirement, told: str) -> list[str]:
    """Hashes in one order; pip wants an exact version beside them."""
    found = sorted({value.lower() for value in written})
    for value in found:
        if not _HASH.fullmatch(value):
            raise ValueError(
                f"{told} has {_shown(value)}, which is no hash; write --hash=sha256: and 64 hex "
                "digits."
            )
    if len(found) > MAX_HASHES:
        raise ValueError(f"{told} has more than {MAX_HASHES} hashes.")
    pinned = [specifier.operator for specifier in parsed.specifier] in (["=="], ["==="])
    if found and parsed.url is None and not pinned:
        raise ValueError(f"{told} has a hash, but no exact version; write NAME==VERSION.")
    return found


def combine(requirements: Iterable[str]) -> tuple[str, ...]:
    """Canonical requirements sorted, one line for each name and marker.

    `pandas` and `pandas>=2` become `pandas>=2`; pip before 20.3 refuses a name given twice.
    """
    merged: dict[tuple[str, str, str], Requirement] = {}
    hashes: dict[tuple[str, str, str], set[str]] = {}
    for text in requirements:
        line, *known = text.split(HASH)
        new = Requirement(line)
        key = (canonicalize_name(new.name), str(new.marker or ""), new.url or "")
        old = merged.setdefault(key, new)
        if old is not new:
            old.extras |= new.extras
            old.specifier &= new.specifier
        hashes.setdefault(key, set()).update(known)
    return tuple(
        sorted(
            _written(requirement) + "".join(f"{HASH}{value}" for value in sorted(hashes[key]))
            for key, requirement in merged.items()
        )
    )


def apt_problem(name: str, rules: Rules) -> str | None:
    """What is wrong with the name of a system package, as a sentence; None: nothing."""
    told = _shown(name)
    if len(name) > MAX_APT_NAME:
        return f"{told} is longer than {MAX_APT_NAME} characters."
    if not _APT.fullmatch(name):
        if _APT.fullmatch(name.strip().lower()):
            return f"{told} is not written as Debian does; write {name.strip().lower()}."
        return (
            f"{told} is not a system package; a name has lower-case letters, digits, '+', '-' "
            "and '.', without a version."
        )
    if name.endswith("-"):
        return f"{told} ends with '-', which would remove a package; write a name to install."
    if rules.apt_allow is not None and name not in rules.apt_allow:
        return (
            f"{name} is not among the system packages that the administrator allows: "
            f"{', '.join(sorted(rules.apt_allow)) or 'none'}."
        )
    return None


def names(requirements: Iterable[str]) -> tuple[str, ...]:
    """The names alone, each once, in order."""
    found = (Requirement(text.split(HASH)[0]).name for text in requirements)
    return tuple(dict.fromkeys(map(canonicalize_name, found)))


def _why_no_name(line: str) -> str:
    """Why a text cannot be a requirement, for what people paste most; empty: nothing found."""
    if not line:
        return "is empty."
    if line.startswith(("-e", "--editable")):
        return "is an editable installation; write the package's name."
    if line.startswith("--hash"):
        return "is a hash without a package; end the line of the package before it with \\."
    if line.startswith("-"):
        return "is an option of pip; write package names only, one a line."
    if option := re.search(r"\s(--?[A-Za-z-]+)", line.partition(";")[0]):
        return f"has the option {option[1]} of pip; only --hash can stand behind a package."
    if not _SAFE.fullmatch(_URL_HASH.sub("", line)):
        return "has characters that no package name or version has."
    name = re.split(r"[\[;<>=!~(@]", line, maxsplit=1)[0].strip()
    if _VCS.match(line) or re.match(r"[a-z+]+://", line, re.IGNORECASE):
        return "is an address; write the package's name."
    if "/" in name or name.startswith("."):
        return "is a path; write the package's name."
    if _ARCHIVE.search(name):
        return "is a file; write the package's name."
    return ""


def _check_url(url: str, told: str, rules: Rules) -> None:
    if not rules.allow_urls:
        raise ValueError(f"{told} is an address, which is not allowed here; write the name only.")
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError(f"{told}: the address must begin with https://.")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{told} has a name or password in its address, which others could read.")
    if not rules.allow_source and not _WHEEL.search(url):  # pip itself builds what has an address
        raise ValueError(f"{told} is not the address of a wheel (.whl), which is needed here.")


def _written(requirement: Requirement) -> str:
    extras = sorted(canonicalize_name(extra) for extra in requirement.extras)
    name = canonicalize_name(requirement.name) + (f"[{','.join(extras)}]" if extras else "")
    versions = ",".join(sorted(map(str, requirement.specifier)))
    what = f"{name} @ {requirement.url}" if requirement.url else f"{name}{versions}"
    # Addresses, and in pip before 24.1 what follows `===`, go on to the next space.
    end = " ; " if requirement.url or _ANY in versions else "; "
    return f"{what}{end}{requirement.marker}" if requirement.marker else what


def _shown(text: str) -> str:
    clean = "".join(c if c.isprintable() else " " for c in text[: _MAX_SHOWN + 1])
    return repr(clean if len(clean) <= _MAX_SHOWN else clean[:_MAX_SHOWN] + "…")
