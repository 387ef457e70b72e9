"""What becomes of each trait that DockerSpawner and Spawner promise: the table, and its check.

honoured: it does what its documentation says. ceiling: the policy may give less, never more.
hub: JupyterHub itself acts on it. refused: setting it is an error at hub start, with the sentence
that says what to use instead; it is never accepted and ignored.
"""

from __future__ import annotations

import posixpath
from typing import Final

from traitlets.config import Config

from ds01_spawner.errors import TraitRefused
from ds01_spawner.services.settings import SECTION, Settings

HONOURED: Final = frozenset({
    "args", "cmd", "debug", "default_url", "disable_user_config", "env_keep", "environment",
    "hub_connect_url", "ip", "notebook_dir", "port", "prefix", "read_only_volumes", "volumes",
    "http_timeout",
})  # fmt: skip
CEILING: Final = frozenset({"cpu_limit", "mem_limit"})
HUB: Final = frozenset({
    "auth_state_hook", "consecutive_failure_limit", "group_overrides",
    "oauth_client_allowed_scopes", "oauth_roles", "poll_interval", "poll_jitter",
    "post_stop_hook", "pre_spawn_hook", "progress_ready_hook", "server_token_scopes",
    "start_timeout",
})  # fmt: skip

_FORM = "The form and its validator are this spawner's; choices are limited by the policy file."
_IMAGES = "Images come from the catalog: set c.DS01Spawner.catalog_file and image_map."
_NAMES = "Names are made by a rule that keeps users apart; set c.DS01Spawner.prefix or hub_id."
_ENGINE = "The engine is reached through c.DS01Spawner.engine_url alone."
_NETWORK = "Servers have a network of their own: set c.DS01Spawner.network and network_subnet."
_REMOVE = "A stopped server's container is always removed; the workspace stays."
_HOST = "The create call is made from the policy; limits, mounts and devices have their settings."
_SSL = "Encryption between the hub's own parts (internal_ssl) is not supported by this spawner."
_GUARANTEE = "The engine has limits and no guarantees; set limits in the policy file."

REFUSED: Final = {
    "allowed_images": _IMAGES,
    "apply_user_options": _FORM,
    "certs_volume_name": _SSL,
    "client_kwargs": _ENGINE,
    "container_image": _IMAGES,
    "container_ip": _NETWORK,
    "container_name_template": _NAMES,
    "container_port": "Set c.DS01Spawner.port.",
    "container_prefix": _NAMES,
    "cpu_guarantee": _GUARANTEE,
    "escape": _NAMES,
    "extra_create_kwargs": _HOST,
    "extra_host_config": _HOST,
    "format_volume_name": "Write {username} in the paths of volumes.",
    "host_ip": "Servers publish no port: the hub reaches them in their network.",
    "hub_ip_connect": "Set c.DS01Spawner.hub_connect_url.",
    "image": _IMAGES,
    "image_whitelist": _IMAGES,
    "links": _NETWORK,
    "mem_guarantee": _GUARANTEE,
    "mounts": "Set c.DS01Spawner.volumes or read_only_volumes.",
    "move_certs_image": _SSL,
    "name_template": _NAMES,
    "network_name": _NETWORK,
    "options_form": _FORM,
    "options_from_form": _FORM,
    "post_start_cmd": "Nothing is run in a server from outside; put it into c.DS01Spawner.cmd.",
    "pull_policy": "An image is pulled when it is not on the host; `images` shows what is there.",
    "remove": _REMOVE,
    "remove_containers": _REMOVE,
    "ssl_alt_names": _SSL,
    "ssl_alt_names_include_local": _SSL,
    "tls": _ENGINE,
    "tls_assert_hostname": _ENGINE,
    "tls_ca": _ENGINE,
    "tls_cert": _ENGINE,
    "tls_config": _ENGINE,
    "tls_key": _ENGINE,
    "tls_verify": _ENGINE,
    "use_docker_client_env": _ENGINE,
    "use_internal_hostname": _NETWORK,
    "use_internal_ip": _NETWORK,
}
_SECTIONS = ("Spawner", "DockerSpawner", SECTION)
_RAW_NAME = "{raw_"


def check_inherited(config: Config) -> None:
    """Raise TraitRefused for the first trait that is set and not supported."""
    home = str((config.get(SECTION) or {}).get("home", Settings.home.default_value))
    for section in _SECTIONS:
        for trait, value in (config.get(section) or {}).items():
            _check(f"c.{section}.{trait}", trait, value, home)
            if trait == "group_overrides" and isinstance(value, dict):
                for override in value.values():
                    inner = override.get("spawner_override") if isinstance(override, dict) else {}
                    for name, inner_value in (inner or {}).items():
                        _check(f"{name} in c.{section}.group_overrides", name, inner_value, home)


def _check(told: str, trait: str, value: object, home: str) -> None:
    if trait in REFUSED:
        raise TraitRefused(told, REFUSED[trait])
    if trait not in ("volumes", "read_only_volumes") or not isinstance(value, dict):
        return
    if _RAW_NAME in repr(value):
        raise TraitRefused(
            told,
            "A path with {raw_username} lets a user's name choose the folder; write {username}.",
        )
    for bind in value.values():
        target = posixpath.normpath(str(bind.get("bind") if isinstance(bind, dict) else bind))
        if not target.startswith("/"):
            raise TraitRefused(f"the mount at {target!r} in {told}", "Write an absolute path.")
        if _overlaps(target, home) or _overlaps(target, "/etc"):
            raise TraitRefused(
                f"the mount at {target} in {told}",
                f"A mount must be outside of {home} and /etc: what a user puts in its way there "
                "would decide where the hub writes.",
            )
        modes = str(bind.get("mode", "rw") if isinstance(bind, dict) else "rw").split(",")
        if not set(modes) <= {"ro", "rw"}:
            raise TraitRefused(f"the mode {','.join(modes)} in {told}", "Write 'ro' or 'rw'.")


def _overlaps(one: str, other: str) -> bool:
    """Whether one path is the other, or is in it, or has it inside."""
    return posixpath.commonpath((one, other)) in (one, other)
