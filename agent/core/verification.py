"""A complete update, decoded and held against what it says, and all of an exchange held against
one's own: work for a thread of its own."""

from candor.agent.core.effects import Arrived, Derive, Derived
from candor.mechanisms.evidence.examiner import Examined, Examiner
from candor.mechanisms.evidence.statements import EvidenceError
from candor.network.codecs import Codec


def judge(update: Arrived, examiner: Examiner, codec: Codec) -> Examined | EvidenceError:
    """What an update that `Verify` handed out proves, or why it must not reach the model; its
    buffer then holds the decoded vector."""
    slot, payload = update.slot, None
    if not slot.notice:
        codec.decode(slot.encoded, slot.buffer)
        payload = slot.buffer
    try:
        return examiner.examine(slot.statement, payload, slot.witnesses, update.trusted)
    except EvidenceError as exc:
        return exc


def derive(asked: Derive, examiner: Examiner, agent: str) -> Derived:
    """The row with which `agent` mixes an exchange, without those whose vector is farther away than
    its sketch shows."""
    own, mine = asked.payloads[agent], asked.statements[agent]
    hidden: dict[str, EvidenceError] = {}
    for peer, theirs in asked.payloads.items():
        if peer == agent:
            continue
        try:
            examiner.check_hidden(own, theirs, mine, asked.statements[peer])
        except EvidenceError as exc:
            hidden[peer] = exc
    sources = {k: said for k, said in asked.statements.items() if k not in hidden}
    return Derived(examiner.derived_row(agent, asked.round, asked.rule, sources), hidden)
