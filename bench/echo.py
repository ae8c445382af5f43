"""The floor of a call: a server without a daemon in it, which sends back what it is sent.

One process that waits for its connections, reads and writes, in Python as the client is: what the two sockets and the
two wake-ups of a call cost on this machine.
"""

from __future__ import annotations

import contextlib
import select
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator

from bench.load import CONNECTIONS, MANNERS, Flow, burst_of, rate
from labs.wire import HEADER, OK, REPLY

#: A question and an answer as large as those of a lookup.
_BODY = bytes(44)
_MESSAGE = HEADER.pack(HEADER.size + len(_BODY), 0, 1, 0, REPLY, 0, OK) + _BODY


def rates(label: str, *, slices: int, seconds: float) -> dict[str, float]:
    """Answers per second, by the names that a daemon's figures have for the query `label`."""
    figures = {}
    for connections in CONNECTIONS:
        with _answering(connections) as sockets:
            for window, manner in MANNERS.items():
                burst = burst_of(window)
                flows = [Flow(each, burst * _MESSAGE, burst) for each in sockets]
                measured = [rate(flows, seconds=seconds, window=window) for _ in range(slices)]
                figures[f"{label}, {connections} conn., {manner}"] = statistics.median(measured)
    return figures


@contextlib.contextmanager
def _answering(connections: int) -> Iterator[list[socket.socket]]:
    """Connections to a process of its own that answers on all of them until the block ends."""
    pairs = [socket.socketpair() for _ in range(connections)]
    with contextlib.ExitStack() as ours:
        with contextlib.ExitStack() as theirs:
            for near, far in pairs:
                ours.enter_context(near)
                theirs.enter_context(far)
            descriptors = [far.fileno() for _, far in pairs]
            command = [sys.executable, "-m", "bench.echo", *map(str, descriptors)]
            process = subprocess.Popen(command, pass_fds=descriptors, stdin=subprocess.DEVNULL)
        try:
            yield [near for near, _ in pairs]
        finally:
            ours.close()
            process.wait(10)


def serve(descriptors: list[int]) -> None:
    """Answer whole questions with as many answers until one of the connections ends."""
    sockets = {number: socket.socket(fileno=number) for number in descriptors}
    with select.epoll() as poll:
        for number in sockets:
            poll.register(number, select.EPOLLIN)
        while True:
            for number, _ in poll.poll():
                asked = sockets[number].recv(1 << 16)
                if not asked:
                    return
                sockets[number].sendall(asked)


if __name__ == "__main__":
    serve([int(word) for word in sys.argv[1:]])
