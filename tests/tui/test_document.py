"""A document that grows shows what the whole one would, and growing costs the same however long it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.content import Content

from edgespec.tui import markdown
from edgespec.tui.document import Document

SAMPLE = """# A title
Some *em*, **bold** and `code`, long enough to be wrapped in any terminal that is not very wide indeed, and a link:
https://example.org and [another](https://example.org/there).

1. one
2. two

   more of two
   - nested
     - deeper
10. ten

> quoted
> - a list in it

```python
def f(x):

    return x  # comment
```
Directly behind.

| left | right |
|---|--:|
| 1 | **2** a long cell that has to be wrapped because it is so wide |

    indented code

---
roses
are red
"""
LONG = {
    "code": "```python\n" + "".join(f"x{i} = f({i}, 'text')  # why\n\n" for i in range(1000)) + "```\n",
    "open code": "~~~\n" + "".join(f"line {i}\n" for i in range(1000)),
    "list": "".join(f"{i}. item with **bold** number {i}\n" for i in range(1, 1001)),
    "loose list": "".join(f"- item {i}\n\n" for i in range(1000)),
    "table": "| a | b |\n|---|---|\n" + "".join(f"| {i % 7} | x |\n" for i in range(1000)),
    "paragraphs": "".join(f"Paragraph {i} is short.\n\n" for i in range(1000)),
    "paragraph": "word and more of it " * 2000,
    "lines": "one line of verse\n" * 1000,
    "one word": "x" * 20_000,
    "one line of code": "```\n" + "x" * 20_000,
}


def grown(source: str, cuts: list[int], width: int = 60) -> Document:
    document = Document()
    document.resize(width)
    for start, end in zip([0, *cuts], [*cuts, len(source)], strict=True):
        document.append(source[start:end])
    return document


def plain(lines: Sequence[Content]) -> list[str]:
    return [line.plain.rstrip() for line in lines]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, len(SAMPLE)), max_size=200), st.integers(12, 120))
def test_however_it_is_cut_it_looks_like_the_whole(cuts: list[int], width: int) -> None:
    document = grown(SAMPLE, sorted(cuts), width)
    assert plain(document.lines) == plain(document.whole())
    assert all(line.cell_length <= width for line in document.lines)


@settings(deadline=None, max_examples=100)
@given(st.text("ab *_`#->|\n1.[]()&;:~\t", max_size=200), st.integers(1, 9), st.integers(1, 40))
def test_no_text_breaks_it(source: str, step: int, width: int) -> None:
    document = grown(source, list(range(step, len(source), step)), width)
    document.finish(document.whole())


def test_what_is_shown_is_what_was_said() -> None:
    text = "\n".join(plain(grown(SAMPLE, []).lines))
    for shown in (
        "1. one",
        "10. ten",
        "  ◦ nested",
        "▌ • a list in it",
        "    return x  # comment",
        "another (https://",
    ):
        assert shown in text
    assert text.count("https://example.org") == 2
    assert "**" not in text
    assert "```" not in text


@pytest.mark.parametrize("kind", LONG)
def test_growing_costs_the_same_however_long_it_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, step = LONG[kind], 40
    seen: list[int] = []
    read = markdown.read
    monkeypatch.setattr(markdown, "read", lambda text, parser: seen.append(len(text)) or read(text, parser))
    document, costs, redrawn = Document(), list[int](), list[int]()
    document.resize(80)
    for start in range(0, len(source), step):
        seen.clear()
        first = document.append(source[start : start + step])
        costs.append(sum(seen))
        redrawn.append(len(document.lines) - first)
    assert max(costs) <= 3 * 4100
    assert max(redrawn) <= 300
    words = "".join("".join(plain(document.lines)).split())
    document.finish(document.whole())
    assert "".join("".join(plain(document.lines)).split()) == words


def test_a_finished_document_is_read_as_one() -> None:
    source = '```python\ntext = """\n' + "# not a comment\n" * 200 + '"""\n```\n'
    document = grown(source, list(range(50, len(source), 50)))
    before = [line.spans for line in document.lines]
    document.finish(document.whole())
    after = [line.spans for line in document.lines]
    assert before != after
    assert len({str(spans) for spans in after[2:-2]}) == 1
    document.resize(50)
    assert plain(document.lines) == plain(document.whole())
