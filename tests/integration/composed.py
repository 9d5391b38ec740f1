"""The five data sets as the composing program writes them, for studies: more clips, a fresh seed, and their assets.

A composed clip shows a cut-out and plays a recording of a small pack, so clips that share one are not independent. The
program does not say which clip got what; :func:`compose_set` notes it while the program runs, and writes the file that
``mettle compare-codecs --groups`` reads.
"""

import csv
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

SEED = 12
GROUPS = "groups.csv"


@dataclass(frozen=True)
class ComposedSet:
    """One set: its name here and for the composing program, and the clips of train, val and test.

    ``heads`` changes the set's recipe so that a study of several codecs, each with several seeds, takes an hour rather
    than a day: fewer epochs, a narrower head, and of events the last two layers.
    """

    dataset: str
    program: str
    train: int
    val: int
    test: int
    heads: tuple[str, ...] = ()

    @property
    def sizes(self):
        return ("--train", str(self.train), "--val", str(self.val), "--test", str(self.test))


LAST_LAYERS = "layers=[visual/last:2,audio/last:2]"


# val is not read: the studies keep the last epoch
SETS = {
    made.dataset: made
    for made in (
        ComposedSet("ave", "ave", 420, 28, 224, (LAST_LAYERS, "lcd.dim=64", "train.epochs=6", "train.step_size=2")),
        ComposedSet("llp", "llp", 240, 15, 180, (LAST_LAYERS, "lcd.dim=64", "train.epochs=6", "train.step_size=2")),
        ComposedSet("avs-s4", "s4", 168, 28, 112, ("train.epochs=8", "train.step_size=3")),
        ComposedSet("avs-ms3", "ms3", 140, 28, 112, ("train.epochs=8", "train.step_size=3")),
        ComposedSet("music-avqa", "avqa", 240, 12, 88, ("head.dim=128", "train.epochs=3", "train.step_size=2")),
    )
}


def compose_set(realdata, made, out, *, seed=SEED):
    """Compose a set into ``out``; gives the groups file: the main picture and recording of every clip.

    Main is what stands for the class that the clip was composed for, else the first of its kind; a clip without any is
    its own group.
    """
    program, notes = _load(realdata / "compose.py"), _Notes()
    program.Pack = _noting_pack(program.Pack, notes)
    program.cycle_classes = notes.each_class(program.cycle_classes)
    # every clip ends with one of these, whose first argument is named after it
    program.save_frames = notes.ending(program.save_frames)
    program.save_avs_audio = notes.ending(program.save_avs_audio)
    status = program.main([made.program, "--out", str(out), *made.sizes, "--seed", str(seed)])
    if status:
        raise RuntimeError(f"compose.py {made.program} ended with status {status}")
    return notes.write(Path(out) / GROUPS)


def _load(path):
    """The program as a module of its own, which may be changed."""
    spec = importlib.util.spec_from_file_location(f"composing_program_{id(path)}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class _Notes:
    """Which assets each clip used: (picture or recording, class, file) in the order of use."""

    def __init__(self):
        self.clips = {}
        self._made_for = ""
        self._used = []

    def use(self, kind, name, file):
        self._used.append((kind, name, file))

    def each_class(self, cycle_classes):
        def cycle(*arguments):
            for name in cycle_classes(*arguments):
                self._made_for, self._used = name, []
                yield name

        return cycle

    def ending(self, save):
        def save_and_end(place, *arguments):
            self.clips[place.stem if place.suffix == ".wav" else place.name] = (self._made_for, self._used)
            return save(place, *arguments)

        return save_and_end

    def write(self, path):
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("clip", "picture", "recording"))
            for clip, (made_for, used) in self.clips.items():
                main = [_main_asset(used, kind, made_for) for kind in ("picture", "recording")]
                table.writerow((clip, *(asset or clip for asset in main)))
        return path


def _main_asset(used, kind, made_for):
    of_kind = [(name, file) for one, name, file in used if one == kind]
    return next((file for name, file in of_kind if name == made_for), of_kind[0][1] if of_kind else "")


def _noting_pack(pack, notes):
    """The program's asset pack, which also notes the files that clips get."""

    class Noting(pack):
        def picture(self, name, *arguments):
            result = super().picture(name, *arguments)
            notes.use("picture", name, self._last)
            return result

        def sound(self, name, *arguments):
            result = super().sound(name, *arguments)
            notes.use("recording", name, self._last)
            return result

        def _image(self, file):
            self._last = file
            return super()._image(file)

        def _sound(self, file):
            self._last = file
            return super()._sound(file)

    return Noting
