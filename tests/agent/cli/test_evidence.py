"""Neighbours prove an equivocation within three rounds, and anyone can check it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from candor.agent.cli.evidence import command
from candor.agent.cli.main import run as run_command
from candor.mechanisms.evidence.statements import SignedStatement, Statement
from candor.network.messages import Chunk, Update, from_envelope, to_envelope
from tests.runs import LocalRun, freshened, write_cluster


def equivocating(run: LocalRun, liar: str, victim: str, first_round: int):
    """From a round on, the liar sends one neighbour another model, properly stated and signed."""
    altered: dict[int, np.ndarray] = {}

    def tamper(agent, send):
        if (agent, send.peer) != (liar, victim):
            return send
        node, message = run.nodes[agent], from_envelope(send.envelope)
        core = node.core
        if isinstance(message, Update) and core.round >= first_round:
            t = core.round
            generator = np.random.default_rng([first_round, t])
            noise = generator.standard_normal(len(node.x)).astype(np.float32)
            altered[t] = core._own + np.float32(0.1) * noise
            said = Statement.decode(message.body, sketch_bytes_max=1 << 16)
            statement = core.examiner.state(t, said.phase, agent, altered[t], said.formed)
            before = {(t - 1, said.phase, agent): altered[t - 1]} if t - 1 in altered else {}
            statement = replace(statement, sources=said.sources)
            statement = freshened(core, statement, altered[t], before)
            signed = SignedStatement.sign(statement, node.identity.signing_key)
            message = Update(signed.body, signed.signature, message.payload_bytes)
        elif isinstance(message, Chunk) and message.round in altered:
            view = altered[message.round].tobytes()
            data = view[message.offset : message.offset + len(message.data)]
            message = replace(message, data=data)
        else:
            return send
        nonce = core.neighbours[victim].session.peer_nonce
        return type(send)(send.peer, to_envelope(message, nonce), send.bulk_step)

    return tamper


def play(folder: Path, topology: str, first_round: int) -> LocalRun:
    run = LocalRun(folder, write_cluster(folder, topology, 4, rounds=9))
    run.tamper = equivocating(run, "a1", "a2", first_round)
    run.start()
    run.run()
    return run


@pytest.mark.parametrize("first_round", range(2, 6))
@pytest.mark.parametrize("topology", ["ring", "complete"])
def test_an_equivocator_is_proven_guilty_within_three_rounds(tmp_path, topology, first_round):
    run = play(tmp_path, topology, first_round)
    for agent in run.cluster.ids:
        if agent == "a1":
            continue
        node = run.nodes[agent]
        (proven,) = node.events("misbehaviour_proven")
        assert proven["peer"] == "a1"
        assert int(proven["place"].removeprefix("round ")) < first_round + 3
        assert node.ended.failure is None
        if "a1" in node.core.neighbours:
            assert node.core.neighbours["a1"].barred is not None
        assert node.store.value("proof/equivocation/a1") is not None
    run.close()


def test_the_command_says_who_is_guilty_and_refuses_what_is_no_proof(tmp_path):
    run = play(tmp_path / "run", "ring", 2)
    data = run.nodes["a3"].store.value("proof/equivocation/a1")
    run.close()
    assert data is not None
    path = tmp_path / "equivocation-a1.proof"
    path.write_bytes(data)
    words = ["verify", str(path), "--cluster", str(tmp_path / "run" / "cluster.toml")]
    told = CliRunner().invoke(command, words)
    assert told.exit_code == 0
    assert "a1: equivocation in round" in told.stdout
    assert "guilty" in told.stdout
    told = CliRunner().invoke(command, [*words, "--json"])
    assert json.loads(told.stdout)["files"][0]["malice"] is True
    false = tmp_path / "false.proof"
    false.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    told = CliRunner().invoke(command, [*words, str(false)])
    assert told.exit_code == 3
    first, second = told.stdout.splitlines()
    assert first.endswith("guilty")
    assert second.startswith(f"{false}: proves nothing")
    told = CliRunner().invoke(command, [*words, str(false), "--json"])
    assert [one["proven"] for one in json.loads(told.stdout)["files"]] == [True, False]
    assert told.exit_code == 3


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_judged(tmp_path, capsys):
    run = play(tmp_path / "run", "ring", 2)
    path, gone = tmp_path / "a1.proof", tmp_path / "gone.proof"
    path.write_bytes(run.nodes["a3"].store.value("proof/equivocation/a1"))
    run.close()
    words = ["evidence", "verify", str(gone), str(path)]
    words += ["--cluster", str(tmp_path / "run" / "cluster.toml")]
    assert run_command(words) == 2
    told = capsys.readouterr()
    first, second = told.out.splitlines()
    assert first == f"{gone}: cannot be read: No such file or directory"
    assert second.endswith("guilty")
    assert told.err == f"candor: error: {gone}: cannot be read\n"
    assert run_command([*words, "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], [one["proven"] for one in told["files"]]) == (False, [None, True])
    gone.write_bytes(b"nothing")
    path.unlink()
    assert run_command(words) == 3  # what proves nothing weighs more


def test_no_honest_run_proves_anything(tmp_path):
    run = LocalRun(tmp_path, write_cluster(tmp_path, "complete", 4, rounds=12))
    run.start()
    run.advance(0.4)
    run.kill("a2")
    run.advance(0.5)
    run.start("a2")
    run.run()
    run.close()
    assert not any(node.events("misbehaviour_proven") for node in run.nodes.values())


def test_a_pipe_is_no_file_to_wait_for(tmp_path):
    write_cluster(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for words in (["evidence", "verify"], ["ledger", "verify"]):
        line = [*words, str(tmp_path / "pipe"), "--cluster", str(tmp_path / "cluster.toml")]
        assert run_command(line) == 2
