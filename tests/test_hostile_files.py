"""Files that nobody vouches for, for every verb that opens any, under limits of memory and time."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import textwrap
import warnings
import zipfile
import zlib
from urllib.parse import unquote

import pytest
from PIL import Image

from aloe.apps.study.answers import read_studies
from aloe.core.errors import UserError
from aloe.core.files import parse_json, parse_yaml, read_bytes
from aloe.core.printable import file_name, for_spreadsheets, from_spreadsheets, shown_text
from aloe.data import archives
from aloe.data.archives import open_archive
from aloe.data.decode import UnreadableImage, decode_image
from aloe.data.official.layouts import LAYOUTS
from aloe.data.places import output_folder
from aloe.data.sources import open_source
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from conftest import build_teacher
from pictures import write_pictures

DEEP = "[" * 100_000


def png(width, height):
    """A PNG that says its size and holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def lying_zip(path, declared=500, real=64 << 20):
    """A zip whose directory says `declared` bytes for a member that inflates to `real`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(real))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", real), struct.pack("<I", declared)))


def tar_of(path, name="a.png", data=b"x", **headers):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size, member.pax_headers = len(data), headers
        archive.addfile(member, io.BytesIO(data))


def test_a_sparse_member_that_is_none(tmp_path):
    tar_of(tmp_path / "a.tar", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    with pytest.raises(UserError, match=r"a\.tar"):
        open_archive(tmp_path / "a.tar")


def test_a_zip_is_read_as_far_as_it_declares(tmp_path):
    import resource

    lying_zip(tmp_path / "a.zip")
    store = open_archive(tmp_path / "a.zip")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImage):
        open_source(str(tmp_path / "a.zip")).load(0)
    assert store.size("a.png") == 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_a_tar_that_inflates_without_end_is_refused_and_its_part_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(archives, "SMALL", 1 << 20)
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(bytes(64 << 20))
    with pytest.raises(UserError, match="more than 100 times"):
        open_archive(tmp_path / "a.tar.gz")
    assert not any((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("size", [(80_000_000, 1), (1, 80_000_000), (101, 1)])
def test_a_shape_that_no_view_can_be_cut_from(size):
    with pytest.raises(UnreadableImage, match="no view can be cut"):
        decode_image(png(*size))
    if max(size) < 1000:
        with pytest.raises(UnreadableImage):
            decode_image(Image.new("RGB", size))


def test_pillow_says_nothing_of_an_image_that_it_reads():
    buffer = io.BytesIO()
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(30)  # a count of 65535 entries
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert decode_image(buffer.getvalue()).size == (8, 8)
    assert not told


@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
def test_deep_nesting(parse):
    with pytest.raises(ValueError, match="nested too deeply"):
        parse(DEEP)


NAMES = [
    "a\nb.png",
    "<script>.png",
    "\x1b]0;owned\x07.png",
    "100%.png",
    "a\\b.png",
    'x"|?*.png',
    "ä ö.png",
    "plain-1.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_are_plain_and_reversible(name):
    plain = file_name(name)
    assert unquote(plain) == name
    assert plain.isprintable()
    assert not set(plain) & set('<>:"|?*\\')
    assert (plain == name) == (name in NAMES[-2:])


def test_long_names_stay_apart():
    one, other = file_name("a" * 299 + ".png"), file_name("a" * 300 + ".png")
    assert one != other
    assert one.endswith(".png")
    assert max(len(one), len(other)) < 200
    assert file_name("é" * 200).isprintable()


CELLS = ["=cmd|calc!A0", "+1", "-1", "@x", "\tx", "'=x", "''=x", "'plain", "a=b", "", "x"]


@pytest.mark.parametrize("cell", CELLS)
def test_cells_are_words_to_a_spreadsheet_and_read_back_unchanged(cell):
    written = for_spreadsheets(cell)
    assert not written or written[0] not in "=+-@\t\r"
    assert from_spreadsheets(written) == cell
    assert for_spreadsheets(-1) == -1


def test_control_characters_do_not_reach_the_terminal():
    assert shown_text("a\x1b[31mb\x07\nc\td") == "a\\u001b[31mb\\u0007\nc\td"


def test_a_position_that_is_not_finite(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"position": 1e400}\n')
    with pytest.raises(UserError, match=r"a\.jsonl"):
        read_studies(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text(DEEP + "\n")
    with pytest.raises(UserError, match=r"b\.jsonl"):
        read_studies(tmp_path / "b.jsonl")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        link = tmp_path / f"link{len(list(tmp_path.iterdir()))}"
        link.symlink_to(path)
        with pytest.raises(UserError, match="not a regular file"):
            read_bytes(link)
        with pytest.raises(UserError, match="no regular file"):
            open_archive(link)
        with pytest.raises(UnreadableImage):
            decode_image(link)


@pytest.mark.parametrize("value", [None, "", " ", 3, b"x"])
def test_no_folder_to_write_to(value):
    with pytest.raises(UserError, match="output_dir"):
        output_folder(value)


def test_folders_to_write_to(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert output_folder("~/x") == tmp_path / "x"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        output_folder(tmp_path / "file")


CHILD = textwrap.dedent(
    """
    import contextlib, io, json, resource, signal, sys
    from aloe.cli import main
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    for words in json.load(open(sys.argv[1])):
        sys.argv = ["aloe", *words]
        out, err = io.StringIO(), io.StringIO()
        signal.alarm(60)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main.main()
                code = 0
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException as error:
                code = repr(error)
        print(json.dumps([code, out.getvalue(), err.getvalue()]), file=sys.__stdout__, flush=True)
    """
)


@pytest.mark.slow
def test_every_verb_that_opens_files(tmp_path):
    """Hostile files and mistaken options, each under 8 GB of addresses and a minute: exit code 2 and one sentence."""
    teacher, student, photos = tmp_path / "teacher", tmp_path / "student", tmp_path / "photos"
    build_teacher("vit-classifier").model.save_pretrained(teacher)
    save_student(bcosify(build_teacher("vit-classifier")), student)
    for label in ("a", "b"):
        write_pictures(photos / label, 6)
    (tmp_path / "deep.yaml").write_text(DEEP)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "config.json").write_text(DEEP)
    (tmp_path / "deep" / "probe.json").write_text(DEEP)
    (tmp_path / "deep.jsonl").write_text(DEEP + "\n")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    tar_of(tmp_path / "sparse.tar", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    lying_zip(tmp_path / "lies.zip")
    (tmp_path / "thin").mkdir()
    (tmp_path / "thin" / "a.png").write_bytes(png(80_000_000, 1))
    for mark in (mark for layout in LAYOUTS.values() for mark in layout.marks):  # each as a list of lines full of NUL
        file = tmp_path / "lists" / (mark.rstrip("/") or "x")
        file.parent.mkdir(parents=True, exist_ok=True)
        if mark.endswith("/"):
            file.mkdir(exist_ok=True)
        elif not file.exists():
            file.write_bytes(b"\0" * 2000)
    out, t = tmp_path / "out", tmp_path
    images = [t / "pipe.png", t / "pipe.tar", t / "zero.png", t / "sparse.tar", t / "lies.zip", t / "thin"]
    table = [
        *(["explain", student, i, "-o", out] for i in images),
        *(["attribute", i, "-m", student, "--methods", "inherent", "-o", out] for i in images),
        *(["align", teacher, i, "-o", out, "--set", "holdout=0", "--steps", 1, "--device", "cpu"] for i in images),
        *(["bcosify", teacher, "-o", out, "--calibrate", i] for i in images[:4]),
        *(["evaluate", "knn", student, "--test", i, "--train", photos, "-o", out] for i in images[:4]),
        *(["explain", student, photos, "--like", i, "-o", out] for i in images),
        *(["explain", student, photos, "--toward", i, "-o", out] for i in images[:4]),
        *(["neighbours", student, i, photos / "a" / "00.png", "-o", out] for i in images),
        *(["neighbours", student, photos, i, "-o", out] for i in images[:4]),
        *(["evaluate", "knn", student, "--data", f"{name}={t / 'lists'}", "-o", out] for name in LAYOUTS),
        ["neighbours", student, photos, photos / "a" / "00.png", "-o", out, "--cache", t / "c", "--no-cache"],
        ["neighbours", t / "deep", photos, photos / "a" / "00.png", "-o", out],
        ["explain", student, photos, "--like", photos, "--region", "0,0,1e400,1", "-o", out],
        ["export", student, "--to", "web", "-o", out, "--texts", t / "pipe.png"],
        ["export", t / "deep", "--to", "web", "-o", out],
        ["export", student, "--to", "web", "-o", out, "--runtime", t / "lies.zip"],
        ["publish", t / "deep", "me/it", "--space", "--dry-run", "-o", out],
        ["explain", t / "deep", photos, "-o", out],
        ["bcosify", t / "deep", "-o", out],
        ["attribute", photos, "-m", t / "deep", "-o", out],
        ["align", teacher, photos, "-o", out, "--config", t / "deep.yaml"],
        ["align", teacher, photos, "-o", out, "--set", f"steps={DEEP[:5000]}"],
        ["study", "fit", t / "deep.jsonl", "-o", out],
        ["align", teacher, photos, "-o", photos / "out"],
        ["finetune", teacher, photos, "-o", photos / "out"],
        ["align", teacher, photos, "-o", ""],
        ["align", teacher, photos, "-o", out, "--steps", 1, "--set", "steps=2"],
        ["align", teacher, photos, "-o", out, "--set", "steps="],
        ["align", teacher, photos, "-o", out, "--set", "images=/nope"],
        ["align", teacher, photos, "-o", out, "--workers", 1_000_000],
        ["align", teacher, photos, "-o", out, "--batch-size", 1_000_000],
        ["align", teacher, photos, "-o", out, "--student", student, "--stem", "conv"],
        ["align", teacher, photos, "-o", out, "--seed", 10**20],
        ["align", teacher, photos, "-o", out, "--device", "meta"],
        ["bcosify", teacher, "-o", out, "--b", "nan"],
        ["bcosify", teacher, "-o", out, "--seed", 10**20],
        ["explain", student, photos, "-o", out, "--methods", "x"],
        ["evaluate", "knn", student, "--test", photos, "--train", photos, "-o", out, "--templates", "single"],
        ["attribute", photos, "-m", student, "--methods", "intgrad", "--set", "lime.samples=3", "-o", out],
        ["study", "power", "--difference", "nan"],
        ["evaluate", "knn", student, "--test", photos, "--train", photos, "-o", photos / "out"],
        ["bcosify", teacher, "-o", photos / "out", "--calibrate", photos],
        ["sweep", teacher, photos, "-o", photos / "out", "--vary", "seed=1", "--test", photos],
        ["sweep", teacher, photos, "-o", out, "--config", t / "deep.yaml"],
        ["export", t / "deep", "-o", t / "out.onnx"],
        ["export", teacher, "-o", t / "out.onnx"],
        ["export", student, "-o", ""],
        ["publish", t / "deep", "me/it", "--dry-run", "-o", out],
        ["publish", student, "me/it", "--dry-run", "-o", out, "--allow-unaligned", "--example", t / "pipe.png"],
        ["report", t / "deep.jsonl", "-o", out],
        ["report", t / "pipe.tar", "-o", out],
        ["bench", "--sizes", "enormous", "-o", out],
        ["bench", "--steps", "nan", "-o", out],
        ["app", t / "deep"],
        ["app", student, "--images", t / "zero.png"],
        ["app", student, "--port", 10**6],
        ["ground", t / "deep", photos / "a" / "00.png", "what is it?", "-o", out],
        ["demo", "-o", photos],
        ["demo", "--steps", 10**20, "-o", out],
        ["explain", student, photos, "-o", out, "--batch-size", "nan"],
        ["finetune", teacher, photos, "-o", out, "--lr", "inf"],
    ]
    (tmp_path / "table.json").write_text(json.dumps([[str(word) for word in words] for words in table]))
    environment = {**os.environ, "ALOE_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "table.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(table), done.stderr[-2000:]
    wrong = [
        f"aloe {' '.join(str(word)[:60].replace(str(t), '') for word in words)}: {code} {err[-300:]}"
        for words, (code, _, err) in zip(table, answers, strict=True)
        if code != 2 or "Traceback" in err
    ]
    assert not wrong, "\n".join(wrong)
    assert not out.exists()


def test_csv_of_answers_is_quoted():
    text = io.StringIO()
    csv.writer(text).writerow([for_spreadsheets("=1\n2")])
    assert from_spreadsheets(next(csv.reader(io.StringIO(text.getvalue())))[0]) == "=1\n2"


def raw_header(kind, size, name="h"):
    """A block of a tar's header that declares `size` bytes."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "data",
    [
        raw_header(tarfile.XHDTYPE, 2**40) + bytes(1024),
        raw_header(tarfile.GNUTYPE_LONGNAME, 2**33) + bytes(1024),
        raw_header(tarfile.REGTYPE, 2**62, "a.png") + bytes(1024),
        raw_header(tarfile.XHDTYPE, 0) * 3000 + bytes(1024),
        raw_header(tarfile.REGTYPE, 100, "a.png") + b"x" * 50,
    ],
)
def test_headers_of_tars_that_declare_too_much(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.tar"):
        open_archive(tmp_path / "a.tar")


@pytest.mark.parametrize(("at", "value"), [(16, struct.pack("<I", 2**31)), (8, b"\xff" * 4), (12, b"\xff" * 4)])
def test_directories_of_zips_that_lie(tmp_path, at, value):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"x")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    end = data.rfind(b"PK\x05\x06")
    data[end + at : end + at + 4] = value
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match="a"):
        open_source(str(tmp_path / "a.zip")).load(0)


@pytest.mark.parametrize(
    "spec",
    [
        *("scenes:99999999999999999999", "scenes:1@1@100000", "scenes:1@99999999999", "scenes:\u0661"),
        *(
            "~nobody-of-this-name/a.png",
            "/proc/self/mem",
            "/proc/self/pagemap",
            "/dev/zero",
            "wds:{0..99999999999}.tar",
        ),
    ],
)
def test_addresses_of_images_that_are_none(spec):
    with pytest.raises(UserError):
        open_source(spec)


def test_a_folder_that_links_to_those_of_the_system(tmp_path):
    write_pictures(tmp_path / "photos", 2)
    (tmp_path / "photos" / "all").symlink_to("/proc")
    found = open_source(str(tmp_path / "photos"))
    assert len(found) == 2
    assert any("a folder of the system" in line for line in found.left_out)


YAMLS = [
    *(
        "a: 1\na: 2",
        "a: &x [1]\nb: *x",
        "a: 1_0",
        "a: 0x10",
        "a: 010",
        "a: 1:30",
        "{? [a]: 1}",
        "!!python/name:os.system",
    ),
    *("a: !!set {1, 2}", "a: !!omap [b: 1]", "a: !!binary aGk="),
    *("a: 2024-13-45", "a: " + "9" * 5000, "\x00"),
]


@pytest.mark.parametrize("text", YAMLS)
def test_yaml_is_plain(text):
    with pytest.raises(ValueError, match=r".") as told:
        parse_yaml(text)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 200
    assert parse_yaml("a: [1, -2.5, 1.0e-3, true, null, x, '1_0']") == {"a": [1, -2.5, 0.001, True, None, "x", "1_0"]}


def test_json_names_everything_once():
    with pytest.raises(ValueError, match="'a' twice"):
        parse_json('{"b": {"a": 1, "a": 2}}')
