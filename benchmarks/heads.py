"""What a head's proposals cost in the running loop, and how many are right: drafts of fixed length, greedy.

    python -m benchmarks.heads NAME [--prompts FILE.jsonl] [--limit 1] [--draft-max 3]

NAME is a head, or another draft, of the default model. Each prompt is answered plainly, one row a pass, and with drafts
in turn. Costs are medians, in steps of plain decoding.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import median

from edgespec.benchmark import read_prompts
from edgespec.chat.events import TextDelta
from edgespec.chat.session import Chat, Settings
from edgespec.decoding.controller import Controller
from edgespec.decoding.protocols import Fixed
from edgespec.decoding.stats import Round, Stats
from edgespec.engine import Resources, open_chat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--limit", type=int, default=1)
    parser.add_argument("--draft-max", type=int, default=3)
    options = parser.parse_args()
    k = options.draft_max
    prompts = read_prompts(options.prompts, options.limit) if options.prompts else read_prompts(limit=options.limit)
    chat = open_chat(draft=options.name, resources=Resources(4096), offline=True)
    assert isinstance(chat.policy, Controller)
    drafting = Fixed(chat.policy.drafters[-1])
    plain_ms: list[float] = []
    drafted: list[Round] = []
    by_category: defaultdict[str, Stats] = defaultdict(Stats)
    for prompt in prompts:
        chat.use(None, Settings(exact=False, max_tokens=128))
        plain_ms += [done.total_ms for done in answer(chat, prompt.turns[0])]
        chat.use(drafting, Settings(max_tokens=128, draft_max=k))
        rounds = answer(chat, prompt.turns[0])
        drafted += [done for done in rounds if len(done.proposed) == k]
        for done in rounds:
            by_category[prompt.category].add(done)
    step = median(plain_ms)
    print(f"plain step {step:.2f} ms")
    print(f"draft      {median(done.draft_ms for done in drafted) / k / step:6.3f} of it for each of {k} tokens")
    print(f"verify     {median(done.verify_ms for done in drafted) / step:6.3f} of it for {k + 1} rows")
    for category, stats in by_category.items():
        positions = " ".join(f"{p.accepted / max(p.tested, 1):5.1%}" for p in stats.per_position[:k])
        print(f"{category:20}{stats.tokens_per_round:6.2f} tokens a round, accepted by position {positions}")


def answer(chat: Chat, question: str) -> list[Round]:
    chat.clear()
    return [event.round for event in chat.send(question) if isinstance(event, TextDelta)]


if __name__ == "__main__":
    main()
