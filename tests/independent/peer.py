"""An agent of its own: `python -m tests.independent.peer CLUSTER ID KEYS INITIAL DATA_DIR`.

INITIAL holds x_1 as little-endian float32. It leaves its exports in DATA_DIR/ledger and what it met
in DATA_DIR/peer.json, and ends with 0 where the run went through and every edge is settled.
Exchanges are counted through the run as steps.
"""

import json
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

import blake3
import numpy as np

from tests.independent import barter, bills, claims, fresh, graphs, hidden, influence, rounds, wire
from tests.independent.hearsay import MEMORY_BYTES_MAX, Hearsay
from tests.independent.ledger import Channel
from tests.independent.neighbour import HELLO_S, Neighbour, Slot
from tests.independent.rounds import Statement
from tests.independent.settlement import Settlement
from tests.independent.training import Training
from tests.independent.wire import Cluster, Keys, Refused, Sockets

TICK_MS = 50
HELLO_MAX_S = 2.0
BYE_S, LEAVING_MAX_S = 0.5, 5.0
WITNESSES_MAX, WITNESS_BYTES_MAX = 32, 2**19
SLOTS_OPEN_MAX = 2


class Peer:
    """One life of one agent."""

    def __init__(self, cluster: Cluster, own: str, keys: Keys, initial: np.ndarray) -> None:
        self.cluster, self.own, self.keys = cluster, own, keys
        self.nonce = secrets.token_bytes(16)
        self.certificate = wire.certificate(cluster, own, keys.identity)
        self.stage, self.stage_at_s = "starting", time.monotonic()
        self.step = 0
        self.initial, self.training = initial, Training(cluster, own, initial)
        self.statements: dict[int, Statement] = {}  # by step
        self.novelties: dict[int, float] = {}  # of its own, where models are traded
        self.injected: dict[int, np.ndarray] = {}  # by round, as of whom it heard
        self.wholes: dict[int, float | None] = {}  # energies that fresh sketches show
        self.vectors: dict[int, np.ndarray] = {}  # the last that were sent, by step
        self.heard: dict[int, list[str]] = {}
        self.hearsay = Hearsay(cluster, own)
        self.sent_at_s = 0.0
        self.told_waiting = False
        self.bye_at_s = 0.0  # when to say it again
        self.met: dict[str, int] = {}  # refusals, deadlines and the like, by code
        self.near = {
            peer: Neighbour(Channel(cluster, own, peer, keys.identity, self.nonce))
            for peer in cluster.neighbours[own]
        }
        self.settlement = Settlement(cluster, own, keys.identity, self.near, self._send, self._meet)
        self.sockets = Sockets(cluster, own, keys)
        self.handlers: dict[int, Callable[..., None]] = {
            wire.UPDATE: self._on_update,
            wire.WITNESSES: self._on_witnesses,
            wire.CHUNK: self._on_chunk,
            wire.ACK: self._on_ack,
            wire.CLAIM: self.settlement.on_claim,
            wire.BILL: self.settlement.on_bill,
            wire.BYE: self._on_bye,
            wire.WAITING: self._on_waiting,
            wire.HEADS: self._on_heads,
            wire.RECALL: self._on_recall,
            wire.RETURNED: lambda peer, *what: self._meet("returned"),
            wire.EVIDENCE: lambda peer, proof: self._meet("evidence"),
        }

    def run(self) -> None:
        """Take part from the first greeting to the farewell."""
        while self.stage != "done":
            message = self.sockets.receive(TICK_MS)
            while message:
                self._received(*message)
                message = self.sockets.receive(0)
            self._tick(time.monotonic())
        self.sockets.close()

    @property
    def round(self) -> int:
        """The round under way, 0 before the first."""
        return self.cluster.at(self.step)[0]

    # Messages

    def _send(self, peer: str, kind: int, *fields: object, raw: bytes | None = None) -> None:
        nonce = b"" if kind == wire.HELLO else self.near[peer].nonce
        self.sockets.send(peer, wire.encode(kind, nonce, list(fields), raw))

    def _received(self, sender: str, frames: list[bytes]) -> None:
        try:
            kind, nonce, fields, raw = wire.decode(frames)
            if sender not in self.near:
                raise Refused("not-a-neighbour")
            near = self.near[sender]
            if kind == wire.HELLO:
                self._on_hello(sender, *fields)
            elif nonce != self.nonce:
                near.misdirected = True
            elif near.nonce and kind in self.handlers:
                self.handlers[kind](sender, *fields, *([] if raw is None else [raw]))
            elif near.nonce:
                self.settlement.on_ledger(sender, kind, fields)
        except Refused as exc:
            self._meet(str(exc))

    def _meet(self, code: str) -> None:
        self.met[code] = self.met.get(code, 0) + 1

    # Session

    def _greet(self, peer: str) -> None:
        near, agents = self.near[peer], self.cluster.agents
        curves = [agents[self.own]["curve"], agents[peer]["curve"]]
        names = [5, self.cluster.fingerprint.hex(), self.own, peer, *curves]
        state = [self.nonce, near.heard, near.settled_hello, self.round, self.certificate, 0]
        body = wire.pack([*names, *state, self.hearsay.memory(peer)])
        self._send(peer, wire.HELLO, body, wire.sign(self.keys.identity, "candor/hello/v1", body))

    def _on_hello(self, peer: str, body: bytes, signature: bytes) -> None:
        near, agents, now_s = self.near[peer], self.cluster.agents, time.monotonic()
        types = (int, str, str, str, str, str, bytes, bytes, bool, int, bytes, int, bytes)
        fields = wire.unpack(body, 4_096)
        sound = wire.fits(fields, *types) and fields[0] == 5 and len(fields[6]) == 16
        if not sound or len(fields[-1]) > MEMORY_BYTES_MAX:
            raise Refused("hello")
        if not wire.is_signed(self.cluster.public(peer), "candor/hello/v1", body, signature):
            raise Refused("hello-signature")
        fingerprint, sender, receiver, *curves = fields[1:6]
        nonce, echo, established, _, encoded, *_ = fields[6:]
        if (sender, receiver) != (peer, self.own):
            raise Refused("hello-address")
        if curves != [agents[peer]["curve"], agents[self.own]["curve"]]:
            raise Refused("hello-curve")
        if fingerprint != self.cluster.fingerprint.hex():
            raise Refused("fingerprint")
        wire.check_certificate(self.cluster, peer, encoded, time.time())
        near.heard = nonce
        if echo == self.nonce:
            near.misdirected = False
            if near.nonce != nonce:
                near.nonce, near.hello_wait_s = nonce, HELLO_S
                near.slots.clear()
                near.left = near.knows_we_left = False
                near.given_up = self.round > 1
                self.settlement.begin(peer, nonce)
        if not established or echo != self.nonce:
            self._greet(peer)
        near.hello_at_s = now_s + near.hello_wait_s

    # Rounds

    def _publish(self) -> None:
        """Make, state and send the vector of the next step."""
        self.step += 1
        cluster, (t, phase) = self.cluster, self.cluster.at(self.step)
        formed, y, data = self.training.make(t, phase)
        named = {one: self._known(one) for one in rounds.named(cluster, t, phase, formed)}
        before = {one: held for one in named if (held := self._vector(one)) is not None}
        if barter.rule_of(cluster):
            body = self._rated(t, formed, y, named)
        elif influence.factor_of(cluster) is not None:
            place = (cluster, t, self.own, formed)
            body, kept = rounds.bounded_body(*place, y, named, self.initial, before)
            y, data = self.training.shorten(t, kept)
            if kept < 1.0:
                self._meet("shortened")
                body, _ = rounds.bounded_body(*place, y, named, self.initial, before)
        else:
            place = (cluster, t, phase, self.own, formed)
            body = rounds.body_of(*place, y, list(named.values()), None, before)
        head = rounds.head_of(cluster.run, (t, phase, self.own), wire.sha256(body))
        signature = wire.sign(self.keys.identity, rounds.DOMAIN, head)
        stated = self.statements[self.step] = Statement.parse(cluster, body, signature)
        sending = rounds.sending_of(body, stated.digest)
        of_payload = wire.sign(self.keys.identity, rounds.PAYLOAD_DOMAIN, sending)
        found = rounds.injected(cluster, stated, named, self.initial)
        self.vectors[self.step] = y
        while len(self.vectors) > max(3, len(cluster.phases) + 1):
            self.vectors.pop(min(self.vectors))
        if phase == cluster.charged:
            self.injected[t] = found
            self.wholes[t] = rounds.whole_energy(cluster, stated, self.initial)
        if stated.rewards is not None:
            self.novelties[self.step] = rounds.novelty(self.cluster, stated, named)
        for peer, near in self.near.items():
            near.waiting = False
            if near.served:
                taken = peer in graphs.takers(cluster, t, self.own)
                given = rounds.groups_given(cluster, stated, peer)
                part = rounds.part_of(cluster, y, data, given) if taken else b""
                self._send(peer, wire.UPDATE, body, signature, len(part), of_payload)
                for batch in _batches([[one.body, one.signature] for one in named.values()]):
                    self._send(peer, wire.WITNESSES, t, phase, batch)
                for at in range(0, len(part), wire.CHUNK_BYTES):
                    piece = part[at : at + wire.CHUNK_BYTES]
                    self._send(peer, wire.CHUNK, t, phase, at, raw=piece)
        self.sent_at_s, self.told_waiting = time.monotonic(), False

    def _rated(
        self,
        t: int,
        formed: list[rounds.Formed],
        y: np.ndarray,
        named: dict[rounds.Source, Statement],
    ) -> bytes:
        """The body of a statement with its trace and ratings."""
        novelties = {}
        for number, phase, agent in named:
            held = self.near[agent].novelties if agent in self.near else self.novelties
            novelties[agent] = held[self.cluster.step(number, phase)]
        return rounds.rated_body(
            self.cluster, t, self.own, formed, y, named, novelties, self.initial
        )

    def _known(self, source: rounds.Source) -> Statement | None:
        """A statement that was verified here, or made."""
        number, phase, agent = source
        held = self.near[agent].statements if agent in self.near else self.statements
        known = agent in self.near or agent == self.own
        return held.get(self.cluster.step(number, phase)) if known else None

    def _vector(self, source: rounds.Source) -> np.ndarray | None:
        """A vector that was sent from here, or received."""
        number, phase, agent = source
        held = self.near[agent].payloads if agent in self.near else self.vectors
        known = agent in self.near or agent == self.own
        return held.get(self.cluster.step(number, phase)) if known else None

    def _check_fresh(
        self,
        peer: str,
        stated: Statement,
        vector: np.ndarray | None,
        sources: dict[rounds.Source, Statement],
    ) -> None:
        """Hold fresh sketches against what is held here. Raises Refused."""
        held = {} if vector is None else {0: vector}
        for place, (source, one) in enumerate(sources.items(), 1):
            known, there = self._known(source), self._vector(source)
            compared = known is not None and there is not None and known.body == one.body
            if source[-1] in (peer, self.own) and compared:
                held[place] = there
        rounds.check_fresh(self.cluster, stated, held)

    def _step_of(self, number: int, phase: int) -> int:
        if number < 1 or phase >= len(self.cluster.phases):
            raise Refused("phase")
        return self.cluster.step(number, phase)

    def _on_update(
        self, peer: str, body: bytes, signature: bytes, size: int, of_payload: bytes
    ) -> None:
        near = self.near[peer]
        if len(of_payload) != 64:
            raise Refused("fields")
        stated = Statement.parse(self.cluster, body, signature)
        step = self._step_of(stated.round, stated.phase)
        try:
            rounds.check_announced(self.cluster, peer, stated)
            notice = peer not in graphs.taken(self.cluster, stated.round, self.own)
            if step <= near.announced:
                raise Refused("round-order")
            given = rounds.groups_given(self.cluster, stated, self.own)
            if size != (0 if notice else rounds.bytes_given(self.cluster, given)):
                raise Refused("payload-size")
        except Refused as exc:
            self._judge(peer, step, str(exc))
            return
        near.announced = step
        self.hearsay.learn(stated.source, (wire.sha256(body), signature))
        named = rounds.named(self.cluster, stated.round, stated.phase, stated.formed)
        near.slots[step] = Slot(stated, named, notice=notice)
        while len(near.slots) > SLOTS_OPEN_MAX:
            near.slots.pop(min(near.slots))
        self._close_told(peer, step)

    def _close_told(self, peer: str, step: int) -> None:
        """Judge a notice with the last of its witnesses."""
        slot = self.near[peer].slots.get(step)
        if slot and slot.told:
            self._close(peer, slot)

    def _on_witnesses(self, peer: str, number: int, phase: int, pairs: list) -> None:
        step = self._step_of(number, phase)
        slot = self.near[peer].slots.get(step)
        if len(pairs) > WITNESSES_MAX:
            raise Refused("witnesses")
        if slot is None:
            return
        for pair in pairs:
            if not wire.fits(pair, bytes, bytes):
                raise Refused("fields")
            witness = Statement.parse(self.cluster, *pair)
            if witness.source not in slot.named:
                raise Refused("witness-unnamed")
            slot.witnesses[witness.source] = witness
        self._close_told(peer, step)

    def _on_chunk(self, peer: str, number: int, phase: int, offset: int, piece: bytes) -> None:
        near = self.near[peer]
        slot = near.slots.get(self._step_of(number, phase))
        if slot is None:
            return
        given = rounds.groups_given(self.cluster, slot.statement, self.own)
        code, size = "", rounds.bytes_given(self.cluster, given)
        if offset != len(slot.data):
            code = "chunk-order"
        elif not piece or offset + len(piece) > size:
            code = "chunk-size"
        slot.data += piece
        if not code and len(slot.data) < size:
            return
        self._close(peer, slot, code)

    def _close(self, peer: str, slot: Slot, code: str = "") -> None:
        """Judge an update of which all has come, or which is broken already."""
        step = self.cluster.step(slot.statement.round, slot.statement.phase)
        del self.near[peer].slots[step]
        try:
            if code:
                raise Refused(code)
            self._accept(peer, step, slot)
        except Refused as exc:
            code = str(exc)
        self._judge(peer, step, code)

    def _accept(self, peer: str, step: int, slot: Slot) -> None:
        """Check a complete update and keep it. Raises Refused."""
        near, stated = self.near[peer], slot.statement
        vector = None
        if not slot.notice:
            given = rounds.groups_given(self.cluster, stated, self.own)
            vector = rounds.check_payload(self.cluster, stated, bytes(slot.data), given)
        sources: dict[rounds.Source, Statement] = {}
        for source in slot.named:
            own, shown = self._known(source), slot.witnesses.get(source)
            if own is None and shown is None:
                raise Refused("witness-missing")
            if own and shown and own.body != shown.body and source[-1] == peer:
                raise Refused("equivocation")
            if shown and (own is None or own.body != shown.body):
                rounds.check_witness(self.cluster, source, shown)
                own = shown
            sources[source] = own
        self._check_fresh(peer, stated, vector, sources)
        found = rounds.injected(self.cluster, stated, sources, self.initial)
        whole = rounds.whole_energy(self.cluster, stated, self.initial)
        if stated.rewards is not None:
            known = self._novelties(sources)
            rounds.check_ratings(self.cluster, stated, found, sources, known)
            near.novelties[step] = rounds.novelty(self.cluster, stated, sources)
        if stated.phase == self.cluster.charged:
            shown = rounds.energy(found)
            if whole is not None:
                m = len(rounds.fresh_of(self.cluster, stated)[0])
                shown += fresh.hidden([shown], [whole], m, self.cluster.sketch_size)
            if bills.is_too_large(self.cluster, shown):
                raise Refused("injected-too-large")
            near.injected[stated.round] = found
            if whole is not None:
                near.wholes[stated.round] = whole
        near.statements[step], near.given_up = stated, False
        if vector is not None:
            near.payloads[step] = vector
        while len(near.payloads) > max(3, len(self.cluster.phases) + 1):
            near.payloads.pop(min(near.payloads))

    def _novelties(self, sources: dict[rounds.Source, Statement]) -> dict[str, float]:
        """How new those of some statements are that were verified here, or made."""
        found = {}
        for source, one in sources.items():
            number, phase, agent = source
            own, step = self._known(source), self.cluster.step(number, phase)
            held = self.near[agent].novelties if agent in self.near else self.novelties
            if own is not None and own.body == one.body and step in held:
                found[agent] = held[step]
        return found

    def _judge(self, peer: str, step: int, code: str) -> None:
        self.near[peer].judged = max(self.near[peer].judged, step)
        self._send(peer, wire.ACK, *self.cluster.at(step), code)
        if code:
            self._meet(code)

    def _on_ack(self, peer: str, number: int, phase: int, code: str) -> None:
        if code:
            self._meet(f"they-refused-{code}")

    def _on_waiting(self, peer: str, number: int, phase: int) -> None:
        self.near[peer].waiting = True

    def _on_recall(self, peer: str) -> None:
        """Give back the claims of a neighbour's that are here; this peer keeps nothing else."""
        held = [claim.encoded for claim in self.near[peer].claims.values()]
        for claim in held:
            self._send(peer, wire.RETURNED, "claim", claim, [], len(held))
        if not held:
            self._send(peer, wire.RETURNED, "nothing", b"", [], 0)

    def _on_heads(self, peer: str, number: int, phase: int, heads: list) -> None:
        self._step_of(number, phase)
        self.hearsay.on_heads(peer, self.round, number, phase, heads)

    def _awaited(self) -> list[str]:
        return [
            peer
            for peer, near in self.near.items()
            if near.served
            and not near.given_up
            and near.judged < self.step
            and near.announced <= self.step
        ]

    def _mix(self) -> None:
        """Combine what came; after the last phase, go on to the claim of the window."""
        cluster, (t, phase) = self.cluster, self.cluster.at(self.step)
        near = self.near.items()
        parts = {peer: n.payloads[self.step] for peer, n in near if self.step in n.payloads}
        said = {peer: self.near[peer].statements[self.step] for peer in parts}
        said[self.own] = self.statements[self.step]
        if "rewards" not in cluster.file["algorithm"]:  # else vectors are not given whole
            for peer in [peer for peer in parts if self._hides(phase, parts[peer], said[peer])]:
                del parts[peer], said[peer]
                self._judge(peer, self.step, "distance-hidden")
        self.training.mix(t, phase, parts, said)
        if phase == cluster.charged:
            self.heard[t] = sorted(parts)
        if phase == cluster.model:
            self._claim(t)

    def _hides(self, phase: int, theirs: np.ndarray, stated: Statement) -> bool:
        own, mine = self.training.vector(phase), self.statements[self.step]
        derives = self.training.derives(phase)
        return hidden.hides(self.cluster, own, theirs, mine.sketch, stated.sketch, derives)

    def _claim(self, t: int) -> None:
        """Claim the window that ends with a round."""
        over = self.cluster.ends_window(t) or t == self.cluster.rounds
        if over and bills.terms_of(self.cluster.rule):
            window = self.cluster.window_of(t)
            items = [
                claims.claimed(self.cluster, n, self.injected[n], self.heard[n], self.wholes.get(n))
                for n in self.injected
                if self.cluster.window_of(n) == window
            ]
            self.settlement.claim(window, claims.multiplied(items, self.injected))

    # Time

    def _enter(self, stage: str, now_s: float) -> None:
        self.stage, self.stage_at_s = stage, now_s

    def _tick(self, now_s: float) -> None:
        for peer, near in self.near.items():
            if not near.settled_hello and now_s >= near.hello_at_s:
                self._greet(peer)
                near.hello_at_s = now_s + near.hello_wait_s
                near.hello_wait_s = min(HELLO_MAX_S, 2 * near.hello_wait_s)
            for fields in self.hearsay.news(peer, self.round) if near.served else ():
                self._send(peer, wire.HEADS, *fields)
        self.settlement.tick(now_s)
        spent_s = now_s - self.stage_at_s
        match self.stage:
            case "starting":
                late = spent_s >= self.cluster.start_deadline_s
                if late or all(near.nonce for near in self.near.values()):
                    if not any(near.nonce for near in self.near.values()):
                        raise SystemExit("no neighbour is there")
                    self._enter("running", now_s)
                    self._publish()
            case "running":
                self._run_steps(now_s)
            case "settling":
                done = all(
                    self.settlement.is_settled(p) or not n.served for p, n in self.near.items()
                )
                if done or spent_s >= 3 * self.cluster.deadline_s:
                    self._enter("leaving", now_s)
                    self._say_bye(now_s)
            case "leaving":
                self._leave(now_s, spent_s)

    def _run_steps(self, now_s: float) -> None:
        """Mix when nobody is awaited any more, and publish the next step."""
        while self.stage == "running":
            spent_s, deadline_s = now_s - self.sent_at_s, self.cluster.deadline_s
            awaited = self._awaited()
            if awaited and spent_s >= deadline_s / 2 and not self.told_waiting:
                self.told_waiting = True
                for peer, near in self.near.items():
                    if near.served and peer not in awaited:
                        self._send(peer, wire.WAITING, *self.cluster.at(self.step))
            for peer in awaited:
                if spent_s >= deadline_s * (2 if self.near[peer].waiting else 1):
                    self.near[peer].given_up = True
                    self._meet("missed")
            if self._awaited():
                return
            self._mix()
            if self.step == self.cluster.step(self.cluster.rounds, self.cluster.model):
                self._enter("settling", now_s)
            else:
                self._publish()

    def _say_bye(self, now_s: float) -> None:
        self.bye_at_s = now_s + BYE_S
        for peer, near in self.near.items():
            if near.nonce:
                self._send(peer, wire.BYE, near.left)

    def _on_bye(self, peer: str, heard: bool) -> None:
        near = self.near[peer]
        first, near.left = not near.left, True
        near.knows_we_left = near.knows_we_left or heard
        if self.stage == "leaving" and first:
            self._send(peer, wire.BYE, True)

    def _leave(self, now_s: float, spent_s: float) -> None:
        speaking = [near for near in self.near.values() if near.nonce and not near.given_up]
        done = all(near.left and near.knows_we_left for near in speaking)
        if done or spent_s >= min(LEAVING_MAX_S, self.cluster.deadline_s):
            self._enter("done", now_s)
        elif now_s >= self.bye_at_s:
            self._say_bye(now_s)


def _batches(pairs: list[list[bytes]]) -> list[list[list[bytes]]]:
    """Witnesses in messages of at most so many and so long."""
    found: list[list[list[bytes]]] = []
    room = 0
    for pair in pairs:
        size = sum(map(len, pair))
        if not found or len(found[-1]) == WITNESSES_MAX or size > room:
            found.append([])
            room = WITNESS_BYTES_MAX
        found[-1].append(pair)
        room -= size
    return found


def main(cluster_file: str, own: str, keys: str, initial_file: str, data_dir: str) -> int:
    """Take part in a run; the exit code."""
    cluster = Cluster.parse(Path(cluster_file).read_text())
    data = Path(initial_file).read_bytes()
    if blake3.blake3(data).hexdigest() != cluster.file["task"]["model_digest"]:
        raise SystemExit(f"{initial_file}: not the initial model of the run")
    peer = Peer(cluster, own, Keys.load(Path(keys)), np.frombuffer(data, "<f4"))
    peer.run()
    folder = Path(data_dir) / "ledger"
    folder.mkdir(parents=True)
    edges = {}
    for name, near in peer.near.items():
        channel = near.channel
        edges[name] = {"seq": len(channel.records) - 1, "head": channel.head.hex()}
        (folder / f"{channel.lo}-{channel.hi}.jsonl").write_text(channel.export())
    report = {"round": peer.round, "met": peer.met, "edges": edges}
    (Path(data_dir) / "peer.json").write_text(json.dumps(report) + "\n")
    whole = all(map(peer.settlement.is_settled, peer.near))
    return 0 if whole and peer.round == cluster.rounds else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
