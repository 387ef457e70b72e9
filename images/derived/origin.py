"""Prints the file that `import MODULE` would read first; nothing without a module."""

import importlib.util
import sys

if sys.argv[1]:
    spec = importlib.util.find_spec(sys.argv[1])
    print(spec.origin if spec else "")
