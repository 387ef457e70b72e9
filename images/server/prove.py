"""Starts the notebook server once, as it will be started for a user."""

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time

import jupyterhub.singleuser  # noqa: F401

SECONDS = 120
SERVER = "/opt/ds01/server/bin/jupyter-lab"


def prove_server() -> None:
    """The server answers HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [SERVER, "--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    # Its output is of use only when it fails.
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(  # noqa: S603
            command, stdout=log, stderr=log, cwd=os.environ["HOME"]
        )
        try:
            end = time.monotonic() + SECONDS
            while not answers(port):
                if server.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    print(log.read()[-4000:])
                    sys.exit("ds01 error: The notebook server does not start.")
                time.sleep(0.1)
        finally:
            server.kill()
            server.wait()
    print("the notebook server answers")


def answers(port: int) -> bool:
    """Whether the server tells its version; asked directly, whatever proxies are set."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    prove_server()
