"""A package that looks for what it may not have while it is installed, and its index."""

from __future__ import annotations

import datetime as dt
import http.server
import io
import ipaddress
import json
import socket
import ssl
import tarfile
import threading
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "ds01-curious"
# Runs as anything does that is in an image: at a package's build, at each start of a Python.
PROBE = """
import json, os, re, socket, sys, urllib.request

def reaches(host, port):
    try:
        with socket.create_connection((host, port), 3) as connection:
            connection.settimeout(3)
            connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            return bool(connection.recv(1))
    except OSError:
        return False

def through_proxy(host, port):
    proxy = re.fullmatch("http://(.*):(.*)", os.environ.get("https_proxy", ""))
    if not proxy:
        return ""
    answers = []
    for head in ("CONNECT %s:%d HTTP/1.1", "GET http://%s:%d/ HTTP/1.1"):
        with socket.create_connection((proxy[1], int(proxy[2])), 30) as connection:
            connection.sendall((head % (host, port) + "\\r\\n\\r\\n").encode())
            answers.append(connection.recv(12).decode())
    return " ".join(answers)

def asks_name_servers():
    answered = []
    question = b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\4pypi\\3org\\0\\0\\1\\0\\1"
    servers = re.findall(r"^nameserver (\\S+)", open("/etc/resolv.conf").read(), re.M)
    for server in servers + ["127.0.0.11", "8.8.8.8"]:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(2)
                asking.connect((server, 53))
                asking.send(question)
                answered += [server] if asking.recv(512) else []
        except OSError:
            pass
    try:
        answered += [socket.gethostbyname("pypi.org")]
    except OSError:
        pass
    return answered

def left_by_others():
    walked = os.walk("/")
    names = (os.path.join(at, name) for at, _, files in walked for name in files)
    return [name for name in names if "ds01-marker" in name and not name.startswith("/proc")]

def leave(version):
    for folder in (os.environ.get("HOME", ""), "/tmp", "/var/tmp", "/dev/shm", sys.prefix):
        try:
            open(os.path.join(folder, "ds01-marker-" + version), "w").close()
        except OSError:
            pass

def probe(targets):
    return {
        "reached": [at for at in targets if reaches(*at)],
        "proxy": {"%s:%d" % tuple(at): through_proxy(*at) for at in targets},
        "names": asks_name_servers(),
        "environment": dict(os.environ),
        "sockets": [n for n in ("/var/run/docker.sock", "/run/docker.sock", "/ds01-gate")
                    if os.path.exists(n)],
        "interfaces": [name for _, name in socket.if_nameindex()],
        "uid": os.getuid(),
    }
"""
BACKEND = """
import base64, hashlib, json, os, zipfile
from probing import left_by_others, leave, probe

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    found = probe(TARGETS)
    found["left by others"] = left_by_others()
    leave(VERSION)
    files = {
        "ds01_curious/__init__.py": open("probing.py").read(),
        "ds01_curious/at_build.json": json.dumps(found),
        "ds01_curious.pth": "import ds01_curious.at_start\\n",
        "ds01_curious/at_start.py": AT_START,
        "ds01_curious-%s.dist-info/METADATA" % VERSION: METADATA,
        "ds01_curious-%s.dist-info/WHEEL" % VERSION:
            "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    name = "ds01_curious-%s-py3-none-any.whl" % VERSION
    record = "ds01_curious-%s.dist-info/RECORD" % VERSION
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(record, "".join(path + ",,\\n" for path in (*files, record)))
    return name
"""
# Only in a build: there its folder is writable.
AT_START = """
import json, os
from ds01_curious import probe
file = os.path.join(os.path.dirname(__file__), "at_start.json")
if os.access(os.path.dirname(__file__), os.W_OK) and not os.path.exists(file):
    open(file, "w").write("{}")  # what is started meanwhile looks no more
    found = probe(TARGETS)
    open(file, "w").write(json.dumps(found))
"""


def sdist(version: str, targets: list[tuple[str, int]], requires: str) -> bytes:
    """The package's source: its own build backend, so that nothing else is needed to build it."""
    metadata = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n"
    known = f"TARGETS = {[list(at) for at in targets]!r}\n"
    backend = {
        "VERSION": version,
        "METADATA": f"{metadata}Requires-Dist: {requires}\n",
        "AT_START": known + AT_START,
    }
    constants = known + "".join(f"{name} = {value!r}\n" for name, value in backend.items())
    files = {
        "PKG-INFO": metadata,
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\n'
        'backend-path = ["."]\n',
        "probing.py": PROBE,
        "backend.py": constants + BACKEND,
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(f"ds01_curious-{version}/{path}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def wheel(name: str, size: int) -> bytes:
    """A wheel, version 1, of about so many bytes."""
    info = f"{name}-1.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
    tags = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        f"{name}.py": b"# " + b"x" * size,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": tags.encode(),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        record = f"{info}/RECORD"
        archive.writestr(record, "".join(f"{path},,\n" for path in (*files, record)))
    return out.getvalue()


class Index:
    """A package index at an address of this host, with a certificate of its own authority."""

    def __init__(self, address: str, folder: Path) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.hashes: dict[str, str] = {}  # of files, as the index promises them
        # path -> what sends the body, and may send less; without one, all of it is sent
        self.senders: dict[str, Callable[[bytes, Callable[[bytes], object]], None]] = {}
        self.failing: set[str] = set()  # paths that are answered with status 500
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # one connection for all of a pip's questions

            def do_GET(self) -> None:
                index.asked.append(self.path)
                body = index.page(self.path)
                status = 500 if self.path in index.failing else 404 if body is None else 200
                self.send_response(status)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                send = index.senders.get(self.path)
                with suppress(OSError):  # who asked may be gone
                    if send is None:
                        self.wfile.write(body or b"")
                    else:
                        send(body or b"", self.wfile.write)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.port = int(self._server.server_address[1])
        self.url = f"https://{address}:{self.port}/simple"
        self.authority = _certificate(address, folder / "index.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "index.pem")
        # The handshake is the handler's, in its thread: a client that is silent holds up nobody.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def page(self, path: str) -> bytes | None:
        if path.startswith("/simple/"):
            project = path.split("/")[2].replace("-", "_")
            names = [name for name in self.files if name.startswith(f"{project}-")]
            links = [f'<a href="/{n}#{self.hashes.get(n, "")}">{n}</a>' for n in names]
            return "".join(links).encode() if links else None
        return self.files.get(path.lstrip("/"))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _certificate(address: str, file: Path) -> bytes:
    """Write a key and a certificate that signs itself; the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the index of a test")])
    now = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False
        )
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(secret + pem)
    return pem


class Listener:
    """Answers on one port of all addresses of this host, as a hub or a database does."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._socket = socket.create_server(("0.0.0.0", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            client, (address, _) = self._socket.accept()
            self.heard.append(address)
            with client:
                client.sendall(b"welcome")


def findings(output: str) -> Mapping[str, Any]:
    """The last line that is JSON."""
    found: Mapping[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found
