"""How fast the bare socket library moves a round's bytes here: what a real round is held against.

One process an agent; each sends its payload to every neighbour and waits for theirs, and nothing
else: no protocol, no digest, no signature, no checks. Not a transport.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import zmq

from candor.network.errors import TransportError
from candor.network.zeromq.options import Context, Socket
from candor.topologies.specs.files import json_text

START_TIMEOUT_S = 60.0
ROUND_TIMEOUT_S = 10.0
_WARM_UP_ROUNDS = 2  # connections open and TCP windows grow


def measure_floor(
    edges: Sequence[tuple[int, int]],
    agents: int,
    payload_bytes: int,
    rounds: int,
    curve: bool,
    chunk_bytes: int,
) -> list[float]:
    """Seconds of each round, the slowest process counting.

    `edges` are undirected pairs of 0..agents-1; every agent needs a neighbour. `curve` encrypts.

    Raises:
        TransportError: a process failed or did not finish in time.
    """
    deadline_s = START_TIMEOUT_S + ROUND_TIMEOUT_S * (rounds + _WARM_UP_ROUNDS)
    keys = [[key.decode() for key in zmq.curve_keypair()] for _ in range(agents)] if curve else None
    with ExitStack() as stack:
        processes = [stack.enter_context(_process()) for _ in range(agents)]
        timer = threading.Timer(deadline_s, _kill, [processes])
        stack.callback(timer.cancel)
        timer.start()
        sizes = {"payload_bytes": payload_bytes, "chunk_bytes": chunk_bytes, "rounds": rounds}
        for agent, process in enumerate(processes):
            neighbours = [b if a == agent else a for a, b in edges if agent in (a, b)]
            _tell(process, {"agent": agent, "neighbours": neighbours, "keys": keys} | sizes)
        endpoints = [_hear(process) for process in processes]
        for process in processes:
            _tell(process, endpoints)
        for process in processes:
            _hear(process)  # warmed up
        for process in processes:
            _tell(process, "go")
        seconds = [_hear(process) for process in processes]
        for process in processes:
            _tell(process, "end")  # nobody leaves while a neighbour still reads
    return [max(of_round) for of_round in zip(*seconds, strict=True)]


def _kill(processes: Sequence["subprocess.Popen[str]"]) -> None:
    for process in processes:
        process.kill()


@contextmanager
def _process() -> Iterator["subprocess.Popen[str]"]:
    # A plain child, not multiprocessing: that would import the caller's main module again, eight
    # times torch.
    with subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _tell(process: "subprocess.Popen[str]", message: object) -> None:
    assert process.stdin is not None
    try:
        print(json_text(message), file=process.stdin, flush=True)
    except BrokenPipeError as exc:
        raise _failure(process) from exc


def _hear(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise _failure(process)
    return json.loads(line)


def _failure(process: "subprocess.Popen[str]") -> TransportError:
    assert process.stderr is not None
    process.kill()
    *_, last = process.stderr.read().strip().splitlines() or ["it ran out of time"]
    return TransportError(f"a process of the floor measurement failed: {last}")


def _run_agent() -> None:
    """One process: told over stdin, answering over stdout, a JSON value a line."""
    told = json.loads(sys.stdin.readline())
    keys: list[list[str]] | None = told["keys"]
    own_keys = keys[told["agent"]] if keys else None
    with zmq.Context() as context:
        router = _socket(context, zmq.ROUTER, own_keys)
        if own_keys:
            router.setsockopt(zmq.CURVE_SERVER, 1)
        router.bind("tcp://127.0.0.1:*")
        print(json_text(router.get_string(zmq.LAST_ENDPOINT).rstrip("\0")), flush=True)
        endpoints = json.loads(sys.stdin.readline())
        dealers = []
        for neighbour in told["neighbours"]:
            dealer = _socket(context, zmq.DEALER, own_keys)
            if keys:
                dealer.setsockopt(zmq.CURVE_SERVERKEY, keys[neighbour][0].encode())
            dealer.connect(endpoints[neighbour])
            dealers.append(dealer)
        exchange = _Exchange(router, dealers, told["payload_bytes"], told["chunk_bytes"])
        for _ in range(_WARM_UP_ROUNDS):
            exchange.round()
        print(json_text("ready"), flush=True)
        sys.stdin.readline()
        print(json_text([exchange.round() for _ in range(told["rounds"])]), flush=True)
        sys.stdin.readline()
        for socket in (router, *dealers):
            socket.close(0)


def _socket(context: Context, kind: int, own_keys: list[str] | None) -> Socket:
    socket = context.socket(kind)
    # No bound: nobody is more than a round ahead, and a full queue would cost waiting.
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.RCVTIMEO, int(ROUND_TIMEOUT_S * 1000))
    if own_keys:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, own_keys[0].encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, own_keys[1].encode())
    return socket


class _Exchange:
    """Rounds of one agent. Neighbours run freely, at most a round ahead of each other."""

    def __init__(
        self, router: Socket, dealers: Sequence[Socket], payload_bytes: int, chunk_bytes: int
    ) -> None:
        self._router, self._dealers = router, dealers
        payload = memoryview(bytes(payload_bytes))
        self._chunks = [
            payload[start : start + chunk_bytes] for start in range(0, payload_bytes, chunk_bytes)
        ]
        self._payload_bytes = payload_bytes
        self._received: dict[bytes, int] = {}
        self._rounds = 0

    def round(self) -> float:
        """Exchange one payload with every neighbour; seconds it took."""
        started_s = time.perf_counter()
        self._rounds += 1
        for chunk in self._chunks:
            for dealer in self._dealers:
                dealer.send(chunk, copy=False)
        while not self._complete():
            source, frame = self._router.recv_multipart(copy=False)
            self._received[source.bytes] = self._received.get(source.bytes, 0) + len(frame)
        return time.perf_counter() - started_s

    def _complete(self) -> bool:
        due = self._rounds * self._payload_bytes
        done = sum(count >= due for count in self._received.values())
        return done == len(self._dealers)


if __name__ == "__main__":
    _run_agent()
