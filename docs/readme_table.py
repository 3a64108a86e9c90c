"""Write the table of losses into README.md, from the catalogue: `python docs/readme_table.py`."""

from __future__ import annotations

from pathlib import Path

from monai_lossext.losses.catalogue import FAMILIES, catalogue

README = Path(__file__).resolve().parents[1] / "README.md"
START, END = "<!-- losses -->\n", "<!-- end of losses -->"


def with_table(text: str) -> str:
    """Return the README's text with the losses of the catalogue, by families, between its two marks."""
    rows = ["| Family | Judges | Losses |", "|---|---|---|"]
    for family, judges in FAMILIES.items():
        names = ", ".join(f"`{entry.name}`" for entry in catalogue() if entry.family == family)
        rows.append(f"| {family} | {judges} | {names} |")
    before, rest = text.split(START)
    return before + START + "\n".join(rows) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
