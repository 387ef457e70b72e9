"""A working JupyterHub with DS01Spawner. Copy it, edit the first part, delete the last.

`./run` starts this file as a demonstration and sets the DS01_* variables that the last part
reads. Every trait and its help: `jupyterhub --help-all`, or the README.
"""

import os
from pathlib import Path

import ds01_spawner

c = get_config()  # noqa: F821 - JupyterHub puts it here

# --- For a real server: edit this part --------------------------------------------------------

# Who may log in. PAM takes the accounts of this host; LDAP, OAuth and others are packages.
# c.JupyterHub.authenticator_class = "pam"
# c.Authenticator.allow_all = True
# c.Authenticator.admin_users = {"alice"}

# Where people reach the hub: its proxy, which a web server with TLS may stand in front of.
# c.JupyterHub.bind_url = "http://127.0.0.1:8000"
# Each user's server on a host name of its own keeps one user's pages from another's cookies:
# c.JupyterHub.subdomain_host = "https://hub.example.org"

# The hub's own files: they must outlive a restart, or running servers are forgotten.
# c.JupyterHub.db_url = "sqlite:////var/lib/jupyterhub/jupyterhub.sqlite"
# c.JupyterHub.cookie_secret_file = "/var/lib/jupyterhub/cookie_secret"
# c.DS01Spawner.data_dir = "/var/lib/ds01_spawner"

# What people may have (limits, presets, bundles), and the catalog of framework images.
# c.DS01Spawner.policy_file = "/etc/ds01/policy.yaml"
# c.DS01Spawner.catalog_file = "/etc/ds01/ml_images.repo"
# c.DS01Spawner.image_map = {"aimehub/*": "registry.example.org/aime/*"}
# c.DS01Spawner.server_image = "python:3.12-slim"  # in which the notebook server is made

# The devices: "auto" asks the NVIDIA driver, "none" offers none.
# c.DS01Spawner.gpus = "auto"

# The users' files: a folder of the host, or (empty) a volume per user. With host accounts the
# servers run as the account's uid and gid.
# c.DS01Spawner.system_accounts = True
# c.DS01Spawner.workspace = "/home/{username}/workspace"
# c.DS01Spawner.read_only_volumes = {"/srv/datasets": "/data"}

# The servers' own network. Its first address is the host's, and the hub's API listens there.
# c.DS01Spawner.network = "ds01"
# c.DS01Spawner.network_subnet = "172.30.77.0/24"
# c.DS01Spawner.engine_url = "unix:///var/run/docker.sock"

# Package mirror, proxy and certificates of your own, used when images are built.
# c.DS01Spawner.package_index = "https://pypi.example.org/simple"
# c.DS01Spawner.proxies = {"https_proxy": "http://proxy.example.org:3128"}
# c.DS01Spawner.build_hosts = ["files.example.org"]  # what builds may reach besides
# c.DS01Spawner.ca_file = "/etc/ssl/certs/example-ca.pem"

# --- The demonstration of ./run: delete from here on, but for the last line -------------------

if os.environ.get("DS01_DEMO"):
    import hmac
    import json

    from jupyterhub.auth import Authenticator

    data = Path(os.environ["DS01_DATA"])
    accounts = json.loads((data / "demo-users.json").read_text())

    class DemoAuthenticator(Authenticator):
        """Log-ins with random passwords that `./run` prints."""

        async def authenticate(self, handler, data):
            expected = accounts.get(data["username"], "")
            given = data["password"] or ""
            if expected and hmac.compare_digest(expected.encode(), given.encode()):
                return data["username"]
            return None

    c.JupyterHub.authenticator_class = DemoAuthenticator
    c.Authenticator.allow_all = True
    c.Authenticator.admin_users = {"admin"}
    c.JupyterHub.load_groups = {
        "student": {"users": ["student1", "student2"]},
        "instructor": {"users": ["instructor"]},
    }
    port = int(os.environ.get("DS01_PORT", "8000"))
    c.JupyterHub.bind_url = f"http://127.0.0.1:{port}"
    c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{port + 1}"
    c.JupyterHub.db_url = f"sqlite:///{data}/jupyterhub.sqlite"
    c.JupyterHub.cookie_secret_file = str(data / "cookie_secret")
    c.ConfigurableHTTPProxy.pid_file = str(data / "proxy.pid")
    c.JupyterHub.allow_named_servers = True
    gpus = os.environ.get("DS01_GPUS", "simulated:2xA100-40GB")
    # One ledger never has both real and simulated devices.
    c.DS01Spawner.data_dir = str(data / ("simulated" if gpus.startswith("simulated") else "real"))
    c.DS01Spawner.hub_id = os.environ.get("DS01_HUB_ID", "demo")
    c.DS01Spawner.prefix = c.DS01Spawner.network = c.DS01Spawner.hub_id
    c.DS01Spawner.network_subnet = os.environ.get("DS01_SUBNET", f"172.30.{port % 200 + 20}.0/24")
    c.DS01Spawner.policy_file = os.environ.get("DS01_POLICY", "")
    c.DS01Spawner.catalog_file = os.environ.get("DS01_CATALOG", "")
    c.DS01Spawner.gpus = gpus
    c.DS01Spawner.engine_url = os.environ.get("DS01_ENGINE", "unix:///var/run/docker.sock")
    c.DS01Spawner.ca_file = os.environ.get("DS01_CA", "")
    c.DS01Spawner.min_free_disk = 2 << 30
    c.ConfigurableHTTPProxy.command = os.environ.get(
        "DS01_PROXY_COMMAND", "configurable-http-proxy"
    ).split()
    standins = []
    if os.environ.get("DS01_STANDIN"):
        c.DS01Spawner.image_map = {"*": os.environ["DS01_STANDIN"]}
        standins.append("the framework images are a small stand-in with a made-up 'torch'")
    if gpus.startswith("simulated"):
        standins.append("the GPUs are simulated, and nothing computes on them")
    if standins:
        c.DS01Spawner.demo_notice = f"This is a demonstration: {', and '.join(standins)}."

ds01_spawner.configure(c)
