"""A cluster file is valid or refused in one line, and its fingerprint covers all of it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.cluster.file import (
    DEFAULT_RULE,
    AgentEntry,
    AlgorithmSettings,
    Cluster,
    PaymentSettings,
    RoundSettings,
    TaskSettings,
    assemble_cluster,
    dump_cluster,
    load_cluster,
    model_digest,
)
from candor.topologies.encoding import z85
from candor.topologies.graphs import graphs
from candor.topologies.schedules import schedules
from candor.topologies.specs.fields import distinct_binds, split_endpoint
from candor.topologies.specs.files import validated
from candor.topologies.specs.specs import ConfigurationError
from tests.independent import wire

VECTOR = Path(__file__).parents[2] / "vectors" / "cluster.json"
DIGEST = model_digest(np.zeros(3, dtype=np.float32))


def entry(agent: str, number: int, **changes: str) -> AgentEntry:
    secret = hashlib.sha256(f"key {number}".encode()).digest()
    fields = {
        "id": agent,
        "endpoint": f"tcp://127.0.0.1:{5000 + number}",
        "identity": secret.hex(),
        "curve": z85.encode(secret),
    }
    return AgentEntry(**(fields | changes))


def make(topology: str = "ring", count: int = 4, **changes: Any) -> Cluster:
    schedule = schedules.build(topology, count)
    arguments: dict[str, Any] = {
        "run_id": "demo",
        "seed": 7,
        "graph": schedule,
        "agents": [entry(agent, i) for i, agent in enumerate(schedule.agents)],
        "task": TaskSettings(name="digits", parameters=3, model_digest=DIGEST),
        "rounds": RoundSettings(rounds=20),
        "algorithm": AlgorithmSettings(step_size=0.3, step_decay=0.0, local_steps=8),
    }
    return assemble_cluster(**(arguments | changes))


def reload(cluster: Cluster, directory: Path, edit: Callable[[str], str] = str) -> Cluster:
    path = directory / "c.toml"
    path.write_text(edit(dump_cluster(cluster)))
    return load_cluster(path)


IDS = st.lists(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True),
    min_size=1,
    max_size=6,
    unique=True,
)
LINES = st.text(min_size=1, max_size=30).filter(str.isprintable)
POSITIVE = st.floats(1e-300, 1e300)
COUNTS = st.integers(1, (1 << 53) - 1)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    ids = draw(IDS)
    graph = graphs.build("erdos-renyi:p=0.7", len(ids), draw(st.integers(0, 100)))
    return assemble_cluster(
        run_id=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)),
        seed=draw(st.integers(0, (1 << 63) - 1)),
        graph=schedules.fixed(graphs.relabelled(graph, ids), draw(LINES)),
        mixing_name=draw(st.sampled_from(["metropolis-hastings", "max-degree"])),
        agents=[entry(agent, i) for i, agent in enumerate(ids)],
        task=TaskSettings(name=draw(LINES), parameters=draw(COUNTS), model_digest=DIGEST),
        algorithm=AlgorithmSettings(
            step_size=draw(st.floats(1e-300, 1e30)),
            momentum=draw(st.floats(0, 1, exclude_max=True)),
        ),
        rounds=RoundSettings(
            rounds=draw(COUNTS),
            deadline_s=draw(POSITIVE),
            codec=draw(st.sampled_from(["float32", "float16"])),
        ),
        payments=PaymentSettings(rule=draw(LINES), window=draw(COUNTS)),
    )


@given(clusters())
def test_a_cluster_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, cluster: Cluster
) -> None:
    again = reload(cluster, tmp_path_factory.mktemp("cluster"))
    assert again == cluster
    assert again.fingerprint == cluster.fingerprint
    assert dump_cluster(again) == dump_cluster(cluster)


def test_the_golden_file_keeps_its_fingerprint(tmp_path: Path) -> None:
    vector = json.loads(VECTOR.read_text())
    path = tmp_path / "c.toml"
    path.write_text(vector["toml"])
    cluster = load_cluster(path)
    assert cluster.fingerprint == vector["fingerprint"]
    assert dump_cluster(cluster) == vector["toml"]
    # It names its rule, another than the default.
    assert cluster == make().model_copy(update={"payments": cluster.payments})


def test_the_fingerprint_is_the_hash_of_every_field_in_declared_order() -> None:
    cluster = make("ring", 2)
    fields = [
        "candor/cluster/v2",
        1,
        "demo",
        7,
        ["digits", "iid", 32, 3, DIGEST],
        ["decentralized-sgd", 0.3, 0.0, 8, 0.0],
        [20, 30.0, 60.0],
        [DEFAULT_RULE, 16, 1_000_000_000, 1024],
        ["ring", "metropolis-hastings", "fixed", [["a0", "a1"]]],
        [[e.id, e.endpoint, e.identity, e.curve] for e in cluster.agents],
    ]
    assert cluster.fingerprint == hashlib.sha256(msgpack.packb(fields)).hexdigest()


def sized(*weights: float | None) -> Cluster:
    """The cluster of `make`, whose agents declare weights."""
    entries = [
        entry(f"a{i}", i).model_copy(update={"weight": weight}) for i, weight in enumerate(weights)
    ]
    return make("ring", len(weights), agents=entries)


def test_declared_weights_are_the_last_thing_that_a_fingerprint_covers_of_an_agent(
    tmp_path: Path,
) -> None:
    cluster = sized(120.0, 7.5)
    again = reload(cluster, tmp_path, lambda text: text.replace("120.0", "120"))
    assert again == cluster
    assert again.fingerprint == cluster.fingerprint
    fields = [
        "candor/cluster/v2",
        1,
        "demo",
        7,
        ["digits", "iid", 32, 3, DIGEST],
        ["decentralized-sgd", 0.3, 0.0, 8, 0.0],
        [20, 30.0, 60.0],
        [DEFAULT_RULE, 16, 1_000_000_000, 1024],
        ["ring", "metropolis-hastings", "fixed", [["a0", "a1"]]],
        [
            [e.id, e.endpoint, e.identity, e.curve, [], [], None, None, e.weight]
            for e in cluster.agents
        ],
    ]
    assert cluster.fingerprint == hashlib.sha256(msgpack.packb(fields)).hexdigest()
    assert wire.Cluster.parse(dump_cluster(cluster)).run.hex() == cluster.fingerprint
    assert sized(120.0, 7.6).fingerprint != cluster.fingerprint


def test_weights_decide_shares_and_rows() -> None:
    assert make().shares == (0.25,) * 4
    cluster = sized(1.0, 1.0, 2.0)
    assert cluster.shares == pytest.approx((0.25, 0.25, 0.5))
    third, sixth = 1 / 3, 1 / 6  # a2 takes half of what it would, as it is twice as large
    expected = [[third, third, third], [third, third, third], [sixth, sixth, 2 * third]]
    np.testing.assert_allclose(cluster.mixing_matrix(), expected, rtol=1e-12)


@pytest.mark.parametrize("weights", [(None, 1.0, 1.0), (1.0, 1.0, None), (None, None, 3.0)])
def test_all_agents_declare_a_weight_or_none_does(weights: tuple[float | None, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"'a\d' declares no weight, and 'a\d' does"):
        sized(*weights)


@pytest.mark.parametrize(
    "change",
    [
        ("seed = 7", "seed = 8"),
        ("rounds = 20", "rounds = 21"),
        ("step_size = 0.3", "step_size = 0.25"),
        (f'"{DEFAULT_RULE}"', '"none"'),
        (":5003", ":6003"),
        ('["a0", "a1"]', '["a0", "a2"]'),
    ],
)
def test_any_change_changes_the_fingerprint(change: tuple[str, str], tmp_path: Path) -> None:
    cluster = make()
    changed = reload(cluster, tmp_path, lambda text: text.replace(*change))
    assert changed.fingerprint != cluster.fingerprint


def test_keeping_rounds_counts_where_it_is_asked_for_and_cannot_be_asked_not_to(
    tmp_path: Path,
) -> None:
    plain, keeping = make(), make(payments=PaymentSettings(replay=True))
    assert plain.payments == PaymentSettings()
    assert "replay" not in dump_cluster(plain)
    assert reload(keeping, tmp_path) == keeping
    assert wire.Cluster.parse(dump_cluster(keeping)).run.hex() == keeping.fingerprint
    assert keeping.fingerprint != plain.fingerprint
    with pytest.raises(ConfigurationError, match=r"payments\.replay"):
        reload(keeping, tmp_path, lambda text: text.replace("replay = true", "replay = false"))


def test_a_codec_counts_but_for_the_one_that_files_without_it_mean(tmp_path: Path) -> None:
    cluster = make()
    lines = "start_deadline_s = 60.0\n"
    written = reload(
        cluster, tmp_path, lambda text: text.replace(lines, f'{lines}codec = "float32"\n')
    )
    assert written == cluster
    assert written.fingerprint == cluster.fingerprint
    assert "codec" not in dump_cluster(written)
    half = make(rounds=RoundSettings(rounds=20, codec="float16"))
    assert reload(half, tmp_path) == half
    assert half.fingerprint != cluster.fingerprint


def test_a_whole_number_where_a_real_one_is_meant_is_the_same_cluster(tmp_path: Path) -> None:
    cluster = make()
    whole = reload(cluster, tmp_path, lambda text: text.replace("30.0", "30"))
    assert whole.fingerprint == cluster.fingerprint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 7", "sed = 7", "unknown key sed"),
        ("seed = 7\n", "", "seed is missing; add it"),
        ("seed = 7", "seed = true", "seed: input should be a valid integer, not True"),
        ("seed = 7", 'seed = "7"', "seed: input should be a valid integer, not '7'"),
        ("seed = 7", "seed = -1", "seed: input should be greater than or equal to 0, not -1"),
        ("version = 1", "version = 2", "version: input should be 1, not 2"),
        ('run_id = "demo"', 'run_id = "a/b"', "run_id: 'a/b': use 1 to 64 letters"),
        ("rounds = 20", "rounds = 0", "rounds.rounds: input should be greater than or equal to 1"),
        ("rounds = 20", "rounds = 2.5", "rounds.rounds: input should be a valid integer, not 2.5"),
        ("step_size = 0.3", "step_size = 0.0", "algorithm.step_size: input should be greater"),
        ("step_size = 0.3", "step_size = inf", "algorithm.step_size: input should be a finite"),
        ("step_size = 0.3", "step_size = nan", "algorithm.step_size: input should be"),
        ("step_size = 0.3", "step_size = true", "algorithm.step_size: input should be a valid"),
        ("momentum = 0.0", "momentum = 1.0", "algorithm.momentum: input should be less than 1"),
        (
            "momentum = 0.0",
            f"momentum = 0.0\nmax_byzantine = {10**20}",
            "algorithm.max_byzantine: input should be less than",
        ),
        ("sketch_size = 1024", "sketch_size = 15", "payments.sketch_size: input should be greater"),
        ("credit_limit = 1000000000", "credit_limit = 0", "payments.credit_limit: input should"),
        ('"metropolis-hastings"', '"mean"', "graph.mixing: unknown mixing 'mean'"),
        ('name = "digits"', 'name = ""', "task.name: string should have at least 1 character"),
        ('name = "digits"', 'name = "a\\nb"', "task.name: must be one line"),
        (DIGEST, DIGEST.upper(), "task.model_digest: "),
        (DIGEST, DIGEST[:-1], "is not 64 lower-case hexadecimal digits"),
        ('["a0", "a1"]', '["a0", "zz"]', "edge 'a0'-'zz': there is no agent 'zz'"),
        ('["a0", "a1"]', '["a0", "a0"]', "edge 'a0'-'a0': an agent is not its own neighbour"),
        ('["a0", "a1"]', '["a3", "a0"]', "stands twice"),
        ('  ["a0", "a1"],\n  ["a0", "a3"],\n', "", "no path from 'a1' to 'a0'"),
        ('id = "a1"', 'id = "a 1"', "agents[1].id: agent id 'a 1'"),
        ('id = "a1"', 'id = "a0"', "the id 'a0' is used twice"),
        (":5001", ":5000", "agents 'a0' and 'a1' have the same endpoint"),
        (
            "127.0.0.1:5001",
            "*:5001",
            "agents[1].endpoint: endpoint 'tcp://*:5001': no neighbour can dial it",
        ),
        (entry("", 1, id="b").identity, entry("", 0, id="b").identity, "have the same identity"),
        (entry("", 1, id="b").curve, entry("", 0, id="b").curve, "have the same curve"),
        (entry("", 1, id="b").curve, "#" * 40, "larger than 32 bits"),
        (entry("", 1, id="b").curve, "0" * 35, "not a Z85 key of 40 characters"),
        ("[task]", "[task", "is not TOML"),
    ],
)
def test_a_bad_file_is_told_in_one_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = dump_cluster(make())
    assert old in text
    with pytest.raises(ConfigurationError) as caught:
        reload(make(), tmp_path, lambda text: text.replace(old, new, 1))
    assert str(caught.value).startswith(f"{tmp_path / 'c.toml'}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_mistakes_are_counted(tmp_path: Path) -> None:
    edit = {"seed = 7": "seed = -7", "rounds = 20": "rounds = -20", "window = 16": "window = 0"}

    def broken(text: str) -> str:
        for old, new in edit.items():
            text = text.replace(old, new)
        return text

    with pytest.raises(ConfigurationError, match=r"seed: .*\(and 2 more\)$"):
        reload(make(), tmp_path, broken)


def test_a_huge_value_is_not_repeated_whole(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        reload(make(), tmp_path, lambda text: text.replace('"digits"', f'"{"x" * 5000}"'))
    assert len(str(caught.value)) < 300


def test_a_missing_file_and_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the cluster file: No such file"):
        load_cluster(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        load_cluster(str(tmp_path / "bytes.toml"))


def test_a_version_that_equals_1_is_stored_as_1() -> None:
    read = validated(Cluster, make().model_dump() | {"version": True}, "file")
    assert read.fingerprint == make().fingerprint


def test_one_agent_alone_is_a_cluster(tmp_path: Path) -> None:
    alone = reload(make("ring", 1), tmp_path)
    assert alone.ids == ("a0",)
    assert alone.neighbours("a0") == ()
    assert alone.mixing_matrix().tolist() == [[1.0]]


def test_no_agent_is_no_cluster() -> None:
    fields = make("ring", 1).model_dump() | {"agents": ()}
    with pytest.raises(ConfigurationError, match="at least one is needed"):
        validated(Cluster, fields, "file")


def test_lookups_follow_the_file() -> None:
    cluster = make("ring", 11)
    assert cluster.ids[:3] == ("a0", "a1", "a2")
    assert cluster.index("a10") == 10
    assert cluster.agent("a3").endpoint == "tcp://127.0.0.1:5003"
    assert cluster.neighbours("a0") == ("a1", "a10")  # sorted as text
    assert list(cluster.networkx_graph()) == list(cluster.ids)


@pytest.mark.parametrize("method", ["index", "agent", "neighbours"])
def test_an_unknown_agent_is_told_with_the_known(method: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no agent 'zed'; it has a0, a1, a2, a3$"):
        getattr(make(), method)("zed")


def test_matrix_rows_are_in_file_order() -> None:
    graph = graphs.relabelled(graphs.build("star", 3), ["z", "m", "a"])
    cluster = make(
        graph=schedules.fixed(graph), agents=[entry("m", 1), entry("z", 0), entry("a", 2)]
    )
    assert cluster.ids == ("m", "z", "a")
    third = pytest.approx(1 / 3)
    assert cluster.mixing_matrix()[1].tolist() == [third, third, third]
    assert cluster.mixing_matrix()[0, 2] == 0


def test_edges_are_written_in_one_order_whatever_the_graphs() -> None:
    forward = graphs.make_graph(["a0", "a1", "a2"], [("a0", "a1"), ("a1", "a2")])
    backward = graphs.make_graph(["a2", "a1", "a0"], [("a2", "a1"), ("a1", "a0")])
    agents = [entry(f"a{i}", i) for i in range(3)]
    first, second = (
        make(graph=schedules.fixed(graph), agents=agents) for graph in (forward, backward)
    )
    assert first.graph.edges == (("a0", "a1"), ("a1", "a2"))
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a0", "a1"], "agent 'a2' has no keys"),
        (["a0", "a1", "a2", "b"], "agent 'b' has keys but is not in the topology"),
    ],
)
def test_agents_and_graph_must_match(ids: list[str], message: str) -> None:
    agents = [entry(agent, i) for i, agent in enumerate(ids)]
    with pytest.raises(ConfigurationError, match=message):
        make("ring", 3, agents=agents)


@pytest.mark.parametrize(
    ("endpoint", "parts"),
    [
        ("tcp://127.0.0.1:1", ("127.0.0.1", 1)),
        ("tcp://Host.example.org:65535", ("host.example.org", 65535)),
        ("tcp://a_service:7000", ("a_service", 7000)),
        ("tcp://[::1]:7000", ("::1", 7000)),
        ("tcp://[fe80::1%eth0]:7000", ("fe80::1%eth0", 7000)),
        ("tcp://host.example.:07000", ("host.example", 7000)),
        ("tcp://127.1:7000", ("127.0.0.1", 7000)),
        ("tcp://0x7f000001:7000", ("127.0.0.1", 7000)),
        ("tcp://0177.0.0.1:7000", ("127.0.0.1", 7000)),
        ("tcp://[::ffff:127.0.0.1]:7000", ("127.0.0.1", 7000)),
        ("tcp://[::FFFF:7f00:1]:7000", ("127.0.0.1", 7000)),
        ("tcp://[0:0:0:0:0:0:0:1]:7000", ("::1", 7000)),
        ("tcp://[2001:DB8::0:1]:7000", ("2001:db8::1", 7000)),
    ],
)
def test_an_endpoint_has_a_host_and_a_port(endpoint: str, parts: tuple[str, int]) -> None:
    assert split_endpoint(endpoint) == parts


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "127.0.0.1:7000",
        "ipc://x",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:７",
        "tcp://:7000",
        "tcp://*:7000",
        "tcp://0.0.0.0:7000",
        "tcp://[::]:7000",
        "tcp://[0:0:0:0:0:0:0:0]:7000",
        "tcp://[::0.0.0.0]:7000",
        "tcp://[::ffff:0.0.0.0]:7000",
        "tcp://0:7000",
        "tcp://0.0:7000",
        "tcp://0x0:7000",
        "tcp://00000000000:7000",
        "tcp://[127.0.0.1]:7000",
        "tcp://::1:7000",
        "tcp://[localhost]:7000",
        "tcp://a b:7000",
        "tcp://-a:7000",
        "tcp://host:7000/x",
        "tcp://host:7000\n",
        "tcp://" + "a" * 254 + ":7000",
    ],
)
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="endpoint"):
        split_endpoint(endpoint)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tcp://127.0.0.1:7000", "tcp://127.1:7000"),
        ("tcp://[::ffff:127.0.0.1]:7000", "tcp://127.0.0.1:07000"),
        ("tcp://[::1]:7000", "tcp://[0:0:0:0:0:0:0:1]:7000"),
        ("tcp://host.example:7000", "tcp://HOST.example.:7000"),
    ],
)
def test_two_spellings_of_one_place_are_not_two_places(first: str, second: str) -> None:
    agents = [
        entry(f"a{i}", i).model_copy(update={"endpoint": place})
        for i, place in enumerate((first, second))
    ]
    with pytest.raises(ConfigurationError, match="endpoint"):
        make("complete", 2, agents=agents)
    assert distinct_binds([first, second]) == (first,)


def test_the_digest_is_of_little_endian_float32() -> None:
    vector = np.array([1.0, -2.5], dtype=np.float32)
    assert model_digest(vector) == model_digest(vector.astype(">f4"))
    assert model_digest(vector) != model_digest(vector[::-1])


@pytest.mark.parametrize(
    ("batch", "steps", "told"),
    [(1, 1, "1 sample ("), (2, 2, "4 samples ("), (64, 1, "64 samples ("), (3, 2, ""), (1, 5, "")],
)
def test_settings_that_show_records_to_neighbours_are_told(
    batch: int, steps: int, told: str
) -> None:
    task = TaskSettings(name="digits", parameters=10**6, model_digest=DIGEST, batch_size=batch)
    cluster = make(task=task, algorithm=AlgorithmSettings(local_steps=steps))
    assert told in (cluster.exposure or "") if told else cluster.exposure is None


@pytest.mark.parametrize(
    ("given", "samples", "told"),
    [
        ({"local_epochs": 1}, 64, "64 samples (batch_size 64, local_epochs 1 of a shard of 64)"),
        ({"local_epochs": 1}, 65, ""),
        ({"local_epochs": 3}, 4, "an update is of 4 samples"),
        ({"local_epochs": 2}, 64, ""),
        ({"local_seconds": 5.0}, 2, ""),
        ({"local_steps": 1}, 999, "an update is of 64 samples (batch_size 64, local_steps 1)"),
    ],
)
def test_an_agent_whose_epochs_are_one_step_is_told(
    given: dict[str, float], samples: int, told: str
) -> None:
    task = TaskSettings(name="digits", parameters=9, model_digest=DIGEST, batch_size=64)
    settings = AlgorithmSettings.model_validate({"local_steps": 9} | given)
    cluster = make(task=task, algorithm=settings)
    assert (cluster.exposure is None) == (given != {"local_steps": 1})
    said = cluster.exposure_of(samples) or ""
    assert told in said if told else not said


def test_outer_settings_are_of_one_algorithm_and_come_back_from_the_file(tmp_path: Path) -> None:
    for name in ("outer_step", "outer_momentum"):
        with pytest.raises(ConfigurationError, match=f"{name} is of algorithm 'diloco'"):
            validated(AlgorithmSettings, {name: 0.5}, "algorithm")
    settings = AlgorithmSettings(name="diloco", outer_step=0.5, local_epochs=2)
    cluster = make(algorithm=settings)
    path = tmp_path / "cluster.toml"
    path.write_text(dump_cluster(cluster))
    assert load_cluster(path) == cluster
    assert load_cluster(path).fingerprint == cluster.fingerprint
    others = [AlgorithmSettings(name="diloco", outer_step=0.5), AlgorithmSettings(name="diloco")]
    assert len({make(algorithm=one).fingerprint for one in (settings, *others)}) == 3
