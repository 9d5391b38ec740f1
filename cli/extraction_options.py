"""The options of ``extract``, which ``plan`` shares: the fields of ``pipelines.extract.config.ExtractConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer

from mettle_cache.cli import completion
from mettle_cache.cli.options import DEVICE, RUNS, SEED, Setting, parse_size, path_option, several

DATA, STORED = "What to extract", "What to store"


def _part(text: str) -> tuple[int, int]:
    from mettle_cache.pipelines.extract.config import parse_part

    return parse_part(text)


EXTRACTION: Mapping[str, Setting] = {
    "dataset": Setting(
        str, typer.Option(help="The data set; see mettle datasets.", autocompletion=completion.datasets), panel=DATA
    ),
    "root": Setting(Path | None, path_option(text="Its folder; by default data/AVE for ave."), None, panel=DATA),
    "visual": Setting(
        str,
        typer.Option(
            metavar="NAME[@SIZE][=WEIGHTS]",
            help="Backbone for frames; WEIGHTS: a file, or random.",
            autocompletion=completion.backbones,
        ),
        "swinv2_l",
        panel=STORED,
    ),
    "audio": Setting(
        str,
        typer.Option(
            metavar="NAME[=WEIGHTS]|shared[=mean]",
            help="Backbone for sound; shared: the visual one reads the log-mel, of a .wav's first channel where the "
            "published code does so, else of the channels' mean; shared=mean: always of the mean.",
            autocompletion=completion.backbones,
        ),
        "htsat",
        panel=STORED,
    ),
    "codec": Setting(
        str,
        typer.Option(
            metavar="NAME[=STORE]",
            help="float16, int8, int4 or klt2, klt1.5, klt1.32, klt1.25; STORE: one whose static arrays are taken.",
            autocompletion=completion.codecs,
        ),
        "int8",
        panel=STORED,
    ),
    "layers": Setting(
        str | None,
        typer.Option(
            metavar="all|embed|stages|last:N|NAME,...",
            autocompletion=completion.one_of("all", "embed", "stages", "last:1"),
            help="The layers to store; by default those that the task reads. embed is the patch embedding.",
        ),
        None,
        panel=STORED,
    ),
    "clips_per_shard": Setting(
        int | None,
        typer.Option(metavar="N", help="Clips that share a file of each stage; by default as many as make 1 GiB."),
        None,
        panel=STORED,
    ),
    "options": Setting(
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="A choice that the data set offers; see mettle datasets."),
        None,
        several,
        panel=DATA,
    ),
    "out": Setting(
        Path | None, path_option(text="The store; by default under cache/.", metavar="STORE"), None, panel=STORED
    ),
    "seed": Setting(int, SEED, 0, panel=STORED),
    "limit": Setting(
        int | None,
        typer.Option(metavar="N", help="Only the first N clips of each split, to try it out; later runs add to them."),
        None,
        panel=DATA,
    ),
    "skip_missing": Setting(
        bool, typer.Option("--skip-missing", help="Go on without clips whose media are missing."), False, panel=DATA
    ),
    "refresh": Setting(
        bool, typer.Option("--refresh", help="Extract clips again whose media have changed since."), False, panel=DATA
    ),
    "part": Setting(
        str, typer.Option(metavar="I/N", help="Only the I-th of N parts, for batch systems."), "1/1", _part, panel=RUNS
    ),
    "workers": Setting(int, typer.Option(help="Spread the clips over that many processes here."), 0, panel=RUNS),
    "scheduler": Setting(
        str | None, typer.Option(metavar="tcp://...", help="Spread them over a dask cluster."), None, panel=RUNS
    ),
    "memory": Setting(
        str,
        typer.Option(metavar="SIZE", help="Memory for decoding, of all clips; each may take a quarter."),
        "4GB",
        parse_size,
        panel=RUNS,
    ),
    "precision": Setting(
        str,
        typer.Option(
            metavar="float32|bfloat16|float16",
            help="Of the backbones; the last two by autocast.",
            autocompletion=completion.one_of("float32", "bfloat16", "float16"),
        ),
        "float32",
        panel=STORED,
    ),
    "device": DEVICE,
}
