"""The host's accounts, through NSS: local files, LDAP, sssd."""

from __future__ import annotations

import asyncio
import pwd
import sys
from dataclasses import dataclass

NOBODY = 65534
FIRST_UID = 1000  # and first gid: below are the system's own


@dataclass(frozen=True, slots=True)
class Account:
    """The uid and gid that a user's processes and files have."""

    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


def account_of(user: str) -> Account | None:
    """The account of that name; None if there is none, or if it is a system account.

    Blocks: NSS may ask a directory over the network.
    """
    try:
        found = pwd.getpwnam(user)
    except (KeyError, ValueError):
        return None
    if found.pw_name != user or NOBODY in (found.pw_uid, found.pw_gid):
        return None  # directories know accounts by more than one name
    if found.pw_uid < FIRST_UID or found.pw_gid < FIRST_UID:
        return None
    return Account(found.pw_uid, found.pw_gid)


_LOOK = """
import os, stat, sys
path, uid, gid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
try:
    seen = os.stat(path)
    if not stat.S_ISDIR(seen.st_mode):
        print("it is not a folder")
    elif os.path.realpath(path) != os.path.normpath(path):
        print("a part of its path is a symbolic link")
    elif seen.st_uid != uid:
        print("it belongs to somebody else")
except OSError as error:
    print(error.strerror)
"""


async def folder_problem(path: str, account: Account) -> str:
    """Why a folder cannot be the account's workspace; empty when it can.

    Looked at as that account, by a process of its own: the engine would follow, as root, a link
    that the user put there, and root may see nothing on a network file system.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _LOOK, path, str(account.uid), str(account.gid),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, cwd="/", env={},
    )  # fmt: skip
    out, _ = await process.communicate()
    if process.returncode != 0:
        return "it could not be looked at"
    return out.decode("utf-8", "replace").strip()
