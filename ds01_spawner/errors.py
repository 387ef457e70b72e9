"""Every error that a person can meet: what happened, why, and what to do next.

Each class makes its sentences from typed facts, so that all wording is in this file. `message`
and `next_step` are plain text (pages escape them), `detail` is for the log alone. `reason` is the
small vocabulary that JupyterHub's spawn metric carries. A status below 500 is a refusal, not a
failure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal

from ds01_spawner.core.units import format_size

Reason = Literal["options", "policy", "quota", "capacity", "image", "engine", "internal"]


class DS01Error(Exception):
    """An error with its words. Subclasses set `code`, `status` and `reason`."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    reason: ClassVar[Reason] = "internal"

    def __init__(self, message: str, next_step: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}"


MAX_PROBLEMS = 6  # told of one set of options

# --- options ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field of the options, and what is allowed there."""

    field: str
    problem: str
    allowed: tuple[str, ...] = ()

    def __str__(self) -> str:
        allowed = f" Allowed: {', '.join(self.allowed)}." if self.allowed else ""
        return f"{self.field}: {self.problem}{allowed}"


class OptionsRefused(DS01Error):
    """The options are malformed, unknown, or beyond the user's limits."""

    code = "options_refused"
    status = 400
    reason = "options"

    def __init__(self, problems: Iterable[FieldProblem]) -> None:
        self.problems = tuple(problems)
        told = [str(problem) for problem in self.problems[:MAX_PROBLEMS]]
        more = len(self.problems) - len(told)
        super().__init__(
            f"These choices cannot be used: {' '.join(told)}"
            + (f" And {more} more are wrong." if more else ""),
            "Change them and start again.",
        )


# --- quota and capacity ----------------------------------------------------------------------


class TooManyServers(DS01Error):
    """The user already has as many servers as the policy allows."""

    code = "too_many_servers"
    status = 409
    reason = "quota"

    def __init__(self, running: int, allowed: int) -> None:
        super().__init__(
            f"You have {running} of {allowed} servers that you may have at once.",
            "Stop one of them, then start again.",
        )


class Draining(DS01Error):
    """The administrator lets no new server start."""

    code = "draining"
    status = 409
    reason = "capacity"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"No new servers start here at the moment{f': {why}' if why else ''}.".replace(
                "..", "."
            ),
            "Servers that run go on; try again later.",
        )


class NothingToKeep(DS01Error):
    """There is no idle server whose end could be put off."""

    code = "nothing_to_keep"
    status = 409
    reason = "policy"

    def __init__(self, server: str) -> None:
        super().__init__(
            f"The server {server!r} cannot be kept longer." if server
            else "Your server cannot be kept longer.",
            "Use its GPU to go on, or save your work and start it again when you need it.",
        )  # fmt: skip


class GpuPaused(DS01Error):
    """The user's programs faulted on GPUs so often that they get none for a while."""

    code = "gpu_paused"
    status = 409
    reason = "policy"

    def __init__(self, faults: int, hours: float, until: datetime) -> None:
        super().__init__(
            f"Programs in your servers made {faults} faults on a GPU within {hours:g} h, as the "
            "driver reports them for an illegal access to memory, so you get no GPU until "
            f"{until:%Y-%m-%d %H:%M} UTC.",
            "Servers that run go on, and one without a GPU starts. Find the fault first, on a "
            "small input; the administrator can let you go on earlier (ds01-spawner resume).",
        )


class GpuQuotaExceeded(DS01Error):
    """The GPUs wanted and those held are more than the user's share."""

    code = "gpu_quota"
    status = 409
    reason = "quota"

    def __init__(self, held: float, wanted: float, allowed: float) -> None:
        super().__init__(
            f"Your servers hold {held:g} of the {allowed:g} GPUs that you may have at once, "
            f"and this one asks for {wanted:g} more.",
            "Stop a server that has a GPU, or start this one with fewer or without.",
        )


class NothingFree(DS01Error):
    """What would do is there, and taken now: one can wait for it."""

    status = 409
    reason = "capacity"

    def beside(self, waiting: int) -> NothingFree:
        """The same where so many servers wait in the line."""
        if waiting:
            self.message += f" {_people(waiting)} in the line for GPUs."
        return self


class NoDeviceFree(NothingFree):
    """Every device that would do is taken."""

    code = "no_device_free"

    def __init__(self, wanted: int, free: int, total: int) -> None:
        super().__init__(
            f"You asked for {wanted} GPU{'s' if wanted != 1 else ''}, and {free} of the {total} "
            f"that would do {'is' if free == 1 else 'are'} free.",
            "Wait in line on the page where you choose, ask for fewer, or start without a GPU.",
        )


class OthersWait(DS01Error):
    """What is free is for those who wait in the line."""

    code = "others_wait"
    status = 409
    reason = "capacity"

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"{_people(waiting)} in the line for GPUs, so none is given to who comes now.",
            "Wait in line on the page where you choose, or start without a GPU.",
        )


class TooManyTickets(DS01Error):
    """The user waits in the line with as many servers as one may."""

    code = "too_many_tickets"
    status = 409
    reason = "quota"

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"You wait in line with {waiting} of your servers, and more you may not.",
            "Leave the line with one of them first.",
        )


class NoTicket(DS01Error):
    """The server has no place in the line."""

    code = "no_ticket"
    status = 404
    reason = "options"

    def __init__(self, server: str) -> None:
        super().__init__(
            f"{f'The server {server}' if server else 'The default server'} does not wait in the "
            "line for GPUs.",
            "It has started, was too late, or never took a place: take one, or start it.",
        )


def _people(waiting: int) -> str:
    return f"{waiting} server{'s wait' if waiting != 1 else ' waits'}"


class NoSeatFree(NothingFree):
    """No seat on a shared device is free, and no other device can be shared now."""

    code = "no_seat_free"

    def __init__(self, seats: int) -> None:
        super().__init__(
            f"No seat on a shared GPU is free, with {seats} on each, and no other GPU can be "
            "shared now.",
            "Wait in line on the page where you choose, choose another kind of GPU, or start "
            "without one.",
        )


class NoSuchDevice(DS01Error):
    """This host has no device of the kind wanted, free or not."""

    code = "no_such_device"
    status = 400
    reason = "options"

    def __init__(self, wanted: str, available: Iterable[str]) -> None:
        have = ", ".join(available) or "none"
        super().__init__(
            f"This server has no GPU of the kind {wanted}. It has: {have}.",
            "Choose one of these, or start without a GPU.",
        )


class DevicesUnknown(DS01Error):
    """The inventory does not know the devices now, so none is given out."""

    code = "devices_unknown"
    status = 503
    reason = "capacity"

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            "The state of this server's GPUs is not known at the moment, so none is given out. "
            "Servers that run are not touched.",
            "Start without a GPU, or try again in a few minutes.",
            detail=detail,
        )


class LedgerBusy(DS01Error):
    """The ledger cannot be read or written, so nothing is granted."""

    code = "ledger_busy"
    status = 503
    reason = "internal"

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            "The record of who holds which GPU cannot be used at the moment, so nothing was "
            "given out.",
            "Try again in a minute; if it stays so, tell the administrator.",
            detail=detail,
        )


class LeaseLost(DS01Error):
    """The lease of a start ended while the start was still under way."""

    code = "lease_lost"
    status = 503
    reason = "internal"

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            "This start was overtaken by another one or ended from outside, and was given up.",
            "Start again.",
            detail=detail,
        )


class SharedNotOffered(DS01Error):
    """A seat on a shared device was asked for where no device is shared."""

    code = "shared_not_offered"
    status = 400
    reason = "options"

    def __init__(self) -> None:
        super().__init__(
            "No GPU of this server is shared between several servers.",
            "Choose another kind of GPU, or start without one.",
        )


class TooManyGpus(DS01Error):
    """One server asks for more devices than the policy allows it."""

    code = "too_many_gpus"
    status = 400
    reason = "quota"

    def __init__(self, wanted: int, allowed: int) -> None:
        super().__init__(
            f"You asked for {wanted} GPUs, and one server of yours may have {allowed}.",
            "Ask for fewer, or start without a GPU.",
        )


class FullGpuNotAllowed(DS01Error):
    """A whole GPU was asked for, or is all there is, and the policy allows the user slices only."""

    code = "full_gpu_not_allowed"
    status = 403
    reason = "policy"

    def __init__(self, profiles: Iterable[str]) -> None:
        have = ", ".join(profiles)
        slices = f"This server has slices of {have}." if have else "This server has no slices."
        super().__init__(
            f"You may have slices of a GPU but no whole one. {slices}",
            "Choose a slice, or start without a GPU." if have else "Start without a GPU.",
        )


class NotEnoughDevices(DS01Error):
    """This host has fewer devices of the kind wanted than asked for, free or not."""

    code = "not_enough_devices"
    status = 400
    reason = "options"

    def __init__(self, wanted: int, total: int) -> None:
        super().__init__(
            f"You asked for {wanted} GPUs, and this server has {total} that would do.",
            "Ask for fewer, choose another kind, or start without a GPU.",
        )


class SurvivingLease(DS01Error):
    """An earlier server of that name still has its lease, so its container may still be there."""

    code = "surviving_lease"
    status = 409
    reason = "capacity"

    def __init__(self, server: str, state: str) -> None:
        which = f"Your server '{server}'" if server else "Your server"
        doing = "is still being started" if state == "reserved" else "is still being stopped"
        super().__init__(f"{which} {doing}.", "Wait a moment, then start it again.")


class LedgerUnusable(DS01Error):
    """The ledger's file cannot be used as it is, and waiting does not help."""

    code = "ledger_unusable"
    status = 503
    reason = "internal"

    def __init__(self, path: object, why: str, next_step: str, *, detail: str = "") -> None:
        super().__init__(
            f"The record of who holds which GPU, {path}, cannot be used: {why}.",
            next_step,
            detail=detail,
        )


class DecisionsUnread(DS01Error):
    """What was decided, as it is kept beside the ledger, cannot be read."""

    code = "decisions_unread"
    status = 503
    reason = "internal"

    def __init__(self, path: object, why: str) -> None:
        super().__init__(
            f"What was decided of GPUs and running servers cannot be read from {path}: {why}.",
            "The hub keeps the file aside and writes it anew. If the ledger was lost, no server "
            "starts: set aside the GPUs again that nobody shall have (`ds01-spawner cordon`), "
            "then run `ds01-spawner resume`.",
        )


class DeviceHeld(DS01Error):
    """A lease cannot be put back: another live lease has its device, server or number."""

    code = "device_held"
    status = 409
    reason = "internal"

    def __init__(self, lease: str, holder: str) -> None:
        super().__init__(
            f"The lease {lease} cannot be put back: what it had belongs to lease {holder} now.",
            "The container without a lease is removed at the next reconcile.",
        )


class UidsExhausted(DS01Error):
    """Every uid of the range belongs to some name."""

    code = "uids_exhausted"
    status = 503
    reason = "internal"

    def __init__(self, first: int, last: int) -> None:
        super().__init__(
            f"All user numbers from {first} to {last} are given out, so you cannot get one.",
            "Tell the administrator, who can set a larger uid_range.",
        )


class UidsUnusable(DS01Error):
    """The record of user numbers cannot be used, so nobody gets one."""

    code = "uids_unusable"
    status = 503
    reason = "internal"

    def __init__(self, path: object, why: str, next_step: str) -> None:
        super().__init__(f"The record of users' numbers, {path}, cannot be used: {why}.", next_step)


class SimulationRefused(DS01Error):
    """The description of simulated devices cannot be read."""

    code = "simulation_refused"
    status = 400
    reason = "options"

    def __init__(self, part: str, why: str) -> None:
        super().__init__(
            f"{part!r} does not describe simulated GPUs: {why}.",
            "Write for example 2xA100-40GB or 1xH100-80GB:mig=7x1g.10gb, with commas between.",
        )


# --- engine and images -----------------------------------------------------------------------


class EngineUnavailable(DS01Error):
    """The container engine does not answer."""

    code = "engine_unavailable"
    status = 503
    reason = "engine"

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            "The container engine of this server does not answer.",
            "Running servers are not touched. Try again in a few minutes; if it stays so, tell "
            "the administrator.",
            detail=detail,
        )


class NetworkUnusable(DS01Error):
    """The containers' network exists but is not as configured, or cannot be made."""

    code = "network_unusable"
    status = 503
    reason = "engine"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"The network {name} that servers run on cannot be used: {why}.",
            "The administrator has to remove that network, or choose another name or subnet in "
            "the hub's configuration.",
        )


class ImageMissing(DS01Error):
    """The catalog's image is not on this host and cannot be pulled."""

    code = "image_missing"
    status = 503
    reason = "image"

    def __init__(self, image: str, why: str, detail: str = "") -> None:
        super().__init__(
            f"The image {image} is not on this server and could not be fetched: {why}.",
            "Choose another environment, or tell the administrator.",
            detail=detail,
        )


class ServerVolumeUnusable(DS01Error):
    """The volume with the notebook server is not whole, and something holds it."""

    code = "server_volume_unusable"
    status = 503
    reason = "image"

    def __init__(self, volume: str) -> None:
        super().__init__(
            f"The volume {volume}, which has the notebook server, is not complete, and a container "
            "uses it, so that it cannot be made anew.",
            "Tell the administrator: when the containers that use it are gone, the next start "
            "makes it.",
        )


class BuildFailed(DS01Error):
    """A derived image could not be built. `log_tail` is escaped by whoever shows it."""

    code = "build_failed"
    status = 422
    reason = "image"

    def __init__(
        self, step: str, why: str, *, log_id: str = "", log_tail: str = "", detail: str = ""
    ) -> None:
        whole = f" The administrator finds the whole log as {log_id}." if log_id else ""
        super().__init__(
            f"Your environment could not be built; the step '{step}' failed: {why}",
            "Start again when that is mended, or with other packages. Environments that you have "
            f"are untouched.{whole}",
            detail=detail,
        )
        self.log_tail = log_tail


class NoSuchEnvironment(DS01Error):
    """An environment was named that the user does not have."""

    code = "no_such_environment"
    status = 404
    reason = "options"

    def __init__(self) -> None:
        super().__init__(
            "You have no such environment, or no longer: nothing was changed.",
            "Choose one that is listed, or put it together anew.",
        )


class EnvironmentInUse(DS01Error):
    """An environment is to be changed that something uses. `why` is a clause."""

    code = "environment_in_use"
    status = 409
    reason = "image"

    def __init__(self, project: str, why: str) -> None:
        super().__init__(
            f"The environment {project} was not changed: it is in use, for {why}.",
            "Try again when that has ended.",
        )


class EnvironmentNameRefused(DS01Error):
    """An environment cannot have this name. `why` is a sentence."""

    code = "environment_name_refused"
    status = 400
    reason = "options"

    def __init__(self, why: str) -> None:
        super().__init__(f"The environment was not renamed: {why}", "Choose another name.")


class BuildNetworkUnusable(DS01Error):
    """The network that keeps a build from everything but packages cannot be made."""

    code = "build_network_unusable"
    status = 503
    reason = "engine"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "Your environment was not built: the network that lets builds reach packages and "
            "nothing else could not be made.",
            "Tell the administrator, who finds the reason in the hub's log. Environments that "
            "are built can be used.",
            detail=detail,
        )


class BaseImageRefused(DS01Error):
    """A catalog image has something that would act on its own in every build from it."""

    code = "base_image_refused"
    status = 403
    reason = "image"

    def __init__(self, image: str, why: str) -> None:
        super().__init__(
            f"The image {image} cannot be used: {why}.",
            "Choose another environment, and tell the administrator.",
        )


class NoDiskSpace(DS01Error):
    """The engine's disk is below the floor for new servers."""

    code = "no_disk_space"
    status = 503
    reason = "capacity"

    def __init__(self, free: int, floor: int) -> None:
        super().__init__(
            f"This server's disk is nearly full: {format_size(free)} are free, and no new server "
            f"starts below {format_size(floor)}.",
            "Your files are safe. Tell the administrator, or try again later.",
        )


class DiskFull(DS01Error):
    """The engine could not write, for there is no room left."""

    code = "disk_full"
    status = 503
    reason = "capacity"

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            "Your environment was not built: this server's disk is full.",
            "Your files are safe. Tell the administrator, who can make room, or try again later.",
            detail=detail,
        )


class NameTaken(DS01Error):
    """A container that is not this hub's has the name."""

    code = "name_taken"
    status = 503
    reason = "engine"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"A container named {name} exists already, and it is not this hub's.",
            "Tell the administrator: it has to be renamed or removed by hand.",
        )


class DeviceRefused(DS01Error):
    """The engine could not give the container its GPU."""

    code = "device_refused"
    status = 503
    reason: ClassVar[Reason] = "engine"
    why: ClassVar[str] = ""
    next: ClassVar[str] = (
        "Try again, or start without a GPU; if it stays so, tell the administrator."
    )

    def __init__(self, detail: str) -> None:
        super().__init__(
            "The GPU that was reserved for you could not be attached to your server"
            + (f": {self.why}." if self.why else "."),
            self.next,
            detail=detail,
        )


class DeviceGone(DeviceRefused):
    """The device is not there any more under its name."""

    code = "device_gone"
    why = "it is not there any more (it was taken out, has fallen off, or was divided anew)"


class DeviceLost(DeviceRefused):
    """The device was well when it was reserved, and is not when the container starts."""

    code = "device_lost"
    why = "it went away or out of order while your server was being made"


class DeviceNotDescribed(DeviceRefused):
    """The engine's CDI specification does not have the device."""

    code = "device_not_described"
    why = "the container engine's own list of GPUs (CDI) does not have it"
    next = (
        "Start without a GPU, and tell the administrator, who can renew that list with "
        "`nvidia-ctk cdi generate`."
    )


class NoDeviceDriver(DeviceRefused):
    """The engine has no driver that gives GPUs to containers."""

    code = "no_device_driver"
    why = "the container engine of this server has no driver for GPUs"
    next = (
        "Start without a GPU, and tell the administrator, who finds what is missing with "
        "`ds01-spawner doctor`."
    )


class DriverBroken(DeviceRefused):
    """The NVIDIA driver is not loaded, or its kernel and library parts differ."""

    code = "driver_broken"
    why = "the NVIDIA driver of this server does not work, as it happens after an upgrade"
    next = (
        "Start without a GPU, and tell the administrator: the server or its driver has to be "
        "restarted."
    )


class DeviceTimeout(DeviceRefused):
    """The NVIDIA driver did not answer in time."""

    code = "device_timeout"
    why = "the NVIDIA driver of this server did not answer in time"
    next = (
        "Try again in a minute; if it stays so, tell the administrator (nvidia-persistenced "
        "keeps the driver ready)."
    )


class CudaTooNew(DeviceRefused):
    """The image asks for a newer CUDA than the host's driver has."""

    code = "cuda_too_new"
    reason = "image"
    why = "the image needs a newer CUDA than this server's NVIDIA driver has"
    next = "Choose an older version of the framework, or start without a GPU."


class EngineRefusal(DS01Error):
    """The engine answered, and refused a step."""

    code = "engine_refusal"
    status = 503
    reason = "engine"

    def __init__(self, step: str, detail: str) -> None:
        super().__init__(
            f"The container engine refused to {step}.",
            "Try again; if it stays so, tell the administrator, who finds the reason in the log.",
            detail=detail,
        )


class LimitNotApplied(DS01Error):
    """The engine made the container without one of its limits."""

    code = "limit_not_applied"
    status = 503
    reason = "engine"

    def __init__(self, warnings: Iterable[str]) -> None:
        super().__init__(
            "This server's engine cannot apply one of the limits of your server, so it was not "
            "started.",
            "Tell the administrator, who finds in the log what the kernel lacks.",
            detail=" ".join(warnings),
        )


class StillThere(DS01Error):
    """A container did not go away in time; its lease stays until it does."""

    code = "still_there"
    status = 503
    reason = "engine"

    def __init__(self, container: str) -> None:
        super().__init__(
            "Your earlier server is still being removed.",
            "Try again in a minute.",
            detail=f"container {container}",
        )


# --- servers ---------------------------------------------------------------------------------


class ServerDied(DS01Error):
    """The container ended before its server answered."""

    code = "server_died"
    status = 500
    reason = "image"

    def __init__(self, exit_code: int | None, out_of_memory: bool, log_tail: str) -> None:
        why = "it ran out of memory" if out_of_memory else f"it ended with status {exit_code}"
        super().__init__(
            f"Your server started and ended before it could be used: {why}.",
            "Start it with more memory or other packages; if it stays so, tell the administrator.",
            detail=log_tail,
        )


class ServerSilent(DS01Error):
    """The container runs, but its server does not answer in time."""

    code = "server_silent"
    status = 500
    reason = "image"

    def __init__(self, seconds: float, log_tail: str) -> None:
        super().__init__(
            f"Your server runs, but did not answer within {seconds:.0f} seconds, and was stopped.",
            "Start again; if it stays so, tell the administrator.",
            detail=log_tail,
        )


class WorkspaceUnusable(DS01Error):
    """The volume or folder that would be the user's workspace is not the user's."""

    code = "workspace_unusable"
    status = 403
    reason = "policy"

    def __init__(self, workspace: str, why: str) -> None:
        super().__init__(
            f"Your workspace cannot be used as it is: {why}.",
            "Your files are untouched. Ask the administrator to look at it.",
            detail=workspace,
        )


class NoAccount(DS01Error):
    """The user has no account of the host that a server may run as."""

    code = "no_account"
    status = 403
    reason = "policy"

    def __init__(self, user: str) -> None:
        super().__init__(
            f"{user} has no account on this server that a notebook server may run as.",
            "Ask the administrator for one (its uid and gid must be 1000 or above).",
        )


class RenameRefused(DS01Error):
    """A running server cannot be renamed."""

    code = "rename_refused"
    status = 409
    reason = "options"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The server '{name}' is running, and its name is part of its container.",
            "Stop it, rename it, then start it again.",
        )


# --- configuration ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to say about one place of a file: what it is, and what to write instead."""

    where: str  # "policy.yaml:12: groups.student.memory"
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}{' ' + self.hint if self.hint else ''}"


class FileUnusable(DS01Error):
    """A file that an administrator named cannot be read, or has nothing in it."""

    code = "file_unusable"
    status = 500
    reason = "policy"

    def __init__(
        self, path: object, why: str, next_step: str = "Correct its name or content."
    ) -> None:
        super().__init__(f"The file {path} cannot be used: {why}.", next_step)


class PolicyRefused(DS01Error):
    """The policy file has mistakes, each with its place and what to write instead."""

    code = "policy_refused"
    status = 500
    reason = "policy"

    def __init__(self, problems: Iterable[Finding]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "The policy cannot be used:\n" + "\n".join(f"  {p}" for p in self.problems) + "\n",
            "Correct the file; `ds01-spawner policy check FILE` tells whether it is good.",
        )


class NoSuchEntry(DS01Error):
    """The catalog has no such row."""

    code = "no_such_entry"
    status = 404
    reason = "options"

    def __init__(self, wanted: str, available: Iterable[str]) -> None:
        super().__init__(
            f"The catalog has no {wanted}.", f"It has: {', '.join(available) or 'nothing'}."
        )


class TraitRefused(DS01Error):
    """The hub's configuration sets a trait that this spawner would not honour."""

    code = "trait_refused"
    status = 500
    reason = "internal"

    def __init__(self, trait: str, instead: str) -> None:
        super().__init__(
            f"{trait} is set in the hub's configuration, and DS01Spawner does not honour it.",
            f"Remove it. {instead}",
        )


class SettingUnusable(DS01Error):
    """A setting of the hub's configuration cannot be used as it is."""

    code = "setting_unusable"
    status = 500
    reason = "internal"

    def __init__(self, setting: str, why: str) -> None:
        super().__init__(f"{setting} cannot be used: {why}", "Correct it and start the hub again.")
