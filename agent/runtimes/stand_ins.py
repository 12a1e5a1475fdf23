"""Agents of runs that never open a socket: well-formed keys and endpoints that nobody uses."""

from collections.abc import Sequence

from topologies import z85
from topologies.cluster import AgentEntry

_PORT_MIN = 1024


def stand_in_entries(ids: Sequence[str]) -> list[AgentEntry]:
    """An entry for each id, always the same, so that the fingerprint of a simulated run, and what
    is drawn from it, depend on its settings alone; no daemon can run with them.

    Raises:
        ConfigurationError: there are more than 64,511 agents.
    """
    return [
        AgentEntry(
            id=agent,
            endpoint=f"tcp://127.0.0.1:{_PORT_MIN + index}",
            identity=(index + 1).to_bytes(32, "big").hex(),
            curve=z85.encode(index.to_bytes(32, "big")),
        )
        for index, agent in enumerate(ids)
    ]
