"""Train, in a process of its own to be killed: ``train_script STORE OUT [SEEDS]``, one line an epoch and head."""

import sys
from pathlib import Path

from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.spec import RunSpec, parse_seeds
from mettle_cache.pipelines.train.training import train, train_runs

RECIPE = load_recipe("ave-small", ["lcd.dim=16", "train.learning_rate=3e-3", "train.epochs=12", "train.step_size=5"])


class Printer:
    def start(self, total, unit, what):
        pass

    def advance(self, n=1, *, nbytes=0):
        pass

    def note(self, text):
        print(text, flush=True)  # noqa: T201

    def finish(self):
        pass


def main(store, out, *seeds):
    if seeds:
        specs = [
            RunSpec(recipe=RECIPE, seed=seed, folder=Path(out), name=f"seed-{seed}") for seed in parse_seeds(seeds[0])
        ]
        train_runs(Path(store), specs, resume=True, progress=Printer())
    else:
        train(Path(store), recipe=RECIPE, out=Path(out), resume=True, progress=Printer())


if __name__ == "__main__":
    main(*sys.argv[1:])
