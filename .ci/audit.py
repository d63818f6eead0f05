"""Known vulnerabilities of the installed packages, by pip-audit. Exit code 1 where a package has a fix for one.

One that has no fix yet is told, and where the database cannot be asked, that is told: neither ends `make check`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SECONDS = 60  # for all of it
COMMAND = [
    sys.executable,
    "-m",
    "pip_audit",
    "--local",
    "--skip-editable",
    "--format",
    "json",
    "--progress-spinner",
    "off",
]
COMMAND += ["--timeout", "5"]


def main() -> int:
    try:
        run = subprocess.run(COMMAND, capture_output=True, text=True, timeout=SECONDS)
        found: list[dict[str, Any]] = json.loads(run.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        say(f"audit: not done, no answer within {SECONDS} s")
        return 0
    except (OSError, ValueError, KeyError):
        said = [*run.stderr.strip().splitlines()[-1:], f"pip-audit ended with {run.returncode}"]
        say(f"audit: not done ({said[0].partition('(')[0][:120]})")
        return 0
    told = [(package, flaw) for package in found for flaw in package.get("vulns", [])]
    for package, flaw in told:
        fix = ", ".join(flaw["fix_versions"])
        remedy = f"fixed in {fix}" if fix else "no fix yet"
        say(f"audit: {package['name']} {package['version']} has {flaw['id']}: {remedy}")
    say(f"audit: {len(found)} packages, {len(told)} known vulnerabilities")
    return 1 if any(flaw["fix_versions"] for _, flaw in told) else 0


def say(words: str) -> None:
    sys.stdout.write(f"{words}\n")


if __name__ == "__main__":
    raise SystemExit(main())
