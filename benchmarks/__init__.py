"""Measures of this project beside stock DockerSpawner and the raw engine."""
