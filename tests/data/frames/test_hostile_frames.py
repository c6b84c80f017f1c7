"""Data sets with depth that nobody vouches for: one sentence, bounded memory, nothing outside the data set is read."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest

from aloe.core.errors import UserError
from aloe.data import matlab
from aloe.data.frames import arrays, pickles
from aloe.data.frames.arrays import arrays_of_npz, load_mat, plain_dataset, whole_numbers_of
from aloe.data.frames.files import Files, decode_depth
from aloe.data.frames.named import open_frames, open_pairs
from aloe.data.frames.navi import navi_pairs
from aloe.data.frames.pickles import load_arrays
from aloe.data.frames.rgbd import _candidates
from aloe.data.scenes import render
from captures import SIDE, write_capture, write_navi
from test_hostile_files import DEEP, png


@pytest.mark.parametrize("size", [(80_000_000, 1), (1, 80_000_000), (6000, 6000), (0, 5)])
def test_depth_of_a_size_that_no_frame_has(size):
    with pytest.raises(UserError, match=r"a\.png"):
        decode_depth(png(*size), "a.png")


@pytest.mark.parametrize("text", ["1 2\n3", "1_0 2", "\u0663", "x", "1 " * 40_000])
def test_a_matrix_that_is_none(tmp_path, text):
    (tmp_path / "m.txt").write_text(text)
    with pytest.raises(UserError, match=r"m\.txt in"):
        Files(tmp_path).matrix("m.txt")


def test_pipes_devices_and_links_among_the_frames(tmp_path):
    write_capture(tmp_path / "room")
    depth = min((tmp_path / "room").glob("*.depth.png"))
    for put in (lambda: os.mkfifo(depth), lambda: depth.symlink_to("/dev/zero")):
        depth.unlink()
        put()
        with pytest.raises(UserError, match="not a regular file"):
            open_frames(f"rgbd={tmp_path / 'room'}").train[0]


def test_numbers_far_apart_are_paired_in_no_time():
    stems = ["a/1", "a/9", "a/99999999999999999"]
    assert _candidates(stems, 1, 10**9) == [(0, 1)]
    assert _candidates(stems, 1, 10**18) == [(0, 1), (0, 2), (1, 2)]


ANNOTATIONS = [
    DEEP,
    "{}",
    '[{"filename": "a.jpg"}]',
    '[{"filename": "a.jpg", "image_size": [1e400, 2], "camera": {"focal_length": 1, "q": [1,0,0,0], "t": [0,0,0]}}]',
    '[{"filename": "a.jpg", "image_size": [2, 2], "camera": {"focal_length": 1, "q": [1,0,0,0], "t": [0,0]}}]',
    '[{"filename": "a.jpg", "image_size": [2, 2], "camera": {"focal_length": 1, "q": [0,0,0,0], "t": [0,0,0]}}]',
    '[{"filename": "a.jpg", "image_size": [2, 2], "camera": {"focal_length": 1e300, "q": [1,0,0,0], "t": [0,0,0]}}]',
    '[{"filename": "../../etc/passwd", "image_size": [2, 2], "camera": {"focal_length": 1, "q": [1,0,0,0], "t": [0,0,0]}}]',
]


@pytest.mark.parametrize("text", ANNOTATIONS)
def test_annotations_of_navi(tmp_path, text):
    scenes = [render(4, 0, SIDE, view) for view in range(2)]
    write_navi(tmp_path, scenes)
    path = next(tmp_path.rglob("wild_set/annotations.json"))
    path.write_text(text)
    with pytest.raises(UserError, match=r"annotations\.json|wild_set"):
        navi_pairs(tmp_path)


def test_an_image_of_navi_that_is_listed_twice(tmp_path):
    write_navi(tmp_path, [render(4, 0, SIDE, view) for view in range(2)])
    path = next(tmp_path.rglob("wild_set/annotations.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) * 2))
    with pytest.raises(UserError, match="more than once"):
        navi_pairs(tmp_path)


def npz(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(shape, dtype="<f8", data=b""):
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        npz(a=npy((10**12,))),
        npz(a=npy((-1,))),
        npz(a=npy((1,), "|O", pickle.dumps(print))),
        npz(a=npy((1,), "<U1", b"abcd")),
        npz(a=b"\x93NUMPY\x09\x09"),
        npz(a=bytes(arrays.NPZ_BYTES + 1)),
        npy((1,), data=bytes(8)),
    ],
)
def test_arrays_that_are_not_what_they_declare(data):
    with pytest.raises(UserError, match=r"a\.npz"):
        arrays_of_npz(data, "a.npz")


def test_sound_arrays():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.arange(6).reshape(2, 3), b=np.eye(3))
    found = arrays_of_npz(buffer.getvalue(), "a.npz")
    np.testing.assert_array_equal(found["a"], np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(found["b"], np.eye(3))


@pytest.mark.parametrize("values", [["x"], [None], [[1], [1, 2]], [1.5], [float("nan")], [1e30], [1j]])
def test_lists_that_count_nothing(values):
    with pytest.raises(UserError, match="trainNdxs"):
        whole_numbers_of(values, "trainNdxs")
    assert whole_numbers_of([[2.0], [3.0]], "trainNdxs") == [2, 3]


def packed_mat(size):
    """A .mat of version 5 with one packed variable that inflates to `size` bytes."""
    body = zlib.compress(struct.pack("<II", 14, size - 8) + bytes(size - 8))
    return b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + struct.pack("<II", 15, len(body)) + body


def test_matlab_files(tmp_path, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed")
    monkeypatch.setattr(matlab, "MAT_BYTES", 1 << 20)
    (tmp_path / "bomb.mat").write_bytes(packed_mat(4 << 20))
    scipy_io.savemat(tmp_path / "cell.mat", {"img": np.array([["a", 1]], dtype=object)})
    (tmp_path / "junk.mat").write_bytes(b"MATLAB 5.0".ljust(126) + b"IM" + b"\xff" * 64)
    os.mkfifo(tmp_path / "pipe.mat")
    (tmp_path / "zero.mat").symlink_to("/dev/zero")
    for name in ("bomb", "cell", "junk", "pipe", "zero"):
        with pytest.raises(UserError, match=rf"{name}\.mat"):
            load_mat(tmp_path / f"{name}.mat", ("img",))
    scipy_io.savemat(
        tmp_path / "sound.mat", {"img": np.eye(2), "other": np.array(["x"], dtype=object)}, do_compression=True
    )
    found = load_mat(tmp_path / "sound.mat", ("img", "depth"))
    assert list(found) == ["img"]
    np.testing.assert_array_equal(found["img"], np.eye(2))


def test_hdf5_that_leads_elsewhere(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(4.0)
    (tmp_path / "raw").write_bytes(bytes(64))
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["sound"] = np.arange(4.0)
        file["external-link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
        file["soft"] = h5py.SoftLink("/sound")
        file.create_group("group")
        file.create_dataset("outside", (8,), "f8", external=[(str(tmp_path / "raw"), 0, 64)])
        file["text"] = "words"
        file.create_dataset("chunks", (10**9,), "f8", chunks=(50_000_000,))
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", (4,))
        file.create_virtual_dataset("virtual", layout)
    with h5py.File(tmp_path / "a.mat") as file:
        for key in ("external-link", "soft", "group", "outside", "text", "chunks", "virtual"):
            with pytest.raises(UserError, match=rf"a\.mat: {key} is"):
                plain_dataset(file, key, tmp_path / "a.mat")
        assert plain_dataset(file, "sound", tmp_path / "a.mat").shape == (4,)
        assert plain_dataset(file, "none", tmp_path / "a.mat") is None


PICKLES = [
    b"",
    b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",  # a frame of 2 ** 63 bytes
    b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",  # bytes of as many
    b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f.",
    b"\x80\x02Nr\xff\xff\xff\x7f0.",  # the place 2 ** 31 of the table, then nothing
    b"cnumpy.core.multiarray\n_reconstruct\n}b.",  # attributes for a function
    b"cos\nsystem\n(S'true'\ntR.",
    b"I" + b"9" * 10_000 + b"\n.",
    b"(" * 100,
]


@pytest.mark.parametrize("data", PICKLES)
def test_pickles_that_are_no_arrays(tmp_path, data):
    for content in (data, gzip.compress(data)):
        (tmp_path / "a.pkl").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.pkl"):
            load_arrays(tmp_path / "a.pkl")


def test_a_pickle_that_inflates_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "SMALL", 1 << 20)
    (tmp_path / "a.pklz").write_bytes(gzip.compress(pickle.dumps({"a": np.zeros(1 << 20)})))
    with pytest.raises(UserError, match="inflates to more than 20 times"):
        load_arrays(tmp_path / "a.pklz")


@pytest.mark.parametrize(
    "spec",
    [
        "rendered:99999999999,1@0/64",
        "rendered:1,1@99999999999/64",
        "rendered:1,1@0/99999",
        "rendered:\u0661,1",
        "rendered:" + "9" * 30,
    ],
)
def test_scenes_without_number(spec):
    for opened in (open_frames, open_pairs):
        with pytest.raises(UserError, match="rendered"):
            opened(spec)
