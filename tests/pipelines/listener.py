"""A progress that remembers what it was told."""

from dataclasses import dataclass, field


@dataclass
class Listener:
    notes: list = field(default_factory=list)
    total: int = 0
    done: int = 0
    nbytes: int = 0
    finished: bool = False

    def start(self, total, unit, what):
        self.total = total

    def advance(self, n=1, *, nbytes=0):
        self.done += n
        self.nbytes += nbytes

    def note(self, text):
        self.notes.append(text)

    def finish(self):
        self.finished = True
