"""The wiring of one hub, as traits: `c.DS01Spawner.*`.

The hub's spawner inherits these traits; the command line reads the same section of the same
configuration. Rules for people are not here but in the policy file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from traitlets import Bool, Dict, Enum, Float, Integer, List, TraitError, Unicode, validate
from traitlets.config import Config, LoggingConfigurable

from ds01_spawner.core.gpu_way import SETTINGS

SECTION = "DS01Spawner"
GIB = 1 << 30


class Settings(LoggingConfigurable):
    """Where things are, and the host's own limits."""

    hub_id = Unicode(
        "jupyterhub",
        config=True,
        help="""
        The name of this hub on its engine, in the label `ds01.hub` of all that it makes.

        Objects of another hub are never touched. Give each hub of one engine its own name::

            c.DS01Spawner.hub_id = "teaching"
        """,
    )
    data_dir = Unicode(
        "/var/lib/ds01_spawner",
        config=True,
        help="""
        The folder of the ledger, the build logs and the event log: on a local disk, mode 0700.
        """,
    )
    policy_file = Unicode(
        "",
        config=True,
        help="""
        The policy file (YAML): limits of users and groups, presets, bundles.

        DS01's own `resource-limits.yaml` is read as it is. Empty: built-in defaults for all.
        """,
    )
    catalog_file = Unicode(
        "",
        config=True,
        help="""
        The image catalog in AIME's format (`ml_images.repo`). Empty: the starter catalog.
        """,
    )
    fallback_images = List(
        Unicode(),
        config=True,
        help="""
        Catalog rows that are used only while the catalog is missing or empty, with a banner::

            c.DS01Spawner.fallback_images = ["Pytorch, 2.8.0, [CUDA_ADA], mirror/pytorch:2.8.0"]
        """,
    )
    image_map = Dict(
        config=True,
        help="""
        Where this site has the catalog's images: pattern -> name, the first match wins.

        One `*` in the pattern is put where the name has one::

            c.DS01Spawner.image_map = {"aimehub/*": "registry.example.org/aime/*"}
        """,
    )
    architectures = List(
        Unicode(),
        config=True,
        help="""
        Which catalog entries a host without devices offers. Empty: all CUDA ones.

        On a host with devices these decide themselves.
        """,
    )
    gpus = Unicode(
        "auto",
        config=True,
        help="""
        Where the devices are read from.

        `auto`: from the drivers of NVIDIA and AMD, none where there is no driver; while one of
        them does not answer, no device of either is given out. `none`: no device is offered.
        `simulated:2xA100-40GB,1xMI210`: made-up devices, for demonstrations and tests; they are
        never used unless asked for here.
        """,
    )
    server_image = Unicode(
        "python:3.12-slim",
        config=True,
        help="""
        The image in which the notebook server is made, once for each version of JupyterHub.

        It needs Python 3.10 or newer, Debian's or Ubuntu's, and is fetched as the catalog's images
        are, by `image_map` too. Every server mounts the result, whatever its own image is.
        """,
    )
    gpu_injection = Enum(
        SETTINGS,
        default_value="auto",
        config=True,
        help="""
        How NVIDIA devices get into containers. AMD's are passed as device files, always.

        `auto`: by what the engine offers, CDI where it is on and knows the devices. `request`: as
        NVIDIA device requests. `cdi`: by their CDI names. `ds01-spawner doctor` tells which and
        why.
        """,
    )
    default_gpus = Integer(
        0, min=0, config=True, help="How many GPUs a start gets that says nothing about them."
    )
    engine_url = Unicode(
        "unix:///var/run/docker.sock", config=True, help="Where the container engine listens."
    )
    network = Unicode(
        "ds01",
        config=True,
        help="The bridge network of the servers; made where missing, with no way between them.",
    )
    network_subnet = Unicode(
        "172.30.77.0/24",
        config=True,
        help="""
        The subnet of that network. Its first address is the host's: the hub's API listens there.
        """,
    )
    workspace = Unicode(
        "",
        config=True,
        help="""
        The folder of the host that is a user's workspace; empty: a volume per user.

        `{username}` is the account's name; the folder must exist and be the user's::

            c.DS01Spawner.workspace = "/home/{username}/workspace"
        """,
    )
    home = Unicode("/workspace", config=True, help="Where the workspace is in the container.")
    system_accounts = Bool(
        False,
        config=True,
        help="""
        Whether uid and gid come from the host's accounts (also LDAP through NSS).

        A user without an account, or with a uid below 1000, is refused. Otherwise each name gets
        a uid of `uid_range`, the same for ever.
        """,
    )
    uid_range = List(
        Integer(), default_value=[200_000, 299_999], minlen=2, maxlen=2, config=True,
        help="First and last uid of users without an account of the host.",
    )  # fmt: skip
    start_concurrency = Integer(
        0, min=0, config=True, help="How many containers start at once; 0: one per core."
    )
    registry_auth_file = Unicode(
        "",
        config=True,
        help="""
        Log-ins of private registries, in a file as `docker login` writes it: mode 0600.

        Images are fetched with them, each with that of its own registry; builds have none. The
        file is read anew for each image::

            {"auths": {"registry.example.org": {"auth": "dXNlcjpwYXNzd29yZA=="}}}
        """,
    )
    pull_timeout = Integer(
        3600, min=1, config=True, help="How long fetching one image may take, in s."
    )
    build_concurrency = Integer(2, min=1, config=True, help="How many images are built at once.")
    build_memory = Integer(8 * GIB, config=True, help="Memory of one build, in bytes.")
    build_cpus = Float(2.0, config=True, help="Cores of one build.")
    build_timeout = Integer(1800, min=1, config=True, help="How long one build may take, in s.")
    builder = Enum(
        ["classic", "buildkit"],
        default_value="classic",
        config=True,
        help="""
        What builds images.

        `classic`: the engine's own builder, whose steps have limits and a network of their own.
        `buildkit`: BuildKit, by the command `docker`, which has neither: `build_memory` and
        `build_cpus` are not applied, and `build_network` has to be `bridge`.
        """,
    )
    build_network = Unicode(
        "isolated",
        config=True,
        help="""
        The network in which packages are installed while an image is built.

        `isolated`: builds reach the package indexes and nothing else, by a proxy that each build
        has of its own. The name of a network of the engine, such as `bridge`: what is installed
        reaches all that containers there reach, the hub's API and this host with it.
        """,
    )
    build_hosts = List(
        Unicode(),
        config=True,
        help="""
        More hosts that isolated builds may reach, at the ports 80 and 443, or one that is given.

        Indexes and mirrors that are set below are among them anyway; without them, PyPI and the
        servers of Debian, Ubuntu, NVIDIA and AMD are. For what an index has elsewhere::

            c.DS01Spawner.build_hosts = ["files.example.org", "mirror.example.org:8443"]
        """,
    )
    package_index = Unicode(
        "", config=True, help="URL of the Python package index or mirror; empty: pip's default."
    )
    extra_package_indexes = List(
        Unicode(), config=True, help="More package indexes, asked besides the first."
    )
    apt_mirror = Unicode(
        "", config=True, help="URL of a mirror that has /debian and /ubuntu; empty: the image's."
    )
    proxies = Dict(
        config=True, help="Proxy variables of builds: {'https_proxy': 'http://proxy:3128'}."
    )
    ca_file = Unicode(
        "",
        config=True,
        help="""
        A PEM file of certificate authorities that builds trust (a mirror or proxy of your own).
        """,
    )
    keep_images_days = Integer(
        60, min=1, config=True,
        help="For how long `images prune` keeps environments that nobody uses, in days.",
    )  # fmt: skip
    images_budget = Integer(
        0, min=0, config=True,
        help="And how many bytes all may have, frameworks not counted; 0: however many.",
    )  # fmt: skip
    keep_build_logs_days = Integer(
        30, min=1, config=True, help="And for how long it keeps logs of builds, in days."
    )
    min_free_disk = Integer(
        10 * GIB, config=True, help="No new server below this much free disk of the engine, bytes."
    )
    tmp_size = Integer(2 * GIB, config=True, help="Size of /tmp of a server, in bytes.")
    log_size = Integer(10 << 20, config=True, help="Size of one log file of a server, in bytes.")
    open_files = Integer(16384, config=True, help="How many files a server may hold open.")
    gpu_lease_ceiling_h = Float(
        72.0,
        config=True,
        help="The longest a server with a GPU runs where no policy says it, in h.",
    )
    gpu_hold_ceiling_h = Float(
        1.0,
        min=0,
        config=True,
        help="The longest a GPU is kept for its user after a stop, whatever the policy says, in h.",
    )
    gpu_faults = Integer(
        20,
        min=0,
        config=True,
        help="""
        After more faults of a user's programs on GPUs than so many, they get no GPU for a while.

        Counted are the driver's reports that a program did it (XID 13, 31, 43, 45, 68, 109), of
        one minute as one, on devices that the user had alone. 0: however many.
        """,
    )
    gpu_faults_h = Float(
        1.0, min=0.1, config=True, help="Within how many hours, and for how many, in h."
    )
    warn_before_minutes = Integer(
        15, config=True, help="How long before its end a server's user is warned, in minutes."
    )
    keep_alive_h = Float(
        2.0, min=0, config=True, help="How long the button keeps a server with an idle GPU, in h."
    )
    keep_alive_ceiling_h = Float(
        24.0, min=0, config=True, help="And how long at most since its GPU was used, in h."
    )
    reconcile_interval = Float(
        30.0,
        min=1,
        max=120,  # longer gaps count as not seen: nothing would ever be idle
        config=True,
        help="Seconds between two reconciliations, and looks at how GPUs are used.",
    )
    demo_notice = Unicode(
        "", config=True, help="A sentence shown on the form: what here is a stand-in."
    )

    @validate("gpus")
    def _valid_gpus(self, proposal: Any) -> str:
        value = str(proposal.value)
        if value in ("auto", "none") or value.startswith("simulated:"):
            return value
        raise TraitError(
            f"c.{SECTION}.gpus is {value!r}; write 'auto', 'none' or 'simulated:2xA100-40GB'."
        )

    @validate("uid_range")
    def _valid_uid_range(self, proposal: Any) -> list[int]:
        first, last = proposal.value
        if not 1000 <= first <= last:
            raise TraitError(f"c.{SECTION}.uid_range must be two uids from 1000 on, in order.")
        return [first, last]

    @property
    def ledger_path(self) -> Path:
        """The ledger's file."""
        return Path(self.data_dir) / "ledger.sqlite"

    @property
    def simulated(self) -> bool:
        """Whether the devices are made up."""
        return self.gpus.startswith("simulated:")


def from_config(config: Config) -> Settings:
    """The settings of a loaded configuration, without a spawner."""
    section = config.get(SECTION, Config())
    own = {
        name: section[name] for name in Settings.class_trait_names(config=True) if name in section
    }
    return Settings(config=Config({"Settings": own}))
