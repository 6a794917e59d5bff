"""Vocabulary files and the migrations between their versions."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo import ANSWERS
from reaseq.errors import CatalogError, VocabularyError
from reaseq.knowledge.recorded import read_answers
from reaseq.knowledge.vocabulary import DEFINITION_LIMIT_CHARS, VOCABULARIES, Vocabulary, load_vocabulary
from reaseq.records import Claim, ProductKnowledge

BUNDLED = sorted(path.stem for path in VOCABULARIES.glob("*.yaml"))
GROUP = "agent: demand, question: 'What for?', least: 0, most: 1"


def write_vocabulary(folder: Path, name: str, text: str) -> Vocabulary:
    path = folder / f"{name}.yaml"
    path.write_text(f"version: {name}\ntitle: A test\n{text}")
    return load_vocabulary(str(path))


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_vocabulary_is_consistent_and_uses_every_agent(name: str) -> None:
    vocabulary = load_vocabulary(name)

    assert {group.agent for group in vocabulary.groups} == {"demand", "attribute", "relation"}
    for group in vocabulary.groups:
        assert 0 <= group.least <= group.most and group.question.endswith("?")
        assert all(len(definition) <= DEFINITION_LIMIT_CHARS for definition in group.values.values())
    assert sorted(vocabulary.claim_id(*claim) for claim in vocabulary) == list(range(1, vocabulary.size))


def test_packs_inherit_from_their_base() -> None:
    assert {"retail-2", "content-1", "giftware-3", "beauty-2"} <= set(BUNDLED)
    retail, giftware = load_vocabulary("retail-2"), load_vocabulary("giftware-3")
    inherited = {group.name: group for group in retail.groups}["colours"]
    assert {group.name: group for group in giftware.groups}["colours"] == inherited


def test_pack_replaces_adds_and_inherits_groups(tmp_path: Path) -> None:
    pack = write_vocabulary(
        tmp_path,
        "wine-1",
        "base: retail-1\ngroups:\n"
        f"  category: {{{GROUP}, values: {{red_wine: Red., white_wine: White.}}}}\n"
        "  occasions: {adds: {tasting: Wines are compared.}}\n",
    )

    groups = {group.name: group for group in pack.groups}
    assert list(groups["category"].values) == ["red_wine", "white_wine"]
    assert {"tasting", "birthday"} <= set(groups["occasions"].values)
    assert groups["colours"] == {group.name: group for group in load_vocabulary("retail-1").groups}["colours"]


def test_knowledge_is_migrated_step_by_step(tmp_path: Path) -> None:
    group = "  needs: {" + GROUP + ", values: {VALUES}}\n"
    second = write_vocabulary(
        tmp_path,
        "wine-2",
        "migrates: {from: wine-1, renamed: {needs: {boozing: drinking}}, dropped: {needs: [gambling]}}\ngroups:\n"
        + group.replace("VALUES", "drinking: To drink., giving: To give., cellaring: To keep."),
    )
    first = ProductKnowledge(
        vocabulary="wine-1", claims=tuple(Claim("needs", value, 1.0, "x") for value in ("boozing", "gambling", "giving"))
    )

    adopted = second.adopt(first)

    assert adopted.vocabulary == "wine-2"
    assert adopted.values("needs") == ("drinking", "giving")
    assert len(second.claim_ids(first)[0]) == 2
    with pytest.raises(VocabularyError, match="'wine-0'"):
        second.adopt(ProductKnowledge(vocabulary="wine-0", claims=()))


def test_migrated_recorded_answers_lose_only_dropped_values() -> None:
    vocabulary = load_vocabulary("giftware-3")
    answers = [knowledge for _, knowledge in read_answers(ANSWERS, vocabulary)]

    assert len(answers) > 3000
    assert any("silver_plated" in knowledge.values("materials") for knowledge in answers)
    without = [knowledge for knowledge in answers if not knowledge.values("category")]
    assert 0 < len(without) < 0.01 * len(answers), "only adjustments and postage, which are not products"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: {needs: {agent: boss, question: What?, values: {a: A.}}}\n", "groups"),
        ("groups: {needs: {" + GROUP + ", values: {Not A Name: A.}}}\n", "groups"),
        ("groups: {needs: {" + GROUP + ", values: {a: }}}\n", "groups"),
        ("groups: {needs: {" + GROUP + ", valeus: {a: A.}}}\n", "valeus"),
        ("groups: {needs: {" + GROUP + "}}\n", "needs"),
        ("groups: {needs: {adds: {a: A.}}}\n", "needs"),
        ("groups: [\n", "broken-1.yaml"),
        (
            "base: retail-1\ngroups: {more: {" + GROUP.replace("most: 1", "most: 2") + ", values: {a: A., b: B.}}}\n",
            "34 claims",
        ),
        ("base: retail-99\ngroups: {}\n", "retail-99"),
        (
            "migrates: {from: x-1, renamed: {needs: {a: z}}}\ngroups: {needs: {" + GROUP + ", values: {b: B.}}}\n",
            "needs=z",
        ),
    ],
)
def test_broken_file_is_rejected_with_its_name_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message) as raised:
        write_vocabulary(tmp_path, "broken-1", text)
    assert "\n" not in str(raised.value)


def test_file_that_is_no_text_is_rejected_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "binary-1.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "deep-1.yaml").write_text("[" * 5000)
    for name in ("binary-1.yaml", "deep-1.yaml"):
        with pytest.raises(VocabularyError, match=name):
            load_vocabulary(str(tmp_path / name))


def test_file_without_recorded_answers_is_rejected_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"description": ["MUG"]}), tmp_path / "other.parquet")
    (tmp_path / "folder.parquet").mkdir()
    for name, message in (
        ("missing", "missing.parquet has no recorded answers: No such file"),
        ("text", "text.parquet has no recorded answers"),
        ("other", "other.parquet has no recorded answers: no column complements, product_type, profile, substitutes"),
        ("folder", "folder.parquet has no recorded answers"),
    ):
        with pytest.raises(CatalogError, match=message):
            list(read_answers(tmp_path / f"{name}.parquet", load_vocabulary("giftware-3")))


def test_file_name_must_match_the_version(tmp_path: Path) -> None:
    (tmp_path / "mine-2.yaml").write_text("version: mine-1\ntitle: x\ngroups: {}\n")

    with pytest.raises(VocabularyError, match="mine-1"):
        load_vocabulary(str(tmp_path / "mine-2.yaml"))
