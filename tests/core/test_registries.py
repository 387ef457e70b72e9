"""Registries: whose an image is, log-ins from Docker's own file, and why a pull failed."""

from __future__ import annotations

import base64
import json

import pytest

from ds01_spawner.core.registries import Login, explain_pull, parse_logins, registry_of

AUTH = base64.b64encode(b"hub:geheim:1").decode()
TWICE = json.dumps({"auths": {name: {"auth": AUTH} for name in ("r.example", "R.example")}})


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("aimehub/pytorch:latest", "docker.io"),
        ("python:3.12-slim", "docker.io"),
        ("docker.io/library/python", "docker.io"),
        ("index.docker.io/library/python", "docker.io"),
        ("registry.example.org/aime/pytorch", "registry.example.org"),
        ("Registry.Example.org:5000/pytorch:1", "registry.example.org:5000"),
        ("localhost/pytorch", "localhost"),
        ("127.0.0.1:5000/pytorch@sha256:abc", "127.0.0.1:5000"),
    ],
)
def test_whose_an_image_is(image: str, registry: str) -> None:
    assert registry_of(image) == registry


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry.example.org", "registry.example.org"),
        ("https://registry.example.org:5000", "registry.example.org:5000"),
        ("REGISTRY.example.org/v2/", "registry.example.org"),
    ],
)
def test_a_registry_s_log_in(key: str, registry: str) -> None:
    text = json.dumps({"auths": {key: {"auth": AUTH}}, "HttpHeaders": {}, "credsStore": ""})
    assert parse_logins(text) == {registry: Login(registry, "hub", "geheim:1")}


def test_an_identity_token_is_given_instead() -> None:
    entry = {"auth": AUTH, "identitytoken": "t"}
    text = json.dumps({"auths": {"r.example.org": entry}})
    assert parse_logins(text) == {"r.example.org": Login("r.example.org", token="t")}


@pytest.mark.parametrize("text", ["{}", '{"auths": {}}'])
def test_a_file_without_log_ins(text: str) -> None:
    assert parse_logins(text) == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ('{"auths": {"r.example.org": {"auth": "geheim"', "not JSON"),
        ("[]", "as `docker login` writes it"),
        ('{"auths": []}', "as `docker login` writes it"),
        ('{"auths": {"r.example.org": {}}, "credsStore": "pass"}', r"\(credsStore\)"),
        ('{"credHelpers": {"r.example.org": "ecr"}}', r"\(credHelpers\)"),
        ('{"auths": {"r.example.org/group": {"auth": "geheim"}}}', "is not a registry"),
        ('{"auths": {"r.example.org": "geheim"}}', "entry of r.example.org"),
        ('{"auths": {"r.example.org": {"auth": 1}}}', "entry of r.example.org"),
        ('{"auths": {"r.example.org": {"auth": "geheim"}}}', "user:password in base64"),
        ('{"auths": {"r.example.org": {"auth": "Z2VoZWlt"}}}', "user:password in base64"),
        ('{"auths": {"r.example.org": {"password": "geheim"}}}', "'password'"),
        (
            json.dumps(
                {"auths": {name: {"auth": AUTH} for name in ("r.example.org", "R.example.org")}}
            ),
            "one registry twice",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_told_without_what_is_secret(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        parse_logins(text)
    assert "geheim" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_a_log_in_shows_its_registry_alone() -> None:
    shown = repr(Login("r.example.org", "hub", "geheim", "token"))
    assert shown == "Login(registry='r.example.org')"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (
            "manifest for r.example.org/x:2 not found: manifest unknown: manifest unknown",
            "the registry has no image of this name",
        ),
        ("name unknown: repository name not known to registry", "no image of this name"),
        (
            "pull access denied for x, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied",
            "the registry has no such image, or asks for a log-in",
        ),
        ('Head "http://r/v2/x/manifests/1": no basic auth credentials', "asks for a log-in, and"),
        ("unauthorized: authentication required", "asks for a log-in, and none is set"),
        (
            "filesystem layer verification failed for digest sha256:bbcf",
            "a part of the image is broken in the registry, or was broken on its way",
        ),
        ("unexpected EOF", "broken on its way"),
        (
            "failed to register layer: Error processing tar file(exit status 1): write /x: no "
            "space left on device",
            "this server's disk is full",
        ),
        (
            "toomanyrequests: You have reached your pull rate limit. You may increase the limit by "
            "authenticating and upgrading",
            "the registry allows no more downloads for now; try again later",
        ),
        (
            'Get "https://r/v2/": x509: certificate signed by unknown authority',
            "the engine does not trust the registry's certificate",
        ),
        (
            'Get "https://r/v2/": http: server gave HTTP response to HTTPS client',
            "the registry has no TLS",
        ),
        ('Get "http://r/v2/": dial tcp 127.0.0.1:9: connect: connection refused', "be reached"),
        ('Get "https://r/v2/": dial tcp: lookup r: no such host', "be reached"),
        ('Get "https://r/v2/": net/http: TLS handshake timeout', "be reached"),
        ('Get "https://r/v2/": EOF', "be reached"),
        ("received unexpected HTTP status: 502 Bad Gateway", "be reached"),
        ("no matching manifest for linux/arm64 in the list.\x1b[1m", "no matching manifest for"),
        ("", "the engine does not say why"),
    ],
)
def test_why_a_pull_failed(message: str, why: str) -> None:
    told = explain_pull(message, logged_in=False)
    assert why in told
    assert not told.endswith(".")
    assert told.isprintable()


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("unauthorized: incorrect username or password", "did not take the log-in that is set"),
        ("denied: requested access to the resource is denied", "set for it may not have it"),
        ("manifest unknown", "the registry has no image of this name"),
    ],
)
def test_why_a_pull_with_a_log_in_failed(message: str, why: str) -> None:
    assert why in explain_pull(message, logged_in=True)
