"""The picture and the table of the page "Which loss?", from the rules of `recommend`.

`write(folder)` is called before each build of the documentation.
"""

from __future__ import annotations

import re
import textwrap
from html import escape
from itertools import groupby
from pathlib import Path

from monai_lossext.advice.rules import RULES, Rule

WIDTH, ROW, TOP, LEFT = 760, 62, 20, 20
QUESTION, ANSWER = 330, 340  # widths of the boxes
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #222 } .small { font-size: 11px }
  .question { fill: #eef3fa; stroke: #7a9cc6 } .answer { fill: #eaf5ea; stroke: #7fb27f }
  path { stroke: #888; fill: none }
  .avoid { fill: #8a2b0f }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd } .question { fill: #22303f } .answer { fill: #223528 } .avoid { fill: #f0a58c }
  }
"""


def short(names: tuple[str, ...]) -> str:
    """Return losses without the word that all of them have."""
    return ", ".join(name.removesuffix("Loss") for name in names)


def unbroken(text: str) -> str:
    """Return a text of which numbers stay with their units."""
    return re.sub(r"(\d) %", "\\1\u00a0%", text).replace("radius ", "radius\u00a0")


def grouped() -> list[tuple[str, list[Rule]]]:
    """Return the rules of each property, in their order; the last one is for what is left."""
    properties = list(dict.fromkeys(rule.when for rule in RULES))
    ordered = sorted(RULES, key=lambda rule: properties.index(rule.when))
    return [(when, list(rules)) for when, rules in groupby(ordered, key=lambda rule: rule.when)]


def chart() -> str:
    """Return the picture: one question under the other, beside each what to try and what to leave for later."""
    rows = grouped()
    height = TOP * 2 + ROW * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Which loss to try: the questions in their order</title>",
        f"<style>{STYLE}</style>",
    ]
    for number, (when, rules) in enumerate(rows):
        y, last = TOP + ROW * number, number == len(rows) - 1
        middle = y + ROW / 2 - 8
        parts.append(box(LEFT, y, QUESTION, "question", textwrap.wrap(unbroken(when + ("" if last else "?")), 46)))
        parts.append(f'<path d="M{LEFT + QUESTION} {middle} h{WIDTH - 2 * LEFT - QUESTION - ANSWER}"/>')
        lines = []
        if first := short(tuple(dict.fromkeys(name for rule in rules for name in rule.first))):
            lines.append(("", "try " + first))
        if avoid := short(tuple(dict.fromkeys(name for rule in rules for name in rule.avoid))):
            lines.append(("avoid", "later " + avoid))
        parts.append(answer(WIDTH - LEFT - ANSWER, y, lines))
        if not last:
            parts.append(f'<path d="M{LEFT + 20} {y + ROW - 16} v16"/>')
    return "\n".join([*parts, "</svg>", ""])


def box(x: float, y: float, width: float, kind: str, lines: list[str]) -> str:
    """Return a box with text."""
    start = y + (ROW - 16) / 2 + 5 - 8 * (len(lines) - 1)
    text = "".join(
        f'<text x="{x + 10}" y="{start + 16 * number}">{escape(line)}</text>' for number, line in enumerate(lines)
    )
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{ROW - 16}" rx="6"/>{text}'


def answer(x: float, y: float, lines: list[tuple[str, str]]) -> str:
    """Return a box of losses to try, and of those to leave for later."""
    wrapped = [(kind, part) for kind, line in lines for part in textwrap.wrap(line, 52)][:3]
    start = y + (ROW - 16) / 2 + 4 - 7 * (len(wrapped) - 1)
    text = "".join(
        f'<text class="small {kind}" x="{x + 10}" y="{start + 14 * number}">{escape(line)}</text>'
        for number, (kind, line) in enumerate(wrapped)
    )
    return f'<rect class="answer" x="{x}" y="{y}" width="{ANSWER}" height="{ROW - 16}" rx="6"/>{text}'


def table() -> str:
    """Return the rules as a Markdown table."""
    lines = ["| Your data have | First try | Second try | Later | Source | Strength of evidence |", "|" + "---|" * 6]
    for rule in RULES:
        cells = rule.when, short(rule.first[:1]), short(rule.first[1:]), short(rule.avoid)
        lines.append("| " + " | ".join([*cells, rule.source, rule.evidence]).replace("  ", " ") + " |")
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """Write the picture and the table into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "which-loss.svg").write_text(chart(), encoding="utf-8")
    (folder / "which-loss-table.md").write_text(table(), encoding="utf-8")
