"""Built-in sweeps against the paper's text and the real registries; files of one's own, and what is wrong with them."""

import pytest

from mettle_cache.datasets.registry import DATASETS
from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.pipelines.sweeps.sweep_file import find_by_key, keys_of, list_sweeps, parse_sweep, read_sweep
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.tasks.registry import TASKS, get_task

SWEEPS = {sweep.name: sweep for sweep in list_sweeps()}
# the tables as the paper's text has them: AVEL, five columns of AVVP of which the last is the average, S4, MS3
FULL = {
    "table5": """
        Direct|80.7|55.3|57.0|49.0|49.1|52.3|78.8|48.7
        Linear|78.8|54.8|57.1|48.3|49.5|51.9|79.2|51.8
        Ours|82.3|57.0|61.2|51.1|53.1|54.7|79.9|53.7""",
    "table6": """
        K_a=1 K_v=1|82.3|57.0|61.2|51.1|53.1|54.7|79.9|53.7
        K_a=1 K_v=2|81.2|57.0|62.0|50.6|52.8|54.5|79.6|52.7
        K_a=2 K_v=1|81.2|56.6|60.7|50.4|52.3|54.1|79.4|52.0
        K_a=2 K_v=2|80.7|56.5|60.6|50.3|52.1|54.0|79.7|52.6
        K_a=4 K_v=4|80.8|56.1|60.4|49.7|51.9|53.6|79.8|52.3""",
    "table7": """
        8-4-2-1|80.7|55.3|57.0|49.0|49.1|52.3
        2-2-1-1|78.8|54.8|57.1|48.3|49.5|51.9
        default|82.3|57.0|61.2|51.1|53.1|54.7""",
    "table8": """
        R_a=1 R_v=1|82.3|57.0|61.2|51.1|53.1|54.7|79.6|53.7
        R_a=1 R_v=2|80.9|55.8|60.9|49.5|52.0|53.4|79.9|53.5
        R_a=2 R_v=1|80.7|56.7|61.2|50.4|52.5|54.2|79.9|53.7
        R_a=2 R_v=2|81.1|56.4|60.6|50.0|51.9|53.8|79.8|53.2
        R_a=4 R_v=4|81.6|56.6|61.1|50.3|52.6|54.1|79.8|52.3""",
    "table9": """
        DP only|77.3|55.3|60.1|49.0|51.8|52.9|78.9|52.7
        TS only|80.5|56.2|60.8|49.7|51.6|53.6|78.6|51.5
        TS and DP|82.3|57.0|61.2|51.1|53.1|54.7|79.9|53.7""",
    "table10": """
        Remove|80.5|56.2|60.8|49.7|51.6|53.6|78.6|51.5
        AvgPool|83.2|56.4|59.8|49.4|50.4|53.3|80.4|53.8
        Linear|83.3|57.0|61.2|51.1|53.1|54.7|80.7|55.1""",
}
OTHERS = {
    "table11": {"intra only": (79.3, 49.9), "cross only": (79.4, 52.3), "intra and cross": (79.9, 53.7)},
    "table12": {"1st (bottom)": (80.2, 53.6), "2nd": (80.3, 53.8), "3rd": (80.5, 54.5), "4th (top)": (80.7, 55.1)},
    "mti-order": {"intra first": (79.8, 53.3), "cross first": (79.9, 53.7)},
    "layers-by-stage": {"1st (bottom)": (49.5,), "2nd": (64.7,), "3rd": (80.4,), "4th (top)": (81.7,)},
    "methods": {"LST": (80.0, 51.9), "UniPT": (81.1, 52.4), "SHERL": (81.6, 52.1), "Mettle": (83.3, 54.7)},
}
COLUMNS = {"table11": ("avs-s4", "avs-ms3"), "table12": ("avs-s4", "avs-ms3"), "mti-order": ("avs-s4", "avs-ms3")}
VALID = 'title = "t"\nbase = "a"\ntasks = ["avel"]\n[[rows]]\nname = "a"\noverrides = ["lcd.dim=16"]\n'


def printed():
    """``(sweep, row, numbers by key)`` of the paper's tables."""
    for name, text in FULL.items():
        for line in text.split("\n")[1:]:
            row, *numbers = line.strip().split("|")
            values = list(map(float, numbers))
            yield name, row, dict(zip(("avel", "avvp", "avs-s4", "avs-ms3"), values[:1] + values[5:], strict=False))
    for name, rows in OTHERS.items():
        for row, numbers in rows.items():
            yield name, row, dict(zip(COLUMNS.get(name, ("avel", "avvp")), numbers, strict=False))


def test_every_number_is_the_paper_s():
    told = {(sweep.name, row.name): dict(row.paper) for sweep in SWEEPS.values() for row in sweep.rows if row.paper}
    assert told == {(name, row): numbers for name, row, numbers in printed()}


def test_the_rows_are_in_the_paper_s_order():
    for name in (*FULL, *OTHERS):
        order = [row for sweep, row, _ in printed() if sweep == name]
        assert [row.name for row in SWEEPS[name].rows if row.paper] == order


def stores_of(sweep):
    """``(data set, recipe)`` of every store that a sweep is for: the published settings, and those for other stores."""
    for row in DATASETS:
        if row.task and set(sweep.tasks) & {row.name, row.task}:
            published = [one.setting for one in get_task(row.task).published if one.dataset == row.name]
            yield row.name, published[0] if published else row.recipe or TASKS.row(row.task).recipe


CASES = [
    (sweep, row, dataset, recipe)
    for sweep in SWEEPS.values()
    for dataset, recipe in stores_of(sweep)
    for row in sweep.rows_for(keys_of(dataset, DATASETS.row(dataset).task))
]


@pytest.mark.parametrize(("sweep", "row", "dataset", "recipe"), CASES)
def test_every_override_is_one_that_its_recipe_takes(sweep, row, dataset, recipe):
    overrides = row.overrides_on(keys_of(dataset, DATASETS.row(dataset).task))
    load_recipe(recipe, overrides)


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=lambda sweep: sweep.name)
def test_settings_are_published_ones_and_the_base_row_prints_their_score(sweep):
    """But for table 8, whose S4 has one step, and for single stages."""
    for key, setting in sweep.settings.items():
        rows = [one for name in ("avel", "avvp", "avs") for one in get_task(name).published if one.setting == setting]
        (row,) = rows
        metric = find_by_key(sweep.metrics, (key,)) or next(iter(row.scores))
        paper = sweep.row(sweep.base).paper[key]
        if (sweep.name, key) not in {("table8", "avs-s4"), ("layers-by-stage", "avel")}:
            assert row.scores[metric] == paper


def test_what_is_printed_by_mistake_is_no_target():
    assert [row.target(("ave", "avel")) for row in SWEEPS["table7"].rows] == [None, None, 82.3]
    remove = SWEEPS["table10"].row("Remove")
    targets = [remove.target(keys) for keys in (("ave", "avel"), ("llp", "avvp"), ("avs-s4", "avs"))]
    assert targets == [None, 53.6, None]
    assert "Table 5's Direct" in SWEEPS["table7"].row("8-4-2-1").note
    assert any("79.6 here" in note for note in SWEEPS["table8"].notes_for["avs-s4"])


def test_overrides_may_differ_by_task():
    (row,) = parse_sweep("mine", VALID + 'overrides_for = { avs = ["head.mti=false"] }', where="sweep mine").rows
    assert row.overrides_on(("ave", "avel")) == ("lcd.dim=16",)
    assert row.overrides_on(("avs-s4", "avs")) == ("head.mti=false",)


def test_a_sweep_for_another_task_says_what_it_is_for():
    with pytest.raises(UsageError, match=r"table11 is for avs-s4, avs-ms3, and this store is for avel \(ave\)"):
        SWEEPS["table11"].rows_for(keys_of("ave", "avel"))


def test_a_file_of_ones_own_goes_by_its_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(VALID)
    sweep = read_sweep(path)
    assert (sweep.name, sweep.seeds, sweep.rows[0].overrides) == ("mine", "0-2", ("lcd.dim=16",))


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="no sweep called 'table55'") as error:
        read_sweep("table55")
    assert "did you mean table5?" in error.value.hint
    assert "molt-layers" in error.value.hint


def test_all_that_is_wrong_is_said_at_once():
    text = (
        VALID.replace('base = "a"', 'base = "b"\nseeds = "x"\ncolour = "red"') + "paper = { avle = 80.0 }\n[[rows]]\n"
    )
    with pytest.raises(ConfigError) as error:
        parse_sweep("mine", text, where="sweep mine")
    assert error.value.problems == (
        "colour: no such key (known: title, base, tasks, source, seeds, metrics, settings, notes, notes_for)",
        "row 2: name: Field required",
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('base = "a"', 'base = "b"', r"base = 'b': no row is called so \(a\)"),
        ('"avel"]', '"avvpp"]', "tasks: no task or data set is called 'avvpp'; did you mean avvp"),
        ("lcd.dim=16", "lcd.dim", "row 1: 'lcd.dim' must be key=value"),
        ('base = "a"', 'base = "a"\nseeds = "x"', "seeds x: 'x' is no seed"),
        ('name = "a"', 'name = "a"\npaper = { avel = 101.0 }', "row 1: paper"),
        ('name = "a"', 'name = "a"\npaper = { ave = "high" }', "row 1: paper"),
        ('[[rows]]\nname = "a"', '[[rows]]\nname = "A"\n[[rows]]\nname = "a"', "two rows have the name or the folder"),
        ('[[rows]]\nname = "a"\noverrides = ["lcd.dim=16"]\n', "", "rows: there must be 1 to 200"),
        ('"a"', '"a,b"', "the row 'a,b' has a comma in its name"),
        ("title", "title = = 1", "this is not TOML"),
    ],
)
def test_what_is_refused(old, new, words):
    with pytest.raises(ConfigError, match=words):
        parse_sweep("mine", VALID.replace(old, new), where="sweep mine")


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "x" * 100])
def test_a_row_s_folder_is_below_the_sweep_s(name):
    (row,) = parse_sweep("mine", VALID.replace('"a"', f'"{name}"'), where="sweep mine").rows
    assert "/" not in row.folder
    assert not row.folder.startswith(".")
