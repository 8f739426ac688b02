"""What all tests share."""

import os
import signal

# Before torch is imported: tests that run beside each other must not spin on the cores for long.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# A shell that runs the tests in the background has them, and every process that they start, ignore Ctrl-C: which is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
