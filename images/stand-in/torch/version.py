"""The version that this stand-in says it has; the part after `+` tells it from any real build."""

__version__ = "2.8.0+standin"
