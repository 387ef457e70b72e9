"""The end of a ./test run: one line for each tier, then pytest's closing line with the sums.

summary.py TOTAL-SECONDS < lines of four fields with tabs between them:
tier, seconds, verdict, file with pytest's counts (or empty)
"""

import json
import sys
from collections import Counter
from pathlib import Path

ORDER = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "error")


def words(counts: Counter[str]) -> str:
    """As pytest says it: "1 failed, 12 passed, 2 errors"."""
    named = [f"{counts[k]} {k}{'s' * (k == 'error' and counts[k] > 1)}" for k in ORDER if counts[k]]
    return ", ".join(named) or "no tests ran"


def main() -> None:
    """Print the table and the closing line."""
    total: Counter[str] = Counter()
    for line in sys.stdin:
        tier, seconds, verdict, file = line.rstrip("\n").split("\t")
        counts: Counter[str] = Counter()
        if file and Path(file).exists():
            counts.update(json.loads(Path(file).read_text()))
            verdict = f"{verdict}: {words(counts)}"
        total += counts
        print(f"  {tier:<22} {float(seconds):8.1f} s  {verdict}")
    print()
    print(f" {words(total)} in {float(sys.argv[1]):.2f}s ".center(80, "="))


if __name__ == "__main__":
    main()
