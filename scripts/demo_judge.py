"""A program as judge: how many of the constraints in the column `demands` an answer meets.

mixdpo rate ANSWERS --judge 'python scripts/demo_judge.py' --judge-kind program -o rated.jsonl
"""

from __future__ import annotations

import json
import sys

from mixdpo.evaluation.constraints import constraints_from_text, constraints_met


def main() -> None:
    """Read a case a line, and write a number a line."""
    for line in sys.stdin:
        case = json.loads(line)
        demands = case.get("columns", {}).get("demands")
        if demands is None:
            sys.exit("an answer has no column demands; write it beside the prompts, as scripts/make_demo_data.py does")
        print(constraints_met(case["answer"], constraints_from_text(demands)))


if __name__ == "__main__":
    main()
