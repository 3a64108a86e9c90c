"""Write the table of losses into README.md, from the catalogue: `python docs/readme_table.py`."""

from __future__ import annotations

from pathlib import Path

from monai_lossext.losses import catalogue

README = Path(__file__).resolve().parents[1] / "README.md"
START, END = "<!-- losses -->\n", "<!-- end of losses -->"


def with_table(text: str) -> str:
    """Return the README's text with the table of the catalogue between its two marks."""
    rows = ["| Loss | Family | Good for | MONAI 1.6.1 has |", "|---|---|---|---|"]
    for entry in catalogue():
        nearest = "–" if entry.monai == "none" else f"`{entry.monai}`"
        rows.append(f"| `{entry.name}` | {entry.family} | {entry.good_for} | {nearest} |")
    before, rest = text.split(START)
    return before + START + "\n".join(rows) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
