"""A process that writes completions to a journal until it is killed, and says what it has written: `B n` before, `E n` after.

python -m tests.storage.writer DATA_DIR BOOT_ID FIRST_NUMBER
"""

import os
import sys
from itertools import count
from pathlib import Path

from proxy.accounting.records import RequestEnd
from tests.storage.records import NOW_MS, closed, end, open_journal, opened, progress
from tests.storage.records import begin as begun


def main(data_dir: Path, boot_id: str, first: int) -> None:
    journal = open_journal(data_dir, boot_id, segment_bytes=20_000)
    for number in count(first):
        request = opened(number, NOW_MS)
        ending: RequestEnd = closed(
            trace=[{"target": "openai/gpt-4o", "kept": "x" * (number % 5000)}]
        )  # spans pages now and then
        journal.append(begun(request))
        os.write(1, b"B %d\n" % number)
        journal.append(progress(request, 3))
        journal.append(end(request, end=ending))
        os.write(1, b"E %d\n" % number)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
