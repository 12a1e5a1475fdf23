"""An authenticated neighbour that sends whatever it likes: a fuzzer for the core and the daemon.

    python -m tests.campaigns.fuzz_peer --frames 1000000 --seed 1     at a real core, in memory
    python -m tests.campaigns.fuzz_peer --socket --frames 50000       at a real daemon, over CURVE

It records the frames of live runs, whatever their kinds, and changes them. A *mutated* frame keeps
the signatures it had: it must change nothing that is kept (ledger, claims, bills, evidence, store)
and put nothing of the sender's into a model. A *forged* one is signed anew with the neighbour's own
key, so that the core sees well-formed lies: it may stop its own edge, never another one, and no
balance moves but by an amount that the receiver has computed itself. An exception that leaves
`AgentCore.received`, or the judging of an update, is a crash in both cases. The seed of a failure
is in its message. With `--algorithm` the runs are of another algorithm than decentralized SGD.
"""

import argparse
import random
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from candor.agent.core.effects import Combine, Log, Persist, Remember, Send
from candor.mechanisms.evidence import claims, statements
from candor.mechanisms.evidence.phases import How, Part
from candor.mechanisms.evidence.statements import (
    STATEMENT_DOMAIN,
    Attested,
    Formed,
    Head,
    Ratings,
    Row,
    SignedStatement,
    commitment,
    named_sources,
)
from candor.mechanisms.ledger import bodies as ledger_bodies
from candor.mechanisms.ledger import channel as ledgers
from candor.mechanisms.ledger import records as ledger_records
from candor.mechanisms.ledger.messages import Records, Reject, StateMessage
from candor.network import messages, session
from candor.network.errors import RemoteProtocolError
from candor.network.messages import Bye, Chunk, Heads, Update, Waiting, Witnesses, to_envelope
from candor.network.wire import Envelope, Kind, decode, encode
from candor.topologies.encoding.canonical import MalformedError, pack, unpack
from candor.topologies.encoding.signatures import SIGNATURE_BYTES, SigningKey, verify
from tests.runs import DIM, LocalRun, write_cluster

VICTIM, PEER = "a0", "a1"
WALL_S = 1_700_000_000.0
BATCH = 64  # frames between two comparisons of all that is kept
# Frames at one run; then a fresh one, as an edge that stopped hides what follows: soon after lies.
MUTATED, FORGED = 2_000, 500
SIZE_MAX = 2**53
REWARDS = "rewards"


class FuzzFailure(AssertionError):
    """A crash, or a frame that changed what it must not."""


# --- recording -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """One recorded message of the run."""

    sender: str
    peer: str
    envelope: Envelope

    def addressed(self, nonce: bytes) -> list[bytes]:
        """Its frames, said to the present life of whoever has this nonce."""
        own = b"" if self.envelope.kind is Kind.HELLO else nonce
        return [bytes(frame) for frame in encode(replace(self.envelope, nonce=own))]


class Recorder:
    """Keeps what agents send; `held` (sender, peer) pairs are recorded and not delivered."""

    def __init__(self, run: LocalRun) -> None:
        self.frames: list[Frame] = []
        self.held: set[tuple[str, str]] = set()
        self.drop: Callable[[str, Send], bool] = lambda agent, send: False
        self.alter: Callable[[str, Send], Send] = lambda agent, send: send
        run.tamper = self._tamper

    def _tamper(self, agent: str, send: Send) -> Send | None:
        send = self.alter(agent, send)
        self.frames.append(Frame(agent, send.peer, send.envelope))
        held = (agent, send.peer) in self.held or self.drop(agent, send)
        return None if held else send

    @property
    def kinds(self) -> set[Kind]:
        return {frame.envelope.kind for frame in self.frames}


def settings_of(algorithm: str | None) -> dict[str, Any]:
    """Of a run of an algorithm; `REWARDS` is of the default one, where models are traded."""
    return {"rewards": "cgsv:beta=1"} if algorithm == REWARDS else {"algorithm": algorithm}


def record_rare_kinds(run_dir: Path, algorithm: str | None = None) -> list[Frame]:
    """A run with a lost acceptance, a refused proposal, a late round and an agent that leaves."""
    cluster = write_cluster(
        run_dir, "ring", 4, rounds=10_000, window=2, deadline_s=1.0, **settings_of(algorithm)
    )
    run = LocalRun(run_dir, cluster)
    recorder = Recorder(run)

    def raised(agent: str, send: Send) -> Send:
        if (agent, send.peer) != ("a3", "a2") or send.envelope.kind is not Kind.PROPOSE:
            return send
        body = ledger_bodies.Body.decode(send.envelope.fields[0])
        lie = replace(body, delta=body.delta + 1, balance_after=body.balance_after + 1).encode()
        signature = ledger_records.sign_proposal(run.nodes["a3"].identity.signing_key, lie)
        return replace(send, envelope=replace(send.envelope, fields=[lie, signature]))

    recorder.alter = raised
    run.start()
    run.advance(0.6)
    # Its proposer comes back without the record that its neighbour holds, and is sent it.
    recorder.drop = lambda agent, send: send.envelope.kind is Kind.ACCEPT
    run.advance(0.6)
    run.kill("a1")
    recorder.drop = lambda agent, send: False
    run.start("a1")
    run.advance(2.0)
    # One that is late makes its neighbours ask the others for patience.
    recorder.drop = lambda agent, send: agent == "a2" and send.bulk_step is not None
    run.advance(1.5)
    recorder.drop = lambda agent, send: False
    run.advance(1.0)

    run._perform("a0", run.nodes["a0"].core.stop())
    run.advance(0.1)
    run.close()
    return recorder.frames


@dataclass
class Arena:
    """A live run in which the peer's own messages no longer reach the victim, only the fuzzer's."""

    run: LocalRun
    frames: list[Frame]
    key: SigningKey
    known: set[bytes] = field(default_factory=set)

    @classmethod
    def open(
        cls, run_dir: Path, seed: int, rare: Sequence[Frame], algorithm: str | None = None
    ) -> "Arena":
        settings = settings_of(algorithm)
        cluster = write_cluster(run_dir, "ring", 3, rounds=1_000_000, window=2, **settings)
        run = LocalRun(run_dir, cluster)
        run._lives = 1 + 1000 * seed  # nonces differ from those of any other run
        recorder = Recorder(run)
        run.start()
        run.advance(0.8 + 0.05 * (seed % 7))
        recorder.held = {(PEER, VICTIM)}
        run.advance(0.7)
        arena = cls(run, [*recorder.frames, *rare], run.nodes[PEER].identity.signing_key)
        arena.frames.append(arena._records())
        arena.known = {part for frame in arena.frames for part in _meanings(frame.envelope)}
        run.tamper = lambda agent, send: None if agent == PEER else send
        return arena

    def _records(self) -> Frame:
        """The records of the edge as the peer would send them to a victim that has lost some."""
        edge = self.run.nodes[PEER].core.settlement._edges[VICTIM]
        held = self.run.nodes[PEER].store.records(edge.channel.channel_id, 0, 16)
        message = Records.fitting(held)
        return Frame(PEER, VICTIM, Envelope(Kind.RECORDS, b"", message.to_fields()))

    @property
    def victim(self) -> Any:
        return self.run.nodes[VICTIM]

    @property
    def nonce(self) -> bytes:
        return self.victim.core.neighbours[PEER].session.nonce

    def equivalent(self, sent: Sequence[bytes]) -> bool:
        """Whether the frames mean what a recorded message meant: no mutation at all."""
        try:
            envelope = decode(sent)
            if envelope.kind is Kind.RECORDS:  # of those that the victim has, only the body counts
                new = [record for record in envelope.fields if not self._has(record)]
                envelope = replace(envelope, fields=new)
            return _meanings(envelope) <= self.known
        except (RemoteProtocolError, ValueError):
            return False

    def _has(self, record: Any) -> bool:
        body = record[0] if isinstance(record, list) and record else b""
        chain = self.victim.core.settlement._edges[PEER].channel._chain
        return isinstance(body, bytes) and ledgers.sha256(body) in chain._heads


def _meanings(envelope: Envelope) -> set[bytes]:
    """What a message says. Some of a chain's records, each with both signatures, are the chain's;
    whether a STATE wants an answer is not signed, and changes nothing that is kept."""
    said, kind = list(envelope.fields), int(envelope.kind)
    if envelope.kind is Kind.RECORDS:
        return {pack([kind, record]) for record in said}
    if envelope.kind is Kind.STATE:
        said = said[:-1]
    data = b"" if envelope.data is None else bytes(envelope.data)
    return {pack([kind, said, data])}


# --- mutations -----------------------------------------------------------------------------------

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 31, 65_536, 2**31, SIZE_MAX, SIZE_MAX + 1),
    *(2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1.0, 5e-324, 1e-310, 1e30, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", "a0", "a1", "a2", "zz", "é", "\n", "x" * 70),
    *(b"", bytes(16), bytes(32), bytes(64), bytes(128), [], [[]], [b"", b""]),
)
HUGE = (b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff")


def scribble(r: random.Random, data: bytes) -> bytes:
    """Bytes changed without regard to what they mean."""
    at = r.randrange(len(data) + 1)
    match r.randrange(7):
        case 0 | 1:
            changed = bytearray(data or b"\0")
            for _ in range(r.choice((1, 1, 1, 2, 8))):
                changed[r.randrange(len(changed))] ^= 1 << r.randrange(8)
            return bytes(changed)
        case 2:
            return data[:at]
        case 3:
            return data + r.randbytes(r.choice((1, 2, 16, 300)))
        case 4:
            return data[:at] + r.randbytes(r.randrange(1, 9)) + data[at:]
        case 5:
            return data[:at] + data[at + r.randrange(1, 40) :]
        case _:
            return data[:at] + r.choice(HUGE) + data[at:]


def loosely(r: random.Random, value: Any) -> bytes:
    """A value encoded with one form that is not canonical, somewhere inside."""
    count = _size(value)
    at = r.randrange(count)
    counter = iter(range(count))

    def encoded(value: Any) -> bytes:
        here = next(counter) == at
        if isinstance(value, (list, tuple)):
            items = b"".join(map(encoded, value))
            if not here:
                return msgpack.Packer().pack_array_header(len(value)) + items
            pairs = struct.pack(">BI", 0xDF, len(value) // 2) + items
            return r.choice((struct.pack(">BI", 0xDD, len(value)) + items, pairs))
        if not here:
            return pack(value)
        match value:
            case bool() | None:
                return b"\xc1"
            case int():
                wide = struct.pack(">Bq", 0xD3, value) if value < 2**63 else b"\xc1"
                return r.choice((wide, pack(float(value))))
            case float():
                with np.errstate(all="ignore"):
                    return b"\xca" + np.array(value, ">f4").tobytes()
            case str():
                text = value.encode()
                return struct.pack(">BI", 0xDB, len(text)) + text
        blob = struct.pack(">I", len(value)) + value
        return r.choice((b"\xc6" + blob, b"\xc9" + blob[:4] + b"\x05" + value, b"\xdb" + blob))

    return encoded(value)


def _size(value: Any) -> int:
    return 1 + sum(map(_size, value)) if isinstance(value, (list, tuple)) else 1


def altered(r: random.Random, value: Any, signer: "Signer | None" = None) -> Any:
    """A value with one thing changed in it, in bytes that hold values too.

    With a signer, what had a signature of the signer's is signed again.
    """
    if isinstance(value, (list, tuple)) and value and r.random() < 0.93:
        items = list(value)
        at = r.randrange(len(items))
        domain = signer.domain(items, at) if signer else None
        items[at] = altered(r, items[at], signer)
        if domain is not None and signer is not None and isinstance(items[at], bytes):
            items[at + 1] = signer.key.sign(domain, items[at])
        return items
    if isinstance(value, (list, tuple)):
        items = list(value)
        match r.randrange(5):
            case 0:
                return [*items, r.choice(HOSTILE)]
            case 1 if items:
                return items + [r.choice(items)] * r.choice((1, 1, 40, 5000))
            case 2 if items:
                del items[r.randrange(len(items))]
                return items
            case 3:
                r.shuffle(items)
                return items
        return r.choice(HOSTILE)
    if isinstance(value, bytes):
        inner = _inside(value)
        if inner is not None and r.random() < 0.85:
            return pack(altered(r, inner, signer))
        if len(value) >= 8 and len(value) % 8 == 0 and r.random() < 0.3:  # a sketch, perhaps
            values = np.frombuffer(value, "<f8").copy()
            values[r.randrange(len(values))] = r.choice((np.nan, np.inf, 5e-324, 1e308, -0.0, 1.0))
            return values.tobytes()
        return scribble(r, value)
    if isinstance(value, bool) or r.random() < 0.5:
        return r.choice(HOSTILE)
    if isinstance(value, int):
        return max(-(2**63), min(2**64 - 1, value + r.choice((-1, 1, 2, 64, 2**32, -(2**40)))))
    return value * r.choice((2.0, -1.0, 1.0 + 1e-15)) if isinstance(value, float) else "a2"


def _inside(data: bytes) -> Any:
    """The array that bytes encode, or None."""
    if not data or not (0x90 <= data[0] <= 0x9F or data[0] in (0xDC, 0xDD)):
        return None
    try:
        value = unpack(data, bytes_max=2**21)
    except MalformedError:
        return None
    return value if isinstance(value, list) and value else None


class Signer:
    """Signs anew what the peer had signed; learns the domain from the old signature."""

    def __init__(self, key: SigningKey) -> None:
        self.key = key
        modules = (statements, claims, session, ledger_records, messages)
        extra = [m for name, m in sys.modules.items() if name.startswith("candor.mechanisms.")]
        named = [getattr(m, n) for m in (*modules, *extra) for n in dir(m) if n.endswith("_DOMAIN")]
        self.domains = sorted({domain for domain in named if isinstance(domain, str)})
        self._known: dict[tuple[bytes, bytes], str | None] = {}

    def domain(self, items: Sequence[Any], at: int) -> str | None:
        """The domain under which `items[at]` is signed by `items[at + 1]`."""
        if at + 1 >= len(items):
            return None
        body, signature = items[at], items[at + 1]
        if not (isinstance(body, bytes) and isinstance(signature, bytes)):
            return None
        if len(signature) != SIGNATURE_BYTES:
            return None
        if (body, signature) not in self._known:
            found = (d for d in self.domains if verify(self.key.public, signature, d, body))
            self._known[body, signature] = next(found, None)
        return self._known[body, signature]


@dataclass
class Source:
    """Recorded frames, and the nonce of the life that they are to be said to."""

    frames: Sequence[Frame]
    nonce: bytes


def mutated(r: random.Random, arena: "Arena | Source") -> list[bytes]:
    """A recorded message, changed; signatures stay what they were."""
    frame = r.choice(arena.frames)
    whole = frame.addressed(arena.nonce)
    match r.randrange(12):
        case 0 | 1 | 2:
            at = r.randrange(len(whole))
            whole[at] = scribble(r, whole[at])
        case 3:  # the head of one message and the tail of another
            other = r.choice(arena.frames).addressed(arena.nonce)[0]
            at = r.randrange(len(whole[0]))
            whole[0] = whole[0][:at] + other[min(at, len(other)) :]
        case 4:  # the kind of one message, the fields of another
            kind = r.choice(list(Kind))
            whole = encode(replace(frame.envelope, kind=kind, nonce=arena.nonce))
        case 5:
            header = unpack(whole[0], bytes_max=2**21)
            whole[0] = loosely(r, header)
        case 6:
            whole = [r.randbytes(r.randrange(60)) for _ in range(r.randrange(4))]
        case 7 if r.random() < 0.02:
            nested = r.choice((b"\x91" * 10**5, b"\xdc\xff\xff" * 400, b"\x91" * 900 + b"\xc0"))
            whole[0] = pack([1, int(frame.envelope.kind), arena.nonce])[:-1] + nested
            whole[0] = r.choice((nested, whole[0]))
        case 8:
            whole = r.choice(([*whole, b"x"], whole[:-1], whole * 2, [*whole, b""]))
        case _:
            header = unpack(whole[0], bytes_max=2**21)
            assert isinstance(header, list)
            said = altered(r, header[3:])
            whole[0] = _packed(header[:3] + (said if isinstance(said, list) else [said]))
    return [bytes(part) for part in whole]


def _packed(value: Any) -> bytes:
    try:
        return pack(value)
    except (ValueError, OverflowError):
        return b"\x91" * 600


def forged(r: random.Random, arena: Arena, signer: Signer) -> list[list[bytes]]:
    """Messages that the peer has signed itself, true to form or nearly."""
    if r.random() < 0.3:
        return _forged_update(r, arena) if r.random() < 0.9 else [_forged_heads(r, arena)]
    frame = r.choice(arena.frames)
    envelope = frame.envelope
    edge = arena.run.nodes[PEER].core.settlement._edges[VICTIM]
    channel = edge.channel.channel_id
    if envelope.kind is Kind.STATE:
        position = edge.channel.position
        seq = r.choice((-1, 0, position.seq - 1, position.seq, position.seq + 1, 2**40))
        head = r.choice((position.head, bytes(32)))
        state = StateMessage.sign(
            signer.key, channel, arena.nonce, max(seq, -1), head, answer_wanted=r.random() < 0.5
        )
        said = state.to_fields()
    elif envelope.kind is Kind.REJECT:
        said = Reject.sign(
            signer.key, channel, r.choice((bytes(32), _digest(r, arena))), "mismatch"
        ).to_fields()
    else:
        sent = resigned(r, frame, arena.nonce, signer)
        return [sent] if sent else []
    return [[bytes(p) for p in encode(replace(envelope, fields=said, nonce=arena.nonce))]]


def resigned(r: random.Random, frame: Frame, nonce: bytes, signer: Signer) -> list[bytes]:
    """A recorded message, changed inside, and signed again where the signer had signed it."""
    said = altered(r, list(frame.envelope.fields), signer)
    own = b"" if frame.envelope.kind is Kind.HELLO else nonce
    fields = said if isinstance(said, list) else [said]
    try:
        return [bytes(p) for p in encode(replace(frame.envelope, fields=fields, nonce=own))]
    except (ValueError, OverflowError):
        return []


def _digest(r: random.Random, arena: Arena) -> bytes:
    bodies = [f.envelope.fields[0] for f in arena.frames if f.envelope.kind is Kind.PROPOSE]
    body = r.choice(bodies) if bodies else b""
    return ledgers.sha256(bytes(body))


def _forged_update(r: random.Random, arena: Arena) -> list[list[bytes]]:
    core = arena.victim.core
    generator = np.random.default_rng(r.randrange(2**32))
    with np.errstate(all="ignore"):
        drawn = generator.standard_normal(DIM).astype(np.float32)
        drawn *= np.float32(r.choice((1.0, 1.0, 1e-42, 1e30, np.nan, np.inf)))
        payload = core.codec.rounded(drawn)
    # A step far ahead makes all that follow come too late.
    ahead = r.choice((-1, 0, 0, 0, 1, 1, 2, 3)) if r.random() < 0.98 else 1000
    step = max(1, core.step + ahead)
    number, phase = core.phases.at(step)
    parts = core.phases.phases[phase].parts
    formed = [_forged_part(r, arena, step, part) for part in parts]
    said = core.examiner.state(number, phase, PEER, payload, formed)
    shown = core.book.trusted(named_sources(said, core.phases)).values()
    said = replace(said, sources=commitment(one.body for one in shown))
    trade = core.examiner.terms.trade
    if trade is not None:
        equal = trade.barter.equal(trade.around(PEER), trade.groups)
        trace = np.full(16, r.choice((0.0, 1e-45, 1.0, 3e38)), "<f4").tobytes()
        said = replace(said, ratings=Ratings(trace, tuple(sorted(equal.items()))))
    if r.random() < 0.3:
        long_row = Row(tuple((f"b{i:04}", 1.0) for i in range(r.choice((1, 4096, 4097)))))
        values: dict[str, Sequence[Any]] = {
            "round": (1, 2, SIZE_MAX),
            "phase": (0, 1, 15, SIZE_MAX),
            "codec": ("float16", "x" * 33),
            "step_size": (0.0, float("nan"), -1.0),
            "formed": ((), (Row(()),), (long_row,) * len(parts), (*formed, Row(()))),
            "sketch": [np.full(16, x).tobytes() for x in (np.nan, 1e308, 1e160, 5e-324)],
            "next_sketch": (b"", bytes(128)),
            "dim": (1, SIZE_MAX),
            "digest": (bytes(32),),
            "sources": (b"", bytes(32)),
        }
        name = r.choice(list(values))
        said = replace(said, **{name: r.choice(values[name])})
    signed = SignedStatement.sign(said, arena.key)
    data = bytes(core.codec.encode(payload))
    size = r.choice((len(data), len(data), len(data), 4, 0, SIZE_MAX))
    whole: list[Any] = [Update(signed.body, signed.signature, size)]
    whole.append(Witnesses(number, phase, tuple((w.body, w.signature) for w in shown)))
    whole += [Chunk(number, phase, at, data[at : at + 64]) for at in range(0, len(data), 64)]
    if r.random() < 0.2:
        whole += [Waiting(number, phase), Bye(r.random() < 0.5)]
    return [[bytes(p) for p in encode(to_envelope(one, arena.nonce))] for one in whole]


def _forged_heads(r: random.Random, arena: Arena) -> list[bytes]:
    """What the peer says was stated of late, by itself or others."""
    core, heads = arena.victim.core, []
    number = max(0, core.round + r.choice((-33, -1, 0, 1, 32, 33)))
    for agent in r.choices((PEER, VICTIM, "a2", "zz"), k=r.choice((1, 2, 256, 257))):
        blank = Head(core.examiner.terms.run, number, 0, agent, r.randbytes(32), bytes(64))
        heads.append((agent, blank.digest, arena.key.sign(STATEMENT_DOMAIN, blank.signed)))
    said = Heads(number, r.choice((0, 0, 0, 15)), tuple(heads))
    return [bytes(part) for part in encode(to_envelope(said, arena.nonce))]


def _forged_part(r: random.Random, arena: Arena, step: int, part: Part) -> Formed:
    """How the peer says a part of its vector came about: as it should, or nearly."""
    if r.random() < 0.3:
        row = r.choice(({}, {PEER: 1.0}, {VICTIM: 1.0}, {"zz": 0.5, PEER: 0.5}))
        return Row(tuple(sorted(row.items())), r.choice(("", "", part.rule)))
    if part.how is How.OWN:
        return Row(((PEER, 1.0),))
    if part.how is How.AGGREGATE:
        value = r.choice((0.0, 1.0, 1e160, np.nan))
        return Attested(part.rule, r.choice(((), (VICTIM,), ("zz",))), np.full(16, value).tobytes())
    formed: Formed = arena.victim.core.book._formed(step, part, b"")  # on a ring of three all alike
    return formed


# --- what is kept --------------------------------------------------------------------------------

# Timers, and what is allowed to follow from a message that carries no promise.
PASSING = {
    *("resend_s", "open_since_s", "overdue", "reading", "synced", "_nonces", "_rows"),
    *("_mixed_step", "_heard", "_key", "_terms", "terms", "examiner", "_book", "book", "public"),
    "bill_by_s",
}


def kept(value: Any, without: frozenset[str] = frozenset()) -> Any:
    """All that a value holds, but timers, as something that compares."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return sorted((repr(k), kept(v, without)) for k, v in value.items() if k not in without)
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, (list, tuple)):
        return [kept(item, without) for item in value]
    if is_dataclass(value):
        names: Iterable[str] = (f.name for f in fields(value))
    elif type(value).__module__.startswith("candor.") and hasattr(value, "__dict__"):
        names = vars(value)
    else:
        return type(value).__name__
    return [(n, kept(getattr(value, n), without)) for n in names if n not in PASSING]


def state_of(node: Any, without: frozenset[str] = frozenset()) -> Any:
    """The settlement, the evidence and the balance of a node; `without` leaves edges out."""
    core = node.core
    return [
        core.settlement.balance if not without else 0,
        kept(core.settlement, without),
        [] if without else kept(core.book),
    ]


def rss_mb() -> float:
    """Resident memory of this process, MB."""
    return rss_of("self")


def rss_of(process: int | str) -> float:
    """Resident memory of a process, MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


# --- the attacks ---------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the frames."""

    frames: int = 0
    equivalent: int = 0
    logged: int = 0
    largest_log_chars: int = 0
    answers: int = 0
    kinds: set[Kind] = field(default_factory=set)
    codes: Counter[str] = field(default_factory=Counter)
    judged: Counter[str] = field(default_factory=Counter)  # of complete updates
    slowest_s: float = 0.0

    def note(self, effects: Sequence[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Log):
                self.logged += 1
                self.largest_log_chars = max(self.largest_log_chars, len(str(effect.fields)))
                self.codes[str(effect.fields.get("code", effect.event))] += 1
            elif isinstance(effect, Send):
                self.answers += 1


def deliver(arena: Arena, sent: list[bytes], tally: Tally, seed: object) -> list[Any]:
    """Hand a message to the victim's core; a crash names the seed and the frames."""
    began = time.perf_counter()
    try:
        effects = arena.victim.core.received(PEER, sent, arena.run.now_s, WALL_S)
    except BaseException as exc:
        head = [part[:200].hex() for part in sent[:3]]
        raise FuzzFailure(f"crash at {seed}: {exc!r} from {head}") from exc
    tally.slowest_s = max(tally.slowest_s, time.perf_counter() - began)
    tally.frames += 1
    tally.note(effects)
    return effects


def attack_mutated(arena: Arena, r: random.Random, count: int, tally: Tally, seed: object) -> None:
    """Changed messages with their old signatures: nothing may be kept of them."""
    node = arena.victim
    before = state_of(node)
    for number in range(count):
        sent = mutated(r, arena)
        if arena.equivalent(sent):
            tally.equivalent += 1
            continue
        effects = deliver(arena, sent, tally, (seed, number))
        rest = [e for e in effects if not isinstance(e, (Log, Send))]
        if rest or number % BATCH == 0:
            if any(isinstance(e, (Persist, Remember)) for e in rest):
                raise FuzzFailure(f"stored at {(seed, number)}: {str(rest)[:300]}")
            for effect in rest:
                if isinstance(effect, Combine) and PEER not in node.core.missing:
                    raise FuzzFailure(f"mixed at {(seed, number)}")
            if state_of(node) != before:
                raise FuzzFailure(f"changed at or before {(seed, number)}: {sent[0][:300]!r}")
            arena.run._perform(VICTIM, rest)
            before = state_of(node)
        if number % 2000 == 1999:
            arena.run.advance(0.05)
            before = state_of(node)
        node.core.neighbours[PEER].left = False  # a farewell carries no signature of its own
    if state_of(node) != before:
        raise FuzzFailure(f"changed at the end of {seed}")


def attack_forged(arena: Arena, r: random.Random, count: int, tally: Tally, seed: object) -> None:
    """Well-formed lies under the peer's own signature: they may cost it its own edge only."""
    node = arena.victim
    signer = Signer(arena.key)
    channel = node.core.settlement._edges[PEER].channel
    others = frozenset({PEER})
    number = 0
    while number < count:
        for sent in forged(r, arena, signer):
            number += 1
            due = {window: delta for window, (delta, *_) in channel._due.items()}
            looked, balance = number % 16 == 0, channel.position.balance
            before = state_of(node, others)[1:2] if looked else []
            effects = deliver(arena, sent, tally, (seed, number))
            if channel.position.balance != balance:
                moved = channel.position.balance - balance
                if moved != due.get(channel.position.window):
                    raise FuzzFailure(f"balance moved by {moved} at {(seed, number)}, due {due}")
            rest = [e for e in effects if not isinstance(e, (Log, Send))]
            if looked and not rest and _edges(state_of(node, others)) != _edges(before):
                raise FuzzFailure(f"another edge changed at {(seed, number)}")
            arena.run._perform(VICTIM, rest)
            arena.run._verify(VICTIM)  # at once, as only few complete updates may wait
            node.core.neighbours[PEER].left = False
            if number % 20 == 0:
                arena.run.advance(0.1)
    arena.run.advance(5.0)
    if not np.isfinite(node.x).all() or float(np.abs(node.x).max()) > 1e7:
        raise FuzzFailure(f"the model is poisoned at {seed}: {node.x}")


def _edges(state: Any) -> Any:
    settlement = state[-1] if len(state) == 1 else state[1]
    return [value for name, value in settlement if name == "_edges"]


def fuzz(
    run_dir: Path,
    count: int,
    seed: int,
    report: Callable[[str], None],
    algorithm: str | None = None,
    sizes: tuple[int, int] = (MUTATED, FORGED),
) -> Tally:
    """Send `count` frames at real cores, by turns so many mutated ones and so many forged."""
    tally = Tally()
    (run_dir / "rare").mkdir()
    rare = record_rare_kinds(run_dir / "rare", algorithm)
    episode = 0
    while tally.frames < count:
        name = f"seed {seed} episode {episode}"
        r = random.Random(f"{seed}/{episode}")
        folder = run_dir / f"e{episode}"
        folder.mkdir()
        shutil.copytree(run_dir / "rare" / "agents", folder / "agents", ignore=_no_ledgers)
        arena = Arena.open(folder, episode, rare, algorithm)
        tally.kinds |= {frame.envelope.kind for frame in arena.frames}
        lies = episode % 2 == 1
        size = min(sizes[lies], count - tally.frames)
        (attack_forged if lies else attack_mutated)(arena, r, size, tally, name)
        tally.judged.update(str(e["code"]) for e in arena.victim.events("update_refused"))
        before = arena.victim.core.round
        until_s = arena.run.now_s + 5.0  # who says WAITING gets a second deadline of 2 s
        while arena.victim.core.round <= before and arena.run.now_s < until_s:
            arena.run.advance(0.1)
        if arena.victim.core.round <= before:
            raise FuzzFailure(f"still in round {before} after {name}: {arena.victim.core.phase}")
        arena.run.close()
        shutil.rmtree(folder)
        episode += 1
        if episode % 10 == 0:
            report(f"{tally.frames} frames, {rss_mb():.0f} MB")
    return tally


def _no_ledgers(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith("ledger")]


def main() -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description="Attack a core as an authenticated neighbour.")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--socket", action="store_true", help="at a real daemon, over CURVE")
    parser.add_argument("--algorithm", help=f"of the runs in memory; {REWARDS}")
    options = parser.parse_args()
    if options.socket:
        from tests.campaigns.fuzz_socket import attack_daemon

        with tempfile.TemporaryDirectory() as folder:
            return attack_daemon(Path(folder), options.frames, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        before, began = rss_mb(), time.perf_counter()
        tally = fuzz(
            path,
            options.frames,
            options.seed,
            lambda line: print(line, flush=True),
            options.algorithm,
        )
        seconds = time.perf_counter() - began
    print(
        f"seed {options.seed}: {tally.frames} frames of {len(tally.kinds)} kinds, 0 crashes, "
        f"0 accepted, {tally.equivalent} equivalent ones left out\n"
        f"{tally.frames / seconds:.0f} frames a second with the making of them, slowest "
        f"{tally.slowest_s * 1e3:.0f} ms; memory {before:.0f} -> {rss_mb():.0f} MB; "
        f"{tally.logged} log lines of at most {tally.largest_log_chars} characters, "
        f"{tally.answers} answers\nnot recorded: {sorted(k.name for k in set(Kind) - tally.kinds)}"
    )
    print(dict(tally.codes.most_common()))
    print(f"complete updates refused: {dict(tally.judged.most_common())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
