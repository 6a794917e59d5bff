"""What a command prints of others' text is plain text: no markup, no control characters, no lines that it does not own."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
import typer
from hypothesis import given
from hypothesis import strategies as st

import cli
import demo
from cli.knowledge_card import print_card
from cli.terminal import build_table, exit_on_error, open_console
from pipelines.explanation import ExplainedRanking
from pipelines.neighbors import CatalogNeighbor
from reaseq.errors import ReaSeqError
from reaseq.knowledge.llm.ledger import Cost, Entry
from reaseq.knowledge.llm.request import Completion
from reaseq.plain_text import plain
from reaseq.ranker.explain import Contribution, Explanation
from reaseq.records import Claim, ProductKnowledge
from streams.delivery.dead_letters import DeadLetter
from streams.delivery.messages import RawRecord
from tests.commands import run_command
from tests.fakes.catalog import item

HOSTILE = "[/nope] [link=http://evil]link[/] :boom: \x1b[2J\x1b]8;;http://evil\x07\x9b31m\r\nforged\x00\x7f\u202e\u2028\ud800"
SHOWN = r"[/nope] [link=http://evil]link[/] :boom: \x1b[2J\x1b]8;;http://evil\x07\x9b31m\r\nforged\x00\x7f\u202e\u2028\ud800"
HOSTILE_UTF8 = HOSTILE.replace("\ud800", "")  # what a record can hold
SHOWN_UTF8 = SHOWN.replace(r"\ud800", "")
WIDE = {"COLUMNS": "2000"}


@given(st.text(st.characters()))
def test_plain_text_prints_in_one_line_and_keeps_what_prints(text: str) -> None:
    assert plain(text).isprintable()
    if text.isprintable():
        assert plain(text) == text


def test_characters_that_do_not_print_are_escaped() -> None:
    assert plain(HOSTILE) == SHOWN
    assert plain("Kerze „Weiß“, 5 £ 🕯 蜡烛") == "Kerze „Weiß“, 5 £ 🕯 蜡烛"
    assert plain(7) == "7"


def test_table_and_console_interpret_no_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", WIDE["COLUMNS"])
    console = open_console()
    console.print(build_table(HOSTILE, [HOSTILE], [[HOSTILE]]))
    console.print(f"text {plain(HOSTILE)}")

    printed = capsys.readouterr().out
    assert printed.count(SHOWN) == 4
    assert_plain(printed)


def test_error_is_one_line_and_further_lines_are_indented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), exit_on_error():
        raise ReaSeqError("\x1b[2Jthe end of the log:\nerror: forged\r")

    assert capsys.readouterr().err == "error: \\x1b[2Jthe end of the log:\n  error: forged\\r\n"


def dead_letter(failed_ms: int = 0) -> DeadLetter:
    text = HOSTILE_UTF8
    record = RawRecord(text, text.encode(), text.encode(), 0, ((text, text.encode()),))
    return DeadLetter(text, record, text, text, text, 1, failed_ms, failed_ms, cut_bytes=0)


def patch_dead_letters(monkeypatch: pytest.MonkeyPatch, *found: DeadLetter) -> None:
    queue = SimpleNamespace(read_open=lambda matching: iter(found), in_quarantine=lambda dead_letter: False)
    monkeypatch.setattr("cli.dead_letters._build_queue", lambda settings: queue)


def show_dead_letters(monkeypatch: pytest.MonkeyPatch) -> str:
    patch_dead_letters(monkeypatch, dead_letter())
    return run("dead-letters", "list") + run("dead-letters", "show", "any")


def show_neighbors(monkeypatch: pytest.MonkeyPatch) -> str:
    near = CatalogNeighbor(item_id=HOSTILE, title=HOSTILE, cosine=0.5, shared_claims=1, semantic_id=HOSTILE)
    monkeypatch.setattr("pipelines.neighbors.find_neighbors", lambda settings, item, count: (HOSTILE, [near]))
    return run("representation", "neighbors", HOSTILE_UTF8)


def show_costs(monkeypatch: pytest.MonkeyPatch) -> str:
    cost = Cost(HOSTILE, 1, 0, 1, 0, 1, 1.0, 0)
    monkeypatch.setattr("cli.knowledge._open_ledger", lambda: SimpleNamespace(costs=lambda by, limit: [cost]))
    return run("knowledge", "cost", "--by", "model")


def show_ranking(monkeypatch: pytest.MonkeyPatch) -> str:
    behaviors = (Contribution(HOSTILE, None, 0.5, 0.1),)
    best = Explanation(HOSTILE, 0.5, behaviors, {"history": 0.1}, 0, None, None)
    ranking = ExplainedRanking(HOSTILE, False, 0, 1, [best], {HOSTILE: HOSTILE})
    monkeypatch.setattr("pipelines.explanation.rank_and_explain", lambda *arguments: ranking)
    return run("rank", HOSTILE_UTF8)


def show_parity(monkeypatch: pytest.MonkeyPatch) -> str:
    found = SimpleNamespace(rows=1, results={HOSTILE: {"different": 1}}, different=[HOSTILE])
    monkeypatch.setattr("features.parity.read_served_features", lambda folder: [])
    monkeypatch.setattr("features.parity.compare", lambda repository, served: found)
    monkeypatch.setattr("features.repository.FeatureRepository", lambda settings: None)
    return run("features", "parity", status=1)


def test_parity_of_nothing_served_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REASEQ_STATE_DIR", str(tmp_path))

    assert "nothing was served: set REASEQ_SERVICE__SERVED_FEATURE_LOG_SHARE" in " ".join(run("features", "parity").split())


def show_erasure(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("streams.operations.erasure.request_erasure", lambda kafka, user: None)
    return run("forget", HOSTILE_UTF8)


@pytest.mark.parametrize(
    "show",
    [show_dead_letters, show_neighbors, show_costs, show_ranking, show_parity, show_erasure],
    ids=lambda show: show.__name__,
)
def test_command_shows_text_from_elsewhere_as_it_is(
    monkeypatch: pytest.MonkeyPatch, show: Callable[[pytest.MonkeyPatch], str]
) -> None:
    printed = show(monkeypatch)

    assert SHOWN_UTF8 in printed
    assert_plain(printed)


def test_dead_letter_with_an_impossible_time_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_dead_letters(monkeypatch, dead_letter(failed_ms=10**15 - 1))

    assert str(10**15 - 1) in run("dead-letters", "list") and str(10**15 - 1) in run("dead-letters", "show", "any")


def test_knowledge_card_shows_text_from_elsewhere_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", WIDE["COLUMNS"])
    claim = Claim(HOSTILE, HOSTILE, 0.5, HOSTILE, HOSTILE)
    knowledge = ProductKnowledge(
        vocabulary=HOSTILE,
        claims=(claim,),
        product_type=HOSTILE,
        profile=HOSTILE,
        complements=(HOSTILE,),
        substitutes=(HOSTILE,),
    )
    texts = {"title": HOSTILE, "seller_id": HOSTILE, "content": HOSTILE, "fingerprint": HOSTILE}
    record = item(1, **texts, attributes={HOSTILE: HOSTILE}, knowledge=knowledge)
    answered = Entry("f", HOSTILE, HOSTILE, "i", "s", "c", Completion(text='{"reasoning": "[/nope] one\\n\\u001b[2Jtwo"}'))
    rejected = Entry("f", HOSTILE, HOSTILE, "i", "s", "c", Completion(rejected=HOSTILE))

    print_card(open_console(), record, [answered, rejected])

    printed = capsys.readouterr().out
    assert printed.count(SHOWN) == 19 and "[/nope] one [2Jtwo" in printed
    assert_plain(printed)


def test_log_lines_of_a_command_carry_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    def request_erasure(kafka: object, user: str) -> None:
        structlog.get_logger().warning("logged", user=HOSTILE, other=HOSTILE.split()[1])

    monkeypatch.setattr("streams.operations.erasure.request_erasure", request_erasure)
    printed = run_command("forget", "u", env={}).stderr

    assert "logged" in printed
    assert_plain(printed)


def test_only_one_place_opens_consoles() -> None:
    """A console opened elsewhere would interpret markup."""
    assert [path.name for path in sources() if re.search(r"\bConsole\(|from_markup|get_console", path.read_text())] == [
        "terminal.py"
    ]


def sources() -> Iterator[Path]:
    for package in (cli, demo):
        yield from Path(next(iter(package.__path__))).glob("*.py")


def run(*arguments: str, status: int = 0) -> str:
    done = run_command(*arguments, env=WIDE)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def assert_plain(printed: str) -> None:
    assert all(line.isprintable() for line in printed.split("\n"))
    assert not any(line.startswith("forged") for line in printed.split("\n"))
