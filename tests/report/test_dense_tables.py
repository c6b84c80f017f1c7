"""Tables B4 and B5 and that of correspondence: which rows stand side by side, and what is compared below them."""

from __future__ import annotations

import pytest
from result_rows import make_correspondence, make_depth, make_normals

from aloe.draw.tables import MINUS, MISSING
from aloe.report.dense_tables import collect_dense, dense_tables
from aloe.report.protocol import deviations
from aloe.report.rows import Result

DINO = "facebook/dinov3-vitb16-pretrain-lvd1689m"
DEPTH = {
    "teacher": (0.9, 0.25, (0.8, 0.4)),
    "converted": (0.5, 0.75, (0.4, 0.8)),
    "b-cosified": (0.7, 0.5, (0.6, 0.6)),
    "aligned": (0.86, 0.3, (0.82, 0.9)),
}


def tables_of(name, *rows, **options):
    return dense_tables(collect_dense(name, [Result(**row) for row in rows]), **options)


def depth(*stages, **other):
    return [make_depth(stage, *DEPTH[stage], **other) for stage in stages]


def lines(table, block=0):
    """(name, stage, numbers with bold in stars and ASCII minus) of every row."""

    def text(cell):
        words = (f"*{cell.text}*" if cell.bold else cell.text) + cell.note
        return words.replace(MINUS, "-").replace(MISSING, "")

    rows = table.blocks[block].rows
    return [(row.labels[0], row.labels[1].replace(MINUS, "-"), *map(text, row.cells)) for row in rows]


def test_depth_has_the_papers_columns_with_differences_and_gaps_below():
    (table,) = tables_of("b4", *depth("aligned", "b-cosified", "converted", "teacher"))
    assert table.headers == ("Model", "Stage", "Architecture", "Inter.")
    assert table.columns == ("Relative δ1 ↑", "Relative RMSE ↓", "Absolute δ1 ↑", "Absolute RMSE ↓")
    assert [block.title for block in table.blocks] == ["my-teacher, nyuv2"]
    assert lines(table) == [
        ("my-teacher", "teacher", "0.9000", "0.2500", "0.8000", "0.4000"),
        ("my-converted", "converted", "0.5000", "0.7500", "0.4000", "0.8000"),
        ("my-b-cosified", "B-cosified", "0.7000", "0.5000", "0.6000", "*0.6000*"),
        ("my-aligned", "ALOE", "*0.8600*", "*0.3000*", "*0.8200*", "0.9000"),
        ("Δ my-aligned", "ALOE - B-cosified", "+0.1600", "-0.2000", "+0.2200", "+0.3000"),
        ("gap closed by my-aligned", "% of teacher - converted", "90.0", "90.0", "105.0", "-25.0"),
    ]
    assert [row.gray for row in table.blocks[0].rows] == [True, *[False] * 5]
    assert [row.kind for row in table.blocks[0].rows] == ["model"] * 4 + ["delta"] * 2
    assert (
        "Measured with head = linear, kernel = 1, blocks = last, cls = False, loss = probe3d, epochs = 10,"
        " learning_rate = 0.0005, batch_size = 8, seed = 0." in table.footnotes
    )
    assert not [note for note in table.footnotes if note[0] in "†‡" or note.startswith("paper")]


def test_normals_have_the_papers_columns():
    rows = [make_normals("teacher", (0.5811, 0.77, 0.83), 23.71), make_normals("aligned", (0.54, 0.75, 0.82), 24.9)]
    (table,) = tables_of("b5", *rows)
    assert table.columns == ("δ1 ↑", "δ2 ↑", "δ3 ↑", "RMSE ↓")
    assert lines(table) == [
        ("my-teacher", "teacher", "0.581", "0.770", "0.830", "23.71"),
        ("my-aligned", "ALOE", "0.540", "0.750", "0.820", "24.90"),
        ("Δ my-aligned", "ALOE - teacher", "-0.041", "-0.020", "-0.010", "+1.19"),
    ]
    assert "less than 11.25, 22.5 and 30 degrees off" in table.footnotes[1]
    assert not [note for note in table.footnotes if note.startswith("gap")]


@pytest.mark.parametrize(
    ("stages", "against"),
    [
        (("teacher", "converted", "b-cosified"), "B-cosified"),
        (("teacher", "converted"), "converted"),
        (("teacher",), "teacher"),
        ((), None),
    ],
)
def test_the_difference_names_what_it_is_against(stages, against):
    (table,) = tables_of("b4", *depth(*stages, "aligned"))
    found = [stage for name, stage, *_ in lines(table) if name == "Δ my-aligned"]
    assert found == ([f"ALOE - {against}"] if against else [])


def test_of_several_baselines_the_better_one_is_taken_also_where_less_is_better():
    bad, good = ((0.5, 0.6, 0.7), 40.0), ((0.5, 0.6, 0.7), 30.0)
    rows = [make_normals("b-cosified", *bad, name="bad"), make_normals("b-cosified", *good, name="good")]
    (table,) = tables_of("b5", *rows, make_normals("aligned", (0.6, 0.7, 0.8), 20.0))
    assert lines(table)[-1] == ("Δ my-aligned", "ALOE - good", "+0.100", "+0.100", "+0.100", "-10.00")


def test_no_gap_is_closed_where_the_teacher_is_not_better():
    rows = [
        make_normals("teacher", (0.5, 0.6, 0.7), 30.0),
        make_normals("converted", (0.50004, 0.5, 0.8), 30.0),
        make_normals("aligned", (0.5, 0.59, 0.75), 20.0),
    ]
    (table,) = tables_of("b5", *rows)
    assert lines(table)[-1] == ("gap closed by my-aligned", "% of teacher - converted", "", "90.0", "", "")
    (table,) = tables_of("b5", rows[0], *(make_normals(s, (0.8, 0.8, 0.8), 1.0) for s in ("converted", "aligned")))
    assert [name for name, *_ in lines(table)][-1] == "Δ my-aligned", "a row of dashes is none"


def test_the_share_of_a_gap_is_of_unrounded_numbers():
    rows = [make_normals(s, (v, v, v), 1.0) for s, v in (("teacher", 0.5024), ("converted", 0.4976), ("aligned", 0.5))]
    (table,) = tables_of("b5", *rows)
    assert lines(table)[-1][2] == "50.0"


def test_the_papers_numbers_stand_beside_its_teacher_on_nyuv2_only():
    stages = ("teacher", "converted", "b-cosified", "aligned")
    room = depth(*stages, teacher=DINO, data="rgbd:room", official=False)
    (table,) = tables_of("b4", *depth(*stages, teacher=DINO), *room, *depth(*stages))
    assert [block.title for block in table.blocks] == [f"{DINO}, nyuv2", f"{DINO}, rgbd:room", "my-teacher, nyuv2"]
    assert [(name, stage) for name, stage, *_ in lines(table)] == [
        ("my-teacher", "teacher"),
        ("paper", "teacher"),
        ("my-converted", "converted"),
        ("my-b-cosified", "B-cosified"),
        ("paper", "B-cosified"),
        ("my-aligned", "ALOE"),
        ("paper", "ALOE"),
        ("Δ my-aligned", "ALOE - B-cosified"),
        ("paper", "ALOE - B-cosified"),
        ("gap closed by my-aligned", "% of teacher - converted"),
    ]
    printed = [row[2:] for row in lines(table) if row[0] == "paper"]
    assert printed == [
        ("0.9669", "0.2464", "0.8706", "0.3957"),
        ("0.8311", "0.4604", "0.6503", "0.6804"),
        ("0.9416", "0.2988", "0.7850", "0.4850"),
        ("+0.1105", "-0.1616", "+0.1347", "-0.1954"),
    ]
    assert not [name for block in (1, 2) for name, *_ in lines(table, block) if name == "paper"]
    assert table.footnotes[-1].startswith("paper: as printed in Table B4")
    (table,) = tables_of("b4", *depth(*stages, teacher=DINO), with_paper=False)
    assert "paper" not in str(lines(table)) + str(table.footnotes)


def test_the_papers_normals_keep_their_digits_and_say_what_is_not_known():
    values = {
        "teacher": ((0.5, 0.6, 0.7), 25.0),
        "b-cosified": ((0.3, 0.4, 0.5), 33.0),
        "aligned": ((0.4, 0.5, 0.6), 26.0),
    }
    (table,) = tables_of("b5", *(make_normals(stage, *v, teacher=DINO) for stage, v in values.items()))
    printed = [row[2:] for row in lines(table) if row[0] == "paper"]
    assert printed == [
        ("0.58", "0.77", "0.83", "23.7"),
        ("0.38", "0.61", "0.70", "31.7"),
        ("0.54", "0.75", "0.82", "24.9"),
        ("+0.16", "+0.14", "+0.12", "-6.8"),
    ]
    assert table.footnotes[-1].startswith("The paper does not say whose the Baseline of Table B5 is")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": {"kernel": 3}}, "kernel = 3"),
        ({"settings": {"epochs": 20}}, "epochs = 20"),
        ({"fingerprints": {"train": "other frames"}}, "train = other frames"),
        ({"fingerprints": {"test": "other frames"}}, "test = other frames"),
    ],
)
def test_what_was_measured_in_another_way_stands_in_a_table_of_its_own(change, words):
    rows = depth("teacher", "converted", "aligned")
    odd = make_depth("aligned", 0.99, 0.1, (0.99, 0.1), **change)
    for order in ([odd, *rows], [*rows, odd]):
        main, other = tables_of("b4", *order)
        assert [row[2] for row in lines(main)[:3]] == ["0.9000", "0.5000", "*0.8600*"]
        assert other.name == "b4-other"
        assert (other.columns, other.blocks[0].rows[0].labels[4]) == (("Relative δ1 (%)",), words)
        assert lines(other)[0][-1] == "99.00"


def test_settings_that_are_not_the_papers_are_named():
    rows = depth("teacher", "aligned", data="rgbd:room", official=False, settings={"head": "dpt", "epochs": 40})
    (table,) = tables_of("b4", *depth("teacher", "aligned"), *rows)
    assert lines(table, 1)[0][2] == "0.9000†‡"
    assert lines(table, 0)[0][2] == "0.9000"
    assert "‡ not the paper's settings: head = dpt, epochs = 40 (rgbd:room)." in table.footnotes
    assert "† rgbd:room: no official split: 795 train, 654 test images." in table.footnotes
    (table,) = tables_of("b4", *depth("teacher", official=False, notes=["GeoNet is not there."]))
    (note,) = [note for note in table.footnotes if note.startswith("†")]
    assert note == "† nyuv2: not the official split, but 795 train, 654 test images (GeoNet is not there)."


def test_the_official_split_goes_before_more_models_on_another():
    small = {"official": False, "fingerprints": {"train": "795 frames"}}
    main, other = tables_of("b4", *depth("teacher", "aligned", **small), *depth("teacher"))
    assert [row[0] for row in lines(main)] == ["my-teacher"]
    assert len(lines(other)) == 2


def test_a_row_without_its_numbers_has_dashes():
    row = make_depth("teacher", 0.9, 0.25, (0.8, 0.4))
    row["details"] = {"relative": {"delta1": 0.9, "rmse": None}, "absolute": 3}
    (table,) = tables_of("b4", row)
    assert lines(table) == [("my-teacher", "teacher", "0.9000", "", "", "")]


def test_correspondence_by_distance_and_by_angle():
    recalls = {"teacher": (30.0, 50.0, 80.0), "converted": (10.0, 20.0, 40.0), "aligned": (28.0, 47.0, 82.0)}
    main, angles = tables_of("correspondence", *(make_correspondence(s, v) for s, v in recalls.items()))
    mean, every, most = "{} cm ↑", "{} cm, all ↑", "{} cm, possible"
    assert main.columns == tuple(words.format(cm) for words in (mean, every, most) for cm in (1, 2, 5))
    possible = ("70.00", "80.00", "90.00")
    assert lines(main) == [
        ("my-teacher", "teacher", "30.00", "50.00", "80.00", "29.00", "49.00", "79.00", *possible),
        ("my-converted", "converted", "10.00", "20.00", "40.00", "9.00", "19.00", "39.00", *possible),
        ("my-aligned", "ALOE", "*28.00*", "*47.00*", "*82.00*", "*27.00*", "*46.00*", "*81.00*", *possible),
        ("Δ my-aligned", "ALOE - converted", *["+18.00", "+27.00", "+42.00"] * 2, "", "", ""),
        ("gap closed by my-aligned", "% of teacher - converted", *["90.0", "90.0", "105.0"] * 2, "", "", ""),
    ]
    (note,) = [note for note in main.footnotes if "pairs at" in note]
    assert note.replace(MISSING, "-") == "navi: 12 pairs, 12000 matches (pairs at 0-30°: 8, 30-60°: 4, 60-90°: 0)."
    assert angles.name == "correspondence-angles"
    assert angles.columns == tuple(f"{a}{MISSING}{a + 30}°" for a in (0, 30, 60))
    assert [(row[0], *row[2:]) for row in lines(angles)][:3] == [
        ("my-teacher", f"{v + 5:.2f}", f"{v - 5:.2f}", "") for v in recalls["teacher"]
    ]
    assert [row.labels[2] for row in angles.blocks[0].rows] == ["1 cm", "2 cm", "5 cm"] * 3


def test_distances_and_bins_of_several_data_sets():
    other = {"thresholds": [0.02], "global": [9.0], "mean_of_bins": [8.0], "bins": [[0.0, 15.0]], "binned": [[8.0]]}
    rows = [make_correspondence("teacher", (30.0, 50.0, 80.0))]
    rows += [make_correspondence("teacher", (0, 8.0, 0), "scannet", details={**other, "reachable": None})]
    rows += [make_correspondence("teacher", (0, 7.0, 0), "rgbd:room", official=False, details=other)]
    main, *angles = tables_of("correspondence", *rows)
    assert lines(main, 1) == [("my-teacher", "teacher", "", "8.00", "", "", "9.00", "", "", "", "")]
    assert [(table.name, [block.title for block in table.blocks]) for table in angles] == [
        ("correspondence-angles", ["my-teacher, navi"]),
        ("correspondence-angles-2", ["my-teacher, scannet", "my-teacher, rgbd:room"]),
    ]
    assert "† rgbd:room: no official split: 20 frames, 12 pairs." in main.footnotes


def test_other_pairs_are_not_compared():
    rows = [make_correspondence(stage, (10.0, 20.0, 30.0)) for stage in ("teacher", "converted", "aligned")]
    odd = make_correspondence(
        "aligned", (99.0, 99.0, 99.0), fingerprints={"pairs": "others"}, settings={"num_corr": 100}
    )
    main, _, other = tables_of("correspondence", *rows, odd)
    assert lines(main)[2][2] == "*10.00*"
    assert other.blocks[0].rows[0].labels[4] == "num_corr = 100, pairs = others"
    (table, *_) = tables_of("correspondence", odd)
    assert "‡ not the paper's settings: num_corr = 100 (navi)." in table.footnotes


def test_settings_beside_the_protocol():
    of = lambda row: deviations(Result(**row))  # noqa: E731
    depth = (0.8, 0.5, (0.6, 0.7))
    assert of(make_depth("teacher", *depth, settings={"seed": 3, "resolution": 64})) == {}
    assert of(make_depth("teacher", *depth, settings={"standardize": True, "kernel": 3})) == {
        "standardize": True,
        "kernel": 3,
    }
    recalls = (10.0, 20.0, 30.0)
    scale = {"scale": 0.5, "thresholds": [0.01, 0.02, 0.05]}
    assert of(make_correspondence("teacher", recalls, settings=scale)) == {"scale": 0.5}
    sampling = {"sampling": "at-points", "pixel_thresholds": [20.0, 40.0, 80.0]}
    assert of(make_correspondence("teacher", recalls, "scannet", settings=sampling)) == {}
    assert of(make_correspondence("teacher", recalls, "navi", settings=sampling)) == sampling


def test_rows_of_correspondence_without_bins():
    details = {"thresholds": [0.02], "global": [9.0], "bins": 3, "binned": None, "mean_of_bins": [], "reachable": 1}
    (table,) = tables_of("correspondence", make_correspondence("teacher", (0, 8.0, 0), details=details))
    assert (table.columns, lines(table)) == (("2 cm, all ↑",), [("my-teacher", "teacher", "9.00")])


def test_a_task_without_rows_has_no_table():
    assert collect_dense("b5", [Result(**row) for row in depth("teacher")]) is None
