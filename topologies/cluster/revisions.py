"""Revisions of a signed cluster file: agents join and leave, and each file names the one before.

A revision has its own fingerprint, and daemons of different revisions refuse each other. It is a
run of its own, whose statements and ledgers begin anew: what was settled stays where it is, see
`agent.daemon.revision_dirs`. Or it goes on with its run after a window of that: then it only says
who takes part from there on, and nothing else is changed but how many rounds there are.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from candor.topologies.cluster.file import AgentEntry, Cluster, Revision, algorithm_for, signed
from candor.topologies.cluster.graph_section import redrawn
from candor.topologies.cluster.memberships import Continued, Membership
from candor.topologies.cluster.requests import JoinRequest, entries_for
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.files import Section, validated
from candor.topologies.specs.specs import ConfigurationError, SignatureError


def first_revision(key: SigningKey) -> Revision:
    """What a new cluster file of this organiser bears."""
    return Revision(number=1, organiser=key.public.hex())


def amended(
    cluster: Cluster,
    key: SigningKey,
    *,
    joining: Sequence[JoinRequest] = (),
    leaving: Sequence[str] = (),
    topology: str | None = None,
    mixing_name: str | None = None,
    changes: Mapping[str, Section] = MappingProxyType({}),
    after_round: int | None = None,
) -> Cluster:
    """The next revision, signed: members changed, the graph drawn anew by its spec.

    Agents keep their order, new ones come last. An agent that asks again under its id and identity
    has its entry replaced: that is how it moves or changes its CURVE key. `topology` and
    `mixing_name` replace the run's own, see `drawing.redrawn`; `changes` are further sections of
    the file, by name. With `after_round` the run goes on, with its new members after the window of
    that round; then new agents take the places of those that leave, so that the others keep theirs,
    by which bundled data are dealt.

    Raises:
        ConfigurationError: not this organiser's file or requests, an agent unknown or there
            already, a request older than the one that is in, nothing changes, or a graph that does
            not fit its new members; or the run cannot go on so.
    """
    revision = _signed_revision(cluster)
    organiser = key.public.hex()
    if revision.organiser != organiser:
        raise ConfigurationError(
            f"revision {revision.number} is of the organiser {revision.organiser[:12]}…, and these "
            f"are the keys of {organiser[:12]}…; only the same one may go on"
        )
    agents = _members(cluster, entries_for(joining, organiser), leaving, seated=bool(after_round))
    present = {entry.identity for entry in agents}
    same = all(getattr(cluster, name) == section for name, section in changes.items())
    if topology is None and mixing_name is None and agents == cluster.agents and same:
        raise ConfigurationError("nothing would change; no new revision is needed")
    graph = redrawn(
        cluster.graph,
        cluster.ids,
        [entry.id for entry in agents],
        cluster.seed,
        topology=topology,
        mixing_spec=mixing_name,
    )
    changed = {
        **changes,
        "algorithm": algorithm_for(graph, cluster.algorithm),
        "graph": graph,
        "agents": agents,
        "revision": Revision(
            number=revision.number + 1,
            organiser=organiser,
            previous=cluster.fingerprint,
            departed=tuple(one for one in _serials(cluster).items() if one[0] not in present),
        ),
        "signature": None,
        "continued": None if after_round is None else _continued(cluster, after_round),
    }
    kept = {field: getattr(cluster, field) for field in Cluster.model_fields}
    source = f"revision {revision.number + 1} of run {cluster.run_id!r}"
    made = signed(validated(Cluster, kept | changed, source), key)
    if after_round is not None:
        check_continuation(cluster, made)
    return made


def _continued(cluster: Cluster, after_round: int) -> Continued:
    """What a revision goes on from that takes effect after the window of a round of `cluster`."""
    if after_round <= cluster.after:
        raise ConfigurationError(f"round {after_round} is over in the file that is gone on from")
    until = -(-after_round // cluster.payments.window) * cluster.payments.window
    ended = Membership(until=until, graph=cluster.graph, members=cluster.members)
    before = () if cluster.continued is None else cluster.continued.before
    return Continued(run=cluster.run, before=(*before, ended))


def continues(old: Cluster, new: Cluster) -> bool:
    """Whether `new` goes on with the run of `old`, directly or by revisions in between."""
    try:
        check_continuation(old, new)
    except (ConfigurationError, SignatureError):
        return False
    return True


def check_continuation(old: Cluster, new: Cluster) -> None:
    """Check that `new` is a later revision that goes on with the run of `old`, directly or by
    revisions in between.

    Raises:
        SignatureError: as `check_succession` does, or it tells another past of the run.
        ConfigurationError: it is a run of its own, changes more than who takes part on which graph
            for how many rounds, or what is done in the run cannot be gone on with.
    """
    check_succession(old, new)
    if new.continued is None or new.run != old.run:
        raise ConfigurationError(
            "it is a run of its own: all daemons are stopped, and started with it"
        )
    before = () if old.continued is None else old.continued.before
    told = new.continued.before
    if len(told) <= len(before) or told[: len(before)] != before:
        raise SignatureError("it tells another past of this run than the revision in use")
    ended = told[len(before)]
    if (ended.graph, ended.members) != (old.graph, old.members):
        raise SignatureError("it says of others that they took part before it")
    for name in ("seed", "task", "algorithm", "payments"):
        if getattr(old, name) != getattr(new, name):
            raise ConfigurationError(f"[{name}] stays what it is while a run goes on")
    if old.rounds.model_copy(update={"rounds": new.rounds.rounds}) != new.rounds:
        raise ConfigurationError("of [rounds] only their number may change while a run goes on")
    if ended.until >= old.rounds.rounds:
        raise ConfigurationError(f"the run is over with round {old.rounds.rounds}")


def check_succession(old: Cluster, new: Cluster) -> None:
    """Check that `new` may follow `old` where `old` has been in use.

    Revisions in between may be missing: the organiser's signature vouches for each, the chain only
    shows that two neighbouring ones belong together.

    Raises:
        SignatureError: another run's or organiser's, not later, not of the same chain, with an
            agent's earlier request instead of its later one, or without word of one that has left.
    """
    before = _signed_revision(old)
    after = new.revision
    if after is None:
        raise SignatureError(
            f"the file is not signed, and revision {before.number} of the organiser "
            f"{before.organiser[:12]}… was in use; ask the organiser for the present one"
        )
    if (old.run_id, before.organiser) != (new.run_id, after.organiser):
        raise SignatureError(
            f"the cluster file is of run {new.run_id!r}, organiser {after.organiser[:12]}…, and "
            f"{old.run_id!r}, organiser {before.organiser[:12]}… was in use"
        )
    if after.number < before.number:
        raise SignatureError(
            f"it is revision {after.number}, and revision {before.number} was in use already; "
            "ask the organiser for the present one"
        )
    if after.number == before.number and new.fingerprint != old.fingerprint:
        raise SignatureError(
            f"the organiser signed two different files as revision {after.number}: "
            f"{old.fingerprint[:16]} and {new.fingerprint[:16]}; ask which one holds"
        )
    if after.number == before.number + 1 and after.previous != old.fingerprint:
        raise SignatureError(
            f"revision {after.number} does not follow revision {before.number} as it was in use "
            f"({old.fingerprint[:16]}); the organiser has signed two of them"
        )
    if outdated := _outdated(old, new.agents):
        raise SignatureError(
            f"revision {after.number} has an earlier request of agent {outdated.id!r} than "
            f"revision {before.number} had; ask the organiser for one with the latest"
        )
    known = _serials(new)
    for identity, serial in _serials(old).items():
        if known.get(identity, 0) < serial:
            raise SignatureError(
                f"revision {after.number} has forgotten the latest request of {identity[:12]}…, "
                f"which revision {before.number} knew; ask the organiser for one that has it"
            )


def _signed_revision(cluster: Cluster) -> Revision:
    if cluster.revision is None:
        raise ConfigurationError(
            f"the file of run {cluster.run_id!r} is not signed and has no revisions; "
            "`candor cluster new` with join requests makes one that has"
        )
    return cluster.revision


def _serials(cluster: Cluster) -> dict[str, int]:
    """By identity the serial of the latest request of everyone who is or has been in."""
    present = {entry.identity: entry.serial or 0 for entry in cluster.agents}
    return dict(_signed_revision(cluster).departed) | present


def _outdated(cluster: Cluster, entries: Iterable[AgentEntry]) -> AgentEntry | None:
    """The first of the entries that is of an earlier request than the same identity's in the file,
    or had when it left, or that another one was made of at the same instant."""
    known, latest = {entry.identity: entry for entry in cluster.agents}, _serials(cluster)
    for entry in entries:
        serial, least = entry.serial or 0, latest.get(entry.identity, 0)
        if serial < least or (serial == least and known.get(entry.identity, entry) != entry):
            return entry
    return None


def _members(
    cluster: Cluster, joining: Mapping[str, AgentEntry], leaving: Sequence[str], *, seated: bool
) -> tuple[AgentEntry, ...]:
    """The members of the next revision; new ones come last or, if `seated`, where others leave."""
    for agent in leaving:
        cluster.index(agent)  # an unknown one is refused
    if outdated := _outdated(cluster, joining.values()):
        raise ConfigurationError(
            f"the request of agent {outdated.id!r} is not later than the one that is in, or was; "
            "ask for a new one"
        )
    members = {entry.id: entry for entry in cluster.agents if entry.id not in leaving}
    for agent, entry in joining.items():
        if agent in members and members[agent].identity != entry.identity:
            raise ConfigurationError(
                f"agent {agent!r} is in already, with another identity; "
                "remove that one first, or ask the new one for another id"
            )
        members[agent] = entry
    if not members:
        raise ConfigurationError("nobody would be left")
    if not seated:
        return tuple(members.values())
    new = iter([entry for agent, entry in members.items() if agent not in cluster.ids])
    places = [members[agent] if agent in members else next(new, None) for agent in cluster.ids]
    return tuple(entry for entry in (*places, *new) if entry is not None)
