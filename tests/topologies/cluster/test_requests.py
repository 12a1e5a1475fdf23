"""A join request holds for one organiser, one agent and exactly what it says, or is refused."""

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.cluster.requests import (
    ENDPOINTS_MAX,
    REQUEST_BYTES_MAX,
    WEIGHT_MAX,
    WEIGHT_MIN,
    AgentEntry,
    JoinRequest,
    dump_request,
    entries_for,
    join_body,
    load_request,
    make_request,
)
from candor.topologies.encoding import z85
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.files import validated
from candor.topologies.specs.specs import ConfigurationError, SignatureError
from tests.golden import assert_golden

KEY = SigningKey(bytes(range(32)))
ORGANISER = SigningKey(bytes(32))
CURVE = z85.encode(hashlib.sha256(b"curve").digest())


def make(**changes: Any) -> JoinRequest:
    fields: dict[str, Any] = {
        "organiser": ORGANISER.public.hex(),
        "agent": "hospital-a",
        "curve": CURVE,
        "endpoints": ["tcp://a.example:7000", "tcp://[2001:db8::1]:7000"],
        "bind": ["tcp://*:7000"],
        "serial": 1_700_000_000_000,
    }
    return make_request(KEY, **(fields | changes))


def test_the_golden_request_keeps_its_bytes(tmp_path: Path) -> None:
    request, path = make(), tmp_path / "r.toml"
    path.write_text(dump_request(request))
    assert load_request(path) == request
    assert_golden(
        "request.json",
        {
            "about": "A join request; `signature` is over candor/join/v1 || body.",
            "identity_seed": bytes(range(32)).hex(),
            "identity_public": KEY.public.hex(),
            "organiser": request.organiser,
            "body": join_body(request.agent, request.organiser).hex(),
            "signature": request.agent.join,
            "toml": dump_request(request),
        },
    )


def test_the_golden_request_with_a_weight_keeps_its_bytes(tmp_path: Path) -> None:
    request, path = make(weight=120.0), tmp_path / "r.toml"
    path.write_text(dump_request(request))
    assert load_request(path) == request
    plain = join_body(make().agent, request.organiser)
    assert join_body(request.agent, request.organiser)[1:] == plain[1:] + msgpack.packb(120.0)
    assert_golden(
        "request_weight.json",
        {
            "about": "The request of request.json, which declares a weight beside.",
            "identity_seed": bytes(range(32)).hex(),
            "organiser": request.organiser,
            "body": join_body(request.agent, request.organiser).hex(),
            "signature": request.agent.join,
            "toml": dump_request(request),
        },
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("weight = 120.0", "weight = 121.0"),
        ("weight = 120.0", "weight = 120.00000000000001"),
        ("weight = 120.0\n", ""),
    ],
)
def test_a_declared_weight_is_signed(old: str, new: str, tmp_path: Path) -> None:
    path, text = tmp_path / "r.toml", dump_request(make(weight=120.0))
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(SignatureError, match="did not sign this entry"):
        load_request(path)


def test_a_weight_cannot_be_added_to_a_request_without(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(dump_request(make()) + "weight = 120.0\n")
    with pytest.raises(SignatureError, match="did not sign this entry"):
        load_request(path)


def test_a_whole_number_is_the_same_weight(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(dump_request(make(weight=120.0)).replace("120.0", "120"))
    assert load_request(path) == make(weight=120.0)


HOSTS = st.from_regex(r"[a-z]{1,10}(\.[a-z]{1,10}){0,2}", fullmatch=True) | st.ip_addresses(
    v=4
).map(str).filter(lambda host: host != "0.0.0.0")


@given(
    st.lists(
        st.tuples(HOSTS, st.integers(1, 65535)), min_size=1, max_size=ENDPOINTS_MAX, unique=True
    ),
    st.lists(st.integers(1, 65535).map(lambda port: f"tcp://*:{port}"), max_size=ENDPOINTS_MAX),
    st.none() | st.floats(WEIGHT_MIN, WEIGHT_MAX),
)
def test_a_request_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory,
    places: list[tuple[str, int]],
    bind: list[str],
    weight: float | None,
) -> None:
    endpoints = [f"tcp://{host}:{port}" for host, port in places]
    request = make(endpoints=endpoints, bind=bind, weight=weight)
    path = tmp_path_factory.mktemp("request") / "r.toml"
    path.write_text(dump_request(request))
    assert load_request(path) == request
    assert path.stat().st_size < REQUEST_BYTES_MAX


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('id = "hospital-a"', 'id = "hospital-b"'),
        ("a.example:7000", "a.example:7001"),
        ("db8::1", "db8::2"),
        ("tcp://*:7000", "tcp://*:7001"),
        ("serial = 17", "serial = 18"),
        (ORGANISER.public.hex(), KEY.public.hex()),
        (CURVE, z85.encode(bytes(32))),
        (KEY.public.hex(), ORGANISER.public.hex()),
        ('bind = [\n    "tcp://*:7000",\n]\n', ""),
        ('join = "', 'join = "' + "0" * 128 + '"\n#'),
    ],
)
def test_whatever_is_changed_is_noticed(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    text = dump_request(make())
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(SignatureError, match=r"r\.toml: .*did not sign this entry"):
        load_request(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "version is missing"),
        ("version = 2", "version"),
        ("\x00", "is not TOML"),
        ("a=" + "[" * 9000, "is not TOML"),
        ("#" * (REQUEST_BYTES_MAX + 1), "larger than 16 KiB"),
        (dump_request(make()) + 'rank = "boss"\n', "unknown key agent.rank"),
        (dump_request(make()).replace("join = ", "# join = "), "`join` is missing"),
        (dump_request(make()).replace("serial = ", "# "), "`serial` is missing"),
        (dump_request(make()).replace("serial = 1", "serial = -1"), "agent.serial"),
        (dump_request(make()).replace('join = "', 'join = "x'), "hexadecimal"),
        (dump_request(make()).replace("tcp://a.example", "ipc://a.example"), "agent.endpoint"),
    ],
)
def test_a_malformed_request_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as told:
        load_request(path)
    assert message in str(told.value)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("role", ["organiser", "identity"])
def test_a_key_that_nobody_has_is_no_identity(role: str, tmp_path: Path) -> None:
    """Zero's own key: its join, R of zero and S = 0, would hold for whatever the file says."""
    path, zero = tmp_path / "r.toml", "01" + "00" * 31
    text = dump_request(make())
    text = text.replace(ORGANISER.public.hex() if role == "organiser" else KEY.public.hex(), zero)
    path.write_text(text.replace(f'join = "{make().agent.join}"', f'join = "{zero}{"00" * 32}"'))
    with pytest.raises(ConfigurationError, match=f"{role}: '0100.* is nobody's identity"):
        load_request(path)


@pytest.mark.timeout(10)
def test_a_pipe_a_device_or_a_directory_is_no_request(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe.toml", tmp_path / "link.toml"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link, Path("/dev/zero"), Path("/dev/full")):
        with pytest.raises(ConfigurationError, match="Not a regular file"):
            load_request(path)
    with pytest.raises(ConfigurationError, match="directory"):
        load_request(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ConfigurationError, match="symbolic links"):
        load_request(tmp_path / "loop")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"endpoints": []}, "endpoint"),
        ({"endpoints": ["tcp://0.0.0.0:7000"]}, "no neighbour can dial it"),
        ({"endpoints": [f"tcp://h:{i + 1}" for i in range(ENDPOINTS_MAX + 1)]}, "other_endpoints"),
        ({"bind": ["udp://*:1"]}, r"bind\[0\]"),
        ({"bind": ["tcp://*:0"]}, r"bind\[0\]"),
        ({"agent": "../etc"}, "id"),
        ({"serial": 0}, "serial"),
        ({"serial": 1 << 53}, "serial"),
        ({"weight": 0.0}, "weight"),
        ({"weight": -1.0}, "weight"),
        ({"weight": 0.99 * WEIGHT_MIN}, "weight"),
        ({"weight": 1.01 * WEIGHT_MAX}, "weight"),
        ({"weight": math.inf}, "weight"),
        ({"weight": math.nan}, "weight"),
        ({"weight": True}, "weight"),
    ],
)
def test_what_no_agent_can_be_is_not_signed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(**changes)


def test_a_request_is_for_one_organiser_and_there_is_one_of_an_agent() -> None:
    mine, other = make(), make(agent="b", organiser=KEY.public.hex())
    assert entries_for([mine], ORGANISER.public.hex()) == {"hospital-a": mine.agent}
    with pytest.raises(ConfigurationError, match="'b' is for the organiser"):
        entries_for([mine, other], ORGANISER.public.hex())
    with pytest.raises(ConfigurationError, match="two requests of agent 'hospital-a'"):
        entries_for([mine, mine], ORGANISER.public.hex())


@pytest.mark.parametrize(
    ("endpoints", "bind", "listens_at"),
    [
        (["tcp://10.0.0.1:7000"], [], ["tcp://10.0.0.1:7000"]),
        (["tcp://[::1]:7000"], [], ["tcp://[::1]:7000"]),
        (["tcp://a.example:7000"], [], ["tcp://*:7000"]),
        # All interfaces' port 7000 leaves nothing to bind on the one address.
        (["tcp://a.example:7000", "tcp://10.0.0.1:7000"], [], ["tcp://*:7000"]),
        (["tcp://a.example:7000", "tcp://b.example:7000"], [], ["tcp://*:7000"]),
        (
            ["tcp://a.example:7000", "tcp://10.0.0.1:7001"],
            [],
            ["tcp://*:7000", "tcp://10.0.0.1:7001"],
        ),
        (["tcp://a.example:443"], ["tcp://eth0:7000"], ["tcp://eth0:7000"]),
        (["tcp://a.example:443"], ["tcp://[::]:7000"], ["tcp://[::]:7000"]),
    ],
)
def test_an_agent_listens_where_it_can(
    endpoints: list[str], bind: list[str], listens_at: list[str]
) -> None:
    assert list(make(endpoints=endpoints, bind=bind).agent.listens_at) == listens_at


def test_an_entry_without_a_signature_is_as_before() -> None:
    fields = {"id": "a", "endpoint": "tcp://h:1", "identity": "22" * 32, "curve": CURVE}
    entry = validated(AgentEntry, fields, "agent")
    assert entry.model_dump(exclude_defaults=True) == fields
    assert entry.endpoints == ("tcp://h:1",)
