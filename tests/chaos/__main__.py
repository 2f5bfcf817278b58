"""`python -m tests.chaos`: disturb a sweep for a while, and say what that did to it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import mlflow
from conftest import make_corpus

from chaos.run import disturb, undisturbed
from chaos.world import STUDY, World


def main() -> int:
    """Parse the command line and do it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of what is done when (default: 0)")
    parser.add_argument("--kills", type=int, default=40, help="how much to kill (default: 40)")
    parser.add_argument("--pace", type=float, default=4.0, help="mean seconds between two disturbances (default: 4)")
    parser.add_argument("--steps", type=int, default=4000, help="pretraining steps of each model (default: 4000)")
    parser.add_argument("--nodes", type=int, default=3, help="nodes of two cores each (default: 3)")
    parser.add_argument("--server", action="store_true", help="put an MLflow server before the store, and stop it")
    parser.add_argument("--disk", action="store_true", help="put the storage on a small disk, and fill it (root only)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        corpus, store = make_corpus(folder / "corpus"), folder / "empty.db"
        mlflow.MlflowClient(f"sqlite:///{store}").search_experiments()
        pretrain = {**STUDY["pretrain"], "steps": options.steps}
        world = World(
            folder / "w", corpus, store, fields={"pretrain": pretrain}, nodes=options.nodes, server=options.server
        )
        try:
            if options.disk:
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(world.runs)], check=True)
            reference = undisturbed(world)
            findings = disturb(world, reference, options.seed, options.kills, options.pace, report=True)
        finally:
            world.close()
            if os.path.ismount(world.runs):
                subprocess.run(["umount", "-l", str(world.runs)], check=False)
        if findings.wrong:
            print(world.log.read_text(encoding="utf-8"))
    print(f"seed {options.seed}: {findings.kills} kills, {findings.starts} starts of the sweep; {dict(findings.done)}")
    for wrong in findings.wrong:
        print(f"WRONG: {wrong}")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
