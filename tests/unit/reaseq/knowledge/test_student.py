"""The student and the cascade: what can be learnt is, a confidence means what it says, and the model is asked for the rest."""

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray

from evaluation.claims import Claimed, build_claimed, cascade_curve, cheapest, nearest_copy, score, split
from reaseq.artifacts import current
from reaseq.errors import ArtifactError
from reaseq.knowledge.cascade import Cascade
from reaseq.knowledge.content import Content
from reaseq.knowledge.llm.budget import TokenLimits
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.knowledge.student import (
    KIND,
    Student,
    StudentTrainingConfig,
    build_slices,
    build_targets,
    chosen,
    probabilities,
    train,
)
from reaseq.knowledge.vocabulary import Group, Vocabulary
from reaseq.records import Claim, ProductKnowledge
from tests.fakes.reasoning import VOCABULARY, ScriptedModel
from tests.unit.reaseq.knowledge.test_ledger import reasoner

DIM = 16
NOISE = 0.1  # share of answers in which the teacher's need is drawn blindly
ITEMS = 1500


def world(seed: int, count: int) -> tuple[NDArray[np.float32], list[ProductKnowledge]]:
    """Items whose category and need lie in their vectors, and whose season does not."""
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    answers = []
    for vector in vectors:
        blind = draw.random() < NOISE
        need = ("drink" if draw.random() < 0.5 else "read") if blind else ("drink" if vector[1] > 0 else "read")
        values = {"category": "mug" if vector[0] > 0 else "lamp", "needs": need, "season": draw.choice(["winter", "summer"])}
        claims = tuple(Claim(group, str(value), 1.0, "teacher") for group, value in values.items())
        answers.append(ProductKnowledge(vocabulary=VOCABULARY.version, claims=claims))
    return vectors, answers


@pytest.fixture(scope="module")
def student() -> Student:
    vectors, answers = world(0, ITEMS)
    return Student(train(vectors, answers, VOCABULARY, StudentTrainingConfig(epochs=20)), VOCABULARY, "v1")


def test_it_learns_what_there_is_to_learn(student: Student) -> None:
    vectors, answers = world(1, 500)
    truth = build_targets(answers, VOCABULARY)

    scores = {s.group: s for s in score(Claimed(*student.predict(vectors)), truth, VOCABULARY)}

    assert scores["category"].precision > 0.95 and scores["category"].recall > 0.95
    assert scores["needs"].precision > 0.8 and scores["needs"].recall > 1 - NOISE
    assert scores["season"].precision == pytest.approx(0.5, abs=0.1), "where nothing is to be learnt, a guess"


def test_its_confidences_are_calibrated(student: Student) -> None:
    vectors, answers = world(2, 1000)

    scores = score(Claimed(*student.predict(vectors)), build_targets(answers, VOCABULARY), VOCABULARY)

    assert all(s.calibration_error < 0.08 for s in scores)


async def test_its_claims_bear_its_name_and_keep_to_the_bounds(student: Student) -> None:
    vectors, _ = world(3, 50)

    answers = await student.reason([ReasoningItem(Content.from_listing("x", {}))] * 50, vectors)

    for answer in answers:
        assert answer
        assert {claim.reasoner for claim in answer.claims} == {"student:v1"}
        for group in VOCABULARY.groups:
            assert group.least <= len(answer.values(group.name)) <= group.most


def test_a_published_student_says_the_same_and_refuses_another_space(student: Student, tmp_path: Path) -> None:
    vectors, _ = world(4, 20)
    student.publish(tmp_path, {"vocabulary": VOCABULARY.version, "space_id": "s"})

    loaded = Student.load(current(tmp_path, KIND), VOCABULARY, "s")

    assert torch.equal(loaded.predict(vectors)[0], student.predict(vectors)[0])
    with pytest.raises(ArtifactError, match="'other'"):
        Student.load(current(tmp_path, KIND), VOCABULARY, "other")


def test_values_are_chosen_by_probability_within_the_bounds_of_their_group() -> None:
    groups = (
        Group("one", "demand", "?", 1, 1, False, {"a": "A.", "b": "B."}),
        Group("some", "demand", "?", 1, 2, False, {"c": "C.", "d": "D.", "e": "E."}),
    )
    slices = build_slices(Vocabulary("v", groups))
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0, 1.0], [0.0, -1.0, -9.0, -8.0, -9.0]])

    p = probabilities(logits, slices)

    assert p[:, :2].sum(-1).tolist() == pytest.approx([1.0, 1.0])
    assert chosen(p, slices).tolist() == [[False, True, True, True, False], [True, False, False, True, False]]


@pytest.mark.parametrize(
    ("threshold", "asked"),
    [
        (0.0, set()),
        (0.9, {"relation", "critic", "synthesis"}),
        (1.1, {"demand", "attribute", "relation", "critic", "synthesis"}),
    ],
)
async def test_the_cascade_asks_only_the_agents_whose_claims_the_student_is_not_sure_of(
    student: Student, tmp_path: Path, threshold: float, asked: set[str]
) -> None:
    script = ScriptedModel()
    vector = np.zeros((1, DIM), np.float32)
    vector[0, :2] = 0.7  # far on the side of the mug that one drinks from
    cascade = Cascade(student, reasoner(Ledger(tmp_path / "l.db"), script), VOCABULARY, threshold)

    (answer,) = await cascade.reason([ReasoningItem(Content.from_listing("MUG", {}), "i")], vector)

    assert set(script.asked) == asked
    assert answer
    speakers = {claim.group: claim.reasoner.split(":")[0] for claim in answer.claims}
    from_the_model = {"attribute": "category", "demand": "needs", "relation": "season"}
    assert speakers == {group: "llm" if agent in asked else "student" for agent, group in from_the_model.items()}


async def test_a_group_that_the_teacher_never_spoke_of_is_left_to_the_model(tmp_path: Path) -> None:
    vectors, answers = world(8, 300)
    mute = [replace(answer, claims=answer.claims[:2]) for answer in answers]  # nothing about the season
    student = Student(train(vectors, mute, VOCABULARY, StudentTrainingConfig(epochs=5)), VOCABULARY, "v1")
    script = ScriptedModel()

    (answer,) = await Cascade(student, reasoner(Ledger(tmp_path / "l.db"), script), VOCABULARY, 0.01).reason(
        [ReasoningItem(Content.from_listing("MUG", {}))], vectors[:1]
    )

    assert script.asked == ["relation", "critic", "synthesis"]
    assert answer and answer.values("season") == ("winter",)
    scored = score(Claimed(*student.predict(vectors)), build_targets(mute, VOCABULARY), VOCABULARY)
    assert [s.group for s in scored] == ["category", "needs", "all"]


async def test_a_cascade_whose_model_has_no_answer_has_none(student: Student, tmp_path: Path) -> None:
    broke = reasoner(Ledger(tmp_path / "l.db"), ScriptedModel(), TokenLimits(day_tokens=0))
    vectors, _ = world(5, 3)

    answers = await Cascade(student, broke, VOCABULARY, 1.1).reason(
        [ReasoningItem(Content.from_listing("MUG", {}))] * 3, vectors
    )

    assert answers == [None] * 3


def test_the_curve_goes_from_the_student_alone_to_the_teacher(student: Student) -> None:
    vectors, answers = world(6, 400)
    points = cascade_curve(student, vectors, build_targets(answers, VOCABULARY), VOCABULARY)

    assert (points[0].items_sent_share, points[0].agent_calls_share) == (0.0, 0.0)
    assert (points[-1].items_sent_share, points[-1].precision, points[-1].recall) == (1.0, 1.0, 1.0)
    shares, recalls = [p.agent_calls_share for p in points], [p.recall for p in points]
    assert shares == sorted(shares) and recalls == sorted(recalls)
    assert points[0].recall < 0.9 < cheapest(points, 0.9).recall


def test_held_out_items_are_the_same_in_any_order_and_types_stay_whole() -> None:
    answers = [
        (
            Content.from_listing(f"THING {n}", {}),
            ProductKnowledge(vocabulary="v", claims=(), product_type=f"size {n % 7} kind{n % 60}"),
        )
        for n in range(600)
    ]
    parts, reversed_parts = split(answers), split(answers[::-1])

    assert sorted([*parts.train, *parts.random_items, *parts.unseen_types]) == list(range(600))
    assert {599 - place for place in reversed_parts.random_items} == set(parts.random_items)
    kinds = {answers[place][1].product_type.split()[-1] for place in parts.unseen_types}
    assert kinds and not kinds & {answers[place][1].product_type.split()[-1] for place in (*parts.train, *parts.random_items)}


def test_the_nearest_items_answer_is_copied() -> None:
    vectors, answers = world(7, 100)

    assert nearest_copy(vectors, answers, vectors[:5]) == answers[:5]
    copied = build_claimed(answers[:5], VOCABULARY)
    assert copied.claimed.sum() == 15 and score(copied, build_targets(answers[:5], VOCABULARY), VOCABULARY)[-1].recall == 1.0
