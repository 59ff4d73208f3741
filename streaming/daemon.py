"""pyspark's worker daemon with the stream's code loaded: `spark.python.daemon.module`.

Workers are forked from it, so they begin with everything imported and compiled code in memory. Spark drops a
worker that was idle for a minute; importing and loading cost the next one 3 to 12 s on a busy machine.
Nothing here may open a connection or start a thread of ours, as the fork would break them.
"""

import gc

from pyspark.daemon import manager

from streaming.warm import warm

if __name__ == "__main__":
    warm()
    gc.freeze()  # pyspark collects garbage after every task: 0.1 s over everything imported, measured 2026-10
    gc.disable()  # which is often enough: within one, each thousand messages made would set it off again
    manager()
