"""The rules, pure: no docker, NVML, hub, clock, randomness or files."""
