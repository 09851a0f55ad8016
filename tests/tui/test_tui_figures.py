"""The figures on the screen are those that Stats has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scripted import ScriptedChat, answered, app_for, ask, make_round, screen_text, wait_for_text, wait_until
from textual.widgets import Digits

from edgespec.decoding.stats import Choice, Stats
from edgespec.tui import figures

ROUNDS = [make_round(3, 4, 4), make_round(4, 4, 4), make_round(0, 1, 4), make_round(1, 2, 3), make_round(0, 0, 0)]


def sidebar_lines(app_text: str) -> list[str]:
    """The sidebar's words, blanks squeezed: it is the last 34 columns."""
    return [" ".join(line[-34:].split()) for line in app_text.splitlines()]


async def test_the_sidebar_lives_while_the_answer_streams(chat: ScriptedChat) -> None:
    app = app_for(chat)
    stats = Stats()
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "go")
        for r in ROUNDS:
            chat.say("word ", r)
            stats.add(r)
        expected = {
            f"accepted 73 % {stats.accepted}/{stats.tested}",
            f"tokens per round {stats.emitted / stats.rounds:.1f}",
            "draft 10 verify 80 loop 10",
            f"used {stats.emitted} of 2.0k",
            f"tokens {stats.emitted}",
        }
        for number, position in enumerate(stats.per_position, start=1):
            share = position.accepted / position.tested
            bar = "━" * round(share * 19) + "─" * (19 - round(share * 19))
            expected.add(f"{number} {bar} {100 * share:.0f} %")
        await wait_until(pilot, lambda: expected <= set(sidebar_lines(screen_text(app))))
        assert chat.sending.is_set()
        spent_ms = sum(r.total_ms for r in ROUNDS)
        assert app.query_one("#speed", Digits).value == f"{stats.emitted / spent_ms * 1e3:.1f}"


async def test_the_sidebar_says_what_was_chosen_and_why(chat: ScriptedChat) -> None:
    app = app_for(chat)
    doubtful = Choice("plain", 1.0, 1.0, Choice("ngram", 1.1, 1.25))
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "go")
        for _ in range(3):
            chat.say("word ", replace(make_round(3, 4, 4), arm="ngram", choice=Choice("ngram", 2.4, 1.6)))
        lines = lambda: " ".join(sidebar_lines(screen_text(app)))  # noqa: E731
        await wait_until(pilot, lambda: "ngram: 2.4 tokens expected for 1.6 passes" in lines())
        chat.say("word ", replace(make_round(0, 0, 0), choice=doubtful))
        await wait_until(pilot, lambda: "plain: ngram would add 0.10 tokens for 0.25 passes" in lines())
        expected = {"rounds: ngram 75 %", "rounds: plain 25 %"}
        await wait_until(pilot, lambda: expected <= set(sidebar_lines(screen_text(app))))
        chat.finish()


async def test_against_plain_are_the_plain_rounds_of_this_chat(chat: ScriptedChat) -> None:
    app = app_for(chat)
    plain, drafted = make_round(0, 0, 0, ms=10.0), make_round(2, 3, 4, ms=15.0)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "go")
        for r in (plain, drafted, drafted, drafted, plain, drafted, drafted, drafted):
            chat.say("word ", r)
        await wait_until(pilot, lambda: "tokens 20" in sidebar_lines(screen_text(app)))
        assert "against plain –" in sidebar_lines(screen_text(app))
        chat.say("word ", plain)
        times = (3 * 1 + 6 * 3) * 10 / (3 * 10 + 6 * 15)
        await wait_until(pilot, lambda: f"{times:.2f}x plain (100.0) 0 s ago" in sidebar_lines(screen_text(app)))
        chat.finish()


async def test_nothing_is_claimed_from_two_rounds(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "go")
        chat.say("one ")
        chat.say("two")
        await wait_until(pilot, lambda: "tokens 6" in sidebar_lines(screen_text(app)))
        assert app.query_one("#speed", Digits).value == "–"
        assert "tokens per round –" in sidebar_lines(screen_text(app))
        chat.finish()
        await wait_until(pilot, lambda: app.query_one("#speed", Digits).value == "100.0")
        assert "first token 0.42 s" in sidebar_lines(screen_text(app))


async def test_each_answer_has_its_own_figures_and_the_chat_has_the_sum(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        for turns, r in enumerate([make_round(4, 4, 4), make_round(0, 1, 4)], start=1):
            await ask(pilot, "go")
            for _ in range(3):
                chat.say("word ", r)
            chat.finish()
            await answered(pilot, turns)
        expected = {"accepted 0 % 0/3", "accepted 80 %", "tokens 18"}
        await wait_until(pilot, lambda: expected <= set(sidebar_lines(screen_text(app))))
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: "tokens –" in sidebar_lines(screen_text(app)))


async def test_a_plain_answer_claims_no_acceptance(chat: ScriptedChat) -> None:
    chat.draft = None
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "go")
        for _ in range(4):
            chat.say("word ", make_round(0, 0, 0))
        chat.finish()
        await wait_for_text(pilot, "4 tok · 33.3 tok/s · first 0.42 s")
        await wait_until(pilot, lambda: {"accepted –", "draft none"} <= set(sidebar_lines(screen_text(app))))


async def test_a_narrow_terminal_has_one_line_instead(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        await ask(pilot, "go")
        for r in ROUNDS:
            chat.say("word ", r)
        await wait_for_text(pilot, "scripted-1b · 86.7 tok/s · 73 % accepted · 13/2.0k")
        assert "tokens per round" not in screen_text(app)
        assert all(len(line) <= 80 for line in screen_text(app).splitlines())
        await pilot.resize_terminal(120, 40)
        await wait_for_text(pilot, "tokens per round")
        assert "13/2.0k" not in screen_text(app)


@pytest.mark.parametrize(("n", "text"), [(0, "0"), (999, "999"), (3100, "3.1k"), (99_999, "100k"), (131_072, "131k")])
def test_counts_stay_short(n: int, text: str) -> None:
    assert figures.count(n) == text


@pytest.mark.parametrize("fraction", [-1.0, 0.0, 0.3, 1.0, 7.0])
def test_a_bar_keeps_its_width(fraction: float) -> None:
    assert figures.bar(fraction, 20).cell_length == 20
