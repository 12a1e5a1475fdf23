"""Two honest ends agree whatever a network and crashes do; a dishonest one is named and changes
nothing."""

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from candor.mechanisms.evidence.claims import Claim, ClaimedRound, SignedClaim
from candor.mechanisms.ledger.audit import AuditFacts, ExportFile, audit_run
from candor.mechanisms.ledger.bodies import (
    ATTEMPTS_MAX,
    GENESIS,
    PAYMENT,
    Body,
    Position,
    check_successor,
)
from candor.mechanisms.ledger.channel import (
    Channel,
    ChannelState,
    ChannelTerms,
    Disputed,
    Effect,
    Froze,
    Ignored,
    LedgerViolation,
    Message,
    OverLimit,
    Paid,
    PaymentAwaited,
    PeerRejected,
    Pending,
    ReadRecords,
    Record,
    Refusal,
    Refused,
    Settled,
    Status,
    StorePayment,
    StorePending,
    StoreRecord,
    StoreRefusal,
    StoreStatus,
    Transmit,
    parse_message,
)
from candor.mechanisms.ledger.export import export_channel
from candor.mechanisms.ledger.messages import Accept, Propose, Records, Reject, StateMessage
from candor.mechanisms.ledger.records import sign_acceptance, sign_proposal
from candor.mechanisms.payments.bills import BillTerms, SignedBill, parse_rule
from candor.topologies.encoding.canonical import MalformedError, pack, sha256, unpack
from candor.topologies.encoding.signatures import SigningKey
from tests.bills import Settling, settling

RUN = sha256(b"run")
KEYS = {"a0": SigningKey(sha256(b"a0")), "a1": SigningKey(sha256(b"a1"))}
TERMS = ChannelTerms(
    lo="a0",
    hi="a1",
    public_lo=KEYS["a0"].public,
    public_hi=KEYS["a1"].public,
    run_id="test",
    fingerprint=RUN,
    credit_limit=10_000_000,
)
OTHER = {"a0": "a1", "a1": "a0"}
WINDOWS = 6


BILLS = BillTerms(
    run=RUN,
    window_rounds=16,
    trace_size=1,
    publics={agent: key.public for agent, key in KEYS.items()},
    neighbours={agent: frozenset({other}) for agent, other in OTHER.items()},
    payments=parse_rule("norm:0.1"),
)


def settlement(window: int) -> Settling:
    """Real claims of both ends for a window and what they settle."""
    rng = random.Random(window)
    signed = {}
    for agent, other in OTHER.items():
        trace = struct.pack("<f", rng.random())
        rounds = (ClaimedRound(window * 16 + 1, rng.uniform(0, 9), (other,), trace),)
        signed[agent] = SignedClaim.sign(Claim(RUN, window, agent, rounds), KEYS[agent])
    return settling(BILLS, "a0", "a1", signed, KEYS)


SETTLEMENTS = [settlement(window) for window in range(WINDOWS)]


@dataclass
class Disk:
    """What survives a crash."""

    records: list[Record] = field(default_factory=list)
    pending: Pending | None = None
    status: Status = Status.OPEN
    reason: str = ""
    refusals: list[Refusal] = field(default_factory=list)
    payment: int = 0

    def state(self) -> ChannelState:
        return ChannelState(
            heads=tuple(record.head for record in self.records),
            last=self.records[-1] if self.records else None,
            pending=self.pending,
            status=self.status,
            reason=self.reason,
            refusals=tuple(self.refusals),
            payment=self.payment,
        )

    def copy(self) -> "Disk":
        return replace(self, records=list(self.records), refusals=list(self.refusals))


@dataclass
class End:
    name: str
    channel: Channel
    disk: Disk
    nonce: bytes
    known: set[int] = field(default_factory=set)  # claims of these windows are on disk
    backups: list[Disk] = field(default_factory=list)


class Twin:
    """Two ends over a network that a seed makes lose, repeat, delay and reorder."""

    def __init__(
        self,
        seed: int = 0,
        *,
        loss: float = 0.0,
        crash: float = 0.0,
        restore: float = 0.0,
        reorder: Callable[[list[Effect]], list[Effect]] = list,
        terms: ChannelTerms = TERMS,
        disorder: int = 0,
        payments: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.loss, self.crash, self.restore = loss, crash, restore
        self.reorder = reorder
        self.terms = terms
        self.flying: list[tuple[str, bytes, str, bytes]] = []  # to, its nonce, kind, fields
        self.signed: dict[tuple[str, int, int, bytes], set[bytes]] = {}
        self.reports: list[tuple[str, Effect]] = []
        self.crashes = 0
        self.disorder, self.payments = disorder, payments
        self.plan_number = 0
        self.plan = 0  # a payment outside the system, of which each operator tells its end
        self.refused: set[tuple[str, bytes]] = set()
        self.accepted: set[tuple[str, bytes]] = set()
        self.ends = {name: self._boot(name, Disk()) for name in OTHER}
        for name in OTHER:
            self._connect(name)

    def _boot(self, name: str, disk: Disk) -> End:
        channel = Channel(self.terms, KEYS[name], disk.state())
        return End(name, channel, disk, self.rng.randbytes(16))

    def _connect(self, name: str) -> None:
        end, peer = self.ends[name], self.ends[OTHER[name]]
        self.perform(name, end.channel.connected(end.nonce, peer.nonce))

    def restart(self, name: str) -> None:
        self.crashes += 1
        old = self.ends[name]
        disk = old.disk.copy()
        if old.backups and self.rng.random() < self.restore:
            disk = self.rng.choice(old.backups).copy()
        end = self._boot(name, disk)
        end.known, end.backups = old.known, old.backups
        self.ends[name] = end
        self._connect(name)
        self._connect(OTHER[name])
        for window in sorted(end.known):
            self.settle(name, window)

    def perform(self, name: str, effects: list[Effect]) -> None:
        end = self.ends[name]
        for effect in self.reorder(effects):
            if self.ends[name] is not end:
                return  # it crashed while an earlier effect was performed
            if self.rng.random() < self.crash:
                self.restart(name)
                return
            self._perform(end, effect)

    def _perform(self, end: End, effect: Effect) -> None:
        disk = end.disk
        match effect:
            case StorePending(_, body, sig_p, evidence):
                assert disk.pending is None
                disk.pending = Pending(body, sig_p, evidence)
            case StoreRecord(_, seq, body, sig_p, sig_a, evidence, paid):
                assert seq == len(disk.records)
                disk.records.append(Record(body, sig_p, sig_a, evidence))
                disk.pending = None
                disk.payment = 0 if paid == disk.payment else disk.payment
                end.backups.append(disk.copy())
            case StorePayment(_, delta):
                disk.payment = delta
            case StoreRefusal(_, refusal, status, reason, paid):
                disk.refusals.append(refusal)
                disk.pending = None
                disk.status, disk.reason = status, reason
                disk.payment = 0 if paid == disk.payment else disk.payment
                end.backups.append(disk.copy())
            case StoreStatus(_, status, reason):
                disk.status, disk.reason = status, reason
            case ReadRecords(_, first, count):
                records = disk.records[first : first + count]
                self.perform(end.name, end.channel.records_read(records))
            case Transmit(message):
                self._transmit(end, message)
            case _:
                self.reports.append((end.name, effect))

    def _transmit(self, end: End, message: Message) -> None:
        to = OTHER[end.name]
        if isinstance(message, Propose):
            self._note_signature(end, message.body)
        elif isinstance(message, Reject):
            self.refused.add((end.name, message.body_hash))
        elif isinstance(message, Accept):
            self.accepted.add((end.name, message.head))
            self._note_signature(end, end.disk.records[-1].body if end.disk.records else b"")
        copies = 0 if self.rng.random() < self.loss else 1 + (self.rng.random() < self.loss / 2)
        flight = (to, self.ends[to].nonce, message.kind, pack(message.to_fields()))
        self.flying += [flight] * copies

    def _note_signature(self, end: End, data: bytes) -> None:
        body = Body.decode(data)
        # A restored backup may sign again, in another session: the nonces tell it from malice.
        session = body.nonce_lo + body.nonce_hi if self.restore else b""
        self.signed.setdefault((end.name, body.seq, body.attempt, session), set()).add(data)

    def deliver(self, index: int = 0) -> None:
        to, nonce, kind, data = self.flying.pop(index)
        end = self.ends[to]
        if nonce != end.nonce:
            return  # the network layer drops what is addressed to an earlier life
        fields = unpack(data, bytes_max=2**20)
        assert isinstance(fields, list)
        self.perform(to, end.channel.received_from_peer(parse_message(kind, fields)))

    def settle(self, name: str, window: int) -> None:
        end = self.ends[name]
        end.known.add(window)
        due = SETTLEMENTS[window]
        settled = end.channel.settle(window, due.delta, due.bundle_lo, due.bundle_hi)
        self.perform(name, settled)

    def drain(self, steps_max: int = 2_000) -> None:
        """A network that works from now on, until nobody has anything left to say."""
        self.loss = self.crash = 0.0
        for _ in range(steps_max):
            if self.flying:
                self.deliver()
            elif all(end.channel.idle for end in self.ends.values()):
                return
            else:
                said = 0
                for name, end in self.ends.items():
                    self.perform(name, end.channel.resend())
                    said = len(self.flying)
                if not said:
                    return

    def chaos(self, steps: int) -> None:
        for _ in range(steps):
            name = self.rng.choice(["a0", "a1"])
            end = self.ends[name]
            what = self.rng.random()
            if what < 0.6 and self.flying:
                self.deliver(self.rng.randrange(min(len(self.flying), 6)))
            elif what < 0.8:
                unknown = sorted(set(range(WINDOWS)) - end.known)
                if unknown:
                    self.settle(name, self.rng.choice(unknown[: 1 + self.disorder]))
            elif self.payments and what < 0.85:
                self.pay(name)
            else:
                self.perform(name, end.channel.resend())

    def pay(self, name: str) -> None:
        """The operator of an end tells it of the payment that both have agreed on."""
        end = self.ends[name]
        paid = [paid_in(end.disk) for end in self.ends.values()]
        if self.plan and min(paid) == max(paid) == self.plan_number:
            self.plan = 0
        if not self.plan:
            balance = end.channel.position.balance
            self.plan = -self.rng.choice([balance, balance // 2])
            self.plan_number = max(paid) + 1
        if self.plan and paid_in(end.disk) < self.plan_number:
            self.perform(name, end.channel.pay(self.plan))

    def settle_all(self, windows: Sequence[int] = range(WINDOWS)) -> None:
        for window in windows:
            for name in OTHER:
                self.settle(name, window)
            self.drain()

    def reported(self, kind: type[Effect]) -> list[tuple[str, Effect]]:
        return [report for report in self.reports if isinstance(report[1], kind)]


def paid_in(disk: Disk) -> int:
    return sum(Body.decode(record.body).kind == PAYMENT for record in disk.records)


def finish(twin: Twin, steps: int = 90) -> None:
    twin.chaos(steps)
    twin.crash = 0.0
    for name, end in twin.ends.items():
        for window in sorted(set(range(WINDOWS)) - end.known):
            twin.settle(name, window)
    twin.drain()


def double_signatures(twin: Twin) -> int:
    return sum(len(bodies) > 1 for bodies in twin.signed.values())


CHUNKS = 10


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_ends_agree_after_crashes_loss_repetition_and_reordering(chunk: int) -> None:
    crashes = 0
    for seed in range(chunk, 250, CHUNKS):
        twin = Twin(seed, loss=0.2, crash=0.06)
        finish(twin)
        lo, hi = twin.ends["a0"], twin.ends["a1"]
        assert lo.disk.records == hi.disk.records, f"seed {seed}"
        assert len(lo.disk.records) == WINDOWS + 1, f"seed {seed}"
        assert lo.channel.received + hi.channel.received == 0, f"seed {seed}"
        assert hi.channel.received == sum(due.delta for due in SETTLEMENTS), f"seed {seed}"
        assert lo.disk.pending is None is hi.disk.pending, f"seed {seed}"
        assert double_signatures(twin) == 0, f"seed {seed}"
        crashes += twin.crashes
    assert crashes > 50


@pytest.mark.parametrize("disorder", [0, 3])
def test_restored_backups_freeze_at_worst_and_never_look_like_malice(disorder: int) -> None:
    agreed = restored = 0
    for seed in range(60):
        twin = Twin(
            seed, loss=0.2, crash=0.06, restore=0.5, disorder=disorder, payments=disorder > 0
        )
        finish(twin)
        restored += twin.crashes
        for _, effect in twin.reported(Froze):
            assert isinstance(effect, Froze)
            assert effect.reason != "double-signed", f"seed {seed}"
        assert double_signatures(twin) == 0, f"seed {seed}"
        if not twin.reported(Froze):
            assert twin.ends["a0"].disk.records == twin.ends["a1"].disk.records, f"seed {seed}"
            agreed += 1
    assert agreed > 30 < restored


def test_sending_before_storing_double_signs_so_the_twin_would_notice() -> None:
    def send_first(effects: list[Effect]) -> list[Effect]:
        return sorted(effects, key=lambda effect: not isinstance(effect, Transmit))

    caught = 0
    for seed in range(60):
        twin = Twin(seed, loss=0.2, crash=0.06, reorder=send_first)
        try:
            finish(twin)
        except (LedgerViolation, AssertionError, MalformedError):
            caught += 1
            continue
        caught += double_signatures(twin) > 0
    assert caught > 5


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_ends_agree_after_refusals_and_payments_too(chunk: int) -> None:
    refused = recovered = paid = 0
    for seed in range(chunk, 250, CHUNKS):
        twin = Twin(seed, loss=0.2, crash=0.06, disorder=3, payments=True)
        finish(twin, 140)
        for name in OTHER:
            twin.pay(name)
        twin.drain()
        lo, hi = twin.ends["a0"], twin.ends["a1"]
        assert lo.channel.status is hi.channel.status, f"seed {seed}"
        assert lo.channel.status is not Status.FROZEN, f"seed {seed}"
        assert lo.disk.refusals == hi.disk.refusals, f"seed {seed}"
        assert lo.disk.records == hi.disk.records, f"seed {seed}"
        assert lo.channel.received + hi.channel.received == 0, f"seed {seed}"
        assert double_signatures(twin) == 0, f"seed {seed}"
        assert not twin.refused & twin.accepted, f"seed {seed}"
        for end in (lo, hi):
            settled = [w for w in windows(end) if w >= 0]
            assert sorted(settled) == settled, f"seed {seed}"
        if lo.channel.status is Status.OPEN:
            assert lo.channel.idle, f"seed {seed}"
            assert hi.channel.idle, f"seed {seed}"
        refused += len(lo.disk.refusals)
        paid += paid_in(lo.disk)
        recovered += sum(Body.decode(record.body).attempt > 0 for record in lo.disk.records)
    assert refused > 5
    assert recovered > 2
    assert paid > 10


def test_forgetting_which_attempt_was_refused_double_signs_so_the_twin_would_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("candor.mechanisms.ledger.attempts.Attempts.due", lambda self, seq: 0)
    caught = 0
    for seed in range(60):
        twin = Twin(seed, loss=0.2, crash=0.06, disorder=3)
        try:
            finish(twin)
        except (LedgerViolation, AssertionError, MalformedError):
            caught += 1
            continue
        caught += double_signatures(twin) > 0
    assert caught > 5


def test_a_peer_that_lost_many_records_is_brought_up_to_date() -> None:
    twin = Twin()
    twin.settle_all()
    twin.ends["a1"].disk = Disk()
    twin.ends["a1"].known = set()
    twin.restart("a1")
    twin.drain()
    assert twin.ends["a1"].disk.records == twin.ends["a0"].disk.records
    assert twin.ends["a1"].channel.received == -twin.ends["a0"].channel.received


def test_nothing_is_proposed_before_catching_up() -> None:
    twin = Twin()
    twin.settle_all(range(4))  # records 0 to 4: the next proposer is hi
    twin.ends["a1"].disk.records = twin.ends["a1"].disk.records[:3]  # and 3 would be hi's too
    twin.ends["a1"].known = set(range(WINDOWS))
    twin.flying.clear()
    twin.restart("a1")
    assert {kind for _, _, kind, _ in twin.flying} == {"STATE"}
    assert twin.ends["a1"].disk.pending is None


def test_a_window_in_which_the_proposer_may_owe_is_not_passed_over() -> None:
    twin = synced_twin()  # hi proposes record 1
    twin.settle("a0", 0)
    twin.settle("a0", 1)
    twin.settle("a1", 1)
    twin.drain()
    assert twin.reported(Refused) == [("a0", Refused("window-order", 0))]
    assert twin.reported(PeerRejected) == [("a1", PeerRejected("window-order", 0))]
    for end in twin.ends.values():
        assert windows(end) == [-1]
        assert end.channel.status is Status.OPEN
        assert end.disk.pending is None
    twin.settle("a1", 0)  # the claim it lacked has come: the next attempt has it
    twin.drain()
    for end in twin.ends.values():
        assert windows(end) == [-1, 0, 1]
        assert [Body.decode(r.body).attempt for r in end.disk.records] == [0, 1, 0]
        assert end.channel.idle


def windows(end: End) -> list[int]:
    return [Body.decode(record.body).window for record in end.disk.records]


def test_a_refused_window_is_proposed_again_only_once_a_later_one_is_due() -> None:
    twin = synced_twin()  # hi proposes record 1
    twin.settle("a0", 0)
    twin.settle("a0", 1)
    twin.settle("a1", 1)
    twin.drain()
    twin.restart("a1")
    twin.restart("a0")
    twin.drain()
    assert len(twin.reported(Refused)) == 1
    twin.settle("a1", 2)
    twin.drain()
    assert [effect for _, effect in twin.reported(Refused)] == [
        Refused("window-order", 0),
        Refused("window-order", 1),
    ]
    for end in twin.ends.values():
        assert (end.channel.status, end.disk.status) == (Status.DISPUTED, Status.DISPUTED)
        assert end.channel.reason == "window-order"


def test_both_ends_may_pass_over_a_window_that_one_of_them_refuses() -> None:
    twin = synced_twin()  # hi proposes record 1
    twin.settle("a1", 0)
    twin.perform("a0", twin.ends["a0"].channel.skip(0))
    twin.drain()
    assert twin.reported(PeerRejected) == [("a1", PeerRejected("window-skipped", 0))]
    for name in OTHER:
        twin.settle(name, 1)
    twin.perform("a1", twin.ends["a1"].channel.skip(0))
    twin.drain()
    for end in twin.ends.values():
        assert end.channel.status is Status.DISPUTED  # hi insisted on window 0 when 1 came
    twin = synced_twin()
    twin.settle("a1", 0)
    twin.perform("a0", twin.ends["a0"].channel.skip(0))
    twin.drain()
    twin.perform("a1", twin.ends["a1"].channel.skip(0))
    twin.settle_all([1])
    for end in twin.ends.values():
        assert windows(end) == [-1, 1]
        assert end.channel.idle


def test_a_window_that_was_skipped_is_not_settled_later() -> None:
    twin = synced_twin()
    channel = twin.ends["a1"].channel
    channel.skip(0)
    effects = channel.settle(0, *due_of(0))
    assert effects == [Ignored("window-skipped")]


def test_a_window_without_a_payment_may_be_skipped() -> None:
    twin = synced_twin()  # hi proposes record 1
    free = SETTLEMENTS[0]
    twin.ends["a0"].channel.settle(0, 0, free.bundle_lo, free.bundle_hi)
    twin.settle("a0", 1)
    twin.settle("a1", 1)
    twin.drain()
    for end in twin.ends.values():
        assert [Body.decode(r.body).window for r in end.disk.records] == [-1, 1]
        assert end.channel.idle
    late = twin.ends["a1"].channel.settle(0, free.delta, free.bundle_lo, free.bundle_hi)
    assert late == [Ignored("window-settled")]
    assert twin.reported(Settled)[0] == ("a0", Settled(1, 1, *[SETTLEMENTS[1].delta] * 2))


def synced_twin() -> Twin:
    """Genesis done on both ends; record 1 is hi's to propose."""
    twin = Twin()
    twin.drain()
    return twin


def proposal(twin: Twin, **changes: object) -> Propose:
    """What hi would propose for window 0, altered and signed again."""
    due = SETTLEMENTS[0]
    position = twin.ends["a0"].channel.position
    body = Body(
        channel_id=TERMS.channel_id,
        seq=1,
        attempt=0,
        prev=position.head,
        proposer=TERMS.public_hi,
        window=0,
        kind="settlement",
        delta=due.delta,
        balance_after=due.delta,
        bill_digest_lo=SignedBill.decode(due.bundle_lo).digest,
        bill_digest_hi=SignedBill.decode(due.bundle_hi).digest,
        nonce_lo=twin.ends["a0"].nonce,
        nonce_hi=twin.ends["a1"].nonce,
    )
    data = replace(body, **changes).encode()  # type: ignore[arg-type]
    return Propose(data, sign_proposal(KEYS["a1"], data))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"channel_id": bytes(32)}, "channel"),
        ({"prev": bytes(32)}, "prev"),
        ({"proposer": TERMS.public_lo}, "proposer"),
        ({"seq": 2}, "proposer"),
        ({"attempt": 16}, "attempt"),
        ({"balance_after": 7}, "balance"),
        ({"window": -1}, "window"),
        ({"kind": GENESIS}, "window"),
    ],
)
def test_a_proposal_that_does_not_fit_the_chain_is_a_violation(
    changes: dict[str, object], code: str
) -> None:
    twin = synced_twin()
    channel = twin.ends["a0"].channel
    before = channel.position
    with pytest.raises(LedgerViolation) as caught:
        channel.received_from_peer(proposal(twin, **changes))
    assert caught.value.code == code
    assert channel.position == before
    assert channel.status is Status.OPEN
    twin.settle_all([0])
    assert channel.position.seq == 1


def test_a_forged_signature_is_a_violation() -> None:
    twin = synced_twin()
    forged = replace(proposal(twin), sig_p=bytes(64))
    with pytest.raises(LedgerViolation, match="sig-p"):
        twin.ends["a0"].channel.received_from_peer(forged)


def test_a_proposal_waits_until_its_window_is_settled_here() -> None:
    twin = synced_twin()
    twin.settle("a1", 0)
    twin.deliver()
    assert len(twin.ends["a0"].disk.records) == 1
    assert not twin.flying
    twin.settle("a0", 0)
    assert len(twin.ends["a0"].disk.records) == 2
    twin.drain()
    assert twin.ends["a1"].disk.records == twin.ends["a0"].disk.records


@pytest.mark.parametrize(
    "changes",
    [
        {"delta": 5, "balance_after": 5},
        {"bill_digest_lo": bytes(32)},
        {"bill_digest_hi": bytes(32)},
    ],
)
def test_a_proposal_that_contradicts_the_claims_is_disputed_on_both_ends(
    changes: dict[str, object],
) -> None:
    twin = synced_twin()
    lo, hi = twin.ends["a0"], twin.ends["a1"]
    false = proposal(twin, **changes)
    hi.disk.pending = Pending(false.body, false.sig_p, ())
    twin.restart("a1")
    twin.drain()
    twin.settle("a0", 0)
    twin.drain()
    assert lo.channel.status is Status.DISPUTED is twin.ends["a1"].channel.status
    assert lo.disk.status is Status.DISPUTED is twin.ends["a1"].disk.status
    assert twin.reported(Disputed) == [(name, Disputed("mismatch")) for name in ("a0", "a1")]
    assert twin.reported(Refused) == [("a0", Refused("mismatch", 0))]
    assert twin.reported(PeerRejected) == [("a1", PeerRejected("mismatch", 0))]
    assert len(lo.disk.records) == 1
    twin.restart("a0")  # a restart forgets neither the dispute nor how to answer
    twin.perform("a0", twin.ends["a0"].channel.received_from_peer(false))
    assert twin.flying[-1][2] == "REJECT"


def test_a_refused_window_is_rejected_instead_of_held() -> None:
    twin = synced_twin()
    twin.settle("a1", 0)
    twin.deliver()
    twin.perform("a0", twin.ends["a0"].channel.skip(0))
    twin.drain()
    assert twin.reported(PeerRejected) == [("a1", PeerRejected("window-skipped", 0))]


def test_the_credit_limit_stops_the_proposer_and_a_proposal_beyond_it_is_refused() -> None:
    delta = SETTLEMENTS[0].delta
    at_limit = Twin(terms=replace(TERMS, credit_limit=abs(delta)))
    at_limit.settle_all([0])
    assert len(at_limit.ends["a0"].disk.records) == 2

    below = Twin(terms=replace(TERMS, credit_limit=abs(delta) - 1))
    below.settle_all([0])
    assert len(below.ends["a0"].disk.records) == 1
    warned = [(name, OverLimit(0, delta)) for name in OTHER]
    assert sorted(below.reported(OverLimit), key=lambda report: report[0]) == warned

    twin = synced_twin()
    beyond = TERMS.credit_limit + 1
    effects = twin.ends["a0"].channel.received_from_peer(
        proposal(twin, delta=beyond, balance_after=beyond)
    )
    assert [type(effect) for effect in effects] == [StoreRefusal, Transmit, Refused]
    assert effects[-1] == Refused("credit-limit", 0)
    assert twin.ends["a0"].channel.status is Status.OPEN


def test_two_bodies_for_one_number_in_one_session_freeze_with_proof() -> None:
    twin = synced_twin()
    channel = twin.ends["a0"].channel
    first, second = proposal(twin), proposal(twin, window=1)
    assert channel.received_from_peer(first) == []
    effects = channel.received_from_peer(second)
    assert effects[-1] == Froze(
        "double-signed", ((first.body, first.sig_p), (second.body, second.sig_p))
    )
    assert channel.received_from_peer(first) == [Ignored("frozen")]
    assert channel.status is Status.FROZEN


def test_the_same_number_signed_in_another_session_freezes_without_an_accusation() -> None:
    twin = synced_twin()
    channel = twin.ends["a0"].channel
    channel.received_from_peer(proposal(twin))
    effects = channel.received_from_peer(proposal(twin, nonce_hi=bytes(16)))
    assert isinstance(effects[-1], Froze)
    assert effects[-1].reason == "conflicting-proposal"


def test_heads_that_conflict_freeze_the_channel() -> None:
    twin = synced_twin()
    lo = twin.ends["a0"]
    lied = StateMessage.sign(
        KEYS["a1"], TERMS.channel_id, lo.nonce, 0, sha256(b"x"), answer_wanted=False
    )
    effects = lo.channel.received_from_peer(lied)
    assert effects[-1] == Froze("heads-conflict")
    twin.perform("a0", effects)
    twin.restart("a0")
    assert twin.ends["a0"].channel.status is Status.FROZEN
    assert twin.ends["a0"].channel.resend() == []


def test_a_state_of_another_session_is_ignored_and_a_forged_one_is_a_violation() -> None:
    twin = synced_twin()
    channel, nonce = twin.ends["a0"].channel, twin.ends["a0"].nonce

    def state(key: SigningKey, echoed: bytes) -> StateMessage:
        return StateMessage.sign(
            key, TERMS.channel_id, echoed, 0, channel.position.head, answer_wanted=False
        )

    stale = channel.received_from_peer(state(KEYS["a1"], bytes(16)))
    assert stale == [Ignored("state-of-another-session")]
    with pytest.raises(LedgerViolation, match="state-signature"):
        channel.received_from_peer(state(KEYS["a0"], nonce))


def test_a_repeated_proposal_gets_the_stored_acceptance() -> None:
    twin = synced_twin()
    for name in OTHER:
        twin.settle(name, 0)
    flight = twin.flying[0]
    twin.drain()
    twin.flying = [flight]
    before = twin.ends["a0"].channel.position
    twin.deliver()
    assert [kind for _, _, kind, _ in twin.flying] == ["ACCEPT"]
    assert twin.ends["a0"].channel.position == before


def test_acceptances_and_rejections_of_what_was_not_proposed() -> None:
    twin = synced_twin()
    channel = twin.ends["a1"].channel
    head = channel.position.head
    ignored = [Ignored("accept-of-nothing-pending")]
    assert channel.received_from_peer(Accept(head, bytes(64))) == ignored
    assert channel.received_from_peer(Accept(bytes(32), bytes(64))) == ignored
    reject = Reject.sign(KEYS["a0"], TERMS.channel_id, bytes(32), "mismatch")
    assert channel.received_from_peer(reject) == [Ignored("reject-of-nothing-pending")]
    twin.settle("a1", 0)
    pending = twin.ends["a1"].disk.pending
    assert pending is not None
    with pytest.raises(LedgerViolation, match="sig-a"):
        channel.received_from_peer(Accept(sha256(pending.body), bytes(64)))
    forged = Reject.sign(KEYS["a1"], TERMS.channel_id, sha256(pending.body), "mismatch")
    with pytest.raises(LedgerViolation, match="reject-signature"):
        channel.received_from_peer(forged)


def lagging_twin() -> tuple[Twin, list[Record]]:
    """lo has records 0 to 4, hi only 0 and 1; returns what hi lacks."""
    twin = Twin()
    twin.settle_all(range(4))
    missing = twin.ends["a1"].disk.records[2:]
    twin.ends["a1"].disk.records = twin.ends["a1"].disk.records[:2]
    twin.ends["a1"].known = set()
    twin.restart("a1")
    return twin, missing


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        (lambda r: replace(r, sig_p=bytes(64)), "sig-p"),
        (lambda r: replace(r, sig_a=bytes(64)), "sig-a"),
        (lambda r: replace(r, evidence=()), "evidence"),
        (lambda r: replace(r, evidence=r.evidence[:1]), "evidence"),
        (lambda r: replace(r, evidence=(r.evidence[0], b"no bundle")), "evidence"),
        (lambda r: replace(r, evidence=(r.evidence[1], r.evidence[0])), "bill-digest"),
        (lambda r: replace(r, evidence=(SETTLEMENTS[5].bundle_lo, r.evidence[1])), "bill-digest"),
    ],
)
def test_records_are_adopted_only_with_both_signatures_and_their_evidence(
    tamper: Callable[[Record], Record], code: str
) -> None:
    twin, missing = lagging_twin()
    channel = twin.ends["a1"].channel
    with pytest.raises(LedgerViolation) as caught:
        channel.received_from_peer(Records((missing[0], tamper(missing[1]))))
    assert caught.value.code == code
    assert channel.position.seq == 1  # not even the good record before it
    effects = channel.received_from_peer(Records(tuple(missing)))
    assert [type(e) for e in effects].count(StoreRecord) == len(missing)
    assert channel.position.seq == 4


def test_bills_of_other_referees_are_no_evidence_though_both_ends_signed_for_them() -> None:
    twin = synced_twin()
    due = SETTLEMENTS[0]
    swapped = (due.bundle_hi, due.bundle_lo)
    lo, hi = (SignedBill.decode(bundle).digest for bundle in swapped)
    made = proposal(twin, bill_digest_lo=lo, bill_digest_hi=hi)
    sig_a = sign_acceptance(KEYS["a0"], made.body, made.sig_p)
    with pytest.raises(LedgerViolation, match="not of this edge's ends"):
        twin.ends["a0"].channel.received_from_peer(
            Records((Record(made.body, made.sig_p, sig_a, swapped),))
        )


def test_a_genesis_has_no_evidence() -> None:
    twin = Twin()
    twin.settle_all([0])
    genesis = twin.ends["a0"].disk.records[0]
    new = Channel(TERMS, KEYS["a1"])
    new.connected(bytes(16), bytes(16))
    with pytest.raises(LedgerViolation, match="evidence"):
        new.received_from_peer(Records((replace(genesis, evidence=(b"x",)),)))


def test_two_fully_signed_records_with_one_number_freeze_the_channel() -> None:
    twin = synced_twin()
    twin.settle_all([0])
    other = proposal_after_genesis(twin)
    effects = twin.ends["a0"].channel.received_from_peer(Records((other,)))
    assert isinstance(effects[-1], Froze)
    assert effects[-1].reason == "records-conflict"


def proposal_after_genesis(twin: Twin) -> Record:
    genesis = twin.ends["a0"].disk.records[0]
    made = proposal(twin, prev=genesis.head, window=3)
    sig_a = sign_acceptance(KEYS["a0"], made.body, made.sig_p)
    return Record(made.body, made.sig_p, sig_a, ())


def test_a_record_of_another_channel_is_no_conflict() -> None:
    twin = synced_twin()
    other = Twin(terms=replace(TERMS, run_id="another"))
    other.drain()
    channel = twin.ends["a0"].channel
    with pytest.raises(LedgerViolation, match="channel"):
        channel.received_from_peer(Records(tuple(other.ends["a1"].disk.records)))
    assert channel.status is Status.OPEN


def test_every_message_survives_the_wire_and_nothing_else_parses() -> None:
    twin = Twin()
    twin.settle_all([0])
    records = twin.ends["a0"].disk.records
    messages: list[Message] = [
        StateMessage.sign(
            KEYS["a0"], TERMS.channel_id, bytes(16), -1, bytes(32), answer_wanted=True
        ),
        Propose(records[1].body, records[1].sig_p),
        Accept(records[1].head, records[1].sig_a),
        Reject.sign(KEYS["a0"], TERMS.channel_id, bytes(32), "mismatch"),
        Records(tuple(records)),
    ]
    for message in messages:
        fields = unpack(pack(message.to_fields()), bytes_max=2**20)
        assert isinstance(fields, list)
        assert parse_message(message.kind, fields) == message
        for spoiled in ([], [*fields, b""], [None, *fields[1:]]):
            with pytest.raises(MalformedError):
                parse_message(message.kind, spoiled)
    with pytest.raises(MalformedError):
        parse_message("EVIDENCE", [])


def test_a_records_message_is_bounded_in_number_and_bytes() -> None:
    record = Record(b"b", bytes(64), bytes(64), ())
    assert len(Records.fitting([record] * 65).records) == 64
    large = replace(record, evidence=(bytes(200_000),))
    assert len(Records.fitting([large] * 5).records) == 2
    huge = replace(record, evidence=(bytes(600_000),))
    assert len(Records.fitting([huge] * 5).records) == 1
    with pytest.raises(MalformedError):
        Records.from_fields([record.to_fields()] * 65)


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": -1},
        {"seq": 2**53},
        {"attempt": -1},
        {"prev": bytes(31)},
        {"proposer": bytes(33)},
        {"window": -2},
        {"kind": "gift"},
        {"delta": 2**62},
        {"balance_after": -(2**62)},
        {"bill_digest_lo": b""},
        {"nonce_hi": bytes(15)},
        {"seq": True},
        {"delta": 1.0},
    ],
)
def test_a_body_outside_its_bounds_is_malformed(changes: dict[str, object]) -> None:
    body = Body.decode(proposal(synced_twin()).body)
    with pytest.raises(MalformedError):
        Body.decode(replace(body, **changes).encode())  # type: ignore[arg-type]


def test_a_body_of_another_version_is_malformed() -> None:
    fields = unpack(proposal(synced_twin()).body, bytes_max=512)
    assert isinstance(fields, list)
    for version in (0, 2, True, 1.0):
        with pytest.raises(MalformedError):
            Body.decode(pack([version, *fields[1:]]))


def test_a_key_of_neither_end_is_refused() -> None:
    with pytest.raises(ValueError, match="a0-a1"):
        Channel(TERMS, SigningKey(bytes(32)))


def test_a_refused_body_gets_the_stored_rejection_whatever_came_later() -> None:
    twin = synced_twin()
    twin.settle("a0", 0)
    twin.settle("a0", 1)
    twin.settle("a1", 1)
    proposed = twin.flying[0]
    twin.drain()
    [refusal] = twin.ends["a0"].disk.refusals
    for _ in range(2):  # before and after the number is taken by another attempt
        twin.restart("a0")
        twin.drain()
        twin.flying = [("a0", twin.ends["a0"].nonce, *proposed[2:])]
        twin.deliver()
        [(_, _, kind, data)] = twin.flying
        fields = unpack(data, bytes_max=1000)
        assert isinstance(fields, list)
        assert parse_message(kind, fields) == Reject(
            sha256(refusal.body), "window-order", refusal.signature
        )
        twin.settle("a1", 0)
        twin.drain()
    assert twin.ends["a0"].channel.idle


def test_a_rejection_is_stored_before_it_is_sent_and_closes_the_attempt_on_both_ends() -> None:
    twin = synced_twin()
    twin.settle("a1", 0)
    lo, hi = (twin.ends[name].channel for name in OTHER)
    message = proposal_pending(twin)
    lo.received_from_peer(message)
    stored, sent, report = lo.skip(0)
    assert isinstance(stored, StoreRefusal)
    assert (stored.status, stored.reason) == (Status.OPEN, "")
    assert report == Refused("window-skipped", 0)
    assert isinstance(sent, Transmit)
    closed, told = hi.received_from_peer(sent.message)
    assert isinstance(closed, StoreRefusal)
    assert closed.refusal == stored.refusal
    assert told == PeerRejected("window-skipped", 0)
    assert hi.received_from_peer(sent.message) == [Ignored("reject-of-nothing-pending")]


def proposal_pending(twin: Twin) -> Propose:
    pending = twin.ends["a1"].disk.pending
    assert pending is not None
    return Propose(pending.body, pending.sig_p)


def test_another_body_for_a_refused_attempt_freezes_with_proof() -> None:
    twin = synced_twin()
    channel = twin.ends["a0"].channel
    channel.skip(0)
    first, second = proposal(twin), proposal(twin, window=1)
    channel.received_from_peer(first)
    effects = channel.received_from_peer(second)
    pairs = ((first.body, first.sig_p), (second.body, second.sig_p))
    assert effects[-1] == Froze("double-signed", pairs)


def test_the_next_attempt_of_a_proposal_that_was_not_refused_is_a_violation() -> None:
    twin = synced_twin()
    channel = twin.ends["a0"].channel
    assert channel.received_from_peer(proposal(twin)) == []
    with pytest.raises(LedgerViolation, match="attempt"):
        channel.received_from_peer(proposal(twin, attempt=1))
    twin.perform("a0", channel.settle(0, *due_of(0)))
    assert channel.position.seq == 1
    effects = channel.received_from_peer(proposal(twin, attempt=1))
    assert isinstance(effects[-1], Froze)
    assert effects[-1].reason == "conflicting-proposal"


def due_of(window: int) -> tuple[int, bytes, bytes]:
    due = SETTLEMENTS[window]
    return due.delta, due.bundle_lo, due.bundle_hi


def test_a_second_proposal_is_seen_even_when_it_is_beyond_the_credit_limit() -> None:
    twin = synced_twin()
    channel = twin.ends["a0"].channel
    channel.received_from_peer(proposal(twin))
    beyond = TERMS.credit_limit + 1
    effects = channel.received_from_peer(proposal(twin, delta=beyond, balance_after=beyond))
    assert isinstance(effects[-1], Froze)
    assert effects[-1].reason == "double-signed"


def test_refusals_of_one_number_are_bounded() -> None:
    twin = synced_twin()
    channel = twin.ends["a0"].channel
    beyond = TERMS.credit_limit + 1
    for attempt in range(ATTEMPTS_MAX):
        assert channel.status is Status.OPEN
        message = proposal(twin, attempt=attempt, delta=beyond, balance_after=beyond)
        effects = channel.received_from_peer(message)
    assert effects[-1] == Disputed("credit-limit")
    twin.perform("a0", effects)
    assert twin.ends["a0"].disk.status is Status.DISPUTED


def test_a_disputed_end_refuses_what_comes_and_the_proposer_stops() -> None:
    twin = synced_twin()
    twin.ends["a0"].disk.status, twin.ends["a0"].disk.reason = Status.DISPUTED, "mismatch"
    twin.restart("a0")
    twin.drain()
    twin.settle("a1", 0)
    twin.drain()
    assert twin.ends["a1"].channel.status is Status.DISPUTED
    assert twin.ends["a1"].channel.reason == "disputed"


def test_an_acceptor_that_lost_its_refusal_takes_the_next_attempt() -> None:
    twin = synced_twin()
    backup = twin.ends["a0"].disk.copy()
    twin.settle("a1", 0)
    twin.perform("a0", twin.ends["a0"].channel.skip(0))
    twin.drain()
    twin.ends["a0"].disk = backup
    twin.ends["a0"].known = {1}
    twin.restart("a0")
    twin.drain()
    twin.perform("a1", twin.ends["a1"].channel.skip(0))
    twin.settle("a1", 1)
    twin.drain()
    for end in twin.ends.values():
        assert windows(end) == [-1, 1]
        assert end.channel.idle


def test_a_proposer_that_lost_a_rejection_adopts_the_record_of_its_next_attempt() -> None:
    twin = synced_twin()
    twin.settle("a1", 0)
    backup = twin.ends["a1"].disk.copy()  # with the proposal of attempt 0
    twin.perform("a0", twin.ends["a0"].channel.skip(0))
    twin.drain()
    twin.perform("a1", twin.ends["a1"].channel.skip(0))
    twin.settle_all([1])
    twin.ends["a1"].disk = backup
    twin.restart("a1")
    twin.drain()
    assert twin.ends["a1"].disk.records == twin.ends["a0"].disk.records
    assert twin.ends["a1"].disk.pending is None
    assert not twin.reported(Froze)


def paying_twin() -> tuple[Twin, int]:
    """One window settled, so that there is a balance to pay off; record 2 is lo's to propose."""
    twin = Twin()
    twin.settle_all([0])
    balance = twin.ends["a0"].channel.position.balance
    assert balance != 0
    return twin, balance


@pytest.mark.parametrize("first", ["a0", "a1"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_payment_is_put_on_record_once_both_ends_were_told(first: str, restarted: bool) -> None:
    twin, balance = paying_twin()
    part = balance // 3
    twin.perform(first, twin.ends[first].channel.pay(-part))
    twin.drain()
    assert len(twin.ends["a0"].disk.records) == 2
    awaited = [("a1", PaymentAwaited(-part))] if first == "a0" else []
    assert twin.reported(PaymentAwaited) == awaited
    if restarted:
        for name in OTHER:
            twin.restart(name)
        twin.drain()
    other = OTHER[first]
    twin.perform(other, twin.ends[other].channel.pay(-part))
    twin.drain()
    for name, end in twin.ends.items():
        body = Body.decode(end.disk.records[-1].body)
        assert (body.kind, body.window, body.delta) == ("payment", 0, -part)
        assert end.channel.position.balance == balance - part
        assert (end.disk.payment, end.channel.idle) == (0, True)
        assert (name, Paid(2, -part, balance - part)) in twin.reported(Paid)
    twin.settle_all([1])
    assert windows(twin.ends["a0"]) == [-1, 0, 0, 1]


def over_limit_twin(beyond: int) -> tuple[Twin, int, int]:
    """A twin and two windows, the second of which is `beyond` the credit limit."""
    deltas = [due.delta for due in SETTLEMENTS]
    one, two = next(
        (one, two)
        for two in range(WINDOWS)
        for one in range(two)
        if deltas[one] * deltas[two] > 0  # the second adds to what the first one made
    )
    together = deltas[one] + deltas[two]
    twin = Twin(terms=replace(TERMS, credit_limit=abs(together) - beyond))
    twin.settle_all([one, two])
    assert sorted(twin.reported(OverLimit), key=lambda report: report[0]) == [
        (name, OverLimit(two, together)) for name in OTHER
    ]
    assert windows(twin.ends["a0"]) == [-1, one]
    return twin, one, two


def pay_both(twin: Twin, delta: int) -> None:
    for name in OTHER:
        twin.perform(name, twin.ends[name].channel.pay(delta))
    twin.drain()


def test_a_payment_makes_room_for_the_window_that_was_beyond_the_limit() -> None:
    twin, one, two = over_limit_twin(beyond=1)
    pay_both(twin, -SETTLEMENTS[one].delta)
    for end in twin.ends.values():
        assert windows(end) == [-1, one, one, two]
        assert end.channel.position.balance == SETTLEMENTS[two].delta
        assert end.channel.idle


def test_who_has_paid_too_little_is_told_to_be_over_the_limit_again() -> None:
    """The report of a payment lets a debtor in: another one must tell that it is still to pay."""
    twin, one, two = over_limit_twin(beyond=100)
    part = 99 if SETTLEMENTS[one].delta > 0 else -99
    pay_both(twin, -part)
    assert windows(twin.ends["a0"]) == [-1, one, one]
    left = SETTLEMENTS[one].delta + SETTLEMENTS[two].delta - part
    for name in OTHER:
        told = [effect for who, effect in twin.reports if who == name]
        assert told[-2:] == [Paid(2, -part, left - SETTLEMENTS[two].delta), OverLimit(two, left)]
    pay_both(twin, -part // 99)
    for end in twin.ends.values():
        assert windows(end) == [-1, one, one, one, two]


def test_different_payments_are_refused_and_settling_goes_on() -> None:
    twin, balance = paying_twin()
    twin.perform("a1", twin.ends["a1"].channel.pay(-balance))
    twin.perform("a0", twin.ends["a0"].channel.pay(-balance // 2))
    twin.drain()
    assert twin.reported(PeerRejected) == [("a0", PeerRejected("payment-differs", 0))]
    assert twin.ends["a0"].disk.payment == 0
    assert twin.ends["a1"].disk.payment == -balance
    twin.perform("a0", twin.ends["a0"].channel.pay(-balance))
    twin.drain()
    assert twin.ends["a1"].channel.position.balance == 0
    assert Body.decode(twin.ends["a1"].disk.records[-1].body).attempt == 1


def test_a_payment_that_never_was_is_refused_by_telling_so() -> None:
    twin, balance = paying_twin()
    twin.perform("a0", twin.ends["a0"].channel.pay(-balance))
    twin.drain()
    assert twin.ends["a0"].channel.pay(-1) == [Ignored("payment-pending")]
    twin.perform("a1", twin.ends["a1"].channel.pay(0))
    twin.drain()
    assert twin.ends["a0"].disk.payment == 0
    twin.settle_all([1])
    assert windows(twin.ends["a1"]) == [-1, 0, 1]


def test_what_is_told_since_a_payment_was_signed_waits_for_its_answer() -> None:
    twin, balance = paying_twin()
    twin.perform("a0", twin.ends["a0"].channel.pay(-balance))
    twin.drain()
    twin.ends["a0"].disk.payment = -1  # by the operator, in the store
    twin.restart("a0")
    assert twin.ends["a0"].channel.payment == -balance
    assert twin.ends["a0"].channel.pay(-1) == [Ignored("payment-pending")]
    twin.perform("a1", twin.ends["a1"].channel.pay(-balance))
    twin.drain()
    assert [end.channel.payment for end in twin.ends.values()] == [0, 0]
    assert twin.ends["a0"].disk.payment == -1  # for the driver to tell, or to forget


def test_a_settlement_leaves_what_was_told_of_payments() -> None:
    twin, balance = paying_twin()
    assert balance > 0
    pay_both(twin, 1)  # away from 0: it waits
    twin.settle_all([1])
    for end in twin.ends.values():
        assert windows(end) == [-1, 0, 1]
        assert (end.channel.payment, end.disk.payment) == (1, 1)


def test_a_payment_past_zero_waits_and_can_be_withdrawn() -> None:
    twin, balance = paying_twin()
    for told in (-2 * balance, balance):
        for name in OTHER:
            twin.perform(name, twin.ends[name].channel.pay(told))
        twin.drain()
        assert len(twin.ends["a0"].disk.records) == 2
        assert twin.ends["a0"].disk.payment == told
    for name in OTHER:
        assert twin.ends[name].channel.pay(0) == [StorePayment(TERMS.channel_id, 0)]
    with pytest.raises(ValueError, match="out of range"):
        twin.ends["a0"].channel.pay(2**62)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, None),
        ({"delta": 1}, "payment"),
        ({"delta": -101}, "payment"),
        ({"delta": 0}, "payment"),
        ({"window": 4}, "payment"),
        ({"window": 2}, "payment"),
        ({"bill_digest_lo": sha256(b"")}, "payment"),
        ({"balance_after": 0}, "balance"),
    ],
)
def test_a_payment_takes_the_balance_towards_zero_and_nothing_else(
    changes: dict[str, object], code: str | None
) -> None:
    position = Position(seq=4, head=sha256(b"4"), window=3, balance=100)
    fields = Body(
        channel_id=TERMS.channel_id,
        seq=5,
        attempt=0,
        prev=position.head,
        proposer=TERMS.public_hi,
        window=3,
        kind=PAYMENT,
        delta=-100,
        balance_after=0,
        bill_digest_lo=bytes(32),
        bill_digest_hi=bytes(32),
        nonce_lo=bytes(16),
        nonce_hi=bytes(16),
    )
    body = replace(fields, **changes)  # type: ignore[arg-type]
    if "balance_after" not in changes:
        body = replace(body, balance_after=100 + body.delta)
    else:
        body = replace(body, delta=-99)
    if code is None:
        check_successor(TERMS, position, body)
        return
    with pytest.raises(LedgerViolation) as caught:
        check_successor(TERMS, position, body)
    assert caught.value.code == code


def test_the_audit_passes_a_chain_with_a_later_attempt_and_a_payment() -> None:
    twin = synced_twin()
    twin.settle("a0", 0)
    for name in ("a0", "a1"):
        twin.settle(name, 1)
    twin.drain()
    twin.settle("a1", 0)
    twin.drain()
    balance = twin.ends["a0"].channel.position.balance
    for name in OTHER:
        twin.perform(name, twin.ends[name].channel.pay(-(balance // 2)))
    twin.settle_all([2])
    kinds = [
        (body.kind, body.attempt)
        for body in (Body.decode(record.body) for record in twin.ends["a0"].disk.records)
    ]
    assert ("settlement", 1) in kinds
    assert ("payment", 0) in kinds
    facts = AuditFacts(
        run_id=TERMS.run_id,
        credit_limit=TERMS.credit_limit,
        edges=frozenset({("a0", "a1")}),
        bills=BILLS,
    )
    files = [
        ExportFile(
            f"agents/{name}/ledger/a0-a1.jsonl",
            name,
            export_channel(TERMS, name, KEYS[name], twin.ends[name].disk.records),
        )
        for name in OTHER
    ]
    told = audit_run(files, facts)
    assert told.findings == ()
    assert told.edges[0].windows == 3
    left = sum(SETTLEMENTS[window].delta for window in range(3)) - balance // 2
    assert told.nets == {"a0": -left, "a1": left}
    payer, payee = ("a0", "a1") if left > 0 else ("a1", "a0")
    assert told.transfers == ((payer, payee, abs(left)),)
