"""Start-up code of local Dask workers."""

import signal


def dask_setup(_worker: object) -> None:
    """Leave ctrl-C, which a terminal sends to the whole process group, to the driver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
