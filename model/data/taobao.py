"""Taobao's `UserBehavior.csv`: user, item, category, behaviour, seconds; one event a line, without a header.

Here are the format, where to get it and what the paper says of it. What becomes of the events is in last_event.py.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.data.log_table import RAW_COLUMNS
from model.data.raw_file import BadLines, blocks, opened

BEHAVIOURS = ("pv", "cart", "fav", "buy")
CLICK = "pv"
HOW_TO_OBTAIN = """Taobao's UserBehavior.csv is data set 649 of Tianchi: log in at https://tianchi.aliyun.com/dataset/649,
accept its terms, download UserBehavior.csv.zip, and pass it with --source PATH, as it is or unpacked (.zip, .gz or .csv).
The whole file has 100,150,807 lines and 3.7 GB. The terms in short: for research, not to be passed on."""
TABLE_1 = {"users": 987_994, "items": 4_162_024, "categories": 9_439, "instances": 987_994}
"""The paper's Table 1. Its items and categories are those of all four behaviours, although the text speaks of clicks."""

# The days that the data set is said to cover, 25 November to 3 December 2017 in Beijing. Broken clocks are outside.
FIRST_MS = int(datetime(2017, 11, 24, 16, tzinfo=UTC).timestamp() * 1000)
END_MS = int(datetime(2017, 12, 3, 16, tzinfo=UTC).timestamp() * 1000)

_ID = "[0-9]{1,18}"
_LINE = f"^(?P<user>{_ID}),(?P<item>{_ID}),(?P<category>{_ID}),(?P<behaviour>{'|'.join(BEHAVIOURS)}),(?P<time>-?[0-9]{{1,11}})$"


def read(
    path: Path, *, drop_invalid: bool = False, report: Callable[[str], None] = lambda line: None
) -> tuple[Iterator[Any], BadLines]:  # Any: pyarrow ships no types
    """Tables of RAW_COLUMNS in the order of the file, and the tally of bad lines, complete when the tables are used up."""
    bad = BadLines(
        path, f"user,item,category,behaviour ({', '.join(BEHAVIOURS)}),seconds without a header", drop_invalid=drop_invalid
    )
    return _tables(path, bad, report), bad


def _tables(path: Path, bad: BadLines, report: Callable[[str], None]) -> Iterator[Any]:  # Any: pyarrow ships no types
    with opened(path) as stream:
        rows = 0
        for block in blocks(stream):
            # Where a byte is not UTF-8 the line does not match, and is told as it is.
            text = block.decode(errors="replace").replace("\r\n", "\n").removesuffix("\n")
            lines = pa.array(text.split("\n"), pa.string())
            numbers = pa.array(np.arange(rows + 1, rows + 1 + len(lines)))
            rows += len(lines)
            fields = pc.extract_regex(lines, _LINE)
            usable = pc.is_valid(fields)
            if not pc.all(usable).as_py():
                wrong = pc.invert(usable)
                bad.add(list(zip(numbers.filter(wrong).to_pylist(), lines.filter(wrong).to_pylist(), strict=True)))
                fields, numbers = fields.filter(usable), numbers.filter(usable)
            user, item, category, behaviour, time = fields.flatten()
            yield pa.table(
                [numbers, user, item, category, behaviour, pc.multiply(time.cast(pa.int64()), 1000)], names=list(RAW_COLUMNS)
            ).cast(pa.schema(list(RAW_COLUMNS.items())))
            report(f"reading {path.name}: {rows / 1e6:.1f} million lines")
