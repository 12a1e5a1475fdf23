"""Who answers at many endpoints at once: plain TCP connects, and with our keys a CURVE handshake.

Without keys this tells reachability only. The handshake also tells whether it is the right agent
and lets us in; not a byte of the protocol is sent, so nothing that runs is disturbed.
"""

import queue
import socket
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from candor.network.zeromq.options import Route
from candor.network.zeromq.probe import Target, shake_hands
from candor.topologies.specs.fields import split_endpoint

# What an endpoint gets that answered at the very end of the time: a handshake takes milliseconds.
MIN_HANDSHAKE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    """What one endpoint answered: `reason` is the system's word for a failure, None if reached.

    `ipv6`: which family of addresses reached it; `connected`: somebody listens there, whatever
    became of the handshake.
    """

    reason: str | None
    seconds: float
    ipv6: bool = False
    connected: bool = False


def greet_all(
    servers: Mapping[str, str],
    keys: tuple[str, str],
    timeout_s: float,
    others: Collection[str] = (),
) -> dict[str, Answer]:
    """Shake hands at all endpoints, as `dial_all`: `servers` has the CURVE key that must answer at
    each, `keys` are our own public and secret one (z85); `others` are dialled only."""
    started_s = time.monotonic()
    answers = dial_all([*servers, *others], timeout_s)
    open_ones = {
        endpoint: Target(Route(endpoint, answer.ipv6), servers[endpoint])
        for endpoint, answer in answers.items()
        if answer.connected and endpoint in servers
    }
    left_s = max(MIN_HANDSHAKE_S, started_s + timeout_s - time.monotonic())
    for endpoint, reason in shake_hands(open_ones, keys, left_s).items():
        answers[endpoint] = replace(answers[endpoint], reason=reason)
    return answers


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
    ipv6 = False
    try:
        with socket.create_connection(split_endpoint(endpoint), timeout_s) as connection:
            ipv6 = connection.family == socket.AF_INET6
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s"
    except OSError as exc:
        reason = exc.strerror or str(exc)
    answers.put((endpoint, Answer(reason, time.monotonic() - started_s, ipv6, reason is None)))
