"""Run inside a container in the place of a notebook server, where a test is about anything else.

It is up within a moment, answers every request with what it is, and ends at SIGTERM, unless its
user's name begins with "stubborn".
"""

import http.server
import json
import os
import signal
import socket

if os.environ["JUPYTERHUB_USER"].startswith("stubborn"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        facts = {
            "user": os.environ["JUPYTERHUB_USER"],
            "container": socket.gethostname(),
            "devices": os.environ["NVIDIA_VISIBLE_DEVICES"],
        }
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(facts).encode())

    def log_message(self, *args: object) -> None:
        pass


http.server.ThreadingHTTPServer(("", 8888), Page).serve_forever()
