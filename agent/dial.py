"""Plain TCP connects to many endpoints at once: is anybody listening there?

No key is used, so this tells reachability only; the daemon's handshake does the rest.
"""

import queue
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from topologies.fields import split_endpoint


@dataclass(frozen=True, slots=True)
class Answer:
    """What one endpoint answered: `reason` is the system's word for a failure, None if reached."""

    reason: str | None
    seconds: float


def dial_all(endpoints: Iterable[str], timeout_s: float) -> dict[str, Answer]:
    """Connect to all endpoints in parallel; done within `timeout_s` whatever they do.

    One daemon thread an endpoint rather than asyncio or a pool: a name lookup cannot be cancelled,
    and both of those wait at their end for one that hangs.
    """
    started_s = time.monotonic()
    wanted = list(endpoints)
    answers: queue.Queue[tuple[str, Answer]] = queue.Queue()
    for endpoint in wanted:
        threading.Thread(target=_dial, args=(endpoint, timeout_s, answers), daemon=True).start()
    late = Answer(f"no answer within {timeout_s:g} s", timeout_s)
    found = dict.fromkeys(wanted, late)
    for _ in wanted:
        left_s = started_s + timeout_s - time.monotonic()
        try:
            endpoint, answer = answers.get(timeout=max(0.0, left_s))
        except queue.Empty:
            break
        found[endpoint] = answer
    return found


def _dial(endpoint: str, timeout_s: float, answers: "queue.Queue[tuple[str, Answer]]") -> None:
    started_s = time.monotonic()
    reason: str | None = None
    try:
        socket.create_connection(split_endpoint(endpoint), timeout_s).close()
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s"
    except OSError as exc:
        reason = exc.strerror or str(exc)
    answers.put((endpoint, Answer(reason, time.monotonic() - started_s)))
