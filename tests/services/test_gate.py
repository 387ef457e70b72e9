"""images/gate/gate.py, on real sockets: what it lets through, and what not."""

from __future__ import annotations

import ast
import importlib.util
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.ports import free_port

SCRIPT = Path(__file__).parents[2] / "images/gate/gate.py"
OPEN: dict[str, Any] = {"via": None, "private": True}
Ask = Callable[..., bytes]


@pytest.fixture(scope="module")
def gate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_runs_on_the_python_of_old_images() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("151.101.0.223", True, True),
        ("2a04:4e42::223", True, True),
        ("::ffff:151.101.0.223", True, True),
        ("10.1.2.3", False, True),
        ("172.17.0.1", False, True),
        ("172.32.0.1", True, True),
        ("192.168.0.1", False, True),
        ("100.64.0.1", False, True),
        ("::ffff:10.1.2.3", False, True),
        ("fd00::1", False, True),
        ("64:ff9b::a00:1", False, True),
        ("2002:a00:1::", False, True),
        ("127.0.0.1", False, False),
        ("127.8.8.8", False, False),
        ("0.0.0.0", False, False),
        ("169.254.169.254", False, False),
        ("224.0.0.1", False, False),
        ("255.255.255.255", False, False),
        ("::1", False, False),
        ("::", False, False),
        ("::ffff:127.0.0.1", False, False),
        ("::127.0.0.1", False, False),
        ("::ffff:0:127.0.0.1", False, True),
        ("198.18.0.1", False, True),
        ("192.0.0.1", False, True),
        ("fec0::1", False, True),
        ("::ffff:169.254.169.254", False, False),
        ("fe80::1%eth0", False, False),
        ("ff02::1", False, False),
    ],
)
def test_where_a_listed_host_may_be(
    gate: ModuleType, address: str, public: bool, private: bool
) -> None:
    assert gate.may_be_at(address, False) is public
    assert gate.may_be_at(address, True) is private


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("CONNECT pypi.org:443 HTTP/1.1", ("CONNECT", "pypi.org", 443, "/")),
        ("CONNECT PyPI.org. HTTP/1.1", ("CONNECT", "pypi.org", 443, "/")),
        ("CONNECT [2a04::1]:8443 HTTP/1.1", ("CONNECT", "2a04::1", 8443, "/")),
        ("GET http://a.example/x/?y=1 HTTP/1.1", ("GET", "a.example", 80, "/x/?y=1")),
        ("GET http://a.example:8080 HTTP/1.1", ("GET", "a.example", 8080, "/")),
        ("HEAD http://me@a.example/ HTTP/1.1", ("HEAD", "a.example", 80, "/")),
    ],
)
def test_what_is_asked_for(gate: ModuleType, line: str, asked: tuple[Any, ...]) -> None:
    assert gate.wanted(f"{line}\r\n\r\n".encode()) == asked


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET / HTTP/1.1", 405),
        ("GET https://a.example/ HTTP/1.1", 405),
        ("GET file:///etc/passwd HTTP/1.1", 405),
        ("POST http://a.example/ HTTP/1.1", 405),
        ("CONNECT a.example:x HTTP/1.1", 400),
        ("CONNECT a.example:99999 HTTP/1.1", 400),
        ("CONNECT a_\x00:1 HTTP/1.1", 400),
        ("CONNECT :443 HTTP/1.1", 400),
        ("CONNECT ä.example:443 HTTP/1.1", 400),
        ("CONNECT 0x7f.1;:443 HTTP/1.1", 400),
        ("HELO", 400),
        ("", 400),
    ],
)
def test_what_nobody_may_ask_for(gate: ModuleType, line: str, status: int) -> None:
    with pytest.raises(gate.Refused) as refused:
        gate.wanted(f"{line}\r\n\r\n".encode())
    assert refused.value.status == status


def test_an_unlisted_host_or_port_is_refused(gate: ModuleType) -> None:
    listed = {"pypi.org:443": OPEN}
    assert gate.way("pypi.org", 443, listed) == OPEN
    for host, port in (("pypi.org", 80), ("x.pypi.org", 443), ("pypi.org.example", 443)):
        with pytest.raises(gate.Refused, match="builds may not reach"):
            gate.way(host, port, listed)


def test_the_name_is_resolved_once_and_that_address_used(
    gate: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [["10.0.0.1"], ["127.0.0.1", "169.254.169.254"]]

    def getaddrinfo(host: str, port: int, **more: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in answers.pop(0)]

    monkeypatch.setattr(gate.socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(gate.Refused, match="at a private address"):
        gate.connected("pypi.org", 443, {"via": None, "private": False})
    with pytest.raises(gate.Refused, match="at a private address"):
        gate.connected("mirror.example.org", 443, OPEN)
    assert answers == []


def test_a_plain_request_goes_on_as_one_to_this_host(gate: ModuleType) -> None:
    head = (
        b"GET http://a.example:8080/x HTTP/1.1\r\nHost: other.example\r\nAccept: */*\r\n"
        b"Proxy-Connection: keep-alive\r\nproxy-authorization: Basic eA==\r\n\r\n"
    )
    assert gate.request(head, "a.example", 8080, "/x", OPEN) == (
        b"GET /x HTTP/1.1\r\nHost: a.example:8080\r\nConnection: close\r\nAccept: */*\r\n\r\n"
    )
    behind = {"via": ["proxy", 3128], "private": False}
    told = gate.request(head, "a.example", 8080, "/x", behind)
    assert told.startswith(b"GET http://a.example:8080/x HTTP/1.1\r\n")


class Server:
    """Answers each connection with what it was sent first, and ends it."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.heard: list[bytes] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client = self.socket.accept()[0]
            except OSError:
                return
            with client:
                self.heard.append(client.recv(65536))
                client.sendall(b"heard " + self.heard[-1])


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.socket.close()


@pytest.fixture
def ask(gate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Says something to the gate, as one client; its whole answer."""
    # The test's servers are where no index may be.
    monkeypatch.setattr(gate, "NEVER", "169.254.0.0/16")

    def ask(doors: dict[str, Any], *parts: bytes) -> bytes:
        ours, theirs = socket.socketpair()
        ours.settimeout(30)
        serving = threading.Thread(target=lambda: _serve(gate, theirs, doors), daemon=True)
        serving.start()
        answer = b""
        with closing(ours):
            for part in parts:
                ours.sendall(part)
                answer += ours.recv(65536)
            ours.shutdown(socket.SHUT_WR)
            while more := ours.recv(65536):
                answer += more
        serving.join(30)
        assert not serving.is_alive()
        return answer

    return ask


def _serve(gate: ModuleType, client: socket.socket, doors: dict[str, Any]) -> None:
    with client:
        gate.serve(client, doors)


def test_a_tunnel(ask: Ask, server: Server) -> None:
    doors = {f"localhost:{server.port}": OPEN}
    answer = ask(doors, f"CONNECT localhost:{server.port} HTTP/1.1\r\n\r\n".encode(), b"hello")
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\nheard hello"


def test_a_plain_request_is_one(ask: Ask, server: Server) -> None:
    at = f"127.0.0.1:{server.port}"
    first = f"GET http://{at}/a HTTP/1.1\r\nHost: {at}\r\n\r\n".encode()
    answer = ask({at: OPEN}, first + first.replace(b"/a", b"/b"))
    assert answer.startswith(b"heard GET /a HTTP/1.1")
    assert b"/b" not in answer


@pytest.mark.parametrize("method", ["CONNECT ", "GET http://"])
def test_what_is_not_listed_meets_nobody(ask: Ask, server: Server, method: str) -> None:
    at = f"127.0.0.1:{server.port}"
    answer = ask({"localhost:443": OPEN}, f"{method}{at} HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 403 builds may not reach {at}\r\n".encode())
    assert server.heard == []


class Proxy:
    """Answers each head that it is sent, on one connection; others' words are in `heard`."""

    def __init__(self, answer: bytes) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.door = {"via": ["127.0.0.1", self.socket.getsockname()[1]], "private": False}
        self.heard = b""
        self.answer = answer
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        client = self.socket.accept()[0]
        with client:
            while more := client.recv(65536):
                self.heard += more
                client.sendall(self.answer)


CONNECT = b"CONNECT pypi.org:443 HTTP/1.1\r\n\r\n"
ASKED = b"CONNECT pypi.org:443 HTTP/1.1\r\nHost: pypi.org:443\r\n\r\n"


def test_a_proxy_of_the_site_is_asked(ask: Ask) -> None:
    proxy = Proxy(b"HTTP/1.1 200 OK\r\nVia: squid\r\n\r\n")
    with closing(proxy.socket):
        answer = ask({"pypi.org:443": proxy.door}, CONNECT, b"hello")
    assert proxy.heard == ASKED + b"hello"
    assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 403 Forbidden\r\nConnection: keep-alive\r\n\r\n", b"hello\r\n\r\n"]
)
def test_a_proxy_that_does_not_connect_hears_nothing_more(ask: Ask, said: bytes) -> None:
    proxy = Proxy(said)
    with closing(proxy.socket):
        more = b"GET http://hub.example/hub/api HTTP/1.1\r\n\r\n"
        answer = ask({"pypi.org:443": proxy.door}, CONNECT + more)
    assert proxy.heard == ASKED
    assert answer.startswith(b"HTTP/1.1 502 the proxy of this site does not let builds reach ")


@pytest.mark.parametrize(
    "lines",
    [
        b" x\r\nA: b\n\nGET http://hub.example/ HTTP/1.1\nHost: hub\n\n\r\n",
        b"A: b\r\n\tc\r\n",
        b"A: b\nC: d\r\n",
        b"A: b\rC: d\r\n",
        b"A: \x00\r\n",
    ],
    ids=["second_request", "folded", "line_feed", "carriage_return", "control"],
)
def test_what_could_be_read_as_two_requests_is_refused(
    ask: Ask, server: Server, lines: bytes
) -> None:
    at = f"127.0.0.1:{server.port}"
    head = f"GET http://{at}/ HTTP/1.1\r\n".encode()
    assert ask({at: OPEN}, head + lines + b"\r\n").startswith(b"HTTP/1.1 400 ")
    assert server.heard == []


def test_an_answer_reaches_who_asks_for_more_already(gate: ModuleType, ask: Ask) -> None:
    """As apt does: closed with requests unread, the connection would lose what is on its way."""
    body = b"x" * (8 << 20)
    listening = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        with listening.accept()[0] as client:
            client.recv(65536)
            client.sendall(body)

    threading.Thread(target=send, daemon=True).start()
    at = f"127.0.0.1:{listening.getsockname()[1]}"
    one = f"GET http://{at}/ HTTP/1.1\r\n\r\n".encode()
    with closing(listening):
        assert len(ask({at: OPEN}, one, one)) == len(body)


def test_a_name_that_cannot_be_looked_up_is_told(ask: Ask) -> None:
    at = f"{'a' * 64}.example:443"
    assert ask({at: OPEN}, f"CONNECT {at} HTTP/1.1\r\n\r\n".encode()).startswith(
        f"HTTP/1.1 502 {at} cannot be reached".encode()
    )


def test_a_host_that_does_not_answer_is_told(ask: Ask) -> None:
    at = f"127.0.0.1:{free_port()}"
    answer = ask({at: OPEN}, f"CONNECT {at} HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 502 {at} cannot be reached".encode())


def test_a_head_without_end_is_not_kept(ask: Ask, gate: ModuleType) -> None:
    endless = b"GET http://a.example/ HTTP/1.1\r\nX: " + b"x" * (2 * gate.HEAD_BYTES)
    assert ask({}, endless).startswith(b"HTTP/1.1 400 ")
