"""Packaging: mount the top-level rooms under the one import name `headscope`.

The bare name `kernels` belongs to Hugging Face's distribution of that name, so no room is installed at the top level.
`benchmarks/` and `tests/` are not rooms and are never installed.
"""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).resolve().parent
FOLDERS = {
    "headscope": "headscope",
    "headscope.kernels": "kernels",
    "headscope.interp": "interp",
    "headscope.probes": "probes",
}


def packages() -> list[str]:
    """Every folder below the rooms, found on disk so that a new one cannot be forgotten."""
    found = []
    for name, folder in FOLDERS.items():
        below = find_namespace_packages(str(ROOT / folder), exclude=["*__pycache__*"])
        found += [name, *(f"{name}.{sub}" for sub in below)]
    return found


def version() -> str:
    """The version is written once, in headscope/__init__.py."""
    source = (ROOT / "headscope" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('headscope/__init__.py has no line of the form __version__ = "1.2.3"')
    return match.group(1)


extras = {
    "gguf": ["gguf>=0.17", "accelerate>=1.1"],
    "lens": ["transformer-lens>=4"],
    "sft": ["peft>=0.17", "accelerate>=1.1"],
    "parquet": ["pyarrow>=17"],
    "triton": ['triton>=3.6; sys_platform == "linux"'],
    "netcdf4": ["netCDF4>=1.7"],
    "ray": ["ray>=2.40"],
}
extras["all"] = sorted({requirement for group in extras.values() for requirement in group})
extras["test"] = [
    *(extras["gguf"] + extras["lens"] + extras["parquet"] + extras["netcdf4"] + extras["triton"] + extras["ray"]),
    *extras["sft"],
    "hypothesis>=6.130",
    "pytest>=8.4",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.7",
    "websocket-client>=1.8",  # tests drive Chromium, where there is one
    "setuptools>=77",  # tests/test_packaging.py builds a wheel without the network
]
extras["dev"] = ["mypy>=1.18", "pip-audit>=2.9", "pre-commit>=4", "ruff>=0.12"]

setup(
    name="headscope",
    version=version(),
    description="Which attention heads copy from far away, how well, and how that changes while a model is trained",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=packages(),
    package_dir=FOLDERS,
    package_data={"": ["py.typed", "*.css", "*.j2", "*.js", "*.json", "*.tsv", "*.txt"]},
    install_requires=[
        "filelock>=3.13",
        "h5netcdf>=1.6",
        "h5py>=3.12",
        "huggingface_hub>=1.0",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "numpy>=2.0",
        "packaging>=23",
        "pandas>=2.2",
        "plotly>=6.0",
        "regex>=2025.10.22",
        "rich>=13.9",
        "safetensors>=0.5",
        "scipy>=1.14",
        "torch>=2.10",
        "transformers>=5.17",
        "typer>=0.15",
        "xarray>=2025.1",
    ],
    extras_require=extras,
    entry_points={"console_scripts": ["headscope = headscope.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
