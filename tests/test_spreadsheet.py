"""Tables as Excel, Numbers and others save them."""

import codecs
from pathlib import Path

import pytest

from bloodcell.errors import InputError
from bloodcell.spreadsheet import read_sheet

PLAIN = "File,Photo\nTRAIN\\a.png, 1 \n\nb.png,\n"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("said", [False, True])
def test_every_way_to_save_a_table(separator: str, coding: str, end: str, said: bool) -> None:
    text = PLAIN.replace(",", separator).replace("\n", end) + separator
    if said:
        text = f"sep={separator}\n{text}"
    Path("t.csv").write_bytes(text.encode(coding))
    sheet = read_sheet(Path("t.csv"), "t", "a file")
    assert sheet.columns == ["file", "photo"]
    assert [line.values for line in sheet.lines] == [
        {"file": "TRAIN\\a.png", "photo": "1"}, {"file": "b.png", "photo": ""},
    ]  # fmt: skip


def test_a_line_is_found_by_its_number() -> None:
    Path("t.csv").write_text(PLAIN)
    assert [line.number for line in read_sheet(Path("t.csv"), "t", "").lines] == [2, 4]


def test_short_and_long_lines() -> None:
    Path("t.csv").write_text("a,b\n1\n1,2,,\n")
    values = [line.values for line in read_sheet(Path("t.csv"), "t", "").lines]
    assert values == [{"a": "1", "b": ""}, {"a": "1", "b": "2"}]
    Path("t.csv").write_text("file,photo\na.jpg,1\nb.jpg,slide 3, field 2\n")
    with pytest.raises(
        InputError, match=r"^t, line 3: 3 values for 2 columns\. Put .* ',' into quo"
    ):
        list(read_sheet(Path("t.csv"), "t", "").lines)


def test_blank_lines_before_the_header() -> None:
    Path("t.csv").write_text("\n  \nfile;photo\na,b.jpg;1\n")
    sheet = read_sheet(Path("t.csv"), "t", "")
    assert [line.values for line in sheet.lines] == [{"file": "a,b.jpg", "photo": "1"}]


def test_what_is_no_table() -> None:
    for data in (codecs.BOM_UTF16_LE + b"a", "größe;b".encode("cp1252")):
        Path("t.csv").write_bytes(data)
        with pytest.raises(
            InputError, match=r"t is not a CSV file in UTF-8 or UTF-16.*`CSV UTF-8`"
        ):
            read_sheet(Path("t.csv"), "t", "")
    Path("t.csv").write_text("a,b\n" + "x" * 200_000)
    with pytest.raises(InputError, match=r"t is not a CSV file \(field larger"):
        list(read_sheet(Path("t.csv"), "t", "").lines)
    with pytest.raises(InputError, match=r"t cannot be read .*Give a photo table"):
        read_sheet(Path("no.csv"), "t", "a photo table")
