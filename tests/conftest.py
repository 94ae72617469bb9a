"""One thread for each worker: the tests run in parallel, and small operations only wait for each other's threads."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, and by the commands that tests start
