"""What a build says -> lines fit to be shown, and one sentence for why it failed.

The words read here are those of our own scripts (`ds01 error: …`), of pip 20 to 26, of apt and of
the engine; all of it is text from strangers, so nothing is shown without `clean`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_LINE = 300
_MAX_VERSIONS = 5
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-_])")
_SECRET = re.compile(r"(://)[^/\s@]+@")  # a name and password in the address of an index or proxy
_OWN = re.compile(r"^ds01 error: (.+)", re.MULTILINE)
_MEMORY = re.compile(r"^(Killed|MemoryError|std::bad_alloc)\b|Cannot allocate memory", re.MULTILINE)
_DISK = re.compile(r"No space left on device|Disk quota exceeded|not enough free space", re.I)
_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED|certificate verif|confirming the ssl", re.I)
_NETWORK = re.compile(
    r"Retry\(total=0|Temporary failure (in name resolution|resolving)|Could not resolve|"
    r"Network is unreachable|Failed to establish a new connection|Read timed out|"
    r"Connection (refused|reset|timed out)|Proxy ?Error|HTTP error 5\d\d|Hash Sum mismatch|"
    r"too many 5\d\d error responses",
    re.IGNORECASE,
)
_PART = re.compile(
    r"^error: incomplete-download|^(?:ERROR: |\S*exceptions\.).*(?:IncompleteRead|ProtocolError)",
    re.MULTILINE,
)
_NO_PACKAGE = re.compile(r"^ERROR: Wheel '\S+' located at \S+ is invalid|BadZipFile", re.MULTILINE)
_FETCHED = re.compile(r"Downloading (?:\S*/)?([\w.+-]+\.(?:whl|tar\.gz|zip))\b")
# The words of the gate of builds (images/gate), as pip passes them on, and as anybody does.
_NOT_ALLOWED = re.compile(
    r"(?:Tunnel connection failed: 403|403 Client Error:) builds may not reach ([\w.:-]+)"
)
_NOT_REACHED = re.compile(r"\b403 +builds may not reach ([\w.:-]+)")
_CONFLICT = re.compile(r"Cannot install (.+?) because these package versions have conflict")
_CONSTRAINT = re.compile(r"The user requested \(constraint\) (\S+)")
_CAUSE = re.compile(
    r"^ +(?!The user requested \(constraint)(?:The user requested )?([^ (]+)"
    r"(?: (\S+) depends on (\S+))?",
    re.MULTILINE,
)
_CAUSES_END = re.compile(r"\n(?:Additionally|To fix|ERROR)")
_LIST_LINE = re.compile(r"-r \S+ \(line \d+\)")
# What images/derived/pip.sh says of a package that could not be had.
_HELD = re.compile(r"^ds01: the framework image has (\S+)", re.MULTILINE)
_UNSATISFIED = re.compile(
    r"Could not find a version that satisfies the requirement (\S+)"
    r"(?: \(from (?!versions)(.+?)\))?(?: \(from versions: (.*)\))?$",
    re.MULTILINE,
)
_NO_MATCH = re.compile(r"No matching distribution found for (\S+)")
_OTHER_PYTHON = re.compile(r"different python version|Requires-Python")
_NEEDED_PYTHON = re.compile(r"(\S+) Requires-Python (\S+)")
_WRONG_PYTHON = re.compile(
    r"Package '?([\w.-]+)'? requires a different Python: (\S+) not in '?([^'\s]+)"
)
_OTHER_FILE = re.compile(r"DO NOT MATCH THE HASHES[^\n]*\n +(\S+)")
_UNLISTED = re.compile(
    r"(?:versions pinned with ==\. These do not:|Hashes are required in --require-hashes mode, "
    r"[^\n]*)\n +(\S+)"
)
_APT_UNKNOWN = re.compile(r"^E: Unable to locate package (\S+)", re.MULTILINE)
_APT_VIRTUAL = re.compile(r"^E: Package '(\S+)' has no installation candidate", re.MULTILINE)
_APT_PROVIDERS = re.compile(r"is a virtual package provided by:\n((?:  \S+ [^\n]*\n?)+)")
_APT_BROKEN = re.compile(r"^E: Unable to correct problems|have unmet dependencies", re.MULTILINE)
_APT_UNMET = re.compile(r"^ (\S+) : ((?:Depends|PreDepends|Conflicts|Breaks): .+)", re.MULTILINE)
_APT_SET_UP = re.compile(r"Errors were encountered while processing:\n (\S+)")
_APT_GONE = re.compile(r"^E: Failed to fetch (\S+) +404", re.MULTILINE)
_NOT_BUILT = re.compile(
    r"Failed building wheel for ([\w.-]+)|Failed to build '([\w.-]+)'|"
    r"Running setup.py install for ([\w.-]+): finished with status 'error'|"
    r"installable wheels for [^\n]*\n╰─> ([\w.-]+)|"
    r"generating package metadata.\n╰─> (?!See)([\w.-]+)"
)
_BUILD_FAILED = re.compile(
    r"error: command '|metadata-generation-failed|setup.py egg_info|subprocess-exited-with-error"
)
_COLLECTING = re.compile(r"^Collecting ([\w.-]+)", re.MULTILINE)
# What a source needs to be compiled, and the system package that has it.
_LACKS = (
    (
        r"'?(?:gcc|g\+\+|cc|c\+\+|[\w-]+-g(?:cc|\+\+))'? failed: No such file|unable to execute '|"
        r"No such file or directory: '[\w/-]*(?:gcc|g\+\+|cc|c\+\+)'",
        "a compiler",
        "build-essential",
    ),
    (r"Python\.h: No such file", "Python's headers", "python3-dev"),
    (r"[Rr]ust compiler|Cargo, the Rust|cargo`? (?:is )?not (?:found|installed)", "Rust", "cargo"),
    (r"CMake must be installed|cmake: not found|'cmake'", "CMake", "cmake"),
)
_ERROR_LINE = re.compile(r"^(?:E: |ERROR: |error: |Error: )(.+)", re.MULTILINE)
KILLED = 137


def clean(line: str) -> str:
    """A line without escape sequences, control characters and secrets, at most 300 characters.

    Secrets are those in addresses. Of a line that overwrites itself with carriage returns, what it
    showed in the end.
    """
    shown = _ESCAPES.sub("", line).rstrip("\r\n").rsplit("\r", 1)[-1]
    shown = "".join(c if c.isprintable() else " " for c in shown[: 2 * MAX_LINE]).rstrip()
    shown = _SECRET.sub(r"\1***@", shown)
    return shown if len(shown) <= MAX_LINE else shown[:MAX_LINE] + "…"


def is_disk_full(text: str) -> bool:
    """Whether it says that there is no room left on a disk."""
    return _DISK.search(text) is not None


def explain(lines: Sequence[str], message: str, code: int | None) -> str:
    """Why a build failed, as a sentence: its last lines, the engine's message, the exit code."""
    text = "\n".join(lines)
    if code == KILLED or _MEMORY.search(text):
        return "it needed more memory than a build may use; try with fewer packages."
    if is_disk_full(text) or is_disk_full(message):
        return "this server's disk is full; the administrator can make room."
    for look in (_own_words, _hashes, _broken, _network, _conflict, _build, _unsatisfied, _apt):
        why = look(text)
        if why:
            return why
    errors = _ERROR_LINE.findall(text)
    return clean(errors[-1] if errors else message) or "it ended without saying why."


def _own_words(text: str) -> str:
    found = _OWN.findall(text)
    return clean(found[-1]) if found else ""


def _broken(text: str) -> str:
    """What came from the index, and is not what it should be."""
    file = clean((_FETCHED.findall(text) or ["a package"])[-1])
    if _PART.search(text):
        return f"only a part of {file} came from the package index; try again in a few minutes."
    if _NO_PACKAGE.search(text):
        return (
            f"what the package index gave as {file} is no package; the administrator can look what "
            "it is."
        )
    return ""


def _network(text: str) -> str:
    if _CERTIFICATE.search(text):
        return (
            "the package index could not be reached, because its certificate is not trusted; the "
            "administrator can set the certificate authority."
        )
    # pip retries; only what is said after the last package was fetched can be the reason.
    last = text.rsplit("\nDownloading", 1)[-1]
    if not_allowed := _NOT_ALLOWED.search(last):
        return (
            f"something wants to reach {clean(not_allowed[1])}, and builds may not; the "
            "administrator can add the host to build_hosts."
        )
    if _NETWORK.search(last):
        return "the package index could not be reached; try again in a few minutes."
    return ""


def _hashes(text: str) -> str:
    if other := _OTHER_FILE.search(text):
        return (
            f"the file that the package index gave for {clean(other[1])} does not match its hash; "
            "renew the hashes of your list, or try again if it has none."
        )
    if unlisted := _UNLISTED.search(text):
        return (
            f"{clean(unlisted[1])} is needed, too, and your list with hashes has none for it; make "
            "the list with `pip-compile --generate-hashes`, or leave all hashes out."
        )
    return ""


def _conflict(text: str) -> str:
    found = _CONFLICT.findall(text)
    if not found:
        return ""
    named = clean(found[-1])
    if _LIST_LINE.search(named):  # newer pips name lines of our file, and the packages below
        causes = _CAUSES_END.split(text.rsplit("The conflict is caused by:", 1)[-1])[0]
        named = " and ".join(
            clean(f"{name} {version} (needs {needs})" if needs else name)
            for name, version, needs in _CAUSE.findall(causes)
        )
    held = _CONSTRAINT.findall(text)
    if held:
        return (
            f"{named} does not go with what the framework image has, "
            f"{', '.join(dict.fromkeys(map(clean, held)))}; ask for another version of it, or for "
            "none, or choose another framework version."
        )
    return (
        f"{named} need versions of other packages that exclude each other; ask for other "
        "versions, or for none."
    )


def _unsatisfied(text: str) -> str:
    if wrong := _WRONG_PYTHON.search(text):
        name, has, needs = map(clean, wrong.groups())
        return (
            f"{name} needs Python {needs}, and this image has {has}; ask for an older version of "
            "it, or choose a newer framework version."
        )
    unsatisfied, missing = _UNSATISFIED.findall(text), _NO_MATCH.findall(text)
    if not unsatisfied and not missing:
        return ""
    name, whom, versions = map(clean, unsatisfied[-1] if unsatisfied else (missing[-1], "", ""))
    whom = _LIST_LINE.sub("", whom.split("->")[0]).strip()
    by = f" (needed by {whom})" if whom else ""
    said = f'"No matching distribution found for {name}"{by}'
    if held := _HELD.findall(text):
        return (
            f"{name}{by} does not go with what the framework image has, {clean(held[-1])}; ask for "
            "another version, or for none, or choose another framework version."
        )
    newest = versions.rstrip("…").split(", ")[-_MAX_VERSIONS:] if versions != "none" else []
    if _OTHER_PYTHON.search(text):
        needed = _NEEDED_PYTHON.findall(text)
        told = f" ({clean(needed[-1][0])} needs Python {clean(needed[-1][1])})" if needed else ""
        other = f"ask for one of {', '.join(newest)}" if any(newest) else "ask for an older one"
        return (
            f"{said}: its versions are for other versions of Python than this image has{told}; "
            f"{other}, or choose a newer framework version."
        )
    if any(newest):
        return f"{said}: the newest that this Python can have are {', '.join(newest)}."
    if versions == "none" or not re.search("[<>=!~]", name):
        return (
            f"{said}: the package index has no package of this name that this Python can have; "
            "look how it is written."
        )
    return f"{said}: the package index has no such version for this Python; ask for another one."


def _apt(text: str) -> str:
    unknown = _APT_UNKNOWN.findall(text)
    if unknown:
        names = ", ".join(dict.fromkeys(map(clean, unknown)))
        said = f'"Unable to locate package {names}": this image\'s distribution has none so named'
        missed = ", ".join(dict.fromkeys(map(clean, _NOT_REACHED.findall(text))))
        more = f", nor was {missed} asked, which is not among the administrator's build_hosts"
        return f"{said}{more if missed else ''}."
    if virtual := _APT_VIRTUAL.search(text):
        providers = _APT_PROVIDERS.search(text)
        names = ", ".join(
            line.split()[0] for line in (providers[1] if providers else "").splitlines()
        )
        instead = (
            f"; write one of those that do what it stands for: {clean(names)}" if names else ""
        )
        return f"{clean(virtual[1])} is no package that can be installed{instead}."
    if gone := _APT_GONE.search(text):
        return (
            f"the package mirror lacks a file that its own list names, {clean(gone[1])}; try again "
            "in a few minutes."
        )
    if _APT_BROKEN.search(text):
        unmet = _APT_UNMET.search(text)
        told = f" ({clean(unmet[1])}: {clean(unmet[2])})" if unmet else ""
        return f"the system packages do not fit what the image has installed{told}; leave one out."
    if failed := _APT_SET_UP.search(text):
        return f"{clean(failed[1])} could not be set up in this image; leave that package out."
    return ""


def _build(text: str) -> str:
    """A package that had to be built from its source, and was not."""
    found = _NOT_BUILT.findall(text)
    if not found and not _BUILD_FAILED.search(text):
        return ""
    collected = _COLLECTING.findall(text)
    name = next(filter(None, found[-1])) if found else collected[-1] if collected else "a package"
    for words, what, package in _LACKS:
        if re.search(words, text):
            return (
                f"{name} has to be compiled, and this image lacks {what}; add the system package "
                f"{package}, or ask for a version of {name} that has a wheel."
            )
    return (
        f"{name} has to be compiled, and that failed in this image; ask for a version of it that "
        "has a wheel."
    )
