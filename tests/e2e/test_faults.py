"""Runs of real daemons under fault plans: networks that are cut, garble or are slow, full disks,
and everybody killed."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest

from candor.agent.cli import main as cli
from candor.agent.daemon.metrics import read_metrics
from candor.agent.runs import fault_log
from candor.agent.testbed.drawn_faults import Drawing, draw_faults
from candor.agent.testbed.fault_file import load_faults
from candor.agent.testbed.testbed import prepare, stopping_on_signals
from tests import paced
from tests.campaigns.crashes import RunVerdict, judge_ledgers
from tests.campaigns.crashes import plan as plan_of

pytestmark = pytest.mark.e2e


def plan(tmp_path, text):
    path = tmp_path / "faults.toml"
    path.write_text(text, encoding="utf-8")
    return path


def ended_under(tmp_path, faults, agents, rounds, deadline_s=2, start_deadline_s=30):
    """A run under a plan, ended as it may."""
    words = ["testbed", "--agents", str(agents), "--topology", "complete", *paced.TASK]
    words += ["--rounds", str(rounds), "--faults", str(faults), "--deadline-s", str(deadline_s)]
    words += ["--start-deadline-s", str(start_deadline_s)]
    words += ["--local-steps", "1", "--evaluate-every", "10"]
    words += ["--run-dir", str(tmp_path / "run"), "--json"]
    return subprocess.run(
        [sys.executable, "-P", "-m", "candor", *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=paced.environment(),
    )


def run_under(tmp_path, text, agents, rounds, deadline_s=2):
    """A run under a plan that goes well: its summary, and what each agent told."""
    done = ended_under(tmp_path, plan(tmp_path, text), agents, rounds, deadline_s)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["audit"] == "ok"
    assert not list(tmp_path.glob("run/agents/*/evidence/*"))
    logs = {agent: tmp_path / f"run/agents/{agent}/log.jsonl" for agent in summary["agents"]}
    return summary, {
        agent: [json.loads(line) for line in path.read_text().splitlines()]
        for agent, path in logs.items()
    }


def missed(events):
    """Whom an agent went on without, each time."""
    return [event["peer"] for event in events if event["event"] == "neighbour_missed"]


def test_a_run_survives_a_network_that_is_cut_and_one_that_garbles(tmp_path):
    text = (
        '[[event]]\nat_round = 4\npartition = ["a0", "a1"]\n[[event]]\nat_round = 7\nheal = true\n'
        '[[event]]\nat_round = 32\ncorrupt = "a2"\n'
    )
    # A deadline below the two seconds of corruption: somebody must miss a2. And rounds enough: who
    # was refused some times in a row is dialled again after seconds only.
    summary, events = run_under(tmp_path, text, agents=4, rounds=100, deadline_s=1)
    assert len(summary["accuracy"]) == 4
    across = {"a0": {"a2", "a3"}, "a1": {"a2", "a3"}, "a2": {"a0", "a1"}, "a3": {"a0", "a1"}}
    for agent, others in across.items():
        # Who fell behind at the cut goes on from the others' rounds and misses nobody by itself.
        assert all(o in missed(events[agent]) or agent in missed(events[o]) for o in others)
        lines = read_metrics(tmp_path / f"run/agents/{agent}/metrics.csv")
        assert any(line.round > 40 and line.neighbours_mixed == 3 for line in lines), agent
    # Garbled messages were no messages: nobody accepted or proved anything by them.
    assert "a2" in missed(events["a3"]) or "a3" in missed(events["a2"])
    # But whether a frame is the last of its message is no part of what is encrypted.
    refused = [one for found in events.values() for one in found if "refused" in one["event"]]
    assert all((one["event"], one["code"]) == ("message_refused", "frames") for one in refused)


def test_a_run_survives_a_slow_network_and_who_is_away_for_a_while(tmp_path):
    text = (
        '[[event]]\nat_round = 4\nuntil_round = 30\ndelay = "a0"\ndelay_s = 0.1\n'
        '[[event]]\nat_round = 6\nfor_s = 3.0\nloss = "a1"\nloss_share = 0.1\n'
        '[[event]]\nat_round = 8\nfor_s = 3\nbandwidth = "all"\nbytes_per_s = 100_000\n'
        '[[event]]\nat_round = 34\nfor_s = 1.5\nkill = "a3"\n'
        '[[event]]\nat_round = 50\nuntil_round = 54\nslow = "a2"\nspeed = 0.2\n'
    )
    summary, events = run_under(tmp_path, text, agents=4, rounds=90, deadline_s=5)
    assert set(summary["accuracy"]) == {"a0", "a1", "a2", "a3"}
    happened = fault_log.read(tmp_path / "run")
    begun = [one.action for one in happened if one.action != "end"]
    assert begun == ["delay", "loss", "bandwidth", "kill", "slow"]
    assert sorted(one.of for one in happened if one.of) == sorted(begun)
    assert [one.seconds for one in happened] == sorted(one.seconds for one in happened)
    assert [event["event"] for event in events["a3"]].count("started") == 2
    # What is late, or comes in time only just, is none the less what was sent.
    assert not any("refused" in event["event"] for found in events.values() for event in found)
    assert "Faults by agent and round" in (tmp_path / "run/report.html").read_text()
    again = load_faults(tmp_path / "run/faults.toml", tuple(summary["agents"]), summary["rounds"])
    assert again == load_faults(tmp_path / "faults.toml", tuple(summary["agents"]), 90)


def test_a_drawn_plan_is_kept_to_be_given_again(tmp_path):
    done = ended_under(tmp_path, "random:seed=5,events=6,kinds=stop+partition+loss+slow", 4, 60)
    assert done.returncode == 0, done.stderr
    kept = tmp_path / "run/faults.toml"
    assert kept.read_text().startswith("# Drawn as random:seed=5,events=6,kinds=stop+partition+")
    drawing = Drawing(5, 6, ("stop", "partition", "loss", "slow"))
    agents = tuple(json.loads(done.stdout)["agents"])
    assert load_faults(kept, agents, 60) == draw_faults(drawing, agents, 60)
    happened = fault_log.read(tmp_path / "run")
    assert len([one for one in happened if one.action != "end"]) == 6
    for one in happened:
        assert f"{one.seconds:.1f} s, round {one.round}: {one.detail}" in done.stderr


def test_everybody_killed_is_started_again_and_all_go_on_where_they_were(tmp_path):
    text = '[[event]]\nat_round = 4\nkill = "all"\nfor_s = 1\n'
    summary, events = run_under(tmp_path, text, agents=2, rounds=20, deadline_s=10)
    killed, started = fault_log.read(tmp_path / "run")
    assert killed.detail == "all 2 agents killed"
    assert started.detail == "all 2 agents started again"
    assert started.seconds - killed.seconds >= 1.0
    assert set(summary["accuracy"]) == {"a0", "a1"}
    for agent, told in events.items():
        assert [event["event"] for event in told].count("started") == 2
        assert [event["event"] for event in told].count("resumed") == 1
        rounds = [line.round for line in read_metrics(tmp_path / f"run/agents/{agent}/metrics.csv")]
        assert len(set(rounds)) == len(rounds) >= 19  # none twice, and one at most without a line
        assert rounds[-1] == 20
        assert not list(tmp_path.glob("run/agents/*/checkpoint*"))  # it is done


def test_a_plan_that_kills_everybody_for_good_is_no_finished_run(tmp_path):
    text = '[[event]]\nat_round = 3\nkill = "all"\n[[event]]\nat_s = 3600\nslow = "a0"\n'
    done = ended_under(tmp_path, plan(tmp_path, text), agents=2, rounds=20)
    assert done.returncode == 1, done.stderr
    assert "candor: the run ended before slow of a0 at 3600.0 s" in done.stderr
    assert "candor: error: the fault plan has left nobody to finish the run" in done.stderr


def test_an_agent_on_a_full_disk_waits_for_room_and_goes_on(tmp_path):
    text = '[[event]]\nat_round = 6\nuntil_round = 10\ndisk_full = "a1"\n'
    # On a loaded machine others are late, which a1 would warn of: the deadline is longer than that.
    summary, events = run_under(tmp_path, text, agents=3, rounds=50, deadline_s=10)
    # One line when there is no room and one when there is, each life after a word on local steps.
    lines = (tmp_path / "run/agents/a1/stderr.log").read_text().splitlines()
    exposed, lacks, room, again, part, ended = lines
    assert exposed == again
    assert exposed.startswith("candor a1: warning: exposed detail=an update is of ")
    assert lacks == "candor a1: warning: no_room detail=File too large; waiting for room"
    assert room.startswith("candor a1: warning: room_again waited_s=")
    assert part.startswith("candor: as a1 saw it, ")
    assert "a1 performed " in part  # not the rounds between its two lives
    assert ended.startswith(f"candor: a1: done after round {summary['rounds']}")
    assert [event["event"] for event in events["a1"]].count("started") == 2
    assert "re_entered" in {event["event"] for event in events["a1"]}
    assert set(summary["accuracy"]) == {"a0", "a1", "a2"}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB, where the system lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("no rights to mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_run_whose_disk_is_full_for_all_goes_on_when_there_is_room(small_disk):
    run = prepare(plan_of(3, "ring", 60, 1, "norm:2e-5"), small_disk / "run")

    def foremost():
        run.refresh()
        return max(status.round for status in run.statuses.values())

    def all_wait():
        """By what each has said: there may be no room left for that either."""
        with suppress(OSError):
            fill.write(bytes(1 << 12))
        return all("no_room" in (run.data_dir(a) / "stderr.log").read_text() for a in run.statuses)

    with stopping_on_signals(run), (small_disk / "filled").open("wb", buffering=0) as fill:
        run.start()
        paced.until(lambda: foremost() >= 6)
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while fill.write(bytes(size)) == size:
                    pass
        with suppress(AssertionError):
            paced.until(all_wait, 20)
        stopped = foremost()
        fill.truncate(0)
        paced.until(lambda: not run.running())
        assert not run.failed()
    assert stopped < 60
    verdict = RunVerdict(1, 60)
    judge_ledgers(run.run_dir, verdict)
    assert not verdict.failures


def test_an_agent_that_was_left_alone_is_warned_of_everywhere(tmp_path, capsys):
    text = '[[event]]\nat_round = 3\nkill = "a1"\n'
    summary, _ = run_under(tmp_path, text, agents=2, rounds=20, deadline_s=1)
    alone = summary["alone_rounds"]["a0"]
    assert 10 <= alone <= 18
    told = f"a0 mixed with nobody in {alone} of 20 rounds"
    run = tmp_path / "run"
    assert told in (run / "agents/a0/stderr.log").read_text()
    assert told in (run / "report.html").read_text()
    assert cli.run(["status", str(run)]) == 0
    assert told in " ".join(capsys.readouterr().out.split())
    lines = read_metrics(run / "agents/a0/metrics.csv")
    assert sum(line.missing == ("a1",) for line in lines) == alone
