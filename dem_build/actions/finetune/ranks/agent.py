"""torchrun on this machine, as a child of a worker: it starts the ranks, and ends all when one of them failed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from dem_build.actions.finetune.ranks.begin import PARENT
from dem_build.actions.finetune.ranks.launch import AGENT
from dem_build.parent import die_with_parent


def main(folder: Path, ranks: int, module: str) -> None:
    """Run so many ranks of a folder, each of which is a module; those that failed are told in a file."""
    os.environ[PARENT] = str(os.getpid())
    try:
        torchrun(["--standalone", "--nproc-per-node", str(ranks), "-m", module, str(folder)])
    except ChildFailedError as error:
        found = [[rank, failure.exitcode] for rank, failure in error.failures.items()]
        (folder / AGENT).write_text(json.dumps(found), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    main(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
