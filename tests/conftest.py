"""Settings of the whole test process, made before a library that reads them is loaded: one thread, no spinning, no forks."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell that starts the tests in the background has Ctrl-C ignored, for them and every child; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)
