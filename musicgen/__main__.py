"""`python -m musicgen` is the command `musicgen`."""

import os
import sys
from importlib.metadata import entry_points

# Python looks into the working folder first, where a user's own `flows` or `actors` would be taken for ours.
sys.path[:] = [folder for folder in sys.path if folder not in ("", os.getcwd())]
(command,) = entry_points(group="console_scripts", name="musicgen")
command.load()()
