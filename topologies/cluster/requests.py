"""Join requests: an agent says, signed, under which id, keys and addresses it wants to take part,
and perhaps how many samples it has.

The signature covers the organiser whom the agent trusts to put the run together, and it goes into
the cluster file with the entry. So every host can check that each agent asked for exactly what the
file says of it. Against a file that was freed of all signatures only the agent's own memory of whom
it asked helps, see `agent.daemon.organisers`. A request says nothing of the run: the daemon is
started by hand with the file itself.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import tomli_w
from pydantic import Field, model_validator

from candor.topologies.encoding import canonical
from candor.topologies.encoding.signatures import SigningKey, verify
from candor.topologies.specs import fields
from candor.topologies.specs.fields import (
    AgentId,
    BindEndpoint,
    Count,
    CurveKey,
    Endpoint,
    Hex128,
    Number,
    PublicKey,
)
from candor.topologies.specs.files import FilePath, Section, read_toml, validated
from candor.topologies.specs.specs import ConfigurationError, SignatureError

JOIN_DOMAIN = "candor/join/v1"
JOIN_VERSION = 1
# An agent is dialled at one address after the other: eight take long enough.
ENDPOINTS_MAX = 8
REQUEST_BYTES_MAX = 16 * 1024  # the longest valid one, comments aside, has some 6,000
# Shares of a whole or samples by the trillion: whatever the unit, a ratio keeps far from underflow.
WEIGHT_MIN, WEIGHT_MAX = 1e-6, 1e12


class AgentEntry(Section):
    """One agent: where its neighbours dial it, the public halves of its keys, and its own word.

    `endpoint` is tried first, then the others in turn. `bind` is where the agent listens when that
    is not where it is dialled. `join` is its signature, see `join_body`; of two requests that with
    the higher `serial` is the later one. Only signed files have these. `weight` is how many samples
    the agent declares, or another measure of its size, by which the mean is weighted: see
    `topologies.mixing.sizes`. Nobody checks it against data.
    """

    id: AgentId
    endpoint: Endpoint
    identity: PublicKey
    curve: CurveKey
    # Absent ones are left out of a fingerprint from the end: new fields go last.
    other_endpoints: Annotated[tuple[Endpoint, ...], Field(max_length=ENDPOINTS_MAX - 1)] = ()
    bind: Annotated[tuple[BindEndpoint, ...], Field(max_length=ENDPOINTS_MAX)] = ()
    join: Hex128 | None = None
    serial: Count | None = None
    weight: Annotated[Number, Field(ge=WEIGHT_MIN, le=WEIGHT_MAX)] | None = None

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All addresses, in the order in which they are tried."""
        return (self.endpoint, *self.other_endpoints)

    @property
    def listens_at(self) -> tuple[str, ...]:
        """What to bind: `bind`, else each endpoint; a host name says nothing of interfaces, so its
        port is bound on all of them."""
        wanted = self.bind or tuple(map(_bindable, self.endpoints))
        open_ports = {port for host, port in map(fields.split_bind, wanted) if host == "*"}
        return fields.distinct_binds(
            [
                text
                for text in wanted
                if (place := fields.split_bind(text))[0] == "*" or place[1] not in open_ports
            ]
        )


class JoinRequest(Section):
    """A request as a file; valid by construction, its signature included."""

    version: Literal[1]
    organiser: PublicKey
    agent: AgentEntry

    @model_validator(mode="after")
    def _check(self) -> "JoinRequest":
        check_join(self.agent, self.organiser)
        return self


def join_body(entry: AgentEntry, organiser: str) -> bytes:
    """The canonical bytes that an agent signs under `JOIN_DOMAIN`."""
    stated: list[canonical.Value] = [
        JOIN_VERSION,
        organiser,
        entry.id,
        entry.endpoint,
        entry.identity,
        entry.curve,
        entry.other_endpoints,
        entry.bind,
        entry.serial,
    ]
    # Whoever declares nothing signs what was signed before there were weights.
    return canonical.pack(stated if entry.weight is None else [*stated, entry.weight])


def make_request(
    key: SigningKey,
    *,
    organiser: str,
    agent: str,
    curve: str,
    endpoints: Sequence[str],
    serial: int,
    bind: Sequence[str] = (),
    weight: float | None = None,
) -> JoinRequest:
    """A signed request to the organiser with this identity (64 hex).

    `serial` grows from one request of an agent to the next, such as the milliseconds since 1970;
    nobody compares it with a clock.

    Raises:
        ConfigurationError: a bad id, endpoint or weight, no endpoint, or too many.
    """
    first, *others = endpoints or [""]
    stated = {
        "id": agent,
        "endpoint": first,
        "identity": key.public.hex(),
        "curve": curve,
        "other_endpoints": others,
        "bind": bind,
        "serial": serial,
        "weight": weight,
    }
    entry = validated(AgentEntry, stated, f"agent {agent!r}")
    join = key.sign(JOIN_DOMAIN, join_body(entry, organiser)).hex()
    content = {
        "version": JOIN_VERSION,
        "organiser": organiser,
        "agent": entry.model_dump() | {"join": join},
    }
    return validated(JoinRequest, content, f"agent {agent!r}")


def check_join(entry: AgentEntry, organiser: str) -> None:
    """Check that the agent itself asked this organiser for this entry.

    Raises:
        SignatureError: it did not.
    """
    if entry.join is None or entry.serial is None:
        missing = "join" if entry.join is None else "serial"
        raise SignatureError(f"agent {entry.id!r} did not sign its entry: `{missing}` is missing")
    signature, public = bytes.fromhex(entry.join), bytes.fromhex(entry.identity)
    if not verify(public, signature, JOIN_DOMAIN, join_body(entry, organiser)):
        raise SignatureError(
            f"agent {entry.id!r}: its keys did not sign this entry for the organiser "
            f"{organiser[:12]}…; it was changed on its way, or meant for another organiser"
        )


def load_request(path: FilePath) -> JoinRequest:
    """Read and check a join request.

    Raises:
        ConfigurationError: unreadable or malformed; SignatureError where it is not what was signed.
    """
    tables = read_toml(path, "join request", REQUEST_BYTES_MAX)
    return validated(JoinRequest, tables, str(path))


def dump_request(request: JoinRequest) -> str:
    """The TOML text of a request: `load_request` reads the same request from it."""
    return (
        "# Candor join request, for the organiser of the run: `candor cluster new` and\n"
        "# `candor cluster add` read it. All of it is public; a changed one is refused.\n"
        f"{tomli_w.dumps(request.model_dump(exclude_defaults=True))}"
    )


def entries_for(requests: Sequence[JoinRequest], organiser: str) -> dict[str, AgentEntry]:
    """The entries that the agents ask this organiser for, by id, in the order of the requests.

    Raises:
        ConfigurationError: a request is meant for another organiser, or one agent has two.
    """
    entries: dict[str, AgentEntry] = {}
    for request in requests:
        agent = request.agent.id
        if request.organiser != organiser:
            raise ConfigurationError(
                f"the request of agent {agent!r} is for the organiser "
                f"{request.organiser[:12]}…, not {organiser[:12]}…; ask for one that names you"
            )
        if agent in entries:
            raise ConfigurationError(f"there are two requests of agent {agent!r}; give one")
        entries[agent] = request.agent
    return entries


def _bindable(endpoint: str) -> str:
    host, port = fields.split_endpoint(endpoint)
    return endpoint if fields.address_of(host) else f"tcp://*:{port}"
