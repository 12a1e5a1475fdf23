"""Z85, the printable form of CURVE keys (ZeroMQ RFC 32): four bytes in five characters.

Pure functions, so that a key can be checked where zmq is not loaded.
"""

from candor.topologies.encoding.canonical import MalformedError

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_VALUES = {character: value for value, character in enumerate(ALPHABET)}


def encode(data: bytes) -> str:
    """The text of `data`, whose length must be a multiple of 4 bytes.

    Raises:
        ValueError: another length (our own misuse: keys have 32 bytes).
    """
    if len(data) % 4:
        raise ValueError(f"{len(data)} bytes are not a multiple of 4")
    return "".join(_encode_group(data[i : i + 4]) for i in range(0, len(data), 4))


def decode(text: str) -> bytes:
    """The bytes of `text`, whose length must be a multiple of 5 characters.

    Raises:
        MalformedError: another length, a character outside the alphabet, a group above 32 bits.
    """
    if len(text) % 5:
        raise MalformedError(f"{len(text)} characters are not a multiple of 5")
    return b"".join(_decode_group(text[i : i + 5]) for i in range(0, len(text), 5))


def _encode_group(group: bytes) -> str:
    value = int.from_bytes(group, "big")
    characters = []
    for _ in range(5):
        value, digit = divmod(value, 85)
        characters.append(ALPHABET[digit])
    return "".join(reversed(characters))


def _decode_group(group: str) -> bytes:
    value = 0
    for character in group:
        digit = _VALUES.get(character)
        if digit is None:
            raise MalformedError(f"{character!r} is not a Z85 character")
        value = value * 85 + digit
    if value >= 1 << 32:  # 85**5 > 2**32: some groups stand for no bytes at all
        raise MalformedError(f"the group {group!r} is larger than 32 bits")
    return value.to_bytes(4, "big")
