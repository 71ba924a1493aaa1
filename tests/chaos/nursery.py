"""`python -m tests.chaos.nursery <service> <socket> <log>`: forks a service's process when asked.

What a service imports is imported once for all the processes that an instance has in a run: on
two cores that is a third of what a restart costs. What is forked has opened, read and drawn
nothing yet. Whoever connects to the socket gets the pid of a new process.
"""

import gc
import os
import random
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT


def wait(door: Path) -> None:
    """Fork a process for everybody who knocks; return in it."""
    fresh = door.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(fresh))
        server.listen()
        # Whoever sees it may knock.
        fresh.replace(door)
        while True:
            knock, _ = server.accept()
            with knock:
                child = os.fork()
                if not child:
                    return
                knock.sendall(str(child).encode())


def ask(door: Path) -> int:
    """Have a process forked and return its pid; raise `OSError` while nobody answers."""
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(10)
        knock.connect(str(door))
        return int(knock.recv(32))


def main() -> None:
    """Be the nursery, and in each child the service."""
    service, door, log = sys.argv[1:]
    run = import_module(f"paceline_{service}.app").run
    # The children are reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    wait(Path(door))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    output = os.open(log, _APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    random.seed()
    run()


if __name__ == "__main__":
    main()
