"""TCP ports for what the tests start."""

from __future__ import annotations

import random
import socket

PORTS = (12_000, 32_000)  # below those that the kernel gives to outgoing connections

_given: set[int] = set()


def free_port(room: int = 1) -> int:
    """The first of `room` ports in a row that nobody listens on, each time others.

    Who asks for several listens only later, and no outgoing connection is given one meanwhile.
    """
    while True:
        first = random.randrange(*PORTS)
        row = range(first, first + room)
        if _given.isdisjoint(row) and all(map(_free, row)):
            _given.update(row)
            return first


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
