"""What must hold after every step of a lockstep run, whatever broke.

Ledgers are equal as far as both ends have them; nobody signs two bodies for one place of a session;
what is sent has been stored; nobody proposes what the other end has gone beyond; nothing is settled
twice or lost; nobody states anew what a neighbour has shown it that it had stated; and no honest
agent is accused, nor could be by one who saw all that it ever sent. A restored backup may cost its
edges their channel (E2: frozen, not punished), never a false record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from candor.agent.core.effects import Log, Send, StoreOperation
from candor.agent.core.settlement.contradictions import Collector
from candor.agent.core.terms import channel_terms, run_terms
from candor.agent.lockstep.disk import Disk
from candor.mechanisms.evidence.claims import SignedClaim
from candor.mechanisms.evidence.statements import (
    SignedStatement,
    Source,
    named_sources,
    place_of,
)
from candor.mechanisms.ledger.bodies import SETTLEMENT, Body
from candor.mechanisms.ledger.channel import Status, StoreRecord
from candor.mechanisms.payments.bills import SignedBill
from candor.network.wire import Envelope, Kind
from candor.topologies.cluster.file import Cluster
from candor.topologies.encoding.canonical import sha256

ACCUSATIONS = ("claim_refused", "bill_refused", "ledger_disputed", "ledger_rejected_by_peer")
PROVEN = ("misbehaviour_proven", "contradiction_proven")
# By no crash and no backup.
MISFORMED = (
    *("mixing-row", "not-as-formed", "distance-hidden", "rating", "payload-digest"),
    *("fresh-sketch", "claim-whole"),
)


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold."""

    invariant: str
    detail: str


class Checks:
    """Watches one run; `restored` are the agents whose disk was put back to an earlier one."""

    def __init__(self, cluster: Cluster, disks: Mapping[str, Disk], *, strict: bool) -> None:
        self.found: list[Violation] = []
        self.restored: set[str] = set()
        self.liars: set[str] = set()  # refused for what they send with good reason
        # Who keeps claims or bills to itself, "" for nobody, and until when others may serve it.
        self.withholds, self.served_max = "", -1
        self.frozen = 0
        self._disks = disks
        self._strict = strict  # a mutant that sends too early is to be caught by what comes of it
        self._ends = {
            terms.channel_id: (terms.lo, terms.hi)
            for agent in cluster.ids
            for terms in channel_terms(cluster, agent).values()
        }
        terms = run_terms(cluster)
        self._sketch_bytes, self._phases = terms.sketch_bytes, terms.phases
        self._all_seeing = Collector("", terms)
        self._latest: dict[str, SignedStatement] = {}
        self._stated: dict[Source, bytes] = {}
        # By agent and neighbour a round: the last that the agent's present life has heard stated;
        # and the last that the neighbour's had when the agent's began, so that its HELLO shows it.
        self._heard: dict[str, dict[str, int]] = {}
        self._shown: dict[str, dict[str, int]] = {}
        self._claims: set[bytes] = set()
        self._signed: dict[tuple[str, bytes, int, int, bytes, bytes], bytes] = {}
        self._agreed: dict[tuple[bytes, int], bytes] = {}

    def violated(self, invariant: str, detail: str) -> None:
        """Note a violation."""
        self.found.append(Violation(invariant, detail))

    def restore(self, agent: str) -> None:
        """The disk of an agent was put back: what neither end holds now, nobody can bring back."""
        self.restored.add(agent)
        self._agreed = {
            (channel_id, seq): head
            for (channel_id, seq), head in self._agreed.items()
            if any(self._holds(end, channel_id, seq, head) for end in self._ends[channel_id])
        }

    def born(self, agent: str) -> None:
        """Another life of an agent begins: it remembers nothing, its neighbours do."""
        self._heard[agent] = {}
        for shown in self._shown.values():
            shown.pop(agent, None)
        heard_by = self._heard.items()
        self._shown[agent] = {peer: heard[agent] for peer, heard in heard_by if agent in heard}

    def heard(self, agent: str, sender: str, envelope: Envelope) -> None:
        """A message reaches an agent that serves its sender."""
        match envelope.kind, list(envelope.fields):
            case Kind.UPDATE, [bytes(body), bytes(signature), int(), bytes()]:
                number = self._statement(body, signature).statement.round
                heard = self._heard[agent]
                heard[sender] = max(number, heard.get(sender, 0))

    def sent(self, agent: str, send: Send, *, prompt: bool = True) -> None:
        """A message is about to leave; `prompt`: its agent keeps up with most."""
        match send.envelope.kind, list(send.envelope.fields):
            case Kind.ACK, [int(number), int(), ""] if prompt and send.peer == self.withholds:
                if 0 <= self.served_max < number:
                    self.violated("served", f"{agent} takes round {number} of {send.peer}")
            case Kind.PROPOSE, [bytes(data), bytes()]:
                self._proposed(agent, send.peer, data)
            case Kind.ACCEPT, [bytes(head), bytes()]:
                self._accepted(agent, head)
            case Kind.UPDATE, [bytes(body), bytes(signature), int(), bytes()]:
                self._latest[agent] = self._statement(body, signature)
                self._states(agent, send.peer, self._latest[agent])
                if not named_sources(self._latest[agent].statement, self._phases):
                    self._all_seeing.stated(self._latest[agent], ())
            case Kind.WITNESSES, [int(), int(), list(pairs)]:
                sources = tuple(self._statement(*pair).body for pair in pairs)
                self._all_seeing.stated(self._latest[agent], sources)
            case Kind.CLAIM, [bytes(claim)]:
                self._claimed(claim)
            case Kind.BILL, [bytes(bundle)] if agent not in self.restored:
                self._all_seeing.billed(SignedBill.decode(bundle))
        for proof in self._all_seeing.take():
            if proof.agent not in self.restored:
                self.violated("self-contradiction", f"{proof.agent}: {proof.kind}")

    def barring(self, agent: str, barred: Mapping[str, str | None]) -> None:
        """Whom an agent does not serve where nothing breaks: at most who withholds."""
        for peer, why in barred.items():
            if why is not None and self.withholds not in (agent, peer):
                self.violated("false-bar", f"{agent} bars {peer}: {why}")

    def _states(self, agent: str, peer: str, signed: SignedStatement) -> None:
        place = place_of(signed.statement)
        if self._stated.setdefault(place, signed.body) != signed.body:
            number = signed.statement.round
            if number <= self._shown[agent].get(peer, 0):
                self.violated("stated-twice", f"{agent}: round {number}, as {peer} had shown it")

    def _claimed(self, claim: bytes) -> None:
        if claim not in self._claims:  # they are repeated
            self._claims.add(claim)
            signed = SignedClaim.decode(claim)
            self._all_seeing.claimed(signed)
            self._all_seeing.refused(signed)

    def _statement(self, body: bytes, signature: bytes) -> SignedStatement:
        return SignedStatement.decode(body, signature, sketch_bytes_max=self._sketch_bytes)

    def _proposed(self, agent: str, peer: str, data: bytes) -> None:
        body = Body.decode(data)
        self._sign(agent, body, data)
        disk = self._disks[agent]
        pending = disk.channel_state(body.channel_id).pending
        if self._strict and (pending is None or pending.body != data):
            self.violated("sent-before-stored", f"{agent} proposes {body.seq} to {peer}")
        beyond = self._disks[peer].records(body.channel_id, body.seq, 1)
        if beyond and beyond[0].body != data:
            self.violated("proposed-what-is-past", f"{agent} proposes {body.seq} anew to {peer}")

    def _accepted(self, agent: str, head: bytes) -> None:
        chains = self._disks[agent].chains.values()
        if self._strict and not any(r.head == head for chain in chains for r in chain[-2:]):
            self.violated("sent-before-stored", f"{agent} accepts what it has not stored")

    def _sign(self, agent: str, body: Body, data: bytes) -> None:
        place = (agent, body.channel_id, body.seq, body.attempt, body.nonce_lo, body.nonce_hi)
        if self._signed.setdefault(place, data) != data:
            self.violated("double-signed", f"{agent} signed two bodies for {body.seq}")

    def stored(self, agent: str, operations: Sequence[StoreOperation]) -> None:
        """A commit is on the disk."""
        for operation in operations:
            if isinstance(operation, StoreRecord):
                self._record(agent, operation)

    def _record(self, agent: str, stored: StoreRecord) -> None:
        chain = self._disks[agent].chains[stored.channel_id]
        body = Body.decode(stored.body)
        if body.seq > 0:
            before = Body.decode(chain[body.seq - 1].body)
            if body.kind == SETTLEMENT and body.window <= before.window:
                self.violated("settled-twice", f"{agent}: window {body.window}")
            if body.balance_after != before.balance_after + body.delta:
                self.violated("balance", f"{agent}: record {body.seq}")
        ends = self._ends[stored.channel_id]
        other = ends[1] if agent == ends[0] else ends[0]
        theirs = self._disks[other].records(stored.channel_id, body.seq, 1)
        if theirs and theirs[0].body != stored.body:
            self.violated("unequal-ledgers", f"{'-'.join(ends)}: record {body.seq}")
        if theirs:
            self._agreed[stored.channel_id, body.seq] = sha256(stored.body)

    def logged(self, agent: str, log: Log) -> None:
        """Whether an honest agent is accused of something."""
        about = f"{agent}: {log.event} {dict(log.fields)}"
        accused = agent if log.event == "own_update_refused" else log.fields.get("peer")
        if log.event == "ledger_frozen":
            self.frozen += 1
            if log.fields["reason"] == "double-signed" or not self.restored:
                self.violated("false-accusation", about)
        elif (
            (log.fields.get("code") in MISFORMED and accused not in self.liars)
            or (log.event in ACCUSATIONS and not self.restored)
            or (
                (log.event in PROVEN or log.fields.get("code") == "equivocation")
                and accused not in self.restored
            )
        ):
            self.violated("false-accusation", about)

    def all_settled(self) -> bool:
        """Whether both ends of every edge that is still open have the same chain, with all in it
        that both have billed."""
        return not any(
            not self._equal(channel_id, *ends) or self._unsettled(channel_id, *ends)
            for channel_id, ends in self._ends.items()
        )

    def _equal(self, channel_id: bytes, lo: str, hi: str) -> bool:
        disks = (self._disks[lo], self._disks[hi])
        if any(disk.channel_state(channel_id).status is not Status.OPEN for disk in disks):
            return True  # stopped by a restored backup; its records were compared all along
        one, two = (disk.chains.get(channel_id, []) for disk in disks)
        return [record.body for record in one] == [record.body for record in two]

    def at_the_end(self) -> None:
        """After everything healed and everyone was there once more."""
        for channel_id, ends in self._ends.items():
            lo, hi = (self._disks[end].chains.get(channel_id, []) for end in ends)
            if not self._equal(channel_id, *ends):
                self.violated(
                    "unequal-ledgers", f"{'-'.join(ends)}: {len(lo)} and {len(hi)} records"
                )
        for channel_id, ends in self._ends.items():
            for window in self._unsettled(channel_id, *ends):
                self.violated("unsettled", f"{'-'.join(ends)}: window {window}")
        for (channel_id, seq), head in self._agreed.items():
            ends = self._ends[channel_id]
            for end in ends:
                if self._open(channel_id) and not self._holds(end, channel_id, seq, head):
                    self.violated("lost-settlement", f"{'-'.join(ends)}: record {seq}")

    def _unsettled(self, channel_id: bytes, lo: str, hi: str) -> list[int]:
        """The windows that both ends have billed and not settled, though nothing stood against it:
        a backup may have lost a bill that the other end waits for."""
        if not self._open(channel_id) or self.restored & {lo, hi}:
            return []
        last = self._disks[lo].channel_state(channel_id).last
        done = Body.decode(last.body).window if last else -1
        keys = self._disks[lo].values.keys() & self._disks[hi].values.keys()
        windows = [int(key.removeprefix("bill/")) for key in keys if key.startswith("bill/")]
        return sorted(window for window in windows if window > done)

    def _holds(self, end: str, channel_id: bytes, seq: int, head: bytes) -> bool:
        heads = self._disks[end].channel_state(channel_id).heads
        return seq < len(heads) and heads[seq] == head

    def _open(self, channel_id: bytes) -> bool:
        states = (self._disks[end].channel_state(channel_id) for end in self._ends[channel_id])
        return all(state.status is Status.OPEN for state in states)

    def settlements(self) -> int:
        """Windows settled over all edges."""
        return sum(
            max(0, len(self._disks[lo].chains.get(channel, [])) - 1)
            for channel, (lo, _) in self._ends.items()
        )
