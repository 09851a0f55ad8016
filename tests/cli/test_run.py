"""`run` as a user and a script see it: the answer on stdout and nothing else, one sentence for whatever is wrong."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pexpect
import pytest
from tiny import write_tiny_gguf

from edgespec.bundle import Store
from edgespec.chat.screen import printable
from edgespec.chat.session import Settings
from edgespec.cli import main
from edgespec.decoding.protocols import Logits
from edgespec.engine import open_chat
from edgespec.errors import GenerationError
from edgespec.pull import pull
from edgespec.runtime.model import OnnxCausalLM

COMMAND = [sys.executable, "-m", "edgespec", "run"]
FIRST = r"(edgespec: Measuring the speed\n)?"
SUMMARY = r"edgespec: \d+ tok · [\d.]+ tok/s · first [\d.]+ s( · \d+ % accepted \(\d+/\d+\) · [\d.]+ tok/round)?"


@pytest.fixture
def home(tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home itself, not a copy: nothing here changes it, and its files are known to be right."""
    monkeypatch.setenv("EDGESPEC_HOME", str(tiny_home))
    return tiny_home


def run(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *args], input=stdin, capture_output=True, check=False, timeout=60)


def answers(*questions: str, tokens: int) -> list[str]:
    """What the library answers, as a screen may show it."""
    chat = open_chat("tiny", draft="none", settings=Settings(max_tokens=tokens))
    return [printable(list(chat.send(question))[-1].text) for question in questions]  # pyright: ignore


class Stdin(io.TextIOWrapper):
    """Standard input with some bytes in it; a terminal or not."""

    def __init__(self, content: bytes = b"", *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content))
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run in this process, which is quick, and return the exit code."""

    def run(*args: str, stdin: Stdin | None = None) -> int:
        monkeypatch.setattr(sys, "stdin", stdin or Stdin())
        return main.run(["run", *args])

    return run


Here = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def on_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Have something happen in the n-th pass of the model."""

    def happen(number: int, act: Callable[[], object]) -> None:
        forward, count = OnnxCausalLM.forward, itertools.count()

        def counting(self: OnnxCausalLM, ids: Sequence[int], rows: int | None = None) -> Logits:
            if next(count) == number:
                act()
            return forward(self, ids, rows)

        monkeypatch.setattr(OnnxCausalLM, "forward", counting)

    return happen


OnPass = Callable[[int, Callable[[], object]], None]


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def fail() -> None:
    raise GenerationError("the pass failed")


def test_the_answer_is_on_stdout_and_the_figures_on_stderr(home: Path) -> None:
    (text,) = answers("hello there", tokens=40)
    for draft in ("ngram", "none"):
        result = run("tiny", "hello there", "-n", "40", "--draft", draft)
        assert (result.returncode, result.stdout) == (0, f"{text}\n".encode())
        assert re.fullmatch(rf"{FIRST}{SUMMARY}\n", result.stderr.decode())


def test_the_same_bytes_on_a_terminal(home: Path) -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs, termios.TCSANOW)  # the terminal itself would add carriage returns
    command = [*COMMAND, "tiny", "hello there", "-n", "40"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE) as child:
        os.close(theirs)
        shown = b"".join(read_all(ours))
        os.close(ours)
    assert child.returncode == 0
    assert shown == run("tiny", "hello there", "-n", "40").stdout


def test_the_same_bytes_in_any_locale(home: Path) -> None:
    command = [*COMMAND, "tiny", "hello there", "-n", "40"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment)
    (text,) = answers("hello there", tokens=40)
    assert (result.returncode, result.stdout) == (0, f"{text}\n".encode())


def read_all(descriptor: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(descriptor, 4096):
            yield chunk
    except OSError:  # Linux: nobody holds the other end any more
        return


def described(here: Here, capsys: Capture, *args: str, stdin: bytes = b"") -> dict[str, Any]:
    assert here("tiny", *args, "--json", stdin=Stdin(stdin)) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert err in ("", "edgespec: Measuring the speed\n")  # the first time
    return json.loads(out)


@pytest.mark.parametrize("draft", ["none", "ngram", "tiny"])
def test_the_json_object(here: Here, capsys: Capture, draft: str) -> None:
    found = described(here, capsys, "the cat and the dog", "-n", "60", "-d", draft)
    assert list(found) == [
        *("model", "draft", "text", "tokens", "prompt_tokens", "finish_reason", "device", "exact"),
        *("timings", "speculation"),
    ]
    assert found["model"] == "tiny"
    assert found["draft"] == (None if draft == "none" else draft)
    assert (found["finish_reason"], found["device"], found["exact"]) == ("length", "cpu", True)
    assert len(found["tokens"]) == 60
    timings, counts = found["timings"], found["speculation"]
    assert set(timings) == {
        *("prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "predicted_per_second", "draft_n"),
        *("draft_n_accepted", "ttft_ms", "load_ms", "draft_ms", "verify_ms", "overhead_ms"),
    }
    assert set(counts) == {
        *("rounds", "plain_rounds", "proposed", "tested", "accepted", "corrections", "bonus", "tokens_per_round"),
        *("per_position", "arms"),
    }
    assert timings["predicted_n"] == 60
    assert timings["prompt_n"] == found["prompt_tokens"] - 1
    assert timings["predicted_per_second"] == pytest.approx(60 / timings["predicted_ms"] * 1e3)
    parts = timings["draft_ms"] + timings["verify_ms"] + timings["overhead_ms"]
    assert parts == pytest.approx(timings["predicted_ms"])
    assert min(timings["overhead_ms"], timings["load_ms"], timings["prompt_ms"]) > 0
    assert timings["ttft_ms"] >= timings["prompt_ms"]
    assert (timings["draft_n"], timings["draft_n_accepted"]) == (counts["tested"], counts["accepted"])
    assert counts["accepted"] + counts["corrections"] + counts["bonus"] + counts["plain_rounds"] == 60
    assert counts["proposed"] >= counts["tested"] >= counts["accepted"]
    assert counts["tokens_per_round"] == pytest.approx(60 / counts["rounds"])
    assert sum(counts["arms"].values()) == counts["rounds"]
    assert counts["arms"].get("plain", 0) == counts["plain_rounds"]
    for key in ("tested", "accepted"):
        assert sum(position[key] for position in counts["per_position"]) == counts[key]
    assert counts["tested"] == 0 or draft != "none"  # whether a draft of so small a model pays is for the clock to say


def test_draft_n_counts_what_was_tested(here: Here, capsys: Capture) -> None:
    """What follows the header of an answer stood in the question: a long draft, which the model rejects at once."""
    echo = "assistant\nblah blah blah "
    found = described(here, capsys, echo * 3, "-n", "1", "-d", "ngram")
    assert found["speculation"]["proposed"] == 0  # no room for a draft
    found = described(here, capsys, echo * 3, "-n", "9", "-d", "ngram")
    counts = found["speculation"]
    assert counts["proposed"] > counts["tested"] == found["timings"]["draft_n"] > 0


def test_stdin_precedes_the_prompt(here: Here, capsys: Capture) -> None:
    whole = described(here, capsys, "first line\nsecond", "-n", "8")
    for prompt, stdin in (("second", b"first line\n"), ("second", b"first line"), (None, b"first line\nsecond\n")):
        found = described(here, capsys, *([prompt] if prompt else []), "-n", "8", stdin=stdin)
        assert (found["tokens"], found["prompt_tokens"]) == (whole["tokens"], whole["prompt_tokens"])


@pytest.mark.parametrize("stdin", [b"caf\xe9\xff", b"a\0b", b"\0", b"\xed\xa0\x80", b"\r\n\t\x1b[31m"])
def test_any_bytes_on_stdin(here: Here, capsys: Capture, stdin: bytes) -> None:
    assert described(here, capsys, "-n", "4", stdin=stdin)["prompt_tokens"] > 0


def test_arguments_that_are_no_utf8(home: Path) -> None:
    command: list[str | bytes] = [*COMMAND, "tiny", b"caf\xe9", "-n", "4"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert result.returncode == 0


@pytest.mark.parametrize("stdin", [b"", b"\n\n"])
@pytest.mark.parametrize("prompt", [(), ("",)])
def test_no_prompt_at_all(here: Here, capsys: Capture, stdin: bytes, prompt: tuple[str, ...]) -> None:
    assert here("tiny", *prompt, stdin=Stdin(stdin)) == 2
    assert capsys.readouterr() == ("", "edgespec: There is no prompt: give one as an argument or on stdin.\n")


def test_json_is_for_one_answer(here: Here, capsys: Capture) -> None:
    assert here("tiny", "--json", stdin=Stdin(terminal=True)) == 2
    assert "--json prints one answer: give a prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--temp", "-1"], "temperature cannot be -1.0"),
        (["-t", "nan"], "temperature cannot be nan"),
        (["-t", "hot"], "'hot' is not a valid float"),
        (["--top-k", "-1"], "top-k cannot be -1"),
        (["--top-p", "-0.1"], "top-p cannot be -0.1"),
        (["--top-p", "1.1"], "top-p cannot be 1.1"),
        (["--min-p", "2"], "min-p cannot be 2.0"),
        (["--repeat-penalty", "0"], "repeat penalty cannot be 0.0"),
        (["--seed", "-1"], "seed cannot be -1"),
        (["-n", "0"], "number of tokens cannot be 0"),
        (["--max-tokens", "many"], "'many' is not a valid integer"),
        (["--draft-max", "0"], "draft length cannot be 0"),
        (["--draft-max", "65"], "draft length cannot be 65"),
        (["-c", "0"], "a context of 0 tokens cannot be had: tiny takes between 16 and 256"),
        (["--ctx-size", "257"], "a context of 257 tokens cannot be had"),
        (["--threads", "0"], "threads cannot be 0"),
        (["--device", "tpu"], "'tpu' is not one of"),
        (["--stop", ""], "stop string is empty"),
        (["--draft", "a b"], "cannot be a model's name"),
        (["-d"], "requires an argument"),
        (["--exakt"], "--exact"),
        (["more"], "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_flag_is_one_sentence(here: Here, capsys: Capture, flags: list[str], says: str) -> None:
    assert here("tiny", "hello", *flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"edgespec: .+\n", err)
    assert says in err


def test_a_prompt_longer_than_the_context(here: Here, capsys: Capture) -> None:
    for flag in ((), ("--json",)):
        assert here("tiny", "word " * 100, "-c", "128", *flag) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"edgespec: The conversation has \d+ tokens, \d+ more than the context of 128 .+\n", err)


def test_models_that_are_not_there(here: Here, capsys: Capture) -> None:
    for model, draft in (("tinny", "none"), ("tiny", "tinny"), ("smollm2-135m", "none")):
        assert here(model, "hello", "-d", draft, "--offline") == 3
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"edgespec: .*(did you mean tiny\?|edgespec pull smollm2-135m).*\n", err)


def test_flags_reach_the_model(here: Here, capsys: Capture) -> None:
    def tokens(*flags: str) -> list[int]:
        return described(here, capsys, "hello there", "-n", "12", *flags)["tokens"]

    plain = tokens()
    hot = tokens("-t", "2", "--seed", "7")
    assert hot == tokens("-t", "2", "--seed", "7") != tokens("-t", "2", "--seed", "8")
    assert tokens("-t", "2", "--top-k", "1") == plain
    assert tokens("-t", "2", "--min-p", "1") == plain
    assert tokens("--repeat-penalty", "100", "-n", "40") != tokens("-n", "40")
    assert tokens("-s", "be brief") != plain
    assert described(here, capsys, "hello", "-n", "4", "--no-exact")["exact"] is False
    assert described(here, capsys, "hello", "-n", "4", "-t", "1")["exact"] is False
    assert described(here, capsys, "hello", "-n", "4", "-t", "1", "--exact")["exact"] is True
    text = described(here, capsys, "hello there", "-n", "12")["text"]
    stopped = described(here, capsys, "hello there", "-n", "12", "--stop", text[3:5], "--stop", "never")
    assert (stopped["text"], stopped["finish_reason"]) == (text[: text.index(text[3:5])], "stop")


def test_interrupted_in_the_middle_of_an_answer(here: Here, capsys: Capture, on_pass: OnPass) -> None:
    (text,) = answers("hello", tokens=60)
    on_pass(20, interrupt)
    before = signal.getsignal(signal.SIGINT)
    assert here("tiny", "hello", "-n", "60") == 130
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert 0 < len(out) < len(text)
    assert text.startswith(out[:-1])
    assert re.fullmatch(rf"{FIRST}{SUMMARY}\nedgespec: stopped\n", err)
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupted_the_json_object_still_comes(here: Here, capsys: Capture, on_pass: OnPass) -> None:
    on_pass(20, interrupt)
    assert here("tiny", "hello", "-n", "60", "--json") == 130
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["finish_reason"] == "cancelled"
    assert 0 < len(found["tokens"]) < 60
    assert err == "edgespec: stopped\n"


def test_interrupted_while_it_reads_the_prompt(here: Here, capsys: Capture, on_pass: OnPass) -> None:
    on_pass(0, interrupt)
    assert here("tiny", "a long prompt " * 12, "-n", "60", "--json") == 130
    found = json.loads(capsys.readouterr().out)
    assert (found["tokens"], found["text"], found["finish_reason"]) == ([], "", "cancelled")
    assert found["timings"]["predicted_per_second"] is None
    assert found["speculation"]["tokens_per_round"] is None


def test_interrupted_twice_it_leaves_at_once(here: Here, capsys: Capture, on_pass: OnPass) -> None:
    on_pass(20, lambda: (interrupt(), interrupt()))
    assert here("tiny", "hello", "-n", "60") == 130
    assert capsys.readouterr().err.strip() == "edgespec: interrupted"


def test_interrupted_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPEC_HOME", str(tmp_path))
    gguf = write_tiny_gguf(tmp_path / "endless.gguf", context_length=1 << 15)
    pull(str(gguf), Store(tmp_path / "models"), name="endless", keep_layers=[0])
    command = [*COMMAND, "endless", "hello there", "-n", "30000", "-c", "32000"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        first = child.stdout.read(1)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert first
    assert out.endswith("\n")
    assert re.fullmatch(rf"{FIRST}{SUMMARY}\nedgespec: stopped\n", err)


def test_a_failure_in_the_middle_of_an_answer(here: Here, capsys: Capture, on_pass: OnPass) -> None:
    (text,) = answers("hello", tokens=60)
    on_pass(20, fail)
    assert here("tiny", "hello", "-n", "60") == 1
    out, err = capsys.readouterr()
    assert out
    assert text.startswith(out)
    assert err == "edgespec: the pass failed\n"


def test_a_closed_pipe_is_quiet(home: Path) -> None:
    script = f"{' '.join(COMMAND)} tiny hello | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")


def test_nothing_that_a_terminal_obeys_reaches_it(here: Here, capsys: Capture) -> None:
    """Far too hot, the model writes every byte there is."""
    hot = ("hello", "-n", "400", "-t", "1000", "--seed", "2")
    text = described(here, capsys, *hot)["text"]
    assert "\x1b" in text
    assert "\x7f" in text
    assert here("tiny", *hot) == 0
    out = capsys.readouterr().out
    assert out == printable(text) + "\n"
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in out if c not in "\n\t")
    assert here("tiny", *hot, "--json") == 0
    assert all(32 <= ord(c) < 0x7F for c in capsys.readouterr().out[:-1])


def test_line_by_line_the_second_answer_knows_the_first(here: Here, capsys: Capture) -> None:
    lines = Stdin(b"hello there\n\n   \nand then\n", terminal=True)
    assert here("tiny", "-n", "12", stdin=lines) == 0
    out, err = capsys.readouterr()
    first, second = answers("hello there", "and then", tokens=12)
    assert out == f"{first}\n{second}\n"
    assert second != answers("and then", tokens=12)[0]
    assert err.count("❯ ") == 5
    assert len(re.findall(SUMMARY, err)) == 2


def test_line_by_line_an_error_ends_the_answer_and_not_the_chat(here: Here, capsys: Capture) -> None:
    lines = Stdin(("word " * 100 + "\nhello\n").encode(), terminal=True)
    assert here("tiny", "-n", "12", "-c", "128", stdin=lines) == 0
    out, err = capsys.readouterr()
    assert out == answers("hello", tokens=12)[0] + "\n"
    assert "more than the context of 128" in err


def test_line_by_line_an_interrupt_ends_the_answer_and_not_the_chat(
    here: Here, capsys: Capture, on_pass: OnPass
) -> None:
    on_pass(5, interrupt)
    assert here("tiny", "-n", "30", stdin=Stdin(b"hello\nand then\n", terminal=True)) == 0
    out, err = capsys.readouterr()
    assert len(re.findall(SUMMARY, err)) == 2
    assert err.count(" · stopped\n") == 1
    assert out.endswith("\n")


def test_line_by_line_on_a_real_terminal(home: Path) -> None:
    def start() -> pexpect.spawn[str]:
        environment = {**os.environ, "TERM": "dumb"}
        args = [*COMMAND[1:], "tiny", "-n", "8"]
        child = pexpect.spawn(COMMAND[0], args, env=environment, encoding="utf-8", codec_errors="replace", timeout=60)
        child.expect_exact("❯ ")
        return child

    for key, code in (("\x04", 0), ("\x03", 130)):
        child = start()
        for line in ("hello there", "and then"):
            child.sendline(line)
            child.expect("8 tok · ")
            child.expect_exact("❯ ")
        child.send(key)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == code
        assert "Traceback" not in (child.before or "")
