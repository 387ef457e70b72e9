"""One conversion of our errors to the hub's: the words, never the detail."""

from __future__ import annotations

import pytest
from jupyterhub.utils import format_exception
from tornado import web

from ds01_spawner.errors import BuildFailed, DS01Error, EngineUnavailable, TooManyServers
from ds01_spawner.hub.refusals import SpawnException, to_http_error

SECRET = "unix:///secret/path refused"


@pytest.mark.parametrize(
    "error",
    [TooManyServers(3, 3), EngineUnavailable(SECRET), BuildFailed("Your packages", "no <b>x</b>")],
)
@pytest.mark.parametrize("only_jupyterhub", [True, False])
def test_every_page_gets_the_words(error: DS01Error, only_jupyterhub: bool) -> None:
    message, html = format_exception(to_http_error(error), only_jupyterhub=only_jupyterhub)
    assert message == str(error)
    assert SECRET not in f"{message}{html}"
    assert "<b>x</b>" not in html


@pytest.mark.parametrize("error", [TooManyServers(3, 3), EngineUnavailable(SECRET)])
def test_so_does_a_rest_call_on_jupyterhub_5(error: DS01Error) -> None:
    http = to_http_error(error)
    assert isinstance(http, web.HTTPError)
    assert http.log_message % http.args == str(error)


def test_the_status_is_the_errors() -> None:
    assert to_http_error(TooManyServers(1, 1)).status_code == 409
    assert to_http_error(EngineUnavailable()).status_code == 503


def test_what_is_not_ours_reaches_no_page() -> None:
    http = to_http_error(RuntimeError(SECRET))
    message, html = format_exception(http)
    assert http.status_code == 500
    assert SECRET not in f"{message}{html}"
    assert "administrator" in message


def test_a_hubs_own_error_stays_as_it_is() -> None:
    error = web.HTTPError(404)
    assert to_http_error(error) is error


def test_a_refusal_is_no_failure_where_the_hub_can_tell() -> None:
    refusal = to_http_error(TooManyServers(1, 1))
    assert isinstance(refusal, SpawnException or web.HTTPError)
    assert getattr(refusal, "reason", None) == ("quota" if SpawnException else None)


def test_a_failure_is_one_on_both_versions() -> None:
    failure = to_http_error(EngineUnavailable())
    assert SpawnException is None or not isinstance(failure, SpawnException)
