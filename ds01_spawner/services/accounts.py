"""The host's accounts, through NSS: local files, LDAP, sssd."""

from __future__ import annotations

import pwd
from dataclasses import dataclass

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
    except KeyError:
        return None
    if found.pw_uid < FIRST_UID or found.pw_gid < FIRST_UID:
        return None
    return Account(found.pw_uid, found.pw_gid)
