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
_OTHER_HASH = re.compile(r"^ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", re.MULTILINE)
_FETCHED = re.compile(r"Downloading (?:\S*/)?([\w.+-]+\.(?:whl|tar\.gz|zip))\b")
# The words of the gate of builds (images/gate), as pip passes them on, and as anybody does.
_NOT_ALLOWED = re.compile(
    r"(?:Tunnel connection failed: 403|403 Client Error:) builds may not reach ([\w.:-]+)"
)
_NOT_REACHED = re.compile(r"\b403 +builds may not reach ([\w.:-]+)")
_CONFLICT = re.compile(r"Cannot install (.+?) because these package versions have conflict")
_CONSTRAINT = re.compile(r"The user requested \(constraint\) (\S+)")
_UNSATISFIED = re.compile(
    r"Could not find a version that satisfies the requirement (\S+).*\(from versions: (.*)\)"
)
_NO_MATCH = re.compile(r"No matching distribution found for (\S+)")
_OTHER_PYTHON = re.compile(r"different python version|requires a different Python|Requires-Python")
_APT_UNKNOWN = re.compile(r"^E: Unable to locate package (\S+)", re.MULTILINE)
_APT_BROKEN = re.compile(r"^E: Unable to correct problems|have unmet dependencies", re.MULTILINE)
_COMPILE = re.compile(
    r"Failed (?:building wheel for|to build(?: installable wheels for)?) '?([A-Za-z0-9._-]+)|"
    r"error: command '(?:gcc|g\+\+|cc|x86_64-[\w-]+)"
)
_ERROR_LINE = re.compile(r"^(?:E: |ERROR: |error: |Error: )(.+)", re.MULTILINE)
KILLED = 137


def clean(line: str) -> str:
    """A line without escape sequences and control characters, at most 300 characters.

    Of a line that overwrites itself with carriage returns, what it showed in the end.
    """
    shown = _ESCAPES.sub("", line).rstrip("\r\n").rsplit("\r", 1)[-1]
    shown = "".join(c if c.isprintable() else " " for c in shown[: 2 * MAX_LINE]).rstrip()
    return shown if len(shown) <= MAX_LINE else shown[:MAX_LINE] + "…"


def is_disk_full(text: str) -> bool:
    """Whether it says that there is no room left on a disk."""
    return _DISK.search(text) is not None


def explain(lines: Sequence[str], message: str, code: int | None) -> str:
    """Why a build failed, as a sentence: its last lines, the engine's message, the exit code."""
    text = "\n".join(lines)
    if code == KILLED or _MEMORY.search(text):
        return "it needed more memory than a build may use."
    if is_disk_full(text) or is_disk_full(message):
        return "this server's disk is full; the administrator can make room."
    for look in (_own_words, _broken, _network, _conflict, _unsatisfied, _apt, _compiler):
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
    if _OTHER_HASH.search(text):
        return (
            f"{file} is not what it should be: its hash is another. If the hash is in your list, "
            "correct it; otherwise the package index is broken, and the administrator should know."
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


def _conflict(text: str) -> str:
    found = _CONFLICT.findall(text)
    if not found:
        return ""
    held = _CONSTRAINT.findall(text)
    if held:
        return (
            f"{clean(found[-1])} does not go with what the framework image has, "
            f"{', '.join(dict.fromkeys(map(clean, held)))}; ask for no version of it, or for "
            "another framework version."
        )
    return f"{clean(found[-1])} need versions of other packages that exclude each other."


def _unsatisfied(text: str) -> str:
    unsatisfied, missing = _UNSATISFIED.findall(text), _NO_MATCH.findall(text)
    if not unsatisfied and not missing:
        return ""
    name = clean(unsatisfied[-1][0] if unsatisfied else missing[-1])
    versions = clean(unsatisfied[-1][1]) if unsatisfied else "none"
    said = f'"No matching distribution found for {name}"'
    if _OTHER_PYTHON.search(text):
        return f"{said}: its versions are for other versions of Python than this image has."
    if versions == "none":
        return f"{said}: the package index has no package of this name for this Python."
    newest = versions.rstrip("…").split(", ")[-_MAX_VERSIONS:]
    return f"{said}: the newest that this Python can have are {', '.join(newest)}."


def _apt(text: str) -> str:
    unknown = _APT_UNKNOWN.findall(text)
    if unknown:
        names = ", ".join(dict.fromkeys(map(clean, unknown)))
        said = f'"Unable to locate package {names}": this image\'s distribution has none so named'
        missed = ", ".join(dict.fromkeys(map(clean, _NOT_REACHED.findall(text))))
        more = f", nor was {missed} asked, which is not among the administrator's build_hosts"
        return f"{said}{more if missed else ''}."
    if _APT_BROKEN.search(text):
        return "the system packages do not fit what the image has installed."
    return ""


def _compiler(text: str) -> str:
    found = _COMPILE.search(text)
    if not found:
        return ""
    return f"{found[1] or 'a package'} has to be compiled, and that failed in this image."
