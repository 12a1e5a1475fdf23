"""A complete update, decoded and held against what it says: work for a thread of its own."""

from candor.agent.core.effects import Arrived
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
