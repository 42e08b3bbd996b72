"""Fill a folder with the wheels that GPU benchmarks and tests need on a machine that reaches no index.

    python scripts/wheelhouse.py wheelhouse --python-version 3.12 [--packages pip-freeze.txt] [--platform PLATFORM]

PACKAGES is what `pip freeze` prints on that machine, or a list of names: what it holds in a version that will do is
left out, with all that it needs. Without a list, what an image with PyTorch has is taken to be there
(`USUALLY_THERE`). The folder has no wheel of mixdpo: `make bench-gpu` builds that from the tree there, by hatchling.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Needed to test on a GPU, beside the package's own requirements and its extras `bench` and `liger`.
TOOLS = ("pytest>=8.3",)
# pip builds the package in an environment of its own, which takes all of them from the folder.
BUILD_TOOLS = ("hatchling>=1.25", "packaging", "pathspec", "pluggy", "trove-classifiers")
# Requirements that only reading plain text, audits and the demo's model have; polars alone is 51 MB.
NOT_NEEDED = {"polars", "gguf"}
USUALLY_THERE = ("torch", "triton", "numpy", "scipy", "pyarrow", "scikit-learn", "pandas", "matplotlib", "tokenizers")
LIMIT = 60e6  # bytes


def read_packages(path: Path) -> dict[str, str | None]:
    """Read what `pip freeze` printed, or names: the version of each package by its name, None where it is unknown."""
    packages = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        found = re.match(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:==\s*([^\s;]+))?", line)
        if found:
            packages[canonicalize_name(found[1])] = found[2]
    return packages


def roots(python_version: str) -> list[Requirement]:
    """Return what the package needs on the other machine."""
    declared = [Requirement(line) for line in requires("mixdpo") or ()]
    wanted = [one for one in declared if applies(one, python_version, extras=("", "bench", "liger"))]
    return [*(one for one in wanted if one.name not in NOT_NEEDED), *map(Requirement, (*TOOLS, *BUILD_TOOLS))]


def applies(requirement: Requirement, python_version: str, extras: Iterable[str] = ("",)) -> bool:
    """Whether a requirement holds on Linux with that version of Python."""
    machine = {"python_version": python_version, "python_full_version": f"{python_version}.0", "sys_platform": "linux"}
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**machine, "extra": extra}) for extra in extras)


def target(python_version: str, platform: str) -> list[str]:
    """Return pip's options for wheels of another machine. pip takes the number in a platform's name to the letter."""
    newest, machine = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", platform).groups()
    names = [*(f"manylinux_2_{minor}_{machine}" for minor in range(int(newest), 4, -1)), f"manylinux2014_{machine}"]
    options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python_version}"]
    return [*options, *(f"--platform={name}" for name in names)]


def resolve(wanted: Iterable[Requirement], options: list[str]) -> dict[str, tuple[str, list[Requirement]]]:
    """Return version and requirements of every package, by name, that pip would install; nothing is downloaded."""
    plain = [f"{one.name}{one.specifier}" for one in wanted]  # pip would ask markers of the Python that runs
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report=-"]
    report = subprocess.run(
        [*command, "--target=unused", *options, *plain], check=True, capture_output=True, text=True
    )
    found = {}
    for item in json.loads(report.stdout)["install"]:
        about = item["metadata"]
        needs = [Requirement(line) for line in about.get("requires_dist", ())]
        found[canonicalize_name(about["name"])] = (about["version"], needs)
    return found


def will_do(one: Requirement, there: dict[str, str | None]) -> bool:
    """Whether what is there meets a requirement; a version that the list does not tell is trusted to."""
    name = canonicalize_name(one.name)
    version = there.get(name)
    return name in there and (version is None or one.specifier.contains(version, prereleases=True))


def missing(
    wanted: Iterable[Requirement],
    resolved: dict[str, tuple[str, list[Requirement]]],
    there: dict[str, str | None],
    python_version: str,
) -> dict[str, str]:
    """Return name and version of what the other machine lacks. What it has is trusted to have what it needs itself."""
    lacking: dict[str, str] = {}
    left = list(wanted)
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        if name in lacking or will_do(one, there):
            continue
        lacking[name], needs = resolved[name]
        left += [need for need in needs if applies(need, python_version, extras=("", *one.extras))]
    return lacking


def sizes(folder: Path) -> Iterator[tuple[int, str]]:
    """Yield bytes and name of every wheel, the largest first."""
    yield from sorted(((wheel.stat().st_size, wheel.name) for wheel in folder.glob("*.whl")), reverse=True)


def main() -> None:
    """Download, and say what is in the folder; exit status 1 where it is larger than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python-version", required=True, help="the other machine's, such as 3.12")
    parser.add_argument("--packages", type=Path, help="what is installed there")
    parser.add_argument("--platform", default="manylinux_2_28_x86_64", help="the newest kind of wheel it takes")
    options = parser.parse_args()
    there = read_packages(options.packages) if options.packages else dict.fromkeys(USUALLY_THERE)
    if not options.packages:
        print(f"taken to be there, for want of a list (--packages): {', '.join(there)}")
    wanted, wheels_of = roots(options.python_version), target(options.python_version, options.platform)
    build = {canonicalize_name(Requirement(line).name) for line in BUILD_TOOLS}
    lacking = missing(
        wanted,
        resolve(wanted, wheels_of),
        {name: version for name, version in there.items() if name not in build},
        options.python_version,
    )
    trusted = [str(one) for one in wanted if one.specifier and there.get(canonicalize_name(one.name), "") is None]
    if trusted:
        print(f"there in a version that the list does not tell; needed: {', '.join(trusted)}")
    names = [f"{name}=={version}" for name, version in sorted(lacking.items())]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={options.folder}"]
    subprocess.run([*command, *wheels_of, *names], check=True)
    found = list(sizes(options.folder))
    for size, name in found:
        print(f"{size / 1e6:8.2f} MB  {name}")
    total = sum(size for size, _ in found)
    print(f"{total / 1e6:8.2f} MB in all, of {LIMIT / 1e6:.0f}")
    sys.exit(total > LIMIT)


if __name__ == "__main__":
    main()
