"""The one conversion of our errors to what JupyterHub 5 and 6 show on each of their pages.

JupyterHub reads `jupyterhub_message` of an HTTPError and nothing else; its own SpawnException
(from 6.0 on) does not set it, and an exception of any other kind reaches the page raw.
"""

from __future__ import annotations

from typing import Any

from markupsafe import escape
from tornado.web import HTTPError

from ds01_spawner.errors import DS01Error

try:
    from jupyterhub.spawner import SpawnException
except ImportError:  # JupyterHub 5
    SpawnException = None

UNEXPECTED = (
    "Something went wrong on the server's side, and nothing was left running. Try again; if it "
    "happens again, tell the administrator."
)


MAX_TAIL = 15  # lines of a build's log that a page shows
PRE_CLASSES = "bg-body text-body border rounded p-2 mt-3 mb-0 small overflow-auto"
PRE_STYLE = "max-height: 18rem; white-space: pre-wrap; overflow-wrap: anywhere"


class QuietForm(HTTPError):
    """Shows the form and starts nothing: raised where a GET would start a server."""

    def __init__(self) -> None:
        super().__init__(200)
        self.jupyterhub_message = ""


def to_http_error(error: Exception) -> Exception:
    """An HTTPError with the words for people; the detail is for who logs the error itself."""
    if isinstance(error, HTTPError):
        return error  # type: ignore[no-any-return]
    if isinstance(error, DS01Error):
        text, html = str(error), _html(error)
        http = _http_error(error.status, error.reason, text)
    else:
        text, html = UNEXPECTED, str(escape(UNEXPECTED))
        http = _http_error(500, "internal", text)
    http.jupyterhub_message = text
    http.jupyterhub_html_message = html
    return http  # type: ignore[no-any-return]


def _http_error(status: int, reason: str, text: str) -> Any:
    # The words are the log's message, too: JupyterHub 5 answers REST calls with that.
    if SpawnException is not None and status < 500:
        # JupyterHub 6 counts and logs it as a refusal, with the reason in its metric.
        return SpawnException(text, reason=reason, status_code=status)
    return HTTPError(status, "%s", text)


def _html(error: DS01Error) -> str:
    html = f'{escape(error.message)}<span class="d-block mt-2">{escape(error.next_step)}</span>'
    tail = getattr(error, "log_tail", "").splitlines()[-MAX_TAIL:]
    if tail:
        # Classes and style are of Bootstrap and here: the hub's own pages show this, too.
        html += f'<pre class="{PRE_CLASSES}" style="{PRE_STYLE}">{escape(chr(10).join(tail))}</pre>'
    return html
