"""metrics.csv survives what a crash or a live reader does to it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.daemon.metrics import COLUMNS, MetricsWriter, RoundMetrics, read_metrics
from candor.topologies.specs.specs import ConfigurationError

FIRST = RoundMetrics(1, 0.25, 2.31, None, 3.5, -120, 4096, 8192, 2, ())
SECOND = RoundMetrics(
    *(2, 0.5, 2.05, 0.75, 3.25, 400, 8192, 16384, 1, ("a1", "a7")),
    local_metric=-2.5,
    metrics={"rmse": 0.75, "r2": -1e300},
    trajectories=50,
    agreement_moves=3,
    weightless=("a1", "a2"),
)
# As files looked before there were several metrics.
OLD = (
    "round,seconds,train_loss,test_accuracy,injected_norm,balance,"
    "bytes_sent,bytes_received,neighbours_mixed,missing\n"
    "1,0.250000,2.31,,3.5,-120,4096,8192,2,\n"
    "2,0.500000,2.05,0.75,3.25,400,8192,16384,1,a1;a7\n"
)
BEFORE_POLICIES = replace(SECOND, trajectories=None, agreement_moves=None, weightless=())
OLD_ROUNDS = [FIRST, replace(BEFORE_POLICIES, local_metric=None, metrics={})]

_floats = st.floats(allow_nan=False)
_rounds = st.builds(
    RoundMetrics,
    round=st.integers(1),
    seconds=st.integers(0, 10**9).map(lambda us: us / 1e6),
    train_loss=_floats,
    test_accuracy=st.none() | _floats,
    injected_norm=_floats,
    balance=st.integers(),
    bytes_sent=st.integers(0),
    bytes_received=st.integers(0),
    neighbours_mixed=st.integers(0),
    missing=st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True)).map(tuple),
    local_metric=st.none() | _floats,
    metrics=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.floats(allow_nan=False, allow_infinity=False),
        max_size=4,
    ),
    trajectories=st.none() | st.integers(0),
    agreement_moves=st.none() | st.integers(0),
    weightless=st.lists(st.from_regex(r"[A-Za-z0-9]{1,9}", fullmatch=True)).map(tuple),
)


def _write(path: Path, *rounds: RoundMetrics) -> None:
    with MetricsWriter(path) as writer:
        for metrics in rounds:
            writer.write(metrics)


@given(rounds=st.lists(_rounds, max_size=4))
def test_what_is_written_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[RoundMetrics]
) -> None:
    path = tmp_path_factory.mktemp("metrics") / "metrics.csv"
    _write(path, *rounds)
    assert read_metrics(path) == rounds


def test_the_file_is_plain_csv_with_the_documented_columns(tmp_path: Path) -> None:
    _write(tmp_path / "metrics.csv", FIRST, SECOND)
    assert (tmp_path / "metrics.csv").read_text() == (
        "round,seconds,train_loss,test_accuracy,injected_norm,balance,"
        "bytes_sent,bytes_received,neighbours_mixed,missing,local_metric,metrics,trajectories,"
        "agreement_moves,weightless\n1,0.250000,2.31,,3.5,-120,4096,8192,2,,,,,,\n"
        "2,0.500000,2.05,0.75,3.25,400,8192,16384,1,a1;a7,-2.5,"
        '"{""rmse"": 0.75, ""r2"": -1e+300}",50,3,a1;a2\n'
    )


@pytest.mark.parametrize(
    ("lacking", "second"),
    [
        (1, replace(SECOND, weightless=())),
        (2, replace(SECOND, weightless=(), agreement_moves=None)),
        (3, BEFORE_POLICIES),
    ],
)
def test_a_file_without_the_last_columns_is_read(
    tmp_path: Path, lacking: int, second: RoundMetrics
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(OLD)
    assert read_metrics(path) == OLD_ROUNDS
    earlier = [FIRST, second]
    _write(path.with_name("new.csv"), *earlier)
    lines = path.with_name("new.csv").read_text().splitlines()
    path.write_text("".join(line.rsplit(",", lacking)[0] + "\n" for line in lines))
    assert read_metrics(path) == earlier
    _write(path, replace(SECOND, round=3))
    assert read_metrics(path) == [*earlier, replace(SECOND, round=3)]


def test_a_file_without_the_last_columns_is_continued_with_them(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(OLD + "3,0.7")  # torn
    with MetricsWriter(path) as writer:
        assert writer.rounds == 2
        writer.write(replace(SECOND, round=3))
    assert read_metrics(path) == [*OLD_ROUNDS, replace(SECOND, round=3)]
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.csv"]
    assert path.read_text().startswith(
        OLD.splitlines()[0] + ",local_metric,metrics,trajectories,agreement_moves,weightless\n1"
    )


def test_every_tear_of_a_file_without_the_last_columns_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for cut in range(len(OLD)):
        path.write_text(OLD[:cut])
        kept = max(OLD[:cut].count("\n") - 1, 0)
        assert read_metrics(path) == OLD_ROUNDS[:kept]
        _write(path, replace(SECOND, round=9))
        assert read_metrics(path) == [*OLD_ROUNDS[:kept], replace(SECOND, round=9)]


def test_an_undefined_metric_reads_back_as_one(tmp_path: Path) -> None:
    undefined = replace(SECOND, local_metric=math.nan, metrics={"dice": math.nan, "iou": 0.5})
    _write(tmp_path / "metrics.csv", undefined)
    (found,) = read_metrics(tmp_path / "metrics.csv")
    assert found.local_metric is not None
    assert math.isnan(found.local_metric)
    assert math.isnan(found.metrics["dice"])
    assert found.metrics["iou"] == 0.5


def test_a_round_is_readable_before_the_writer_closes(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.csv") as writer:
        writer.write(FIRST)
        assert read_metrics(tmp_path / "metrics.csv") == [FIRST]


def test_a_second_writer_continues_the_file(tmp_path: Path) -> None:
    _write(tmp_path / "metrics.csv", FIRST)
    _write(tmp_path / "metrics.csv", SECOND)
    assert read_metrics(tmp_path / "metrics.csv") == [FIRST, SECOND]


def test_every_tear_of_the_last_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    _write(path, FIRST, SECOND)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = max(whole[:cut].count(b"\n") - 1, 0)
        assert read_metrics(path) == [FIRST, SECOND][:kept]
        _write(path, replace(SECOND, round=9))
        assert [m.round for m in read_metrics(path)] == [*[1, 2][:kept], 9]


def test_a_loss_that_is_not_a_number_reads_back_as_one(tmp_path: Path) -> None:
    _write(tmp_path / "metrics.csv", replace(FIRST, train_loss=math.nan))
    assert math.isnan(read_metrics(tmp_path / "metrics.csv")[0].train_loss)


@pytest.mark.parametrize("text", ["epoch,loss\n1,2\n", "a note without a newline"])
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="not a metrics file"):
        MetricsWriter(path)
    assert path.read_text() == text


def test_reading_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(ConfigurationError, match="not a metrics file"):
        read_metrics(tmp_path / "metrics.csv")


@pytest.mark.parametrize(
    "line",
    [
        "1,2\n",
        "x,0.1,1,,1,0,0,0,0,,,\n",
        "1,0.1,1,,1,0,0,0,0,,,7\n",
        "1,0.1,1,,1,0,0,0,0,,x,\n",
        "1,0.1,1,,1,0,0,0,0,,," + "[" * 100_000 + "\n",
        '1,0.1,1,,1,0,0,0,0,,,"{""r2"": [1]}"\n',
        "1,0.1,1,,1,0,0,0,0,,," + "7" * 200_000 + "\n",
    ],
)
def test_a_broken_whole_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(",".join(COLUMNS) + "\n" + line)
    with pytest.raises(ConfigurationError, match=r"metrics\.csv: line 2 is not one round"):
        read_metrics(path)


def test_a_missing_file_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"metrics\.csv: cannot read the metrics"):
        read_metrics(tmp_path / "metrics.csv")
