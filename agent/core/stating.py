"""What an agent sends of an exchange and states of it: no more than its bound lets it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candor.agent.algorithms.driver import Driver, Outgoing
from candor.agent.core.agent import AgentCore
from candor.mechanisms.evidence.statements import Statement


@dataclass(frozen=True, slots=True)
class Stated:
    """What is sent (dim,), the statement of it, and which share is `kept` of what the agent would
    have injected in the window: 1 where that is not more than its bound."""

    payload: NDArray[np.float32]
    statement: Statement
    kept: float = 1.0


def stated(
    core: AgentCore, driver: Driver, out: Outgoing, attested: NDArray[np.float32] | None
) -> Stated:
    """What the agent of a core sends of its own vector of an exchange. Takes time; a driver may do
    it off its loop."""
    whole = _payload(out)
    statement = core.stated(whole, attested)
    if statement.influence is None:
        return Stated(whole, statement)
    kept = statement.influence.kept
    sent = driver.within(out, [kept], opens=core.opens_window)
    if sent is out:
        return Stated(whole, statement)
    payload = _payload(sent)
    return Stated(payload, core.stated(payload, attested), kept)


def aimed(core: AgentCore, driver: Driver, out: Outgoing) -> Outgoing:
    """An exchange about to be stated, of the round that the core has aimed at (`AgentCore.aim`)."""
    later = core.examiner.terms.sits_out and core.round > out.round
    return driver.later(core.round) if later else out


def _payload(out: Outgoing) -> NDArray[np.float32]:
    payload: NDArray[np.float32] = out.vectors[0].cpu().contiguous().numpy()
    payload.flags.writeable = False  # it stays on its way to neighbours for a while
    return payload
