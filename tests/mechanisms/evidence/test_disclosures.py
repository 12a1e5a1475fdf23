"""What is shown of a round: its bytes, its paths, and who can have signed it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.mechanisms.evidence.disclosures import (
    Disclosure,
    Shown,
    ShownRound,
    ShownSample,
    SignedDisclosure,
    encode_shown,
)
from candor.mechanisms.evidence.kept import KeptRound, decode_echoes, encode_echoes
from candor.mechanisms.evidence.sample_tree import Samples, Tree, committed, leaf, leaf_key, root_by
from candor.topologies.encoding.canonical import MalformedError, pack, payload_digest
from tests.golden import assert_golden
from tests.mechanisms.evidence.test_kept import KEYS, RUN, SECRET, START

DATA = [b"one", b"two", b"three"]


def shown_samples(data, places):
    tree = Tree([leaf(place, sample, SECRET) for place, sample in enumerate(data)])
    return tuple(ShownSample(p, data[p], leaf_key(p, SECRET), tree.path(p)) for p in places)


def shown_round():
    kept, samples = KeptRound(()).encode(), shown_samples(DATA, (0, 2))
    data = encode_shown(START.encode(), kept, b"", b"", samples)
    said = Disclosure(RUN, "a0", 1, 5, len(data), payload_digest(data))
    return ShownRound("a0", SignedDisclosure.sign(said, KEYS["a0"]), data)


def test_the_bytes_are_those_of_the_vector():
    one = shown_round()
    made = {
        "shown": one.shown.hex(),
        "body": one.signed.body.hex(),
        "signature": one.signed.signature.hex(),
        "proof": one.encode().hex(),
        "root": committed(DATA, SECRET).root.hex(),
    }
    assert_golden("disclosure.json", made)
    assert ShownRound.decode(one.encode()) == one
    assert Shown.decode(one.shown, sketch_bytes=8).samples == shown_samples(DATA, (0, 2))


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=20), st.data())
def test_a_path_leads_from_a_sample_to_the_root_and_from_no_other(samples, draw):
    whole = committed(samples, SECRET)
    place = draw.draw(st.integers(0, len(samples) - 1))
    (one,) = shown_samples(samples, [place])
    assert one.leads_to(whole)
    spoilt = [
        replace(one, sample=one.sample + b"x"),
        replace(one, key=b"k" * 32),
        replace(one, path=one.path + bytes(32)),
        replace(one, path=one.path[:-1]) if one.path else replace(one, path=b"x"),
        replace(one, place=len(samples)),
        *(replace(one, place=p) for p in range(len(samples)) if p != place),
    ]
    assert not any(other.leads_to(whole) for other in spoilt)


def test_paths_of_trees_of_any_stated_size_are_bounded():
    assert root_by(bytes(32), 0, 2**53, b"") is None
    assert root_by(bytes(32), 0, 0, b"") == bytes(32)
    assert not ShownSample(0, b"", bytes(32), b"").leads_to(Samples())


def test_what_was_signed_by_another_or_of_other_bytes_is_nobodys_word():
    one, public = shown_round(), KEYS["a0"].public
    assert one.disclosure(RUN, public, 2**20).round == 5
    wrong = [
        (one, bytes(32), public, 2**20),
        (one, RUN, KEYS["a1"].public, 2**20),
        (one, RUN, None, 2**20),
        (one, RUN, public, len(one.shown) - 1),
        (replace(one, agent="a1"), RUN, public, 2**20),
        (replace(one, shown=one.shown[:-1] + b"x"), RUN, public, 2**20),
        (replace(one, signed=replace(one.signed, signature=b"")), RUN, public, 2**20),
    ]
    for other, run, key, most in wrong:
        with pytest.raises(MalformedError):
            other.disclosure(run, key, most)


def test_bytes_that_are_no_such_thing_are_malformed():
    one = shown_round()
    assert ShownRound.decode(pack([1, "equivocation", "a0", []])) is None
    assert ShownRound.decode(b"") is None
    for data in (one.encode()[:-1], pack([1, "false-report", "a0", [b""], b""])):
        with pytest.raises(MalformedError):
            ShownRound.decode(data)
    twice = shown_samples(DATA, (1, 1))
    unsorted = shown_samples(DATA, (2, 0))
    for samples in (twice, unsorted):
        data = encode_shown(START.encode(), KeptRound(()).encode(), b"", b"", samples)
        with pytest.raises(MalformedError):
            Shown.decode(data, sketch_bytes=8)
    for data in (b"", pack([]), pack([b"", b"", b"", b"", []]), pack([b"", b"", b"", b"", [[]]])):
        with pytest.raises(MalformedError):
            Shown.decode(data, sketch_bytes=8)
    for body in (b"", pack([2, RUN, "a0", 1, 5, 9, bytes(32)]), pack([1, RUN, "a0", 1, 0, 9, b""])):
        with pytest.raises(MalformedError):
            Disclosure.decode(body)


def test_echoes_that_are_none_are_malformed():
    assert decode_echoes(encode_echoes([]), 8) == ()
    for data in (b"", pack([[]]), pack([[[b"", b""], []]]), pack(1)):
        with pytest.raises(MalformedError):
            decode_echoes(data, 8)
