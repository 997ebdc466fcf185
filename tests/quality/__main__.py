"""Prints the tables of docs/quality.md, and with `--wrong` the answers of the half that is not kept aside that were judged wrongly."""

from __future__ import annotations

import sys

from tests.quality.labelled import MIN, report, samples


def main() -> None:
    print(report())
    if "--wrong" in sys.argv:
        for sample in samples():
            quality = sample.quality()
            if not sample.held_out and (quality.total < MIN) != (sample.label != "good"):
                print(
                    sample.number,
                    sample.label,
                    sample.language,
                    quality,
                    sample.request["messages"],
                    sample.answer.decode()[:300],
                )


if __name__ == "__main__":
    main()
