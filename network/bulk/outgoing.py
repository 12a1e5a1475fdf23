"""Sends bulk to one neighbour that has offered to take it, and keeps what may be asked for again.

States: nothing offered -> dialling -> open -> lost, and from there by the next offer. While it is
not open everything goes over CURVE, so that nobody waits for it.
"""

import asyncio
import math
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final

from candor.network.bulk.incoming import Guard, prepare
from candor.network.sealed import Offer, Reference, Sealer
from candor.network.transport import OutboxEntry

_CONNECT_S: Final = 2.0
# Offers are dialled no oftener than they are made: whoever makes up more names ports of others.
_DIAL_S: Final = 0.5
# After an offer came to nothing another one is asked for, the next time later.
_ASK_S_MIN, _ASK_S_MAX = 1.0, 60.0
# Records on their way to the kernel, of 2 MiB: one that is being sent and one that follows it.
_RECORDS_MAX: Final = 2


class BulkLink:
    """The sending end of one neighbour. `on_room` is called when there is room again after there
    was none, or when the way is lost; `ask` when another offer is needed; `unreachable`, once, with
    what was dialled in vain."""

    def __init__(
        self,
        guard: Guard,
        on_room: Callable[[], None],
        ask: Callable[[], None],
        unreachable: Callable[[str], None],
    ) -> None:
        self._unreachable: Callable[[str], None] | None = unreachable
        self._guard, self._ask = guard, guard(ask)
        self._loop = asyncio.get_running_loop()
        # Soon, not at once: it may be sending that finds out.
        self._on_room = partial(self._loop.call_soon, guard(on_room))
        self._dialling: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None
        self._sealer: Sealer | None = None
        self._ticket = b""
        self._waiting: deque[memoryview] = deque()
        self._watched = False
        self._kept: dict[Reference, OutboxEntry] = {}
        self._ask_s = _ASK_S_MIN
        self._dial_s = -math.inf  # when it was dialled last
        self._timer: asyncio.TimerHandle | None = None

    @property
    def open(self) -> bool:
        """Whether records can be sent."""
        return self._socket is not None

    @property
    def has_room(self) -> bool:
        """Whether the next record may be sent."""
        return len(self._waiting) <= 2 * (_RECORDS_MAX - 1)

    @property
    def drained(self) -> bool:
        """Whether the kernel has all."""
        return not self._waiting

    def offered(self, offer: Offer, host: str) -> None:
        """Dial what a neighbour offers, at the host where it is reached."""
        self._drop()
        if self._dialling is not None:
            self._dialling.cancel()
        self._dialling = self._loop.create_task(self._dial(offer, host))
        self._dialling.add_done_callback(self._dialled)

    def send(self, entry: OutboxEntry) -> Reference:
        """Seal the last frame of a message, and send it; it is kept until a newer round's are."""
        assert self._sealer is not None, "send while it is open"
        for part in self._sealer.seal(entry.frames[-1]):
            self._waiting.append(memoryview(part))
        reference = Reference(self._ticket, self._sealer.number)
        self._keep(reference, entry)
        self._write()
        return reference

    def take(self, reference: Reference) -> OutboxEntry | None:
        """The message of a record that was sent, if it is still of use: once, or a few bytes would
        be answered with a large frame as often as they are sent."""
        return self._kept.pop(reference, None)

    async def close(self) -> None:
        """Close the connection; what the kernel has still leaves."""
        self._drop()
        if self._timer is not None:
            self._timer.cancel()
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait({self._dialling})

    def _keep(self, reference: Reference, entry: OutboxEntry) -> None:
        if any(one.bulk_round != entry.bulk_round for one in islice(self._kept.values(), 1)):
            self._kept.clear()
        self._kept[reference] = entry

    # The connection

    async def _dial(self, offer: Offer, host: str) -> None:
        await asyncio.sleep(max(0.0, self._dial_s + _DIAL_S - self._loop.time()))
        self._dial_s = self._loop.time()
        made = await _connected(host, offer.port)
        if made is None:
            if self._unreachable is not None:
                self._unreachable(f"{host}:{offer.port}")
                self._unreachable = None
            self._lost()
            return
        self._socket, self._sealer, self._ticket = made, Sealer(offer.key), offer.ticket
        self._waiting = deque([memoryview(offer.ticket)])
        self._loop.add_reader(made, self._guard(self._heard))
        self._write()
        self._on_room()

    def _dialled(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            self._guard(task.result)()

    def _heard(self) -> None:
        """The other end says nothing: what can be read is its end, and who speaks is no neighbour,
        or one that would have us listen."""
        assert self._socket is not None
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._lost()

    def _write(self) -> None:
        while self._waiting and self._socket is not None:
            try:
                sent = self._socket.sendmsg(list(self._waiting))
            except BlockingIOError:
                break
            except OSError:
                self._lost()
                return
            self._ask_s = _ASK_S_MIN
            while self._waiting and sent >= len(self._waiting[0]):
                sent -= len(self._waiting.popleft())
            if sent:
                self._waiting[0] = self._waiting[0][sent:]
        self._watch(bool(self._waiting))

    def _writable(self) -> None:
        had_room = self.has_room
        self._write()
        if self.has_room and not had_room:
            self._on_room()

    def _watch(self, wanted: bool) -> None:
        if self._socket is not None and wanted != self._watched:
            if wanted:
                self._loop.add_writer(self._socket, self._guard(self._writable))
            else:
                self._loop.remove_writer(self._socket)
            self._watched = wanted

    def _lost(self) -> None:
        self._drop()
        self._timer = self._loop.call_later(self._ask_s, self._ask)
        self._ask_s = min(2 * self._ask_s, _ASK_S_MAX)
        self._on_room()

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._watch(False)
            self._loop.remove_reader(self._socket)
            self._socket.close()
        self._socket = self._sealer = None
        self._waiting.clear()


async def _connected(host: str, port: int) -> socket.socket | None:
    """A connection to a host, None where none can be made in time."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_S):
            for family, kind, proto, _, address in await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            ):
                made = socket.socket(family, kind, proto)
                try:
                    prepare(made)
                    await loop.sock_connect(made, address)
                except BaseException as exc:
                    made.close()
                    if isinstance(exc, OSError):
                        continue
                    raise
                return made
    except (TimeoutError, OSError):
        pass
    return None
