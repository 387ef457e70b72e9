"""The JupyterHub edge: traits, the order of a start's phases, the pages."""
