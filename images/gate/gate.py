"""The one way out of a build: to the package indexes of the site, and nowhere else.

`door` runs in the network that the build's steps have, in which there is nothing but its own
loopback. It opens a port there and hands it to `gate`, which runs in a network with a way out,
answers as a proxy on that port, and connects to the listed hosts only. The two see each other
through one folder that no step of a build has.

Runs on the Python of whatever image is built upon: 3.6 and newer, standard library only.
"""

import ipaddress
import json
import os
import re
import select
import signal
import socket
import sys
import threading
from urllib.parse import urlsplit

MEETING = "/ds01-gate/socket"
HEAD_BYTES = 64 << 10
CHUNK_BYTES = 256 << 10
CONNECT_S = 30
IDLE_S = 300
AT_ONCE = 64
# Where no package index is, whatever its name resolves to ...
NEVER = "0.0.0.0/8 127.0.0.0/8 169.254.0.0/16 224.0.0.0/3 ::/96 fe80::/10 ff00::/8"
# ... and where only one is that the admin named; with the ways of writing such an IPv4 address.
PRIVATE = (
    "10.0.0.0/8 100.64.0.0/10 172.16.0.0/12 192.0.0.0/24 192.168.0.0/16 198.18.0.0/15 "
    "fc00::/7 fec0::/10 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 2001::/32 2002::/16"
)
HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}")
# What servers read in different ways: where a line ends, and whether it goes on.
UNCLEAR = re.compile(rb"\r\n[ \t]|(?<!\r)\n|\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
DROPPED = ("host", "connection", "keep-alive", "proxy-connection", "proxy-authorization")


class Refused(Exception):
    """What is not let through: HTTP status and the words for the build's log."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status, self.why = status, why


def is_in(address: str, networks: str) -> bool:
    """Whether an address is in one of the networks; an IPv4 one in IPv6 clothes is unwrapped."""
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    return any(found in ipaddress.ip_network(network) for network in networks.split())


def may_be_at(address: str, private: bool) -> bool:
    """Whether a listed host may be at this address."""
    return not is_in(address, NEVER) and (private or not is_in(address, PRIVATE))


def wanted(head: bytes) -> tuple:
    """(method, host, port, path) that a proxy is asked for by the head of a request."""
    try:
        method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
        url = urlsplit("//" + target if method == "CONNECT" else target)
        host = (url.hostname or "").rstrip(".")
        port = url.port or (443 if method == "CONNECT" else 80)
    except ValueError:
        raise Refused(400, "this is no request to a proxy") from None
    if method not in ("CONNECT", "GET", "HEAD") or (method != "CONNECT" and url.scheme != "http"):
        raise Refused(405, "builds may fetch, and nothing else")
    if not HOST.fullmatch(host):
        raise Refused(400, "this is no name of a host")
    path = (url.path or "/") + ("?" + url.query if url.query else "")
    return method, host, port, path


def way(host: str, port: int, doors: dict) -> dict:
    """How a host is reached: `{"via": [host, port] of a proxy or null, "private": bool}`."""
    door = doors.get("%s:%d" % (host, port))  # noqa: UP031
    if door is None:
        raise Refused(403, f"builds may not reach {host}:{port}")
    return door


def connected(host: str, port: int, door: dict) -> socket.socket:
    """A connection to the host, or to the proxy in front of it.

    The address that was checked is the one connected to, whatever the name resolves to next.
    """
    if door["via"]:
        return socket.create_connection(tuple(door["via"]), CONNECT_S)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    allowed = [entry for entry in found if may_be_at(entry[4][0], door["private"])]
    if not allowed:
        raise Refused(403, f"builds may not reach {host}:{port} at a private address")
    error = OSError("no address")
    for family, kind, protocol, _, address in allowed:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(CONNECT_S)
        try:
            connection.connect(address)
            return connection
        except OSError as failed:
            connection.close()
            error = failed
    raise error


def request(head: bytes, host: str, port: int, path: str, door: dict) -> bytes:
    """The head of a plain request as it goes on: one request, to this host."""
    lines = head.decode("latin-1").split("\r\n")
    method = lines[0].split(" ")[0]
    name = f"[{host}]" if ":" in host else host
    authority = name if port == 80 else f"{name}:{port}"
    target = f"http://{authority}{path}" if door["via"] else path
    kept = [line for line in lines[1:] if line.partition(":")[0].strip().lower() not in DROPPED]
    start = [f"{method} {target} HTTP/1.1", f"Host: {authority}", "Connection: close"]
    return "\r\n".join(start + [line for line in kept if line] + ["", ""]).encode("latin-1")


def serve(client: socket.socket, doors: dict) -> None:
    """Answer one client: one tunnel, or one request."""
    try:
        client.settimeout(IDLE_S)
        head = read_head(client)
        method, host, port, path = wanted(head)
        door = way(host, port, doors)
        try:
            server = connected(host, port, door)
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be looked up
            why = getattr(error, "strerror", None) or error
            raise Refused(502, f"{host}:{port} cannot be reached: {why}") from None
        with server:
            server.settimeout(IDLE_S)
            if method != "CONNECT":
                server.sendall(request(head, host, port, path, door))
                pump({server: client})
                hear_out(client)
                return
            if door["via"]:
                tunnel(server, host, port)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            pump({server: client, client: server})
    except Refused as refused:
        print(refused.why, flush=True)
        start = f"HTTP/1.1 {refused.status} {refused.why}"
        answer = "\r\n".join((start, "Content-Length: 0", "Connection: close", "", ""))
        client.sendall(answer.encode("ascii", "replace"))


def read_head(client: socket.socket) -> bytes:
    """The head of the request; what comes with it, before there is an answer, is dropped.

    In whatever way it is read, it is one request.
    """
    head = b""
    while b"\r\n\r\n" not in head:
        more = client.recv(HEAD_BYTES)
        if not more or len(head) > HEAD_BYTES:
            raise Refused(400, "this is no request to a proxy")
        head += more
    head = head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    if UNCLEAR.search(head):
        raise Refused(400, "this is no clear request to a proxy")
    return head


def tunnel(proxy: socket.socket, host: str, port: int) -> None:
    """Have the site's proxy connect to the host: until it has, nobody else speaks to it."""
    name = f"[{host}]" if ":" in host else host
    proxy.sendall(f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n".encode())
    said = b""
    while not said.endswith(b"\r\n\r\n"):  # and not a byte of what follows
        more = proxy.recv(1)
        if not more or len(said) > HEAD_BYTES:
            raise Refused(502, f"the proxy of this site does not answer for {host}:{port}")
        said += more
    if not re.match(rb"HTTP/1\.[01] 200[ \r]", said):
        raise Refused(502, f"the proxy of this site does not let builds reach {host}:{port}")


def hear_out(client: socket.socket) -> None:
    """Wait for the client to end: closed earlier, what it has not read yet would be lost."""
    client.settimeout(CONNECT_S)
    while client.recv(CHUNK_BYTES):
        pass


def pump(ways: dict) -> None:
    """Pass on what comes from each key to its value, until all have ended or fallen silent."""
    while ways:
        ready = select.select(list(ways), [], [], IDLE_S)[0]
        if not ready:
            return
        for source in ready:
            data = source.recv(CHUNK_BYTES)
            if data:
                ways[source].sendall(data)
            else:
                ways.pop(source).shutdown(socket.SHUT_WR)


def gate(doors: dict) -> None:
    """Wait for the port of the other network, and serve whoever comes there."""
    with socket.socket(socket.AF_UNIX) as meeting:
        meeting.bind(MEETING)
        meeting.listen(1)
        other = meeting.accept()[0]
    with other:
        _, ancillary, _, _ = other.recvmsg(1, socket.CMSG_SPACE(4))
        number = int.from_bytes(ancillary[0][2], sys.byteorder)
        port = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=number)
        other.sendall(b"1")
    places = threading.Semaphore(AT_ONCE)

    def one(client: socket.socket) -> None:
        try:
            with client:
                serve(client, doors)
        except OSError:
            pass  # one of the two went away
        finally:
            places.release()

    while True:
        places.acquire()
        client = port.accept()[0]
        threading.Thread(target=one, args=(client,), daemon=True).start()


def door(port: int) -> None:
    """Open the port, hand it over, and keep the network of the build for as long as needed."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
        with socket.socket(socket.AF_UNIX) as meeting:
            while True:
                try:
                    meeting.connect(MEETING)
                    break
                except OSError:
                    select.select([], [], [], 0.01)
            number = listening.fileno().to_bytes(4, sys.byteorder)
            meeting.sendmsg([b"1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)])
            meeting.recv(1)
    print("ready", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    settings = json.loads(sys.argv[2])
    # The hub ends both; a hub that died does not.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.alarm(settings["seconds"])
    if sys.argv[1] == "gate":
        gate(settings["doors"])
    else:
        door(settings["port"])
