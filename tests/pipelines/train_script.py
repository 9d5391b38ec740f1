"""Train in a process of its own, to be killed: ``train_script STORE OUT``, one line an epoch."""

import sys
from pathlib import Path

from pipelines.recipe import load_recipe
from pipelines.train import train_run

RECIPE = load_recipe("ave-small", ["lcd.dim=16", "train.learning_rate=3e-3", "train.epochs=30", "train.step_size=7"])


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
    train_run(Path(sys.argv[1]), recipe=RECIPE, out=Path(sys.argv[2]), resume=True, progress=Printer())
