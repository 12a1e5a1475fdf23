"""What follows the revision in use: the organiser's next one, which goes on with the run.

It comes from the operator or from a neighbour, and the organiser's signature decides, whoever hands
it over. It is stored, told to the neighbours, and in effect after the last round of the membership
that it ends: for whoever knows it by then. Whoever comes to know it later has done rounds that are
of no membership; it follows when its neighbours have gone on, and has stated nothing by then that
it would claim. So that all know it in time, the operator's is refused where it comes too late to
travel through the run. Pure.
"""

from typing import Final

from candor.agent.algorithms.catalogue import limit_of, phases_of, rewards_of
from candor.mechanisms.evidence.phases import How
from candor.topologies.cluster.file import Cluster, dump_cluster, parse_cluster
from candor.topologies.cluster.revisions import check_continuation
from candor.topologies.specs.specs import ConfigurationError, SignatureError
from candor.topologies.specs.toml import parse_toml

NEXT_KEY: Final = "next_revision"
LEFT_KEY: Final = "left_round"
"""In the store: the first and the last round that were stated too late for their membership."""
BYTES_MAX: Final = 2**20


class Succession:
    """What follows `cluster`; `stored` is what an earlier life knew of that, nothing if it is no
    more than what is in use by now."""

    def __init__(self, cluster: Cluster, stored: bytes = b"") -> None:
        self.present = cluster
        self.heir: Cluster | None = None
        self.text = b""  # of the heir, as it was signed
        if stored:
            try:
                self.take(stored)
            except (ConfigurationError, SignatureError):
                return

    @property
    def handed(self) -> bytes:
        """The file of the revision in use, for whoever is behind; b"" of a run's first one, which
        all have."""
        return b"" if self.present.continued is None else dump_cluster(self.present).encode()

    @property
    def number(self) -> int:
        """Of the heir; 0 where there is none."""
        return 0 if self.heir is None else number_of(self.heir)

    @property
    def last_round(self) -> int:
        """The last round of the present membership, as far as is known."""
        if self.heir is None or self.heir.continued is None:
            return self.present.rounds.rounds
        before = self.present.continued
        return self.heir.continued.before[0 if before is None else len(before.before)].until

    def check_in_time(self, round_number: int) -> None:
        """Check that the next revision, brought in a round, can be known to all before it comes
        into effect: neighbours are a round apart at most, and it takes a round from one to the
        next.

        Raises:
            ConfigurationError: it cannot.
        """
        if round_number + len(self.present.ids) > self.last_round:
            raise ConfigurationError(
                f"revision {self.number} is to come into effect after round {self.last_round}, and "
                f"this is round {round_number}: too late for all {len(self.present.ids)} agents to "
                "know it by then; ask the organiser for one that does later"
            )

    def take(self, text: bytes, round_number: int = 0, *, brought: bool = False) -> bool:
        """Take a file as the next revision, in a round; whether that is news. One that is `brought`
        by the operator must be in time.

        Raises:
            ConfigurationError, SignatureError: it is not one that may follow, in one line.
        """
        if text == self.text:
            return False
        if len(text) > BYTES_MAX:
            raise ConfigurationError(f"a revision of {len(text)} bytes is too long")
        source = "the next revision"
        found = parse_cluster(parse_toml(text, source), source)
        if found.fingerprint in (self.present.fingerprint, self._fingerprint):
            return False
        check_continuation(self.present, found)
        check_continuable(found)
        if self.last_round + 1 < round_number:
            self.heir = None  # it never came into effect here
        if not self._goes_before(found):
            return False
        before, self.heir = self.heir, found
        try:
            if brought:
                self.check_in_time(round_number)
        except ConfigurationError:
            self.heir = before
            raise
        self.text = text
        return True

    @property
    def _fingerprint(self) -> str:
        return "" if self.heir is None else self.heir.fingerprint

    def _goes_before(self, found: Cluster) -> bool:
        """Whether a file comes before the heir so far: whatever follows that is taken up then."""
        if self.heir is None:
            return True
        if number_of(found) == self.number:
            raise SignatureError(
                f"the organiser signed two different files as revision {self.number}: "
                f"{self.heir.fingerprint[:16]} and {found.fingerprint[:16]}; ask which one holds"
            )
        return number_of(found) < self.number


def number_of(cluster: Cluster) -> int:
    """The number of a revision; 0 of a file that is none."""
    return 0 if cluster.revision is None else cluster.revision.number


def check_continuable(cluster: Cluster) -> None:
    """Check that agents of a run can go on each from the vector that it has stated last: where a
    round has one exchange, of models that are mixed by the cluster file's weights.

    Raises:
        ConfigurationError: they cannot.
    """
    phases = phases_of(cluster.algorithm)
    parts = [part for phase in phases.phases for part in phase.parts]
    plain = all(part.how is How.MIXED and not part.rule for part in parts)
    if phases.count > 1 or not plain:
        raise ConfigurationError(
            f"{cluster.algorithm.name} cannot go on with other members: only rounds of one "
            "exchange can, of models mixed by weights of the file"
        )
    for name, there in {
        "rewards": rewards_of(cluster) is not None,
        "an influence bound": limit_of(cluster) is not None,
        "replay": cluster.payments.replay is not None,
    }.items():
        if there:
            raise ConfigurationError(f"a run with {name} cannot go on with other members")
