"""A CURVE client on a bare TCP socket, which sends what libzmq's own sockets never would.

libzmq hands a message over whole, so that no socket of it can send one without an end. ZMTP 3.1
(ZeroMQ RFC 37) and CURVE (RFC 26) as far as a client needs them, with the libsodium that pyzmq
brings along.
"""

import ctypes
import ctypes.util
import socket
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

_GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
_MAC_BYTES: Final = 16


def _sodium() -> ctypes.PyDLL | None:
    beside = sorted((Path(zmq.__file__).parent.parent / "pyzmq.libs").glob("libsodium*"))
    name = str(beside[0]) if beside else ctypes.util.find_library("sodium")
    return ctypes.PyDLL(name) if name else None


SODIUM: Final = _sodium()


def _box(plain: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    assert SODIUM is not None
    boxed = ctypes.create_string_buffer(len(plain) + _MAC_BYTES)
    failed = SODIUM.crypto_box_easy(
        boxed, plain, ctypes.c_ulonglong(len(plain)), nonce, public, secret
    )
    assert failed == 0
    return boxed.raw


def _opened(boxed: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    assert SODIUM is not None
    plain = ctypes.create_string_buffer(len(boxed) - _MAC_BYTES)
    failed = SODIUM.crypto_box_open_easy(
        plain, boxed, ctypes.c_ulonglong(len(boxed)), nonce, public, secret
    )
    assert failed == 0, "the server's box does not open: is it the server's key?"
    return plain.raw


class RawCurveClient:
    """One connection to a ROUTER; `frame` makes the bytes of a frame, `send` sends bytes."""

    def __init__(self, endpoint: str, keys: tuple[bytes, bytes], server: bytes) -> None:
        """`keys`: public and secret, z85, like `server`.

        Raises:
            OSError: no connection, or one that was dropped during the handshake.
        """
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        try:
            self._shake_hands(*(z85.decode(key) for key in (*keys, server)))
        except OSError:
            self.socket.close()
            raise

    def _shake_hands(self, public: bytes, secret: bytes, server: bytes) -> None:
        own_public, own_secret = (z85.decode(key) for key in zmq.curve_keypair())
        self.socket.sendall(_GREETING)
        self._receive(len(_GREETING))
        one = (1).to_bytes(8, "big")
        hello = _box(bytes(64), b"CurveZMQHELLO---" + one, server, own_secret)
        self._command(b"HELLO", b"\x01\x00" + bytes(72) + own_public + one + hello)
        welcome = self._expect(b"WELCOME")
        plain = _opened(welcome[16:], b"WELCOME-" + welcome[:16], server, own_secret)
        self._server, cookie = plain[:32], plain[32:]
        vouch = _box(own_public + server, b"VOUCH---" + bytes(16), self._server, secret)
        metadata = b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
        two = (2).to_bytes(8, "big")
        initiate = public + bytes(16) + vouch + metadata
        boxed = _box(initiate, b"CurveZMQINITIATE" + two, self._server, own_secret)
        self._command(b"INITIATE", cookie + two + boxed)
        self._expect(b"READY")
        assert SODIUM is not None
        self._shared = ctypes.create_string_buffer(32)
        SODIUM.crypto_box_beforenm(self._shared, self._server, own_secret)
        self._nonce = 2

    def frame(self, data: bytes, *, more: bool) -> bytes:
        """The bytes of a frame; they must be sent in the order in which they were made."""
        self._nonce += 1
        short = self._nonce.to_bytes(8, "big")
        plain = (b"\x01" if more else b"\x00") + data
        boxed = ctypes.create_string_buffer(len(plain) + _MAC_BYTES)
        size = ctypes.c_ulonglong(len(plain))
        nonce = b"CurveZMQMESSAGEC" + short
        SODIUM.crypto_box_easy_afternm(boxed, plain, size, nonce, self._shared)  # type: ignore[union-attr]
        body = b"\x07MESSAGE" + short + boxed.raw
        if len(body) < 256:
            return b"\x00" + bytes([len(body)]) + body
        return b"\x02" + len(body).to_bytes(8, "big") + body

    def send(self, data: bytes) -> bool:
        """Whether the system took all of it: False once the other end has hung up."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.socket.close()

    def _command(self, name: bytes, data: bytes) -> None:
        body = bytes([len(name)]) + name + data
        size = bytes([len(body)]) if len(body) < 256 else len(body).to_bytes(8, "big")
        self.socket.sendall((b"\x04" if len(size) == 1 else b"\x06") + size + body)

    def _expect(self, name: bytes) -> bytes:
        flags = self._receive(1)[0]
        body = self._receive(int.from_bytes(self._receive(8 if flags & 2 else 1), "big"))
        if not body.startswith(bytes([len(name)]) + name):
            raise ConnectionRefusedError(f"instead of {name!r}: {body[:20]!r}")
        return body[1 + len(name) :]

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionResetError("the other end hung up")
            data += part
        return data
