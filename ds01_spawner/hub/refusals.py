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


class QuietForm(HTTPError):
    """Shows the form and starts nothing: raised where a GET would start a server."""

    def __init__(self) -> None:
        super().__init__(200)
        self.jupyterhub_message = ""


def to_http_error(error: Exception) -> Exception:
    """An HTTPError with the words for people and, for the log alone, the detail."""
    if isinstance(error, HTTPError):
        return error  # type: ignore[no-any-return]
    if isinstance(error, DS01Error):
        http = _http_error(error.status, error.reason, error.detail or str(error))
        text, html = str(error), _html(error)
    else:
        http = _http_error(500, "internal", f"{type(error).__name__}: {error}")
        text, html = UNEXPECTED, str(escape(UNEXPECTED))
    http.jupyterhub_message = text
    http.jupyterhub_html_message = html
    return http  # type: ignore[no-any-return]


def _http_error(status: int, reason: str, detail: str) -> Any:
    if SpawnException is not None and status < 500:
        # JupyterHub 6 counts and logs it as a refusal, with the reason in its metric.
        return SpawnException(detail, reason=reason, log_message=detail, status_code=status)
    return HTTPError(status, "%s", detail)


def _html(error: DS01Error) -> str:
    html = f"<strong>{escape(error.message)}</strong> {escape(error.next_step)}"
    tail = getattr(error, "log_tail", "")
    if tail:
        html += f"<pre>{escape(tail)}</pre>"
    return html
