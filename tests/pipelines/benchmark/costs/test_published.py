"""The paper's numbers against a second transcription, line by line as the tables have them."""

import pytest

from mettle_cache.pipelines.benchmark.costs.published import (
    ENCODERS,
    INFERENCE_MS,
    METHODS,
    OURS,
    TRAINING,
    published_costs,
    published_inference,
)
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.tasks.registry import TASKS, get_task

# table | method | visual encoder | audio encoder | trainable % | total M | memory GB | runtime ms
TABLES_1_TO_3 = """
1 | AVEL       | ResNet-152 | VGGish | 2.7  | 136.0 | N/A | N/A
1 | AVSDN      | ResNet-152 | VGGish | 5.7  | 140.3 | N/A | N/A
1 | CMRAN      | ResNet-152 | VGGish | 10.7 | 148.2 | N/A | N/A
1 | MM-Pyramid | ResNet-152 | VGGish | 25.0 | 176.3 | N/A | N/A
1 | CMBS       | ResNet-152 | VGGish | 6.6  | 216.7 | N/A | N/A
1 | LAVisH     | ViT-L-16   | shared | 4.3  | 340.1 | 19.2 | 328.3
1 | CoPL       | ViT-L-16   | shared | 1.5  | 332.8 | N/A | N/A
1 | AVMoE      | ViT-L-16   | shared | 32.6 | 483.1 | 19.5 | 461.5
1 | MA-AVT     | ViT-L-16   | shared | 3.7  | 338.4 | 7.2 | 448.5
1 | Mettle     | ViT-L-16   | shared | 38.8 | 532.2 | 1.7 | 146.2
1 | LAVisH     | Swin-V2-L  | shared | 2.7  | 238.8 | 15.4 | 322.1
1 | AVMoE      | Swin-V2-L  | shared | 39.4 | 374.4 | 16.8 | 500.0
1 | STG-CMA    | Swin-V2-L  | shared | 8.9  | 214.0 | 5.9 | 429.5
1 | Mettle     | Swin-V2-L  | shared | 37.2 | 364.4 | 1.8 | 125.4
1 | LAVisH     | Swin-V2-L  | HTS-AT | 30.6 | 374.9 | 11.9 | 232.9
1 | DG-SCT     | Swin-V2-L  | HTS-AT | 43.6 | 461.3 | 13.1 | 316.7
1 | AVMoE      | Swin-V2-L  | HTS-AT | 34.9 | 404.0 | 12.1 | 256.1
1 | Mettle     | Swin-V2-L  | HTS-AT | 23.0 | 338.0 | 1.5 | 88.3
2 | HAN        | -          | -      | N/A  | N/A   | N/A | N/A
2 | MGN        | -          | -      | N/A  | N/A   | N/A | N/A
2 | DG-SCT     | Swin-V2-L  | HTS-AT | 43.3 | 458.9 | 8.5 | 299.3
2 | AVMoE      | Swin-V2-L  | HTS-AT | 30.9 | 376.4 | 12.9 | 490.0
2 | Mettle     | Swin-V2-L  | HTS-AT | 8.3  | 283.5 | 0.6 | 64.2
3 | AVS        | PVT-V2     | VGGish | 58.7 | 174.5 | 4.8 | 647.0
3 | LAVisH     | Swin-V2-L  | shared | 14.0 | 266.4 | 5.9 | 222.6
3 | Mettle     | Swin-V2-L  | shared | 11.1 | 257.2 | 2.7 | 113.2
3 | DG-SCT     | Swin-V2-L  | HTS-AT | 61.5 | 594.8 | 9.0 | 330.3
3 | AVMoE      | Swin-V2-L  | HTS-AT | 54.4 | 501.2 | 9.5 | 427.3
3 | Mettle     | Swin-V2-L  | HTS-AT | 21.6 | 291.7 | 2.9 | 105.7
"""
# method | AVEL: total, memory, runtime | AVVP: total, memory, runtime
TABLE_4 = """
LST    | 347.8 1.3 79.0 | 286.1 0.6 59.0
UniPT  | 343.2 1.3 83.9 | 285.5 0.6 61.2
SHERL  | 347.7 1.0 90.7 | 286.0 0.6 71.7
Mettle | 338.0 1.5 88.3 | 283.5 0.6 64.2
"""
# method | AVEL | AVVP | AVS
TABLE_16 = """
DG-SCT | 253.2 | 162.8 | 240.7
AVMoE  | 140.5 | 287.5 | 191.6
Mettle | 84.4  | 60.2  | 73.7
"""
TASK_OF_TABLE = {"1": "avel", "2": "avvp", "3": "avs"}


def lines(text):
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


def number(text):
    return None if text == "N/A" else float(text)


def ours(row):
    return row.trainable_percent, row.total_m, row.memory_gb, row.runtime_ms


def encoders(visual, audio):
    return {"-": "not said"}.get(visual, f"{visual} shared" if audio == "shared" else f"{visual} + {audio}")


def test_tables_1_to_3():
    expected = {
        (TASK_OF_TABLE[table], method, encoders(visual, audio)): tuple(map(number, numbers))
        for table, method, visual, audio, *numbers in lines(TABLES_1_TO_3)
    }
    assert {(row.task, row.method, row.encoders): ours(row) for row in TRAINING if row.table <= 3} == expected


def test_table_4_and_its_mettle_lines_are_those_of_tables_1_and_2():
    for method, *cells in lines(TABLE_4):
        for setting, task, cell in zip(("ave-swin-htsat", "llp-swin-htsat"), ("avel", "avvp"), cells, strict=True):
            row = published_costs(setting, task)[method]
            assert ours(row)[1:] == tuple(map(float, cell.split()))
            assert row.table == (4 if method != OURS else {"avel": 1, "avvp": 2}[task])


def test_table_15():
    rows = [row for row in TRAINING if row.table == 15]
    assert [(row.task, *ours(row)[1:]) for row in rows] == [("avel", 151.6, 1.0, 41.8), ("avs", 151.9, 3.7, 86.7)]


def test_table_16():
    expected = {method: list(map(float, numbers)) for method, *numbers in lines(TABLE_16)}
    assert {method: [INFERENCE_MS[task][method] for task in ("avel", "avvp", "avs")] for method in expected} == expected
    assert published_inference("ave-swin-shared", "avel") == {}


@pytest.mark.parametrize("setting", ENCODERS)
def test_every_setting_is_a_published_recipe_with_a_line_that_says_the_same_of_its_parameters(setting):
    task = load_recipe(setting).task
    published = {row.setting: row for row in get_task(task).published}[setting]
    line = published_costs(setting, task)[OURS]
    assert (line.total_m, line.trainable_percent) == (published.total_m, published.trainable_percent)


def test_no_published_setting_with_a_total_is_missing():
    rows = [row for task in map(get_task, TASKS.names()) for row in task.published]
    assert {row.setting for row in rows if row.total_m is not None} == set(ENCODERS)


def test_methods_are_called_as_in_the_tables():
    methods = {row.method for row in TRAINING}
    assert set(METHODS.values()) <= methods
