"""A complete update, decoded and held against what it says, and all of an exchange held against
one's own: work for a thread of its own."""

from candor.agent.core.effects import Arrived, Derive, Derived
from candor.mechanisms.evidence.examiner import Examined, Examiner, Share
from candor.mechanisms.evidence.statements import EvidenceError
from candor.network.codecs import Codec


def judge(update: Arrived, examiner: Examiner, codec: Codec) -> Examined | EvidenceError:
    """What an update that `Verify` handed out proves, or why it must not reach the model; its
    buffer then holds the decoded vector, zeros where it is not given."""
    slot, payload, share = update.slot, None, None
    if not slot.notice:
        share = _decoded(update, examiner, codec)
        payload = slot.buffer
    try:
        return examiner.examine(
            *(slot.statement, payload, slot.witnesses, update.trusted),
            *(share, update.novelties, update.held),
        )
    except EvidenceError as exc:
        return exc


def _decoded(update: Arrived, examiner: Examiner, codec: Codec) -> Share | None:
    """Decode the payload into its buffer; answers which part of the vector it is, if not all."""
    slot, trade = update.slot, examiner.terms.trade
    if trade is None or update.groups is None or update.groups == trade.groups.count:
        codec.decode(slot.encoded, slot.buffer)
        return None
    groups, buffer = update.groups, slot.buffer
    count = trade.groups.length(len(buffer), 0, groups)
    end = codec.payload_bytes(count)
    leaves = bytes(slot.encoded[end:])
    codec.decode(slot.encoded[:end], buffer[:count])
    values = buffer[:count].copy()
    buffer[:] = 0.0
    trade.groups.put(values, 0, groups, buffer)
    return Share(groups, leaves)


def derive(asked: Derive, examiner: Examiner, agent: str) -> Derived:
    """The row with which `agent` mixes an exchange, without those whose vector is farther away than
    its sketch shows."""
    own, mine = asked.payloads[agent], asked.statements[agent]
    hidden: dict[str, EvidenceError] = {}
    for peer, theirs in asked.payloads.items():
        if peer == agent:
            continue
        try:
            said = asked.statements[peer]
            examiner.check_hidden(own, theirs, mine, said, capped=bool(asked.rule))
        except EvidenceError as exc:
            hidden[peer] = exc
    sources = {k: said for k, said in asked.statements.items() if k not in hidden}
    return Derived(examiner.derived_row(agent, asked.round, asked.rule, sources), hidden)
