"""Whose fault it is: ours, the peer's, or the socket's. Never swallowed, caught narrowly."""


class LocalProtocolError(Exception):
    """Our own misuse of the protocol: a message we must not send now, a value out of bounds."""


class RemoteProtocolError(Exception):
    """A peer's fault: bytes, a message or a claim that the protocol does not allow.

    `code` is the short stable word that goes into logs and acknowledgements.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class TransportError(Exception):
    """The operating system refused what the transport needs (port taken, bad address): one line."""
