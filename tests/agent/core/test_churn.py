"""Members that join and leave while the others run: real cores, time moved by hand."""

from pathlib import Path

import pytest

from candor.agent.core.agent import Stage
from candor.agent.core.effects import Log, Send
from candor.agent.daemon import keys
from candor.agent.runs.cluster_parts import entry_of
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.agent.testbed.churn import Churn
from candor.mechanisms.evidence.statements import SignedStatement
from candor.network.messages import RevisionMessage, Update, from_envelope, to_envelope
from candor.network.wire import Kind, encode
from candor.topologies.cluster.file import Cluster, dump_cluster
from candor.topologies.cluster.revisions import amended
from candor.topologies.encoding.canonical import sha256
from tests.runs import LocalRun, write_cluster

AFTER = 12  # the end of the third window
ACCUSING = ("claim_refused", "bill_refused", "misbehaviour_proven", "ledger_disputed")


class ChangingRun(LocalRun):
    """A ring of five whose a2 leaves and whose a5 joins after round 12 of 24: agents go on by what
    follows as a host lets them."""

    def __init__(self, run_dir: Path) -> None:
        first = write_cluster(run_dir, agents=5, rounds=24, window=4, deadline_s=4.0)
        signer = Churn(run_dir)
        seeds = (sha256(f"a5 {kind}".encode()) for kind in ("identity", "curve"))
        path = run_dir / "agents" / "a5" / "keys"
        keys.write(path, *seeds)
        joining = entry_of("a5", path, "tcp://127.0.0.1:29105")
        super().__init__(run_dir, signer.first(first), keeps=lambda t: True)
        self.first = self.cluster
        self.second = signer.next(self.first, [joining], ["a2"], AFTER)
        self.third = amended(self.second, signer._key, leaving=["a3"], after_round=AFTER + 4)
        self.went: dict[str, int] = {}  # in which round each has left the first membership
        self.said: list[Send] = []
        self.windows: dict[tuple[str, str], int] = {}

    @property
    def text(self) -> bytes:
        return dump_cluster(self.second).encode()

    def hand(self, agent: str) -> None:
        self._perform(agent, self.nodes[agent].core.handed(self.text, self.now_s))

    def begin(self, agent: str, cluster: Cluster) -> None:
        self.cluster = cluster
        self.start(agent)

    def go_on(self) -> None:
        """Let those whose membership has ended go on with the next one."""
        for agent, node in [*self.nodes.items()]:
            heir = node.core.succession.heir
            over = node.ended is not None and node.ended.exit_code == 0
            if not (node.alive and over and heir is not None and agent in heir.ids):
                continue
            self.went[agent] = node.core.round - 1
            self.said += node.sent
            node.store.close()
            logs = node.logs
            self.begin(agent, heir)
            self.nodes[agent].logs[:0] = logs

    def until(self, agent: str, round_number: int) -> None:
        def reached() -> bool:
            self.go_on()
            return self.nodes[agent].core.round >= round_number

        self.advance_until(reached, 120.0)

    def finish(self) -> None:
        """Until all have ended for good."""

        def over() -> bool:
            self.go_on()
            return all(n.ended is not None for n in self.nodes.values() if n.alive)

        self.advance_until(over, 240.0)

    def check(self) -> None:
        """Nobody is accused, nobody has stated a round twice, and all ledgers add up."""
        self.export()
        for agent, node in self.nodes.items():
            for event in ACCUSING:
                assert not node.events(event), (agent, event)
        said: dict[tuple[str, int], bytes] = {}
        for send in self.said + [s for n in self.nodes.values() for s in n.sent]:
            if send.envelope.kind is Kind.UPDATE:
                message = from_envelope(send.envelope)
                assert isinstance(message, Update)
                one = SignedStatement.decode(
                    message.body, message.signature, sketch_bytes_max=128
                ).statement
                assert said.setdefault((one.agent, one.round), message.body) == message.body
        (self.run_dir / "cluster.toml").write_text(dump_cluster(self.second))
        _, audit = audit_run_directory(self.run_dir)
        assert not audit.findings
        assert sum(audit.nets.values()) == 0
        self.windows = {(edge.lo, edge.hi): edge.windows for edge in audit.edges}


@pytest.fixture
def run(tmp_path: Path) -> ChangingRun:
    made = ChangingRun(tmp_path)
    made.start()
    return made


def test_one_leaves_and_one_joins(run: ChangingRun) -> None:
    run.until("a0", 2)
    run.hand("a0")
    run.until("a0", AFTER)
    assert [n.core.succession.number for n in run.nodes.values()] == [2] * 5
    run.begin("a5", run.second)
    run.cluster = run.first
    run.until("a0", AFTER + 1)
    run.finish()
    stayed = ("a0", "a1", "a3", "a4")
    assert run.went == dict.fromkeys(stayed, AFTER)
    assert run.nodes["a2"].ended == run.nodes["a0"].ended  # its settlement is over, too
    for agent in stayed:
        assert not run.nodes[agent].events("neighbour_missed")
        assert [fields["round"] for fields in run.nodes[agent].events("resumed")] == [AFTER]
    (entered,) = run.nodes["a5"].events("re_entered")
    assert int(entered["round"]) <= AFTER + 4
    run.check()
    assert run.windows["a3", "a4"] == 6  # all of the run
    assert run.windows["a1", "a2"] == run.windows["a2", "a3"] == 3  # to the last before it left
    assert run.windows["a1", "a5"] == 3


def test_who_was_stopped_over_the_change_comes_back_and_follows(run: ChangingRun) -> None:
    run.until("a0", 2)
    run.hand("a0")
    run.until("a0", 5)
    run.asleep = {"a4"}
    run.until("a0", AFTER + 2)
    run.begin("a5", run.second)
    run.asleep = set()
    run.until("a4", AFTER + 2)
    run.finish()
    assert run.went["a4"] <= AFTER
    assert run.nodes["a4"].events("re_entered")
    run.check()


def test_who_does_not_know_of_it_is_told_by_those_that_have_gone_on(run: ChangingRun) -> None:
    deaf = {"a4"}  # it hears of it from nobody
    run.tamper = lambda agent, send: (
        None if send.peer in deaf and send.envelope.kind is Kind.REVISION else send
    )
    run.until("a0", 2)
    run.hand("a0")

    def refused_there() -> bool:
        run.go_on()
        return bool(run.nodes["a4"].events("peer_refused"))

    run.advance_until(refused_there)
    assert run.nodes["a4"].core.succession.heir is None
    assert run.nodes["a4"].core.round == AFTER + 1
    refused = [f for f in run.nodes["a4"].events("peer_refused") if "needs revision 2" in str(f)]
    assert 1 <= len(refused) <= 2  # once of each neighbour
    deaf.clear()
    run.begin("a5", run.second)
    run.finish()
    assert run.went["a4"] >= AFTER
    run.check()


def test_who_comes_back_while_the_others_settle_goes_on_with_them(run: ChangingRun) -> None:
    run.until("a0", 2)
    run.hand("a0")
    run.until("a4", AFTER)
    run.said += run.nodes["a4"].sent
    run.kill("a4")
    settling = (Stage.SETTLING, Stage.LEAVING)
    run.advance_until(lambda: any(n.core.stage in settling for n in run.nodes.values()))
    run.begin("a4", run.first)
    run.until("a0", AFTER + 1)
    run.begin("a5", run.second)
    run.finish()
    assert run.nodes["a4"].core.succession.present.fingerprint == run.second.fingerprint
    assert run.nodes["a4"].ended == run.nodes["a0"].ended
    run.check()


def test_one_that_follows_later_does_not_take_the_place_of_the_one_that_begins(
    run: ChangingRun,
) -> None:
    """A neighbour hands it over when the membership is over, and is being settled."""
    run.until("a0", 2)
    run.hand("a0")
    core = run.nodes["a1"].core
    run.advance_until(lambda: core.stage is Stage.SETTLING)
    assert core.round == AFTER + 1
    nonce = core.neighbours["a0"].session.nonce
    frames = encode(to_envelope(RevisionMessage(dump_cluster(run.third).encode()), nonce))
    run._perform("a1", core.received("a0", frames, run.now_s, 1_700_000_000.0))
    assert core.succession.number == 2
    run.until("a0", AFTER + 1)
    run.begin("a5", run.second)
    run.finish()
    run.check()


@pytest.mark.parametrize("late", [False, True])
def test_a_death_in_the_change_comes_back_in_either(run: ChangingRun, late: bool) -> None:
    """Killed when its membership has ended, before or after the next one is in use there."""
    run.until("a0", 2)
    run.hand("a0")

    def ended() -> bool:
        return run.nodes["a4"].ended is not None

    run.advance_until(ended)
    node = run.nodes["a4"]
    run.said += node.sent
    run.kill("a4")
    if not late:
        node.trained = None  # the checkpoint of the last exchange was not written yet
    run.went["a4"] = AFTER
    run.begin("a4", run.second if late else run.first)
    run.cluster = run.first
    run.until("a0", AFTER + 1)
    run.begin("a5", run.second)
    run.finish()
    assert run.nodes["a4"].core.succession.present.fingerprint == run.second.fingerprint
    run.check()


def test_what_comes_too_late_or_is_not_the_organisers_is_refused(run: ChangingRun) -> None:
    run.until("a0", AFTER - 3)
    run.hand("a0")
    (refused,) = run.nodes["a0"].events("revision_refused")
    assert "too late for all 5 agents" in str(refused["detail"])
    forged = run.text.replace(b"rounds = 24", b"rounds = 25")
    nonce = run.nodes["a1"].core.neighbours["a0"].session.nonce
    frames = encode(to_envelope(RevisionMessage(forged), nonce))
    effects = run.nodes["a1"].core.received("a0", frames, run.now_s, 1_700_000_000.0)
    told = [e for e in effects if isinstance(e, Log) and e.event == "message_refused"]
    assert [log.fields["code"] for log in told] == ["revision"]
    assert "did not sign this" in str(told[0].fields["detail"])
    run.finish()
    assert all(node.core.succession.heir is None for node in run.nodes.values())
    assert all(node.core.round == 25 for node in run.nodes.values())  # all of the run, as before


def test_what_a_neighbour_hands_on_is_refused_whatever_it_is_and_read_seldom(
    run: ChangingRun,
) -> None:
    run.until("a0", 2)
    core = run.nodes["a1"].core
    nonce = core.neighbours["a0"].session.nonce

    def refused(text: bytes) -> list[str]:
        frames = encode(to_envelope(RevisionMessage(text), nonce))
        effects = core.received("a0", frames, run.now_s, 1_700_000_000.0)
        return [str(e.fields["detail"]) for e in effects if isinstance(e, Log)]

    vast = b"0x" + b"f" * 6000  # has too many digits to be shown
    assert "is not TOML" in refused(b"version = " + b"1" * 5000)[0]
    assert "33 parts" in refused(b".".join([b"a"] * 16_000) + b" = 1")[0]
    assert "too long to show" in refused(run.text.replace(b"rounds = 24", b"rounds = " + vast))[0]
    assert "is not TOML" in refused(b"\xff")[0]
    assert refused(b"\xff") == []  # not even read
    assert core.succession.heir is None
    run.hand("a0")
    run.advance(2.0)
    assert core.succession.number == 2  # by another neighbour
