"""The fuzzer at a real daemon: two agents train, the third neighbour sends changed frames.

Run as `python -m tests.campaigns.fuzz_peer --socket`; see there. The peer holds its own CURVE and
signing keys, shakes hands as a daemon does and then sends frames of recorded runs, changed, and
lies of its own signature. The daemons must finish their rounds with each other, and memory must not
grow.
"""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from candor.agent.cli import main as cli
from candor.agent.daemon import keys
from candor.agent.daemon.status import read_status
from candor.agent.testbed.testbed import free_ports
from candor.network.errors import RemoteProtocolError
from candor.network.identity import issue
from candor.network.messages import from_envelope, to_envelope
from candor.network.session import Party, Session
from candor.network.transport import PeerAddress
from candor.network.wire import Kind, decode, encode
from candor.network.zeromq.transport import ZeroMqTransport
from candor.topologies.cluster.file import load_cluster
from candor.topologies.specs.specs import ConfigurationError
from tests.campaigns import fuzz_peer

ROUNDS = 4000
PEER = "a1"
LIMIT_S = 110.0
START_S = 60.0
MOVING_S = 15.0  # a neighbour that says WAITING gets two deadlines of a second
POLL_S = 0.05


def attack_daemon(folder: Path, count: int, seed: int) -> int:
    """Attack a0, which trains with a2, as its authenticated neighbour a1; 0 when all is well."""
    path = folder / "cluster.toml"
    words = ["--topology", "ring", "--task", "digits", "--run-id", "fuzz", "--rounds", str(ROUNDS)]
    words += ["--start-deadline-s", "15", "--deadline-s", "1", "-o", str(path)]
    for agent, port in zip(("a0", "a1", "a2"), free_ports(3), strict=True):
        own = folder / "keys" / agent
        assert cli.run(["keygen", str(own)]) == 0
        words += ["--agent", f"{agent}={own}@tcp://127.0.0.1:{port}"]
    assert cli.run(["cluster", "new", *words]) == 0
    (folder / "rare").mkdir()
    frames = fuzz_peer.record_rare_kinds(folder / "rare")
    daemons = {agent: _daemon(folder, agent) for agent in ("a0", "a2")}
    try:
        return asyncio.run(_attack(folder, daemons, frames, count, seed))
    finally:
        for process in daemons.values():
            process.kill()
            process.wait()


def _daemon(folder: Path, agent: str) -> "subprocess.Popen[bytes]":
    words = ["--cluster", folder / "cluster.toml", "--id", agent, "--keys", folder / "keys" / agent]
    words += ["--data-dir", folder / agent, "--log-level", "info", "--evaluate-every", "0"]
    (folder / agent).mkdir()
    with (folder / agent / "stderr.log").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "candor", "agent", *map(str, words)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


async def _attack(folder, daemons, recorded, count, seed) -> int:  # type: ignore[no-untyped-def]
    peer = _Peer(folder)
    await peer.transport.start()
    tasks = [asyncio.create_task(peer.listen()), asyncio.create_task(peer.greet())]
    # What the daemon says in a round is what is changed and sent back to it.
    greeted = peer.sessions["a0"]
    trains = await _until(lambda: greeted.established and _round(folder / "a0") > 1, START_S)
    assert trains, (folder / "a0" / "stderr.log").read_text()[-2000:]
    victim = daemons["a0"]
    before_mb, began = fuzz_peer.rss_of(victim.pid), time.monotonic()
    sent = await peer.attack(victim, recorded, count, random.Random(seed))
    seconds = time.monotonic() - began
    await _until(lambda: peer.transport.link("a0").messages_sent >= sent, MOVING_S)
    link = peer.transport.link("a0")
    rounds = {agent: _round(folder / agent) for agent in daemons}
    moving = await _until(
        lambda: all(_round(folder / a) >= min(was + 2, ROUNDS) for a, was in rounds.items()),
        MOVING_S,
    )
    later = {agent: _round(folder / agent) for agent in daemons}
    after_mb = fuzz_peer.rss_of(victim.pid) if victim.poll() is None else float("nan")
    for task in tasks:
        task.cancel()
    alive = all(process.poll() in (None, 0) for process in daemons.values())
    logged = sum(path.stat().st_size for path in (folder / "a0").rglob("*.log*"))
    await peer.transport.close(0.2)
    ended = {a: p.poll() for a, p in daemons.items()}
    print(
        f"seed {seed}: {link.messages_sent} frames sent to a daemon in {seconds:.0f} s "
        f"({link.messages_sent / seconds:.0f} a second); alive: {alive} (exit codes {ended}); "
        f"memory {before_mb:.0f} -> {after_mb:.0f} MB; rounds {rounds} -> {later} of {ROUNDS}; "
        f"{logged / 1000:.0f} kB of log"
    )
    return 0 if alive and moving and not after_mb - before_mb > 100 else 1


class _Peer:
    """The third neighbour: it greets as a daemon does, listens, and sends what no daemon would."""

    def __init__(self, folder: Path) -> None:
        cluster = load_cluster(folder / "cluster.toml")
        self.identity = keys.load(folder / "keys" / PEER)
        parties = {
            e.id: Party(e.id, bytes.fromhex(e.identity), e.curve, e.endpoint)
            for e in cluster.agents
        }
        own = parties.pop(PEER)
        certificate = issue(
            self.identity.signing_key,
            run_id=cluster.run_id,
            curve=own.curve,
            endpoint=own.endpoint,
            serial=1,
        ).encode()
        self.sessions = {
            agent: Session(
                key=self.identity.signing_key,
                own=own,
                peer=party,
                run_id=cluster.run_id,
                fingerprint=cluster.fingerprint,
                certificate=certificate,
                nonce=os.urandom(16),
            )
            for agent, party in parties.items()
        }
        self.transport = ZeroMqTransport(
            PEER,
            own.endpoint,
            own.curve,
            self.identity.curve_secret,
            {a: PeerAddress(party.endpoint, party.curve) for a, party in parties.items()},
        )
        self.heard: list[fuzz_peer.Frame] = []

    async def listen(self) -> None:
        while True:
            delivery = await self.transport.receive()
            try:
                envelope = decode(delivery.frames)
                message = from_envelope(envelope)
            except RemoteProtocolError:
                continue
            if envelope.kind is Kind.HELLO:
                greeted = self.sessions[delivery.sender].received(message, time.time(), 1)
                for reply in greeted.replies:
                    self.transport.post(delivery.sender, encode(to_envelope(reply, b"")))
            elif len(self.heard) < 2000:
                data = None if envelope.data is None else bytes(envelope.data)
                kept = replace(envelope, data=data)
                self.heard.append(fuzz_peer.Frame(delivery.sender, PEER, kept))

    async def greet(self) -> None:
        while True:
            for agent, session in self.sessions.items():
                for hello in session.tick(time.monotonic(), 1):
                    self.transport.post(agent, encode(to_envelope(hello, b"")))
            await asyncio.sleep(POLL_S)

    async def attack(self, victim, recorded, count, r) -> int:  # type: ignore[no-untyped-def]
        """Send changed frames to a0 until there were `count`, or it is late; how many it were."""
        began, sent = time.monotonic(), 0
        signer = fuzz_peer.Signer(self.identity.signing_key)
        while sent < count and time.monotonic() - began < LIMIT_S and victim.poll() is None:
            nonce = self.sessions["a0"].peer_nonce or bytes(16)
            frames = fuzz_peer.Source([*recorded, *self.heard[:400]], nonce)
            sent += sum(self._send_one(r, frames, nonce, signer) for _ in range(50))
            while sent - self.transport.link("a0").messages_sent > 500 and victim.poll() is None:
                await asyncio.sleep(0.005)  # no message may be dropped on this side
                if time.monotonic() - began > LIMIT_S:
                    break
            await asyncio.sleep(0)
        return sent

    def _send_one(self, r, frames, nonce, signer) -> bool:  # type: ignore[no-untyped-def]
        message = fuzz_peer.mutated(r, frames)
        if r.random() < 0.3:
            message = fuzz_peer.resigned(r, r.choice(frames.frames), nonce, signer)
        if message and all(len(part) < 2**21 for part in message) and len(message) <= 4:
            self.transport.post("a0", message)
            return True
        return False


async def _until(ready: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition, for some seconds at most; whether it came true."""
    until_s = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until_s:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _round(data_dir: Path) -> int:
    """The round that a daemon is in; 0 before it has said so."""
    try:
        return read_status(data_dir).round
    except ConfigurationError:
        return 0
