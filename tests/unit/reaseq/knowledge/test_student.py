"""The student and the cascade: learning, calibration, and when the LLM is called."""

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray

from evaluation.claims import (
    PredictedClaims,
    build_predicted_claims,
    copy_nearest,
    find_cheapest,
    score_claims,
    split_answers,
    trace_cascade,
)
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
from tests.unit.reaseq.knowledge.test_ledger import make_reasoner

DIM = 16
NOISE = 0.1  # share of answers whose `needs` value is random
ITEMS = 1500


def make_world(seed: int, count: int) -> tuple[NDArray[np.float32], list[ProductKnowledge]]:
    """Items whose category and needs depend on their vectors, with a random season."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    answers = []
    for vector in vectors:
        is_noise = generator.random() < NOISE
        need = ("drink" if generator.random() < 0.5 else "read") if is_noise else ("drink" if vector[1] > 0 else "read")
        values = {
            "category": "mug" if vector[0] > 0 else "lamp",
            "needs": need,
            "season": generator.choice(["winter", "summer"]),
        }
        claims = tuple(Claim(group, str(value), 1.0, "teacher") for group, value in values.items())
        answers.append(ProductKnowledge(vocabulary=VOCABULARY.version, claims=claims))
    return vectors, answers


@pytest.fixture(scope="module")
def student() -> Student:
    vectors, answers = make_world(0, ITEMS)
    return Student(train(vectors, answers, VOCABULARY, StudentTrainingConfig(epochs=20)), VOCABULARY, "v1")


def test_student_learns_predictable_groups(student: Student) -> None:
    vectors, answers = make_world(1, 500)
    truth = build_targets(answers, VOCABULARY)

    scores = {s.group: s for s in score_claims(PredictedClaims(*student.predict(vectors)), truth, VOCABULARY)}

    assert scores["category"].precision > 0.95 and scores["category"].recall > 0.95
    assert scores["needs"].precision > 0.8 and scores["needs"].recall > 1 - NOISE
    assert scores["season"].precision == pytest.approx(0.5, abs=0.1), "an unpredictable group is a guess"


def test_student_confidences_are_calibrated(student: Student) -> None:
    vectors, answers = make_world(2, 1000)

    scores = score_claims(PredictedClaims(*student.predict(vectors)), build_targets(answers, VOCABULARY), VOCABULARY)

    assert all(s.calibration_error < 0.08 for s in scores)


async def test_student_claims_have_provenance_and_respect_bounds(student: Student) -> None:
    vectors, _ = make_world(3, 50)

    answers = await student.reason([ReasoningItem(Content.from_listing("x", {}))] * 50, vectors)

    for answer in answers:
        assert answer
        assert {claim.reasoner for claim in answer.claims} == {"student:v1"}
        for group in VOCABULARY.groups:
            assert group.least <= len(answer.values(group.name)) <= group.most


def test_published_student_predicts_the_same_and_rejects_another_space(student: Student, tmp_path: Path) -> None:
    vectors, _ = make_world(4, 20)
    student.publish(tmp_path, {"vocabulary": VOCABULARY.version, "space_id": "s"})

    loaded = Student.load(current(tmp_path, KIND), VOCABULARY, "s")

    assert torch.equal(loaded.predict(vectors)[0], student.predict(vectors)[0])
    with pytest.raises(ArtifactError, match="'other'"):
        Student.load(current(tmp_path, KIND), VOCABULARY, "other")


def test_values_are_chosen_by_probability_within_the_bounds() -> None:
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
    ("threshold", "called"),
    [
        (0.0, set()),
        (0.9, {"relation", "critic", "synthesis"}),
        (1.1, {"demand", "attribute", "relation", "critic", "synthesis"}),
    ],
)
async def test_cascade_calls_only_agents_below_the_threshold(
    student: Student, tmp_path: Path, threshold: float, called: set[str]
) -> None:
    script = ScriptedModel()
    vector = np.zeros((1, DIM), np.float32)
    vector[0, :2] = 0.7  # clearly a mug to drink from
    cascade = Cascade(student, make_reasoner(Ledger(tmp_path / "l.db"), script), VOCABULARY, threshold)

    (answer,) = await cascade.reason([ReasoningItem(Content.from_listing("MUG", {}), "i")], vector)

    assert set(script.called_agents) == called
    assert answer
    provenance = {claim.group: claim.reasoner.split(":")[0] for claim in answer.claims}
    group_by_agent = {"attribute": "category", "demand": "needs", "relation": "season"}
    assert provenance == {group: "llm" if agent in called else "student" for agent, group in group_by_agent.items()}


async def test_group_without_training_examples_is_left_to_the_llm(tmp_path: Path) -> None:
    vectors, answers = make_world(8, 300)
    without_season = [replace(answer, claims=answer.claims[:2]) for answer in answers]
    student = Student(train(vectors, without_season, VOCABULARY, StudentTrainingConfig(epochs=5)), VOCABULARY, "v1")
    script = ScriptedModel()

    (answer,) = await Cascade(student, make_reasoner(Ledger(tmp_path / "l.db"), script), VOCABULARY, 0.01).reason(
        [ReasoningItem(Content.from_listing("MUG", {}))], vectors[:1]
    )

    assert script.called_agents == ["relation", "critic", "synthesis", "critic"]
    assert answer and answer.values("season") == ("winter",)
    scored = score_claims(PredictedClaims(*student.predict(vectors)), build_targets(without_season, VOCABULARY), VOCABULARY)
    assert [s.group for s in scored] == ["category", "needs", "all"]


async def test_cascade_without_llm_answer_has_none(student: Student, tmp_path: Path) -> None:
    out_of_budget = make_reasoner(Ledger(tmp_path / "l.db"), ScriptedModel(), TokenLimits(day_tokens=0))
    vectors, _ = make_world(5, 3)

    answers = await Cascade(student, out_of_budget, VOCABULARY, 1.1).reason(
        [ReasoningItem(Content.from_listing("MUG", {}))] * 3, vectors
    )

    assert answers == [None] * 3


def test_cascade_curve_spans_student_to_teacher(student: Student) -> None:
    vectors, answers = make_world(6, 400)
    points = trace_cascade(student, vectors, build_targets(answers, VOCABULARY), VOCABULARY)

    assert (points[0].items_sent_share, points[0].agent_calls_share) == (0.0, 0.0)
    assert (points[-1].items_sent_share, points[-1].precision, points[-1].recall) == (1.0, 1.0, 1.0)
    shares, recalls = [p.agent_calls_share for p in points], [p.recall for p in points]
    assert shares == sorted(shares) and recalls == sorted(recalls)
    assert points[0].recall < 0.9 < find_cheapest(points, 0.9).recall


def test_split_ignores_order_and_keeps_product_types_whole() -> None:
    answers = [
        (
            Content.from_listing(f"THING {n}", {}),
            ProductKnowledge(vocabulary="v", claims=(), product_type=f"size {n % 7} kind{n % 60}"),
        )
        for n in range(600)
    ]
    parts, reversed_parts = split_answers(answers), split_answers(answers[::-1])

    assert sorted([*parts.train, *parts.random_items, *parts.unseen_types]) == list(range(600))
    assert {599 - index for index in reversed_parts.random_items} == set(parts.random_items)
    kinds = {answers[index][1].product_type.split()[-1] for index in parts.unseen_types}
    assert kinds and not kinds & {answers[index][1].product_type.split()[-1] for index in (*parts.train, *parts.random_items)}


def test_nearest_copy_returns_the_nearest_items_answer() -> None:
    vectors, answers = make_world(7, 100)

    assert copy_nearest(vectors, answers, vectors[:5]) == answers[:5]
    copied = build_predicted_claims(answers[:5], VOCABULARY)
    scores = score_claims(copied, build_targets(answers[:5], VOCABULARY), VOCABULARY)
    assert copied.claimed.sum() == 15 and scores[-1].recall == 1.0
