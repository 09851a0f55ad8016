"""F3 and F4: where each token came from, and what it took."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scripted import (
    ScriptedChat,
    answered,
    app_for,
    ask,
    converse,
    idle,
    make_round,
    screen_text,
    wait_for_text,
    wait_until,
)
from textual.pilot import Pilot

from edgespec.conversations.recorder import Recorder
from edgespec.decoding.costs import Costs, DraftCost
from edgespec.decoding.stats import Round
from edgespec.tui.tokens import Look, TokenLines, origins
from edgespec.tui.transcript import Transcript
from edgespec.tui.turns import kept_turn

WORDS = {0: b"Once", 1: b" upon", 2: b" a", 3: b" time", 9: b" moon"}


def a_round(tokens: tuple[int, ...], proposed: tuple[int, ...], tested: int, accepted: int) -> Round:
    extra = "plain" if not proposed else "correction" if accepted < tested else "bonus"
    return Round(tokens, proposed, tested, accepted, extra, "ngram" if proposed else "plain", 1.0, 8.0, 10.0)


def shown(rounds: list[Round], look: Look, words: dict[int, bytes] = WORDS) -> list[str]:
    lines = TokenLines(look, words.__getitem__)
    for done in rounds:
        lines.add(done)
    return [line.plain for line in lines.lines]


CORRECTED = a_round((0, 1, 2), (0, 1, 9, 3), tested=3, accepted=2)
MARKED = Look(60, marked=True, rejected=True)


def test_each_token_says_where_it_came_from() -> None:
    assert [o for _, o in origins(CORRECTED)] == ["accepted", "accepted", "rejected", "correction"]
    assert shown([CORRECTED], MARKED) == ["[Once][ upon]- moon-~ a"]
    assert shown([a_round((0, 1, 2), (0, 1), 2, 2), a_round((3,), (), 0, 0)], MARKED) == ["[Once][ upon]+ a time"]


def test_the_rejected_are_there_only_on_demand() -> None:
    assert shown([CORRECTED], Look(60)) == ["Once upon a"]
    assert "moon" not in shown([a_round((0,), (1, 9), 2, 0)], MARKED)[0]  # it stood behind a rejection: not tested


def test_half_a_character_joins_the_next_cell() -> None:
    words = {0: b"\xf0\x9f", 1: b"\x98\x80", 2: b"!"}
    assert shown([a_round((0, 1, 2), (0, 1), 2, 2)], MARKED, words) == ["[😀]+!"]


def test_no_token_reaches_the_terminal_as_a_command() -> None:
    words = {0: b"\x1b[2J", 1: b"[/]", 2: b"\n\xe2\x80\xae"}
    assert shown([a_round((0, 1, 2), (0, 1), 2, 2)], Look(60), words) == ["␛[2J[/]↵", "�"]


@pytest.mark.parametrize("width", [1, 2, 7, 30])
def test_tokens_are_wrapped(width: int) -> None:
    lines = shown([CORRECTED] * 5, Look(width, marked=True))
    assert all(len(line) <= max(width, 2) for line in lines)
    assert "".join(lines) == "[Once][ upon]~ a" * 5


def test_an_update_draws_only_what_is_new() -> None:
    asked: list[int] = []
    lines = TokenLines(Look(40), lambda token: asked.append(token) or WORDS[token])
    firsts: list[int] = []
    for _ in range(200):
        asked.clear()
        firsts.append(lines.add(CORRECTED))
        assert len(asked) == 4
    assert len(lines.lines) - firsts[-1] <= 2


async def test_the_token_view_grows_with_the_answer(chat: ScriptedChat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    chat.words = WORDS
    app = app_for(chat)
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot, "story?")
        chat.say("Once upon a", CORRECTED)
        await wait_for_text(pilot, "Once upon a")
        await pilot.press("f3")
        await wait_for_text(pilot, "[Once][ upon]~ a")
        chat.say(" time", a_round((3,), (), 0, 0))
        await wait_for_text(pilot, "[Once][ upon]~ a time")
        assert "[accepted] 2   +bonus 0   ~correction 1   plain 1   -rejected- 1" in screen_text(app)
        await pilot.press("r")
        await wait_for_text(pilot, "[Once][ upon]- moon-~ a time")
        chat.finish()
        await pilot.press("escape")
        await answered(pilot, 1)
        assert chat.answers[0].finish_reason == "stop"  # Esc closed the view, it did not stop the answer


async def test_earlier_answers_can_be_looked_at(chat: ScriptedChat) -> None:
    chat.words = WORDS
    app = app_for(chat)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await pilot.press("f3")
        await wait_for_text(pilot, "Nothing has been answered yet.")
        for turns, done in enumerate([CORRECTED, a_round((3,), (), 0, 0)], start=1):
            await ask(pilot, f"question {turns}")
            chat.say("text", done)
            chat.finish()
            await answered(pilot, turns)
        await pilot.press("f3")
        await wait_for_text(pilot, "Answer 2 of 2 · 1 tok  question 2")
        await pilot.press("left", "left")
        await wait_for_text(pilot, "Answer 1 of 2 · 3 tok  question 1")
        await wait_for_text(pilot, "Once upon a")
        await pilot.press("f3")
        await wait_until(pilot, lambda: "Answer 1 of 2" not in screen_text(app))
        assert app.query_one(Transcript)


async def test_the_statistics_have_a_row_for_each_answer(chat: ScriptedChat) -> None:
    passes = (5.0, 6.0, 7.5)
    chat.costs = Costs((128, 1024), (passes, passes), (5.0, 5.0), {"ngram": DraftCost(0.05, 0.01)})
    app = app_for(chat)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("f4")
        await wait_for_text(pilot, "none yet")
        await pilot.press("escape")
        await ask(pilot, "one")
        for _ in range(3):
            chat.say("x ", make_round(2, 3, 4))
        await pilot.press("f4")
        await wait_until(pilot, lambda: "1     9   100.0" in screen_text(app))
        assert "67 % 6/9       3.0  ngram k=4 100 %" in screen_text(app)
        assert "3  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━    7.50 ms   1.50 plain passes" in screen_text(app)
        assert "draft ngram: 0.05 ms, 0.01 for each token" in screen_text(app)
        chat.finish()


PLAIN = a_round((3,), (), 0, 0)


async def told(pilot: Pilot[None], chat: ScriptedChat) -> None:
    """One answer of two rounds."""
    await ask(pilot, "story?")
    chat.say("Once upon a", CORRECTED)
    chat.say(" time", PLAIN)
    chat.finish()
    await answered(pilot, 1)


async def resume(pilot: Pilot[None]) -> None:
    await wait_until(pilot, lambda: idle(pilot) and getattr(pilot.app, "chat", None))
    await ask(pilot, "/history story")
    await wait_for_text(pilot, "1 conversation")
    await pilot.press("enter")
    await wait_for_text(pilot, "Once upon a time")


async def test_a_resumed_answer_has_its_figures_and_tokens(
    chat: ScriptedChat, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with app_for(chat, recorder).run_test(size=(100, 30)) as pilot:
        await told(pilot, chat)
    again = ScriptedChat()
    again.words = WORDS
    async with app_for(again, recorder).run_test(size=(100, 30)) as pilot:
        await pilot.press("ctrl+n")
        await resume(pilot)
        await pilot.press("f3")
        await wait_for_text(pilot, "[Once][ upon]~ a time")
        assert "Answer 1 of 1 · 4 tok  story?" in screen_text(pilot.app)
        assert "[accepted] 2   +bonus 0   ~correction 1   plain 1   -rejected- –" in screen_text(pilot.app)
        assert "what was rejected was not kept" in screen_text(pilot.app)
        await pilot.press("escape", "f4")
        await wait_for_text(pilot, "1     4   200.0   0.42 s        67 % 2/3       2.0  ngram 50 % · plain 50 %")
        await pilot.press("escape")
        await converse(pilot, again, ("more?", "No."))
        await pilot.press("f4")
        await wait_until(pilot, lambda: "2     3   100.0" in screen_text(pilot.app))
    recorder.close()


async def test_another_tokenizers_answer_says_why_its_tokens_are_not_shown(
    chat: ScriptedChat, recorder: Recorder
) -> None:
    async with app_for(chat, recorder).run_test(size=(100, 30)) as pilot:
        await told(pilot, chat)
    chat.tokenizer_sha256 = "6" * 64
    async with app_for(chat, recorder).run_test(size=(100, 30)) as pilot:
        await pilot.press("ctrl+n")
        await resume(pilot)
        await pilot.press("f3")
        await wait_for_text(pilot, "only be read while a model with the tokenizer of scripted-1b is open")
    recorder.close()


async def test_what_was_kept_of_an_answer_gives_its_rounds_again(chat: ScriptedChat, recorder: Recorder) -> None:
    rounds = [CORRECTED, PLAIN, a_round((0, 1, 2), (0, 1), 2, 2), replace(CORRECTED, tokens=(0, 1), extra=None)]
    async with app_for(chat, recorder).run_test(size=(100, 30)) as pilot:
        await ask(pilot, "story?")
        for done in rounds:
            chat.say("x", done)
        chat.finish()
        await answered(pilot, 1)
    entry = recorder.conversation.path()[-1]
    kept = kept_turn(entry, "story?", chat)
    assert [(r.tokens, r.accepted, r.extra) for r in kept.rounds] == [(r.tokens, r.accepted, r.extra) for r in rounds]
    for figures in (None, {}, {"marks": 3}, {"marks": "a"}):
        unknown = kept_turn(replace(entry, figures=figures), "story?", chat)
        assert unknown.rounds == []
        assert "was not kept" in unknown.note
    recorder.close()
