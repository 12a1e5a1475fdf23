"""DATA_DIR/replay: the rounds that an agent keeps, so that they can be done again.

Of every round of the last windows what it was started from and what was sent and heard in it, a
file each; of a window that is billed, only of the round that the coin picks
(`mechanisms.evidence.kept`). Not for other eyes: a start has the model and what the agent keeps to
itself. Files are replaced without a sync: what a power cut takes of a round cannot be done again.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import blake3
import numpy as np
import torch
from torch import Tensor

from candor.agent.algorithms.effects import State
from candor.agent.core.effects import Combine
from candor.agent.learning.committed import OwnSamples, places_of
from candor.agent.learning.reporting import REPORTS
from candor.mechanisms.evidence.disclosures import (
    PIECE_BYTES,
    Disclosure,
    SignedDisclosure,
    encode_shown,
)
from candor.mechanisms.evidence.kept import (
    NONCE_BYTES,
    Echo,
    Exchanged,
    KeptRound,
    Part,
    Start,
    Tensors,
    decode_echoes,
    decode_signed,
    encode_echoes,
    encode_signed,
    picked,
    salt_of,
)
from candor.mechanisms.evidence.sample_tree import SECRET_BYTES
from candor.mechanisms.evidence.sketch import last_of_window
from candor.mechanisms.evidence.statements import SignedStatement
from candor.mechanisms.payments.bills import SignedBill
from candor.network.messages import DIGEST_BYTES
from candor.topologies.cluster.file import Cluster
from candor.topologies.encoding.canonical import MalformedError, payload_digest
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.files import read_bytes, replace_file
from candor.topologies.specs.specs import ConfigurationError

FOLDER: Final = "replay"
LEAVES_NAME: Final = "leaves.key"
NONCE_CONTEXT: Final = "candor/start-nonce/v1"
GATHERING_REST: Final = 4  # times as long as that took, before the next
SHOWN_KEPT: Final = 4  # rounds whose bytes lie ready; those of others are gathered anew
PICKS_BYTES_MAX: Final = 2**33
"""Of all files but those of the last two windows: 8 GiB, some 400 picks of a million parameters."""


class KeptFiles:
    """The files of a data directory, by round, for whoever reads them."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / FOLDER

    @property
    def rounds(self) -> list[int]:
        """The rounds that are kept whole, ascending."""
        ended = {int(path.stem) for path in self.folder.glob("*.round")}
        return sorted(t for t in ended if self.start_path(t).exists())

    def start_path(self, t: int) -> Path:
        """Where the start of a round is."""
        return self.folder / f"{t:08}.start"

    def round_path(self, t: int) -> Path:
        """Where what was sent and heard in a round is."""
        return self.folder / f"{t:08}.round"

    def said_path(self, t: int) -> Path:
        """Where the first statement of a round is, which commits to its start."""
        return self.folder / f"{t:08}.said"

    def shown_path(self, t: int) -> Path:
        """Where the bytes are that are shown of a round."""
        return self.folder / f"{t:08}.shown"

    def echoes_path(self, t: int) -> Path:
        """Where it is what neighbours stated in the round after."""
        return self.folder / f"{t:08}.echoes"

    def echoes(self, t: int, sketch_bytes: int) -> tuple[Echo, ...]:
        """What neighbours stated in the round after, as far as it is kept; raises
        MalformedError."""
        path = self.echoes_path(t)
        return decode_echoes(_unsealed(path), sketch_bytes) if path.exists() else ()

    def start(self, t: int) -> Start | None:
        """What a round was started from, None where that is not kept; raises MalformedError."""
        path = self.start_path(t)
        return Start.decode(_unsealed(path)) if path.exists() else None

    def round(self, t: int, sketch_bytes: int) -> KeptRound:
        """What was sent and heard in a round that is kept; raises MalformedError."""
        return KeptRound.decode(_unsealed(self.round_path(t)), sketch_bytes=sketch_bytes)

    def said(self, t: int, sketch_bytes: int) -> SignedStatement | None:
        """The first statement of a round, None where that is not kept; raises MalformedError."""
        path = self.said_path(t)
        if not path.exists():
            return None
        return decode_signed(_unsealed(path), sketch_bytes)

    def secret(self) -> bytes:
        """What keys the leaves of the agent's samples (32 bytes).

        Raises:
            ConfigurationError: it is not there, or damaged.
        """
        path = self.folder / LEAVES_NAME
        found = read_bytes(path, "secret of the agent's samples", SECRET_BYTES + DIGEST_BYTES)
        secret, seal = found[:SECRET_BYTES], found[SECRET_BYTES:]
        if len(found) == SECRET_BYTES + DIGEST_BYTES and payload_digest(secret) == seal:
            return secret
        raise ConfigurationError(
            f"{path}: is damaged; without it nobody can tell which samples the agent trained on"
        )


class KeptRounds(KeptFiles):
    """Keeps the rounds of agent `agent` while it runs.

    Args:
        data_dir: where.
        cluster: the run.
        agent: whose they are.
        private: what its loop keeps to itself.
        committed: its samples, whose leaves a secret keys.
        key: signs what is shown of a picked round, where the run asks for that.
    """

    def __init__(
        self,
        data_dir: Path,
        cluster: Cluster,
        agent: str,
        private: Callable[[], bytes],
        committed: Callable[[bytes], OwnSamples],
        key: SigningKey | None = None,
    ) -> None:
        super().__init__(data_dir)
        self._cluster, self._key = cluster, key
        self._signed: dict[int, SignedDisclosure] = {}  # by window, what lies ready
        self._gather_s = 0.0  # when more may be
        self._run = bytes.fromhex(cluster.fingerprint)
        self._agent = agent
        self._private = private
        self._window_rounds = cluster.payments.window
        self._opening = b""
        self._number = 0
        self._exchanges: list[Exchanged] = []
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if not (self.folder / LEAVES_NAME).exists():
            secret = _sealed(secrets.token_bytes(SECRET_BYTES))
            replace_file(self.folder / LEAVES_NAME, secret, durable=True)
        self._secret = self.secret()
        self._own = committed(self._secret)
        self.samples = self._own.samples

    def begin(self, t: int, x: Tensor, state: State, *, fresh: bool) -> None:
        """Keep what round t is started from, x (1, dim), and commit to it. What strategies keep to
        look back is no part of an honest state."""
        tensors = _tensors({name: one for name, one in state.items() if name != REPORTS})
        model, private = np.asarray(x[0].cpu(), "<f4").tobytes(), self._private()
        nonce = blake3.blake3(
            self._secret + t.to_bytes(8, "big"), derive_key_context=NONCE_CONTEXT
        ).digest(length=NONCE_BYTES)
        place = (self._run, self._agent, t, self.samples)
        start = Start(*place, model, tensors, private, fresh, nonce)
        replace_file(self.start_path(t), _sealed(start.encode()))
        self._number, self._opening, self._exchanges = t, start.opening, []

    def salt(self, phase: int) -> bytes:
        """The salt of the statement of a phase of the round that has begun."""
        return salt_of(self._opening, phase)

    def exchanged(
        self,
        combine: Combine,
        statements: Mapping[str, SignedStatement],
        sources: Sequence[SignedStatement],
        echoes: Sequence[Echo] = (),
        *,
        last: bool,
    ) -> None:
        """Keep an exchange of the round that has begun, of which all in `combine` have made these
        statements, and the own one names these sources; with the last one it is whole. What they
        stated first are the `echoes` of the round before."""
        parts = tuple(
            Part(agent, weight, statements[agent], np.asarray(payload, "<f4").tobytes())
            for agent, weight, payload in combine.parts
        )
        if not self._exchanges:
            said = encode_signed(statements[self._agent])
            replace_file(self.said_path(self._number), _sealed(said))
            if echoes and self.round_path(self._number - 1).exists():
                held = _sealed(encode_echoes(echoes))
                replace_file(self.echoes_path(self._number - 1), held)
        self._exchanges.append(Exchanged(combine.phase, parts, tuple(sources)))
        if last:
            whole = KeptRound(tuple(self._exchanges))
            replace_file(self.round_path(self._number), _sealed(whole.encode()))

    def billed(self, bundle: bytes) -> None:
        """The own bill of a window is made: of that window only the picked round is kept."""
        try:
            signed = SignedBill.decode(bundle)
        except MalformedError as exc:  # our own, just made
            raise AssertionError(str(exc)) from exc
        window = signed.bill().window
        pick = pick_of(self._run, self._agent, signed)
        last = last_of_window(window * self._window_rounds + 1, self._window_rounds)
        within = range(last - self._window_rounds + 1, last + 1)
        if pick is not None:
            self._forget(t for t in within if t != pick)
        self._bound(last - self._window_rounds)

    def shown(
        self, window: int, bundle: bytes, offset: int
    ) -> tuple[SignedDisclosure, bytes] | None:
        """What the agent has signed of the picked round of a window, by its own bill with its
        claims, and a piece of it; None while it cannot be shown, or where not all was kept.

        Raises:
            OSError, MalformedError: what was kept cannot be read, or is damaged.
        """
        pick = pick_of(self._run, self._agent, SignedBill.decode(bundle))
        if pick is None or self._key is None:
            return None
        if window not in self._signed:
            began = time.monotonic()
            if began < self._gather_s:
                return None  # whoever asks for one old window after the other waits
            held = self._gathered(pick)
            now = time.monotonic()
            self._gather_s = now + (now - began) * GATHERING_REST
            if held is None:
                return None
            replace_file(self.shown_path(pick), held)
            place = (self._run, self._agent, window, pick)
            said = Disclosure(*place, len(held), payload_digest(held))
            self._signed[window] = SignedDisclosure.sign(said, self._key)
            for old in sorted(self._signed)[:-SHOWN_KEPT]:
                del self._signed[old]
            for path in sorted(self.folder.glob("*.shown"))[:-SHOWN_KEPT]:
                path.unlink()
        with self.shown_path(pick).open("rb") as stream:
            stream.seek(offset)
            return self._signed[window], stream.read(PIECE_BYTES)

    def _gathered(self, t: int) -> bytes | None:
        """All that there is to show of a round, once the next one has been stated."""
        last = t == self._cluster.rounds.rounds
        parts = [self.start_path(t), self.round_path(t)]
        parts += [] if last else [self.start_path(t + 1), self.said_path(t + 1)]
        if not all(path.exists() for path in parts):
            return None
        start, held, following, said = [_unsealed(path) for path in parts] + [b"", b""] * last
        if Start.decode(start).samples != self.samples:
            return None  # other samples than now: their paths are gone with them
        places = places_of(self._cluster, self._agent, t, self.samples.count)
        return encode_shown(start, held, following, said, self._own.shown(places))

    def _bound(self, before: int) -> None:
        """Forget the oldest rounds up to `before`, if there is more of them than is allowed."""
        old = [t for t in self.rounds if t <= before]
        paths = (self.start_path, self.round_path)
        sizes = {t: sum(path(t).stat().st_size for path in paths) for t in old}
        beyond = sum(sizes.values()) - PICKS_BYTES_MAX
        for t in old:
            if beyond <= 0:
                return
            beyond -= sizes[t]
            self._forget([t])

    def _forget(self, rounds: Iterable[int]) -> None:
        """Delete rounds; a start stays where a round that is kept leads to it, and the present."""
        for t in rounds:
            for path in (self.round_path(t), self.echoes_path(t), self.shown_path(t)):
                path.unlink(missing_ok=True)
            for at in (t, t + 1):
                needed = self.round_path(at).exists() or self.round_path(at - 1).exists()
                if not needed and at != self._number:
                    self.start_path(at).unlink(missing_ok=True)
                    self.said_path(at).unlink(missing_ok=True)


def _sealed(data: bytes) -> bytes:
    """What a file has: after the bytes their digest, so that damage is not taken for a lie."""
    return data + payload_digest(data)


def _unsealed(path: Path) -> bytes:
    data = path.read_bytes()
    held, seal = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if payload_digest(held) != seal:
        raise MalformedError(f"{path.name} is not as it was written")
    return held


def pick_of(run: bytes, agent: str, signed: SignedBill) -> int | None:
    """The round that the coin picks of the window of an agent's own bill with its claims; see
    `mechanisms.evidence.kept.picked`; raises MalformedError."""
    own = [claim.claim() for claim in signed.claims if claim.claim().agent == agent]
    rounds = [entry.round for claim in own for entry in claim.rounds]
    return picked(run, agent, signed.bill().window, rounds, signed.claims)


def _tensors(state: State) -> Tensors:
    def stored(name: str, tensor: Tensor) -> tuple[str, str, tuple[int, ...], bytes]:
        values = tensor.detach().cpu().numpy()
        values = values.astype(values.dtype.newbyteorder("<"))
        return name, values.dtype.str, values.shape, values.tobytes()

    return tuple(stored(name, state[name]) for name in sorted(state))


def state_from(tensors: Tensors) -> State:
    """The state that was kept as these; raises MalformedError."""
    try:
        return {name: _tensor(kind, shape, values) for name, kind, shape, values in tensors}
    except (TypeError, ValueError, SyntaxError) as exc:  # numpy parses some kinds
        raise MalformedError(f"not the tensors of a state ({exc})") from exc


def _tensor(kind: str, shape: tuple[int, ...], values: bytes) -> Tensor:
    held = np.frombuffer(values, np.dtype(kind)).reshape(shape)
    return torch.from_numpy(held.astype(held.dtype.newbyteorder("=")))
