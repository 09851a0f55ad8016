"""What the benchmark counts, in which order it runs, and what it takes for a prompt."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from homes import fill_home

from edgespec.benchmark import Prompt, Row, measure, read_prompts, summarize
from edgespec.benchmark.prompts import fingerprint
from edgespec.benchmark.trace import STRIDE, Trace
from edgespec.chat.events import Event, PromptProgress, TextDelta
from edgespec.chat.session import Chat, Settings
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.protocols import Fixed, Policy
from edgespec.decoding.sampling import Sampling
from edgespec.decoding.stats import Round, Stats
from edgespec.engine import open_chat
from edgespec.errors import UsageError

MT_BENCH = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
OTHERS = {"translation", "summarization", "qa", "math_reasoning", "rag"}
TWO_TURNS = Prompt("1", "chat", ("the cat and the dog", "again"))
ONE_TURN = Prompt("2", "qa", ("hello there",))
TOO_LONG = Prompt("3", "rag", ("word " * 300,))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def chat(home: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    monkeypatch.setenv("EDGESPEC_HOME", str(home))
    chat = open_chat("tiny", draft="none", settings=Settings(max_tokens=16))
    chat.use(Fixed(NgramDrafter()), chat.settings)  # a controller would go by the clock
    return chat


def nothing(done: float) -> None:
    pass


def test_rows(chat: Chat) -> None:
    done: list[float] = []
    policy, settings = chat.policy, chat.settings
    rows = list(measure(chat, [TWO_TURNS, ONE_TURN], repeat=2, progress=done.append))
    assert done == [0.5, 1.0]
    assert [(row.question_id, row.category) for row in rows] == [("1", "chat"), ("2", "qa")]
    assert [row.tokens for row in rows] == [2 * 2 * 16, 2 * 16]
    for row in rows:
        assert row.same_text
        assert row.stats.emitted == row.tokens
        assert row.stats.proposed > 0
        assert 0 < row.stats.draft_ms + row.stats.verify_ms <= row.spec_ms
        assert row.plain_ms > 0
        assert row.trace.arms["ngram"].accepted == row.stats.accepted
        assert sum(map(sum, row.trace.tokens.values())) == row.tokens
        assert max(map(len, row.trace.tokens.values())) == 16 // STRIDE
        assert row.plain_joules is None
        assert row.spec_joules is None
    assert (chat.policy, chat.settings) == (policy, settings)


def test_energy_is_that_of_decoding_alone(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """A meter on which reading a prompt takes 1000 J a turn, and every pass of decoding 1 J."""
    used = [0.0]
    send = chat.send

    def metered(text: str) -> Iterator[Event]:
        for event in send(text):
            used[0] += 1.0 if isinstance(event, TextDelta) else 1000.0 if isinstance(event, PromptProgress) else 0.0
            yield event

    monkeypatch.setattr(chat, "send", metered)
    (row,) = measure(chat, [TWO_TURNS], repeat=2, progress=nothing, joules=lambda: used[0])
    assert row.plain_joules == row.plain_tokens == 2 * 2 * 16
    assert row.spec_joules == row.stats.rounds
    assert used[0] > 1000.0
    total = summarize([row])
    assert (total.plain_joules_per_token, total.spec_joules_per_token) == (1.0, row.stats.rounds / row.tokens)
    assert summarize([replace(row, spec_joules=float("nan"))]).spec_joules_per_token is None
    assert summarize([row, replace(row, spec_joules=None)]).spec_joules_per_token is None


def test_plain_is_without_exact_mode_and_takes_turns_with_the_other(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    use = chat.use

    def note(policy: Policy | None, settings: Settings) -> None:
        order.append(("exact" if settings.exact_mode else "fast") + (" plain" if policy is None else " spec"))
        use(policy, settings)

    monkeypatch.setattr(chat, "use", note)
    list(measure(chat, [ONE_TURN, TWO_TURNS], repeat=2, progress=nothing))
    pair = ["fast plain", "exact spec"]
    there_and_back = [*pair, *pair[::-1], "exact plain", *pair[::-1], *pair, "exact plain"]
    assert order == [*pair, *there_and_back, "exact spec"], "both warm up, then they take turns"


def test_texts_that_differ_are_told(chat: Chat) -> None:
    """Sampled without a seed, two runs say two things."""
    chat.use(None, Settings(max_tokens=16, sampling=Sampling(temperature=5.0)))
    (row,) = measure(chat, [ONE_TURN], progress=nothing)
    assert not row.same_text


def test_what_does_not_fit_is_left_out(chat: Chat) -> None:
    growing = Prompt("4", "chat", ("the cat and the dog", "word " * 300))
    rows = list(measure(chat, [TOO_LONG, growing, ONE_TURN], progress=nothing))
    assert [(row.question_id, row.tokens) for row in rows] == [("4", 16), ("2", 16)]
    with pytest.raises(UsageError, match="No prompt fits the context: raise --ctx-size"):
        summarize(measure(chat, [TOO_LONG], progress=nothing))


def row(category: str, tokens: int, plain: tuple[int, float], spec_ms: float, same: bool = True) -> Row:
    stats = Stats()
    for i in range(tokens // 4):
        accepted = 3 if i % 2 else 1
        added = tuple(range(accepted + 1))
        extra = "bonus" if accepted == 3 else "correction"
        stats.add(Round(added, (7, 7, 7), min(accepted + 1, 3), accepted, extra, "ngram", 1.0, 2.0, 4.0))
    return Row("1", category, tokens, plain[0], plain[1], spec_ms, stats, same)


def test_the_speed_up_is_that_of_the_totals() -> None:
    rows = [row("a", 100, (100, 1000.0), 500.0), row("b", 16, (8, 160.0), 320.0, same=False)]
    total = summarize(rows)
    assert total.plain_tps == pytest.approx(108 / 1.16)
    assert total.spec_tps == pytest.approx(116 / 0.82)
    assert total.speedup == pytest.approx((116 / 0.82) / (108 / 1.16))
    assert total.same_text == 0.5
    both = [r.stats for r in rows]
    assert total.acceptance == sum(s.accepted for s in both) / sum(s.tested for s in both)
    assert total.tokens_per_round == 116 / sum(s.rounds for s in both)
    assert summarize(rows[:1]).speedup == pytest.approx(2.0)
    assert summarize([Row("1", "a", 4, 4, 10.0, 10.0, Stats(), True)]).acceptance is None


def test_a_trace_counts_tokens_where_they_stand() -> None:
    first, second = Trace(), Trace()
    plain = Round((1,), (), 0, 0, "plain", "plain", 0.0, 1.0, 1.0)
    draft = Round((1, 2, 3, 4), (1, 2, 3), 3, 3, "bonus", "ngram", 0.0, 1.0, 1.0)
    first.add(0, plain)
    first.add(STRIDE - 1, draft)  # one token in the first stride, three in the next
    second.add(3 * STRIDE, draft)
    first.merge(second)
    assert first.tokens == {"plain": [1], "ngram": [1, 3, 0, 4]}
    assert (first.arms["ngram"].rounds, first.arms["ngram"].accepted, first.arms["plain"].rounds) == (2, 6, 1)


def test_a_fingerprint_is_of_the_prompts_and_their_order() -> None:
    other = replace(ONE_TURN, turns=("hello you",))
    found = {fingerprint(p) for p in ([ONE_TURN, TWO_TURNS], [TWO_TURNS, ONE_TURN], [other, TWO_TURNS], [ONE_TURN])}
    assert len(found) == 4
    assert fingerprint([ONE_TURN]) == fingerprint([replace(ONE_TURN)])


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def line(number: int, category: str = "qa", turn: str = "Why?") -> str:
    return json.dumps({"question_id": number, "category": category, "turns": [turn]}, ensure_ascii=False)


def test_a_file_of_prompts(tmp_path: Path) -> None:
    odd = "one\u2028two\x85three"  # where Python would split lines and JSON would not
    path = write(tmp_path / "p.jsonl", line(1), "", line(2, "rag", odd), line(3), line(4), line(5, "rag"))
    assert [p.question_id for p in read_prompts(path)] == ["1", "2", "3", "4", "5"]
    assert [p.question_id for p in read_prompts(path, 2)] == ["1", "2", "3", "5"]
    assert read_prompts(path)[1] == Prompt("2", "rag", (odd,))


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        "3",
        '"text"',
        '{"category": "qa", "turns": ["Why?"]}',
        '{"question_id": 1, "category": "qa"}',
        '{"question_id": 1, "category": "qa", "turns": []}',
        '{"question_id": 1, "category": "qa", "turns": "Why?"}',
        '{"question_id": 1, "category": "qa", "turns": null}',
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, bad: str) -> None:
    path = write(tmp_path / "p.jsonl", line(1), "", bad)
    with pytest.raises(UsageError, match=r"line 3 of .*p\.jsonl is no prompt; it needs"):
        read_prompts(path)


def test_files_without_prompts(tmp_path: Path) -> None:
    (tmp_path / "latin1").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "latin1"):
        with pytest.raises(UsageError, match=r"cannot be read .*--prompts takes a file of JSON lines"):
            read_prompts(path)
    with pytest.raises(UsageError, match="holds no prompts"):
        read_prompts(write(tmp_path / "empty.jsonl", ""))


def test_the_prompts_that_come_along_cover_spec_bench() -> None:
    prompts = read_prompts()
    assert {p.category for p in prompts} == MT_BENCH | OTHERS
    assert max(Counter(p.question_id for p in prompts).values()) == 1
    assert all(turn.strip() for p in prompts for turn in p.turns)
