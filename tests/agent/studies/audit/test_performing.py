"""Runs of an audit that are performed at once are those that each is alone."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from candor.agent.studies.audit import performing, runs
from candor.agent.studies.audit.performing import Played, alike, perform
from candor.agent.studies.audit.question import Kind, Question, Run
from candor.agent.studies.honesty.cells import Cell, question_of


@pytest.fixture(scope="module")
def question() -> Question:
    return question_of(Cell("breast-cancer", "caterpillar", "iid"), 2, None, rounds=20)


def lies(question: Question, *specs: str) -> list[Run]:
    liar, cluster = question.agents[-1], question.clusters[0]
    return [Run(cluster, spec, question.liars(spec, liar)) for spec in specs]


def same(one: Played, other: Played) -> None:
    for each in fields(Played):
        values, expected = getattr(one, each.name), getattr(other, each.name)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6, err_msg=each.name)


@pytest.mark.parametrize("influence", [None, 1.5])
def test_each_is_what_it_is_alone(influence: float | None) -> None:
    cell = Cell("breast-cancer", "caterpillar", "iid")
    question = question_of(cell, 1, None, rounds=20, influence=influence)
    specs = ["scale:2", "colluding:2", "frozen:4", "noise:0.5"]
    # Nobody can bill the last one, which ruins its own run alone.
    some = lies(question, *specs, *(["scale:1e80"] if influence is None else []))
    for seen, run in zip(perform(question, some), some, strict=True):
        same(seen, perform(question, [run])[0])


def test_only_who_lies_in_one_cluster_is_performed_at_once(
    question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, other = question.clusters
    asked = [
        Run(cluster),
        *lies(question, "scale:2", "label-flip", "zero"),
        Run(other, "scale:2", question.agents[:1]),
        Run(cluster, kind=Kind.ALONE),
        *lies(question, "frozen:4"),
    ]
    assert sorted(alike(question, asked)) == [[0], [1, 3, 6], [2], [4], [5]]
    monkeypatch.setattr(performing, "ROWS", 20)
    assert sorted(alike(question, asked)) == [[0], [1, 3], [2], [4], [5], [6]]


def test_what_is_there_is_not_performed_again(
    question: Question, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = lies(question, "scale:2", "zero", "scale:4")
    first = runs.play(question, tmp_path, asked[:1])
    performed: list[Run] = []

    def counted(question: Question, some: list[Run]) -> list[Played]:
        performed.extend(some)
        return [replace(first[0], losses=first[0].losses + k) for k, _ in enumerate(some)]

    monkeypatch.setattr(runs, "perform", counted)
    found = runs.play(question, tmp_path, [asked[1], asked[0], asked[2]])
    assert performed == [asked[1], asked[2]]
    same(found[1], first[0])
    assert (found[2].losses == first[0].losses + 1).all()
    assert len([*tmp_path.iterdir()]) == 3
