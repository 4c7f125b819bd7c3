"""Lines of product code at one or more commits, by package and by room of `experiments`.

    python experiments/benchmarks/product_lines.py before-commit HEAD

A line counts if it holds code: blank lines, comments and docstrings do not, so that saying more costs nothing.
Benchmarks, tests and the scripts of `docs/` are no product code.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
import tokenize
from collections import Counter
from pathlib import PurePosixPath

PACKAGES = ("topformer", "search_space", "latency_lut", "evaluators", "experiments", "dashboard")
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}


def code_lines(source: str) -> int:
    """Lines on which a token of code stands."""
    strings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            strings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {row for one in tokens if one.type not in SILENT for row in range(one.start[0], one.end[0] + 1)}
    return len(lines - strings)


def counted(commit: str) -> Counter[str]:
    """Lines of code at a commit, by package, and by room of `experiments`."""
    packed = subprocess.run(["git", "archive", commit, *PACKAGES], check=True, capture_output=True).stdout
    found: Counter[str] = Counter()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.suffix != ".py" or path.parts[:2] == ("experiments", "benchmarks"):
                continue
            content = archive.extractfile(member)
            assert content is not None
            lines = code_lines(content.read().decode())
            found["all"] += lines
            found[path.parts[0]] += lines
            if path.parts[0] == "experiments" and len(path.parts) > 2:
                found[f"experiments/{path.parts[1]}"] += lines
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+")
    commits = parser.parse_args().commits
    columns = [counted(commit) for commit in commits]
    print(f"{'':32}", *(f"{commit[:12]:>12}" for commit in commits))
    for name in sorted(set().union(*columns)):
        print(f"{name:32}", *(f"{column[name]:12,}" for column in columns))


if __name__ == "__main__":
    main()
