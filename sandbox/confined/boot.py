"""Starts a host of confined rooms: `python -I -S boot.py SOCKET`, with its configuration, a pickle, on standard input.

The parent made the configuration, and it holds plain data only: nothing is imported before `sys.path` is set.
"""

import pickle
import sys


def main(socket_fd: int) -> None:
    """Never returns."""
    configuration = pickle.load(sys.stdin.buffer)
    sys.path[:] = configuration["path"]
    sys.dont_write_bytecode = True
    from posttrain.sandbox.confined import host

    host.main(socket_fd, configuration)


if __name__ == "__main__":
    main(int(sys.argv[1]))
