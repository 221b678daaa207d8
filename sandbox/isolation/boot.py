"""Starts the zygote: `python -I -S boot.py FOLDER SOCKET TIER [LIBRARY=FOLDER ...]`, where FOLDER is the one of the
package, and the libraries are as `preloads.locate` says.

The rooms import each other as `posttrain.sandbox.*`, but the package itself must stay out: it would pull in its
dependencies, and with them whatever they open and read. So both packages are empty shells here; only FOLDER is
behind them.
"""

import sys
import types


def main(folder: str, socket_fd: int, tier: str, preload: list[str]) -> None:
    """Never returns."""
    for name, path in (("posttrain", []), ("posttrain.sandbox", [folder])):
        shell = types.ModuleType(name)
        shell.__path__ = path
        sys.modules[name] = shell
    from posttrain.sandbox.isolation import zygote

    zygote.main(socket_fd, tier, preload)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])
