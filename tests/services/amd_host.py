"""A host with AMD's driver in small: the files below a root, as the kernel has them."""

from __future__ import annotations

import os
from pathlib import Path

KFD = "sys/class/kfd/kfd"
GIB = 1 << 30
GID = os.getegid() or 44  # a group that this process may give its files, and not root's


class AmdHost:
    """Writes the files; all that a test does not say is as of an MI210."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, content: object) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
        return file

    def boot(self, boot_id: str = "boot-1", processors: int = 1) -> AmdHost:
        """The driver is loaded: its processors are nodes, too."""
        self.write("proc/sys/kernel/random/boot_id", boot_id)
        (self.root / KFD / "proc").mkdir(parents=True, exist_ok=True)
        for number in range(processors):
            self.node(number, cpu_cores_count=64, simd_count=0)
            self.write(f"{KFD}/topology/nodes/{number}/gpu_id", 0)
        self.device_file("kfd")
        return self

    def node(self, number: int, **facts: int) -> None:
        lines = (f"{name} {value}" for name, value in facts.items())
        self.write(f"{KFD}/topology/nodes/{number}/properties", "\n".join(lines))

    def gpu(
        self, number: int, *, gpu_id: int = 0, minor: int = 0, target: int = 90010,
        unique_id: int = 0xABC, bus: int = 0xC1, location: int | None = None, memory: int = 64,
    ) -> Path:  # fmt: skip
        """A card with its render node; the folder of its files in DRM."""
        minor = minor or 127 + number
        self.node(
            number, cpu_cores_count=0, simd_count=416, gfx_target_version=target, vendor_id=4098,
            location_id=bus << 8 if location is None else location, domain=0,
            drm_render_minor=minor, unique_id=unique_id,
        )  # fmt: skip
        self.write(f"{KFD}/topology/nodes/{number}/gpu_id", gpu_id or 1000 + number)
        folder = self.write(
            f"sys/class/drm/renderD{minor}/device/mem_info_vram_total", memory * GIB
        ).parent
        self.write(f"sys/class/drm/renderD{minor}/device/mem_info_vram_used", 3 * GIB)
        self.write(f"sys/class/drm/renderD{minor}/device/gpu_busy_percent", 25)
        self.device_file(f"dri/renderD{minor}")
        return folder

    def part(self, number: int, card: int, part: int, *, minor: int, unique_id: int) -> None:
        """A further part of a card: its render node has nothing but itself in DRM."""
        location = card << 8 | part << 28
        folder = self.gpu(number, minor=minor, location=location, unique_id=unique_id)
        for file in folder.iterdir():
            file.unlink()

    def device_file(self, name: str, mode: int = 0o660) -> Path:
        file = self.write(f"dev/{name}", "")
        os.chown(file, -1, GID)
        file.chmod(mode)
        return file

    def process(self, pid: int, queues: tuple[int, ...] = (), **memory: int) -> None:
        """A process that has KFD open: `vram_1001=bytes` for each GPU, and its queues' GPUs."""
        for name, size in memory.items():
            self.write(f"{KFD}/proc/{pid}/{name}", size)
        (self.root / KFD / f"proc/{pid}/queues").mkdir(parents=True, exist_ok=True)
        for number, gpu_id in enumerate(queues):
            self.write(f"{KFD}/proc/{pid}/queues/{number}/gpuid", gpu_id)
