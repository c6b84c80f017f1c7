"""Several pictures on one sheet, in columns; PNG or JPEG by the ending of the output.

python scripts/contact_sheet.py explanations/*.png --columns 2 --width 900 --output docs/images/sheet.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from aloe.draw.gallery import GAP, PAPER, stack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--columns", type=int, default=2)
    parser.add_argument("--width", type=int, default=900, help="pixels of the sheet")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    pictures = [Image.open(p).convert("RGB") for p in args.pictures]
    columns = [stack(pictures[i :: args.columns]) for i in range(args.columns)]
    width = sum(c.width for c in columns) + 3 * GAP * (len(columns) - 1)
    sheet = Image.new("RGB", (width, max(c.height for c in columns)), PAPER)
    left = 0
    for column in columns:
        sheet.paste(column, (left, 0))
        left += column.width + 3 * GAP
    height = round(sheet.height * args.width / sheet.width)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((args.width, height), Image.Resampling.LANCZOS).save(args.output, quality=82)


if __name__ == "__main__":
    main()
