"""The evidence book: the statements and injected updates that this agent holds, bounded by age.

It answers three questions: which statements do I forward as witnesses, what did my neighbours
inject in a window, and what do I claim for myself. Pure bookkeeping over
`mechanisms.evidence.examiner`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from candor.mechanisms.evidence.claims import Claim, ClaimedRound
from candor.mechanisms.evidence.examiner import Examined, Examiner, inner_products
from candor.mechanisms.evidence.phases import How, Part
from candor.mechanisms.evidence.sketch import window_of
from candor.mechanisms.evidence.statements import (
    ROUNDS_KEPT,
    Attested,
    EvidenceError,
    Formed,
    Row,
    SignedStatement,
    Source,
    Statement,
    commitment,
    named_sources,
    place_of,
)
from candor.mechanisms.proofs import Proof, equivocation
from candor.topologies.encoding.canonical import MalformedError, Value, pack, unpack

# Claims of a window arrive during the next one; those of a neighbour that was away come later.
WINDOWS_KEPT: Final = 64
SEEN_BYTES_MAX: Final = 2**26  # our own file: thousands of neighbours

T = TypeVar("T")
Floats = NDArray[np.float64]


@dataclass(slots=True)
class Seen:
    """What one agent injected in one window, as seen here: energies and traces by round, and inner
    products of two rounds, the earlier one first; and whom it mixed, by round, as its next
    statement's row tells. `sketches` (k,) are there until a later window has begun; `wholes` are
    the energies that fresh sketches show, where the run has them."""

    energies: dict[int, float] = field(default_factory=dict)
    traces: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    products: dict[tuple[int, int], float] = field(default_factory=dict)
    heard: dict[int, frozenset[str]] = field(default_factory=dict)
    sketches: dict[int, Floats] = field(default_factory=dict)
    wholes: dict[int, float] = field(default_factory=dict)

    def add(self, round_number: int, examined: Examined) -> None:
        """Count a round once."""
        if round_number in self.energies:
            return
        self.energies[round_number] = examined.energy
        self.traces[round_number] = examined.trace
        if examined.whole is not None:
            self.wholes[round_number] = examined.whole
        if self.sketches:
            held = np.stack([*self.sketches.values()])
            found = inner_products(held, examined.injected).tolist()
            for other, product in zip(self.sketches, found, strict=True):
                self.products[min(other, round_number), max(other, round_number)] = product
        self.sketches[round_number] = examined.injected

    def claimed(self, heard: Mapping[int, tuple[str, ...]]) -> tuple[ClaimedRound, ...]:
        """The rounds as their agent claims them, having heard so."""
        numbers = sorted(self.energies)
        return tuple(
            ClaimedRound(
                number,
                self.energies[number],
                heard.get(number, ()),
                self.traces[number].astype("<f4").tobytes(),
                np.array([self.products[s, number] for s in numbers[:place]], "<f8").tobytes(),
                self.wholes.get(number),
            )
            for place, number in enumerate(numbers)
        )

    def fields(self, agent: str) -> Value:
        """[agent, [[round, energy, trace], …], [[earlier round, later round, product], …]], with
        the whole energies, if there are any, behind the traces."""
        rounds: list[Value] = [
            [number, value, self.traces[number].astype("<f4").tobytes(), *self._whole(number)]
            for number, value in self.energies.items()
        ]
        products: list[Value] = [[*pair, value] for pair, value in self.products.items()]
        return [agent, rounds, products]

    def _whole(self, number: int) -> list[float]:
        return [self.wholes[number]] if number in self.wholes else []


def _seen_from(fields: Value) -> tuple[str, Seen]:
    match fields:
        case [str(agent), list(rounds), list(products)]:
            seen = Seen(products=dict(map(_product_from, products)))
            for number, value, trace, whole in map(_round_from, rounds):
                seen.energies[number] = value
                seen.traces[number] = np.frombuffer(trace, "<f4")
                if whole is not None:
                    seen.wholes[number] = whole
            return agent, seen
    raise MalformedError("not what an agent saw in a window")


def _round_from(entry: Value) -> tuple[int, float, bytes, float | None]:
    match entry:
        case [int(number), float(value), bytes(trace)] if len(trace) % 4 == 0:
            return number, value, trace, None
        case [int(number), float(value), bytes(trace), float(whole)] if len(trace) % 4 == 0:
            return number, value, trace, whole
    raise MalformedError("not a round that was seen")


def _product_from(entry: Value) -> tuple[tuple[int, int], float]:
    match entry:
        case [int(earlier), int(later), float(value)]:
            return (earlier, later), value
    raise MalformedError("not a product of two rounds")


def _snapshot(data: bytes) -> tuple[int, bytes, Sequence[Value]]:
    match unpack(data, bytes_max=2 * SEEN_BYTES_MAX):
        case [int(window), bytes(seen), list(heard)]:
            return window, seen, heard
    raise MalformedError("not a window under way")


def _heard_from(entry: Value) -> tuple[int, tuple[str, ...]]:
    match entry:
        case [int(number), [*agents]]:
            return number, tuple(str(agent) for agent in agents)
    raise MalformedError("not who was heard in a round")


def _row_from(entry: Value) -> tuple[int, int, Row]:
    match entry:
        case [int(phase), int(step), str(rule), [*pairs]]:
            return phase, step, Row(tuple(map(_weight_from, pairs)), rule)
    raise MalformedError("not how a phase was mixed")


def _weight_from(pair: Value) -> tuple[str, float]:
    match pair:
        case [str(agent), float(weight)]:
            return agent, weight
    raise MalformedError("not a weight")


def _sketch_from(entry: Value) -> tuple[int, Floats]:
    match entry:
        case [int(number), bytes(values)] if len(values) % 8 == 0:
            return number, np.frombuffer(values, "<f8")
    raise MalformedError("not a sketch of a round")


def _forget(held: dict[int, T], present: int, kept: int) -> None:
    """Keep the last `kept` rounds or windows up to the present and the highest `kept` beyond it.

    The second bound is for a sender that runs ahead, truly or not, of an agent that stands still.
    """
    beyond = sorted(key for key in held if key > present)
    for key in [key for key in held if key <= present - kept] + beyond[:-kept]:
        del held[key]


class EvidenceBook:
    """What agent `agent` has verified, by step (exchange, see `Phases`) and by window."""

    def __init__(self, agent: str, examiner: Examiner) -> None:
        self.agent = agent
        self.examiner = examiner
        self.phases = examiner.terms.phases
        # By phase, what its last exchange was mixed with, and at which step.
        self._rows: dict[int, tuple[int, Row]] = {}
        self._mixed_step = 0
        self._present_window = 0
        self._statements: dict[str, dict[int, SignedStatement]] = {}  # by agent and step
        self._new: dict[str, dict[int, float]] = {}  # how new what they injected was, of the same
        self._seen: dict[str, dict[int, Seen]] = {}  # by agent and window
        self._overheard: dict[int, dict[str, SignedStatement]] = {}  # by step: of anyone
        self._heard: dict[int, dict[int, tuple[str, ...]]] = {}  # by window and round

    @property
    def steps_kept(self) -> int:
        """Of how many exchanges statements are kept."""
        return max(ROUNDS_KEPT, self.examiner.terms.rounds_reached) * self.phases.count

    def step_of(self, statement: Statement) -> int:
        """The step that a statement is of."""
        return self.phases.step(statement.round, statement.phase)

    def add(self, signed: SignedStatement, examined: Examined) -> None:
        """Remember a verified statement, a neighbour's or one's own: the first of a step."""
        statement = signed.statement
        agent, window = statement.agent, self._window(statement.round)
        statements = self._statements.setdefault(agent, {})
        statements.setdefault(self.step_of(statement), signed)
        new = self._new.setdefault(agent, {})
        new.setdefault(self.step_of(statement), examined.novelty)
        seen = self._seen.setdefault(agent, {})
        if statement.phase == self.phases.charged:
            seen.setdefault(window, Seen()).add(statement.round, examined)
            # Updates arrive in order, but for late ones of the window before.
            for past in (held for w, held in seen.items() if w < max(seen) - 1):
                past.sketches.clear()
        self._add_heard(statement, seen)
        if agent == self.agent:
            self._present_window = window
            _forget(self._heard, window, WINDOWS_KEPT)
        _forget(statements, self._mixed_step, self.steps_kept)
        _forget(new, self._mixed_step, self.steps_kept)
        _forget(seen, self._present_window, WINDOWS_KEPT)

    def _add_heard(self, statement: Statement, seen: Mapping[int, Seen]) -> None:
        """Whom an agent heard in a charged exchange, as its later statement tells."""
        told = self.phases.told
        if told is None or told[0] != statement.phase:
            return
        # Not across windows: who crashed after its claim may have entered the next one otherwise.
        in_window = seen.get(self._window(statement.round))
        of_round = statement.round_of(before=told[2])
        heard = statement.told(told[1])
        if heard is not None and in_window is not None and of_round in in_window.energies:
            in_window.heard.setdefault(of_round, heard)

    def contradicted(self, witnesses: Iterable[SignedStatement]) -> list[Proof]:
        """Proofs that verified witnesses make with what was stated here, or by other witnesses."""
        proofs = []
        for witness in witnesses:
            agent, step = witness.statement.agent, self.step_of(witness.statement)
            known = self._statements.get(agent, {}).get(step)
            heard = self._overheard.setdefault(step, {}).setdefault(agent, witness)
            first = known or heard
            proof = equivocation(first.head, witness.head) if first.body != witness.body else None
            if proof is not None:
                proofs.append(proof)
        _forget(self._overheard, self._mixed_step, self.steps_kept)
        return proofs

    def add_own(self, signed: SignedStatement) -> Examined:
        """Remember one's own statement of this step; answers what it shows that was injected."""
        sources = self.trusted(named_sources(signed.statement, self.phases))
        examined = self.examiner.shown(signed.statement, sources)
        self.add(signed, examined)
        return examined

    def mixed(self, step: int, row: Mapping[str, float], rule: str = "") -> None:
        """The row, of the cluster file or derived by a rule, with which the vectors of a step were
        mixed; of vectors that are not mixed, whom they came from."""
        round_number, phase = self.phases.at(step)
        self._rows[phase] = step, Row(tuple(sorted(row.items())), rule)
        self._mixed_step = step
        if phase == self.phases.charged:
            heard = tuple(sorted(agent for agent in row if agent != self.agent))
            self._heard.setdefault(self._window(round_number), {})[round_number] = heard

    def re_entered(self, step: int, peer: str) -> None:
        """A neighbour's model of a step was taken as it is; nothing else is left to go on from."""
        self._rows.clear()
        self.mixed(step, {peer: 1.0})

    def sat_out(self, step: int) -> int:
        """How many rounds before a step this agent has not mixed, where such are sat out."""
        if not self.examiner.terms.sits_out:
            return 0
        at, _ = self._rows.get(self.phases.model, (0, Row(())))
        return self.phases.at(step)[0] - self.phases.at(at)[0] - 1

    def mixed_since(self, statement: Statement) -> bool:
        """Whether the agent of a statement has stated another round between it and what it names:
        it would choose what it is measured from."""
        held, step = self._statements.get(statement.agent, {}), self.step_of(statement)
        mixed = self.step_of_mixed(statement)
        return statement.sat_out > 0 and any(mixed < other < step for other in held)

    def step_of_mixed(self, statement: Statement) -> int:
        """The step of models that a statement of the same phase goes on from."""
        return self.phases.step(statement.round_of(before=True), statement.phase)

    def formed(self, step: int, attested: bytes = b"") -> tuple[Formed, ...]:
        """How the parts of this agent's vector of a step came about; `attested` is the sketch of
        the aggregate among them."""
        _, phase = self.phases.at(step)
        return tuple(self._formed(step, part, attested) for part in self.phases.phases[phase].parts)

    def _formed(self, step: int, part: Part, attested: bytes) -> Formed:
        if part.how is How.OWN:
            return Row(((self.agent, 1.0),))
        source = self.phases.source(step - self.sat_out(step) * self.phases.count, part)
        at, row = self._rows.get(part.phase, (0, Row(())))
        if source <= 0 and part.phase == self.phases.model:
            return Row(((self.agent, 1.0),))  # the initial model
        heard = tuple(agent for agent, _ in row.weights if agent != self.agent)
        # A row without the agent itself is a re-entry's.
        made = at == source and len(heard) < len(row.weights)
        if part.how is How.AGGREGATE and (made or not part.before):
            return Attested(part.rule, heard, attested)
        return row if at == source else Row(())

    def statements(self, step: int) -> Mapping[str, SignedStatement]:
        """The verified statements of a step, by agent."""
        return {agent: held[step] for agent, held in self._statements.items() if step in held}

    def last(self, agent: str) -> SignedStatement | None:
        """The latest verified statement of an agent that is kept."""
        held = self._statements.get(agent)
        return held[max(held)] if held else None

    def trusted(self, sources: Iterable[Source]) -> dict[Source, SignedStatement]:
        """The verified statements among `sources`, in their order."""
        found = {}
        for number, phase, agent in sources:
            held = self._statements.get(agent, {}).get(self.phases.step(number, phase))
            if held is not None:
                found[number, phase, agent] = held
        return found

    def novelties(self, sources: Iterable[Source]) -> dict[Source, float]:
        """How new what agents injected was, of verified statements."""
        return {
            place: self._new[place[2]][self.phases.step(*place[:2])]
            for place in self.trusted(sources)
        }

    def rated(self, statement: Statement) -> Statement:
        """This agent's statement with what it thinks of others, where models are traded, or what it
        has injected in the window, where that is bounded."""
        sources = self.trusted(named_sources(statement, self.phases))
        rated = self.examiner.rated(statement, sources, self.novelties(sources))
        return self.examiner.bounded(rated, sources)

    def witnesses(self, statement: Statement) -> list[SignedStatement]:
        """The statements that go with this agent's update: those that its rows name."""
        return list(self.trusted(named_sources(statement, self.phases)).values())

    def seen(self, agent: str, window: int) -> Seen:
        """What an agent injected in a window, as far as it was seen here."""
        return self._seen.get(agent, {}).get(window, Seen())

    def claim(self, window: int) -> Claim:
        """This agent's own claim for a window: the rounds it stated and mixed."""
        rounds = self.seen(self.agent, window).claimed(self._heard.get(window, {}))
        return Claim(self.examiner.terms.run, window, self.agent, rounds)

    def encode_seen(self, window: int) -> bytes:
        """What was seen in a window, as bytes to be stored with this agent's claim for it."""
        return pack([seen.fields(agent) for agent, seen in self._window_seen(window)])

    def snapshot(self) -> bytes:
        """The window under way as bytes: all that its claim and its neighbours' will need."""
        window = self._present_window
        heard: list[Value] = [
            [number, agents] for number, agents in self._heard.get(window, {}).items()
        ]
        return pack([window, self.encode_seen(window), heard])

    def window_of_snapshot(self, data: bytes) -> int:
        """Which window a snapshot is of; raises MalformedError as `restore` does."""
        return _snapshot(data)[0]

    def restore(self, data: bytes) -> int:
        """Take back a snapshot of an earlier life; answers which window it is of.

        Raises:
            MalformedError: our own file is damaged.
        """
        window, seen, heard = _snapshot(data)
        self.restore_seen(window, seen)
        self._heard[window] = dict(map(_heard_from, heard))
        return window

    def recover(self, signed: SignedStatement, bodies: Sequence[bytes]) -> bool:
        """Take back an own statement that a neighbour has returned with the `bodies` that it
        commits to; answers whether that is news.

        Raises:
            EvidenceError, MalformedError: it is not what this agent has signed.
        """
        said, limit = signed.statement, self.examiner.terms.sketch_bytes
        if not signed.verify(self.examiner.terms.publics[self.agent]) or said.agent != self.agent:
            raise EvidenceError("returned", "not signed by its receiver")
        if said.run != self.examiner.terms.run or commitment(bodies) != said.sources:
            raise EvidenceError("returned", "of another run, or with other sources")
        named = named_sources(said, self.phases)
        decoded = [Statement.decode(body, sketch_bytes_max=limit) for body in bodies]
        if tuple(map(place_of, decoded)) != named:
            raise EvidenceError("returned", "sources are not those that it names")
        self._recover_heard(said)
        if said.phase != self.phases.charged:
            return False
        window = self._window(said.round)
        seen = self._seen.setdefault(self.agent, {}).setdefault(window, Seen())
        # Of rounds without sketches nobody could tell the products.
        if said.round in seen.energies or len(seen.energies) != len(seen.sketches):
            return False
        sources = [SignedStatement(*one) for one in zip(bodies, repeat(b""), decoded)]
        seen.add(said.round, self.examiner.shown(said, dict(zip(named, sources, strict=True))))
        return True

    def _recover_heard(self, said: Statement) -> None:
        told = self.phases.told
        if told is None or told[0] != said.phase:
            return
        heard, number = said.told(told[1]), said.round_of(before=told[2])
        if heard is not None and number > 0:
            held = self._heard.setdefault(self._window(number), {})
            held.setdefault(number, tuple(sorted(heard)))

    def windows_stated(self) -> list[int]:
        """The windows in which this agent has stated anything, as far as it knows, ascending."""
        own = self._seen.get(self.agent, {})
        return sorted(window for window, seen in own.items() if seen.energies)

    def exchange(self, signed: SignedStatement) -> Value:
        """What `go_on` needs of the exchange that was just stated: the statements of a round back,
        and of what was mixed last, each with how new its update was, the rows by phase, and the own
        sketches of the window."""
        step, mixed = self.step_of(signed.statement), self.step_of_mixed(signed.statement)
        statements: list[Value] = [
            [one.body, one.signature, self._new[agent][at]]
            for agent, held in self._statements.items()
            for at, one in held.items()
            if at == mixed or at >= step - self.phases.count
        ]
        rows: list[Value] = [
            [phase, step, row.rule, [[*pair] for pair in row.weights]]
            for phase, (step, row) in self._rows.items()
        ]
        own = self.seen(self.agent, self._present_window).sketches
        sketches: list[Value] = [[t, sketch.astype("<f8").tobytes()] for t, sketch in own.items()]
        return [signed.body, statements, rows, sketches]

    def restore_sketches(self, exchange: Value) -> None:
        """Take back the own sketches of the window under way, after `restore`: rounds of it that
        neighbours return have products with those that are here.

        Raises:
            MalformedError: our own file is damaged.
        """
        match exchange:
            case [bytes(), [*_], [*_], [*sketches]]:
                held = self._seen.get(self.agent, {}).get(self._present_window, Seen())
                held.sketches.update(map(_sketch_from, sketches))
                return
        raise MalformedError("not an exchange under way")

    def go_on(self, exchange: Value) -> SignedStatement:
        """Take back the exchange that an earlier life was in, after `restore_sketches`; answers its
        own statement of that.

        Raises:
            MalformedError: our own file is damaged.
        """
        match exchange:
            case [bytes(own), [*statements], [*rows], [*_]]:
                for signed, new in map(self._statement_from, statements):
                    said = signed.statement
                    self._statements.setdefault(said.agent, {})[self.step_of(said)] = signed
                    self._new.setdefault(said.agent, {})[self.step_of(said)] = new
                for phase, step, row in map(_row_from, rows):
                    self._rows[phase] = step, row
                last = self.last(self.agent)
                if last is not None and last.body == own:
                    self._mixed_step = self.step_of(last.statement) - 1
                    return last
        raise MalformedError("not an exchange under way")

    def _statement_from(self, entry: Value) -> tuple[SignedStatement, float]:
        limit = self.examiner.terms.sketch_bytes
        match entry:
            case [bytes(body), bytes(signature), float(new)]:
                return SignedStatement.decode(body, signature, sketch_bytes_max=limit), new
        raise MalformedError("not a statement that was kept")

    def restore_seen(self, window: int, data: bytes) -> None:
        """Take back what an earlier life stored, so that it can still check claims.

        Raises:
            MalformedError: our own file is damaged.
        """
        entries = unpack(data, bytes_max=SEEN_BYTES_MAX)
        if not isinstance(entries, list):
            raise MalformedError("not what was seen in a window")
        for agent, seen in list(map(_seen_from, entries)):
            self._seen.setdefault(agent, {})[window] = seen
        self._present_window = max(self._present_window, window)

    def _window_seen(self, window: int) -> Iterable[tuple[str, Seen]]:
        return [(agent, held[window]) for agent, held in self._seen.items() if window in held]

    def _window(self, round_number: int) -> int:
        return window_of(round_number, self.examiner.terms.window_rounds)
