"""What is said of bulk beside CURVE, its records, and the order in which messages count."""

import itertools
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from candor.network.errors import RemoteProtocolError
from candor.network.sealed import (
    Again,
    AskOffer,
    InOrder,
    Offer,
    Opener,
    Reference,
    Resent,
    Sealer,
    decode,
    encode,
)
from candor.topologies.encoding.canonical import pack
from tests.golden import assert_golden

TICKET = bytes(range(16))
KEY = bytes(range(32, 64))
NOTES = [
    Offer(KEY, 7001),
    AskOffer(),
    Reference(TICKET, 1),
    Again(Reference(TICKET, 2**40)),
    Resent(Reference(TICKET, 3)),
]


@pytest.mark.parametrize("note", NOTES)
def test_notes_come_back_and_nothing_near_them_does(note) -> None:
    frame = encode(note)
    assert decode(frame) == note
    assert decode(memoryview(frame)) == note
    for wrong in (frame[:-1], frame + b"\0"):
        if len(wrong) > 1 or not wrong:
            with pytest.raises(RemoteProtocolError):
                decode(wrong)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_note_or_none_or_refused(data: bytes) -> None:
    try:
        note = decode(data)
    except RemoteProtocolError:
        return
    assert note is None or encode(note) == data


def test_no_header_is_a_note() -> None:
    for fields in range(40):
        assert decode(pack([3, *([0] * fields)])) is None


def _open_all(sealed) -> None:
    opener = Opener(KEY)
    for record in sealed:
        opener.open(record)


def test_records_open_in_their_order_and_no_other() -> None:
    sealer = Sealer(KEY)
    records = [sealer.seal(frame) for frame in (b"one", b"two", b"three")]
    opener = Opener(KEY)
    assert [opener.open(sealed) for _, sealed in records] == [b"one", b"two", b"three"]
    for order in itertools.permutations(range(3)):
        if order != (0, 1, 2):
            with pytest.raises(RemoteProtocolError, match="bulk-record"):
                _open_all(records[at][1] for at in order)
    for changed in (records[0][1][:-1], records[0][1] + b"\0", os.urandom(19)):
        with pytest.raises(RemoteProtocolError, match="bulk-record"):
            Opener(KEY).open(changed)
    with pytest.raises(RemoteProtocolError, match="bulk-record"):
        Opener(bytes(32)).open(records[0][1])


def test_the_bytes_of_notes_and_records() -> None:
    sealer = Sealer(KEY)
    frames = [b"", b"a frame", bytes(range(256)) * 3]
    records = [b"".join(sealer.seal(frame)) for frame in frames]
    # As the page says it, by hand.
    for number, (frame, record) in enumerate(zip(frames, records, strict=True), 1):
        size = (len(frame) + 16).to_bytes(4, "big")
        by_hand = AESGCM(KEY).encrypt(number.to_bytes(12, "big"), frame, size)
        assert record == size + by_hand
    assert_golden(
        "sealed.json",
        {
            "ticket": Offer(KEY, 7001).ticket.hex(),
            "key": KEY.hex(),
            "notes": [encode(note).hex() for note in NOTES],
            "frames": [frame.hex() for frame in frames],
            "records": [record.hex() for record in records],
        },
    )


def taken(inbound: InOrder) -> list[bytes]:
    return [bytes(frames[-1]) for frames in inbound.ready()]


@given(st.data())
def test_whatever_comes_first_messages_count_in_their_order(data) -> None:
    """Two ways, each in its own order, merged at random: what is taken is what was sent."""
    inbound = InOrder(bytes_max=10**6, messages_max=10**3)
    by_record = data.draw(st.lists(st.booleans(), max_size=30))
    control, records, sent = [], [], []
    for number, bulk in enumerate(by_record):
        name = b"%d" % number
        sent.append(name)
        if bulk:
            of = Reference(TICKET, len(records) + 1)
            records.append((of, name))
            control.append((of, (b"head",)))
        else:
            control.append((None, (name,)))
    got = []
    while control or records:
        if records and (not control or data.draw(st.booleans())):
            inbound.record(*records.pop(0))
        else:
            of, frames = control.pop(0)
            if of is None:
                inbound.message(frames)
            else:
                inbound.reference(of, frames)
        got += taken(inbound)
    assert got == sent
    assert not inbound
    assert (inbound.early, inbound.lost) == (0, 0)


def test_a_record_that_is_asked_for_again_comes_in_its_place_or_is_given_up() -> None:
    inbound = InOrder(10**6, 10**3)
    one, two, three = (Reference(TICKET, number) for number in (1, 2, 3))
    for of in (one, two, three):
        assert not inbound.reference(of, (b"head",))
        inbound.message((b"after",))
    assert taken(inbound) == []
    assert inbound.waits
    assert inbound.ask(TICKET, until_s=10.0) == [one, two, three]
    assert inbound.ask(TICKET, until_s=99.0) == []  # once
    assert not inbound.waits
    assert inbound.resent(two, (b"head", b"second"))
    assert not inbound.resent(Reference(TICKET, 9), (b"x",))
    assert taken(inbound) == []
    assert inbound.resent(one, ())  # gone
    assert taken(inbound) == [b"after", b"second", b"after"]
    inbound.overdue(9.9)
    assert taken(inbound) == []
    inbound.overdue(10.0)
    assert taken(inbound) == [b"after"]
    assert inbound.lost == 2


@pytest.mark.parametrize("bound", ["bytes", "messages"])
def test_what_stands_behind_a_missing_record_is_bounded(bound: str) -> None:
    inbound = InOrder(*((1000, 10**6) if bound == "bytes" else (10**6, 10)))
    inbound.reference(Reference(TICKET, 1), (b"head",))
    got = []
    for number in range(100):
        inbound.message((b"%03d" % number * 10,))
        got += taken(inbound)
    assert len(got) == 100
    assert inbound.lost == 1


@pytest.mark.parametrize("how", ["record", "resent"])
def test_records_behind_a_missing_one_count_where_they_stand(how: str) -> None:
    """All are referred to before any comes: each takes next to nothing until it does."""
    inbound = InOrder(1000, 10**6)
    for number in range(100):
        inbound.reference(Reference(TICKET, number), (b"head",))
    for number in range(1, 100):
        of = Reference(TICKET, number)
        if how == "record":
            inbound.record(of, bytes(100))
        else:
            inbound.resent(of, (b"head", bytes(100)))
    assert inbound.lost == 1
    assert len(taken(inbound)) == 99


def test_a_record_is_referred_to_once_and_those_before_it_are_not_kept() -> None:
    inbound = InOrder(10**6, 10**3)
    assert not inbound.reference(Reference(TICKET, 20), (b"head",))
    for number in range(1, 20):
        inbound.record(Reference(TICKET, number), b"its reference was lost")
    assert inbound.early == 0
    assert inbound.reference(Reference(TICKET, 20), (b"again",))
    inbound.record(Reference(TICKET, 20), b"20")
    assert taken(inbound) == [b"20"]
    assert (inbound.lost, bool(inbound)) == (1, False)


def test_records_of_lost_references_are_let_go() -> None:
    inbound = InOrder(10**6, 10**3)
    for number in range(1, 6):
        inbound.record(Reference(TICKET, number), b"%d" % number)
    inbound.record(Reference(KEY[:16], 1), b"of another connection")
    assert inbound.early == 6
    assert inbound.reference(Reference(TICKET, 4), (b"head",))
    assert taken(inbound) == [b"4"]
    assert inbound.early == 1
