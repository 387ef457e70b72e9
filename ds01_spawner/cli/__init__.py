"""The command line, `ds01-spawner`: one module for each command."""
