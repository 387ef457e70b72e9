"""The process that owns NVML: a call into a broken driver can hang for ever, in the kernel.

It says what NVML says; what that means is decided by `nvml`, in the hub.
"""
