"""Python imports this in the drivers of schedules without a fault of Prefect: the process that records a run ends.

It takes a quarter of a job's processor time, and the driver goes on without it, as it does when the process dies.
"""

import os
import sys

if "flows.record_process" in sys.orig_argv:
    os._exit(0)
