from __future__ import annotations

from mettle_cache.datasets.media.remarks import Remark, summarise


def test_what_is_said_of_several_clips_is_one_line() -> None:
    turned = Remark("hold turned pictures", "they are read as stored")

    def counted(value: int) -> Remark:
        return Remark("hold another number of pictures", "they are spread", str(value))

    remarks = {
        "a": [counted(6), turned],
        "b": [],
        "c": [counted(9)],
        "d": [counted(6)],
        "e": [counted(7)],
        "f": [counted(8)],
        "g": [counted(5)],
    }
    assert summarise(remarks, 9) == (
        "6 of 9 clips hold another number of pictures (6 in 2, 9 in 1, 7 in 1, 2 other numbers), such as a: "
        "they are spread",
        "1 of 9 clips hold turned pictures, such as a: they are read as stored",
    )
    assert summarise({"a": []}, 1) == ()
