"""Waits for what the driver tells by itself: XIDs, other MIG instances, a recovery action."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pynvml as nvml

from ds01_spawner.services.inventory.probe.cards import optional

WAIT_MS = 1000
# By number: older bindings do not name all of them.
XID, MIG_CHANGE, RECOVERY_ACTION = 0x8, 0x100, 0x8000


class Watch:
    """A thread that tells each event of the cards as `{"event": {…}}`.

    `deaf` says why it ended, where it did; a card whose driver has no events is only swept.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self.deaf = ""

    def begin(self, handles: Mapping[str, Any]) -> None:
        """Register for the events of the cards, by UUID; earlier events are lost."""
        events = optional(nvml.nvmlEventSetCreate)
        if events is None:
            return
        cards: dict[int | None, str] = {}
        for uuid, handle in handles.items():
            try:
                wanted = optional(nvml.nvmlDeviceGetSupportedEventTypes, handle) or 0
                wanted &= XID | MIG_CHANGE | RECOVERY_ACTION
                if wanted:
                    nvml.nvmlDeviceRegisterEvents(handle, wanted, events)
                    # An event names its card by the handle: a card that is lost has no other name.
                    cards[ctypes.cast(handle, ctypes.c_void_p).value] = uuid
            except nvml.NVMLError:
                continue
        if cards:
            threading.Thread(target=self._listen, args=(events, cards), daemon=True).start()

    def _listen(self, events: Any, cards: Mapping[int | None, str]) -> None:
        pause = threading.Event()
        while True:
            try:
                event = nvml.nvmlEventSetWait_v2(events, WAIT_MS)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_TIMEOUT:
                    continue
                if error.value == nvml.NVML_ERROR_GPU_IS_LOST:  # told by the next sweep
                    pause.wait(WAIT_MS / 1000)
                    continue
                self.deaf = str(error)
                return
            kind = {XID: "xid", MIG_CHANGE: "mig"}.get(event.eventType, "recovery")
            card = cards.get(ctypes.cast(event.device, ctypes.c_void_p).value)
            told = {"card": card, "kind": kind, "xid": event.eventData if kind == "xid" else 0}
            ids = {"gi": event.gpuInstanceId, "ci": event.computeInstanceId}
            self._tell({"event": {**told, **ids}})
