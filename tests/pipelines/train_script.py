"""Train on the tiny store in a process of its own, to be killed: ``train_script.py OUT``, one line an epoch."""

import sys
from pathlib import Path

from pipelines.recipe import load_recipe
from pipelines.train import train_run
from tests.pipelines.tiny_store import tiny_store

RECIPE = load_recipe("ave-small", ["lcd.dim=16", "train.learning_rate=3e-3", "train.epochs=30", "train.step_size=7"])
STORE_SIZE = (16, 6, 2)


class Printer:
    def start(self, total, unit, what):
        pass

    def advance(self, n=1, *, nbytes=0):
        pass

    def note(self, text):
        print(text, flush=True)  # noqa: T201

    def finish(self):
        pass


if __name__ == "__main__":
    train_run(tiny_store(*STORE_SIZE), recipe=RECIPE, out=Path(sys.argv[1]), resume=True, progress=Printer())
