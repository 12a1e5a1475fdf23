"""What the terminal shows of a whole cluster: one row an agent, then what is wrong with whom."""

from datetime import UTC, datetime

from rich.console import Group
from rich.text import Text

from candor.agent.daemon.participation import participation_words, seen_in
from candor.agent.reports.terminal import literal, plain_table, refusals, state_text
from candor.agent.runs.cluster_status import ClusterStatus, Member
from candor.mechanisms.payments.credits import format_credits

_COLUMNS = ("agent", "state", "#round", "#lag", "#balance", "#seen", "reached")
_CAPTION = (
    "lag: rounds behind the foremost; balance: credits, above 0 received; seen: by how many of its "
    "neighbours that are here; reached: its data directory is here, or it answers a handshake, has "
    "its port open, or is silent"
)


def cluster_view(found: ClusterStatus) -> Group:
    """The table; then who does not answer, who is without whom, last errors, and participation."""
    rows = [
        (
            literal(one.agent, "bold"),
            state_text(one.state),
            f"{one.round}/{found.cluster.rounds.rounds}",
            str(found.round - one.round),
            format_credits(one.status.balance) if one.status else "-",
            one.seen or "-",
            one.reached or "-",
        )
        for one in found.members
    ]
    notes = [
        literal(f"{agent} does not answer: {why}", "red")
        for agent, why in found.unreachable.items()
    ]
    for status in found.statuses:
        notes += refusals(status)
    notes += [told for one in found.members if (told := _last_error(one)) is not None]
    if words := participation_words(seen_in(found.statuses)):
        notes.append(literal(words))
    notes += [literal(note, "dim") for note in found.notes]
    return Group(plain_table(f"cluster {found.cluster.run_id}", _COLUMNS, rows, _CAPTION), *notes)


def _last_error(one: Member) -> Text | None:
    if one.status is None or one.status.last_error is None:
        return None
    at = datetime.fromtimestamp(one.status.last_error_s or 0.0, UTC)
    return literal(f"{one.agent}: last error {at:%Y-%m-%dT%H:%M:%SZ}: {one.status.last_error}")
