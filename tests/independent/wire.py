"""Encoding, signatures, the cluster file, keys, envelopes and sockets."""

import hashlib
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgpack
import zmq
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from zmq.utils import z85

from tests.independent.phases import PHASES, Phase, aggregated

HELLO, UPDATE, WITNESSES, CHUNK, ACK, CLAIM, STATE, PROPOSE, ACCEPT, REJECT = range(1, 11)
EVIDENCE, RECORDS, BYE, WAITING, BILL, HEADS = 11, 12, 13, 14, 15, 16
RECALL, RETURNED = 20, 21
HEADER_BYTES_MAX = 2**21
FRAME_BYTES_MAX = 2**21 + 2**16
CHUNK_BYTES = 2**21
COUNT_MAX = 2**53

# The types of each kind's fields; `int` stands for a count. RECORDS have as many as there are.
FIELDS = {
    HELLO: (bytes, bytes),
    UPDATE: (bytes, bytes, int, bytes),
    WITNESSES: (int, int, list),
    CHUNK: (int, int, int),
    ACK: (int, int, str),
    CLAIM: (bytes,),
    STATE: (bytes, int, bytes, bytes, bool),
    PROPOSE: (bytes, bytes),
    ACCEPT: (bytes, bytes),
    REJECT: (bytes, str, bytes),
    EVIDENCE: (bytes,),
    BYE: (bool,),
    WAITING: (int, int),
    BILL: (bytes,),
    HEADS: (int, int, list),
    RECALL: (),
    RETURNED: (str, bytes, list, int),
}


class Refused(Exception):
    """What a neighbour sent breaks the protocol; the text is the code of the page."""


def pack(value: object) -> bytes:
    """The canonical encoding."""
    return msgpack.packb(value)


def unpack(data: bytes, bytes_max: int) -> list:
    """The array whose canonical encoding `data` is."""
    try:
        if len(data) > bytes_max:
            raise ValueError
        value = msgpack.unpackb(data)
        if not isinstance(value, list) or not _plain(value) or pack(value) != data:
            raise ValueError
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as exc:
        raise Refused("malformed") from exc
    return value


def _plain(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= 65_536 and all(map(_plain, value))
    return value is None or type(value) in (bool, int, float, str, bytes)


def fits(value: object, *types: type) -> bool:
    """Whether an array has exactly items of these types; a boolean is no integer."""
    return isinstance(value, list) and [type(item) for item in value] == list(types)


def is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= COUNT_MAX


def is_name(value: object) -> bool:
    """Whether this is an id, or the name of a rule or a codec."""
    return type(value) is str and 0 < len(value) <= 32 and all(" " <= char <= "~" for char in value)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def sign(key: Ed25519PrivateKey, domain: str, message: bytes) -> bytes:
    return key.sign(domain.encode() + message)


PRIME = 2**255 - 19
ORDER_8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022


def is_signed(public: bytes, domain: str, message: bytes, signature: bytes) -> bool:
    y = int.from_bytes(public, "little") % 2**255
    if y >= PRIME or y in (0, 1, PRIME - 1, ORDER_8, PRIME - ORDER_8):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, domain.encode() + message)
    except (InvalidSignature, ValueError):
        return False
    return True


TABLES = {
    "task": (
        *("name", "partition", "batch_size", "parameters", "model_digest"),
        *("frozen_digest", "metric", "better"),
    ),
    "algorithm": (
        *("name", "step_size", "step_decay", "local_steps", "momentum"),
        *("local_epochs", "local_seconds", "outer_momentum", "outer_step"),
        *("aggregator", "max_byzantine", "large_batch", "small_batch"),
        *("switch_probability", "agreement_rounds", "estimator", "rewards", "influence"),
    ),
    "rounds": ("rounds", "deadline_s", "start_deadline_s", "codec", "pace"),
    "payments": ("rule", "window", "credit_limit", "sketch_size", "replay"),
    "graph": ("topology", "mixing", "schedule", "edges", "turns", "weights"),
}
REALS = ("step_size", "step_decay", "momentum", "deadline_s", "start_deadline_s")
REALS += (
    "local_seconds",
    "outer_momentum",
    "outer_step",
    "weight",
    "switch_probability",
    "influence",
)
AGENT = (
    *("id", "endpoint", "identity", "curve", "other_endpoints", "bind", "join", "serial", "weight"),
)
REVISION = ("number", "organiser", "previous", "departed")
MEMBER = ("id", "identity", "weight")
LISTS = ("turns", "weights", "other_endpoints", "bind", "departed")
DEFAULTS = {**{key: [] for key in LISTS}, "codec": "float32"}
OPTIONAL = (
    *(*LISTS, "join", "serial", "weight", "previous", "codec", "pace"),
    *(*TABLES["algorithm"][5:], *TABLES["task"][5:], *TABLES["payments"][4:]),
)


def _continued(table: dict) -> list:
    """What a revision goes on from: the run, and its memberships so far."""
    return [
        table["run"],
        [
            [
                held["until"],
                _present(held["graph"], TABLES["graph"]),
                [_present(one, MEMBER) for one in held["members"]],
            ]
            for held in table["before"]
        ],
    ]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the cluster file fixes."""

    file: dict
    fingerprint: bytes
    run: bytes
    run_id: str
    dim: int
    window: int
    rounds: int
    codec: str
    phases: tuple[Phase, ...]
    deadline_s: float
    start_deadline_s: float
    rule: str
    credit_limit: int
    sketch_size: int
    agents: dict[str, dict[str, str]]
    neighbours: dict[str, list[str]]

    @classmethod
    def parse(cls, text: str) -> "Cluster":
        """Of a file in which every default is written out."""
        file = tomllib.loads(text)
        fields = ["candor/cluster/v2", file["version"], file["run_id"], file["seed"]]
        fields += [_present(file[table], keys) for table, keys in TABLES.items()]
        fields.append([_present(agent, AGENT) for agent in file["agents"]])
        if "revision" in file:
            fields.append(_present(file["revision"], REVISION))
        if "continued" in file:
            fields.append(_continued(file["continued"]))
        fingerprint = sha256(pack(fields))
        edges = file["graph"]["edges"]
        agents = {agent["id"]: agent for agent in file["agents"]}
        near = {a: sorted({b for edge in edges if a in edge for b in edge} - {a}) for a in agents}
        return cls(
            file=file,
            fingerprint=fingerprint,
            run=bytes.fromhex(file["continued"]["run"]) if "continued" in file else fingerprint,
            run_id=file["run_id"],
            dim=file["task"]["parameters"],
            window=file["payments"]["window"],
            rounds=file["rounds"]["rounds"],
            codec=file["rounds"].get("codec", "float32"),
            phases=aggregated(
                PHASES[file["algorithm"]["name"]], file["algorithm"].get("aggregator", "mean")
            ),
            deadline_s=float(file["rounds"]["deadline_s"]),
            start_deadline_s=float(file["rounds"]["start_deadline_s"]),
            rule=file["payments"]["rule"],
            credit_limit=file["payments"]["credit_limit"],
            sketch_size=file["payments"]["sketch_size"],
            agents=agents,
            neighbours=near,
        )

    @property
    def sits_out(self) -> bool:
        """Whether who is slow sits rounds out."""
        return self.file["rounds"].get("pace") == "async"

    @property
    def k(self) -> int:
        return min(self.dim, self.sketch_size)

    def public(self, agent: str) -> bytes:
        return bytes.fromhex(self.agents[agent]["identity"])

    def step_size(self, number: int) -> float:
        table = self.file["algorithm"]
        return float(table["step_size"]) * math.pow(number, -float(table["step_decay"]))

    @property
    def model(self) -> int:
        """The phase that states models."""
        return len(self.phases) - 1

    @property
    def charged(self) -> int:
        """The phase whose injected vectors are claimed."""
        return next(p for p, phase in enumerate(self.phases) if phase.charged)

    def step(self, number: int, phase: int) -> int:
        """Which exchange of the run a phase of a round is."""
        return (number - 1) * len(self.phases) + phase + 1

    def at(self, step: int) -> tuple[int, int]:
        """Round and phase of an exchange."""
        before, phase = divmod(step - 1, len(self.phases))
        return before + 1, phase

    def window_of(self, number: int) -> int:
        return max(number - 1, 0) // self.window

    def ends_window(self, number: int) -> bool:
        return number % self.window == 0


def _present(table: dict, keys: tuple[str, ...]) -> list:
    """The values of a table without the optional ones at the end that are absent."""
    present = list(keys)
    while present[-1] in OPTIONAL and table.get(present[-1]) in (None, [], "float32"):
        present.pop()
    values = [(key, table.get(key, DEFAULTS.get(key))) for key in present]
    return [float(v) if key in REALS and v is not None else v for key, v in values]


@dataclass(frozen=True, slots=True)
class Keys:
    """An agent's identity and CURVE keys."""

    identity: Ed25519PrivateKey
    curve_secret: bytes

    @classmethod
    def load(cls, folder: Path) -> "Keys":
        seed = bytes.fromhex((folder / "identity.key").read_text().strip())
        curve = (folder / "curve.key").read_text().strip().encode()
        return cls(Ed25519PrivateKey.from_private_bytes(seed), curve)


def certificate(cluster: Cluster, agent: str, key: Ed25519PrivateKey) -> bytes:
    """That this CURVE key at this endpoint is the agent's, in this run, without an end."""
    entry = cluster.agents[agent]
    fields = [cluster.run_id, entry["curve"], entry["endpoint"], 1, 0]
    return pack([*fields, sign(key, "candor/curve-bind/v1", pack(fields))])


def check_certificate(cluster: Cluster, agent: str, encoded: bytes, now_s: float) -> None:
    """Raises Refused."""
    entry = cluster.agents[agent]
    try:
        fields = unpack(encoded, 512)
    except Refused as exc:
        raise Refused("certificate") from exc
    if not fits(fields, str, str, str, int, int, bytes):
        raise Refused("certificate")
    *body, signature = fields
    if not is_signed(cluster.public(agent), "candor/curve-bind/v1", pack(body), signature):
        raise Refused("certificate-signature")
    run_id, curve, endpoint, _, not_after_s = body
    if run_id != cluster.run_id:
        raise Refused("certificate-run")
    if curve != entry["curve"]:
        raise Refused("certificate-key")
    if endpoint != entry["endpoint"]:
        raise Refused("certificate-endpoint")
    if 0 < not_after_s < now_s:
        raise Refused("certificate-expired")


def encode(kind: int, nonce: bytes, fields: list, raw: bytes | None = None) -> list[bytes]:
    """The frames of a message."""
    return [pack([3, kind, nonce, *fields]), *([] if raw is None else [raw])]


def decode(frames: list[bytes]) -> tuple[int, bytes, list, bytes | None]:
    """Kind, nonce, fields and raw frame. Raises Refused."""
    if len(frames) not in (1, 2):
        raise Refused("frames")
    try:
        header = unpack(frames[0], HEADER_BYTES_MAX)
    except Refused as exc:
        raise Refused("header") from exc
    if not fits(header[:3], int, int, bytes):
        raise Refused("header")
    version, kind, nonce, *fields = header
    if version != 3:
        raise Refused("version")
    if kind not in FIELDS and kind != RECORDS:
        raise Refused("kind")
    if len(nonce) != (0 if kind == HELLO else 16):
        raise Refused("nonce")
    if kind == RECORDS:
        sound = 1 <= len(fields) <= 64 and all(
            fits(one, bytes, bytes, bytes, list) for one in fields
        )
    else:
        floor = -1 if kind == STATE else 0
        sound = fits(fields, *FIELDS[kind]) and all(
            floor <= field <= COUNT_MAX for field in fields if type(field) is int
        )
    if not sound:
        raise Refused("fields")
    if (kind == CHUNK) != (len(frames) == 2):
        raise Refused("frames")
    return kind, nonce, fields, frames[1] if kind == CHUNK else None


class Sockets:
    """One ROUTER that only receives, one DEALER a neighbour that only sends, CURVE on all."""

    def __init__(self, cluster: Cluster, own: str, keys: Keys) -> None:
        self._context = zmq.Context()
        self._near = {cluster.agents[a]["curve"].encode(): a for a in cluster.neighbours[own]}
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind("inproc://zeromq.zap.01")
        self._router = self._context.socket(zmq.ROUTER)
        self._limit(self._router)
        self._router.curve_server = True
        self._router.curve_secretkey = keys.curve_secret
        self._router.zap_domain = b"candor"
        self._router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._router.bind(cluster.agents[own]["endpoint"])
        self._dealers = {}
        for curve, peer in self._near.items():
            dealer = self._dealers[peer] = self._context.socket(zmq.DEALER)
            self._limit(dealer)
            dealer.curve_serverkey = curve
            dealer.curve_publickey = cluster.agents[own]["curve"].encode()
            dealer.curve_secretkey = keys.curve_secret
            dealer.setsockopt(zmq.PROBE_ROUTER, 1)
            dealer.reconnect_ivl, dealer.reconnect_ivl_max = 100, 10_000
            dealer.heartbeat_ivl, dealer.heartbeat_timeout = 2_000, 10_000
            dealer.connect(cluster.agents[peer]["endpoint"])
        self._poller = zmq.Poller()
        self._poller.register(self._zap, zmq.POLLIN)
        self._poller.register(self._router, zmq.POLLIN)

    @staticmethod
    def _limit(socket: zmq.Socket) -> None:
        socket.maxmsgsize = FRAME_BYTES_MAX
        socket.handshake_ivl = 2_000
        socket.linger = 1_000

    def send(self, peer: str, frames: list[bytes]) -> None:
        """Hand a message to libzmq; one that finds its queue full is lost, as on a bad network."""
        try:
            self._dealers[peer].send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return

    def receive(self, timeout_ms: int) -> tuple[str, list[bytes]] | None:
        """The next message and the neighbour whose key authenticated its connection."""
        ready = dict(self._poller.poll(timeout_ms))
        if self._zap in ready:
            self._admit()
        if self._router not in ready:
            return None
        _, *frames = self._router.recv_multipart(copy=False)
        if [frame.bytes for frame in frames] == [b""]:  # the greeting of a connection
            return self.receive(0)
        if frames[0].bytes[:1] == b"\xc1":  # of bulk beside CURVE, which nobody has to take
            return self.receive(0)
        sender = frames[0].get("User-Id") if frames else ""
        return str(sender), [frame.bytes for frame in frames]

    def _admit(self) -> None:
        """Answer ZAP (ZeroMQ RFC 27): version, request, domain, address, id, mechanism, key."""
        version, request, domain, _, _, mechanism, *credentials = self._zap.recv_multipart()
        key = z85.encode(credentials[0]) if mechanism == b"CURVE" else b""
        peer = self._near.get(key) if domain == b"candor" else None
        status = [b"200", b"", peer.encode()] if peer else [b"400", b"not a neighbour", b""]
        self._zap.send_multipart([version, request, *status, b""])

    def close(self) -> None:
        """Send what is queued, for a second at most."""
        for socket in (self._zap, self._router, *self._dealers.values()):
            socket.close()
        self._context.term()
