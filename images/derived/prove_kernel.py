"""Starts the kernel once, by its description, and imports the framework in it.

    prove_kernel.py MODULE

Runs on the environment's Python, which has a client of kernels beside the kernel.
"""

import sys

from jupyter_client.manager import start_new_kernel

SECONDS = 120


def prove_kernel(module: str) -> None:
    """The kernel starts through its kernelspec and imports the framework."""
    manager, client = start_new_kernel(startup_timeout=SECONDS, kernel_name="python3")
    try:
        code = f"import sys{', ' + module if module else ''}\nprint('kernel', sys.version)"
        reply = client.execute_interactive(code, timeout=10 * SECONDS)["content"]
        if reply["status"] != "ok":
            # A traceback may have ended without a new line.
            sys.exit(f"\nds01 error: The kernel cannot import {module}: {reply.get('evalue', '')}")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    prove_kernel(sys.argv[1])
