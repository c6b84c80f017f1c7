"""NYUv2 in its three official layouts, and pickles that ask for more than arrays."""

from __future__ import annotations

import gzip
import json
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch

from aloe.core.errors import UserError
from aloe.data.frames import nyuv2
from aloe.data.frames.frame import Frame
from aloe.data.frames.named import open_frames
from aloe.data.frames.pickles import load_arrays
from captures import nyu_arrays, write_labelled

scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed")
pytest.importorskip("h5py", reason="h5py is not installed")


def check(frame: Frame, image: np.ndarray, depth: np.ndarray, normals: np.ndarray | None) -> None:
    """The central 480 x 480, depth over 10 m zero, normals as they are."""
    assert torch.equal((frame.image * 255).round().byte(), torch.from_numpy(image[:, :, 80:560].copy()))
    expected = np.where(depth > 10, 0, depth)[:, 80:560]
    np.testing.assert_array_equal(frame.depth, expected)
    assert frame.depth[0, 0] == 0
    assert frame.depth[1, 10] == 0
    if normals is None:
        assert frame.normals is None
    else:
        np.testing.assert_allclose(frame.normals, normals[:, :, 80:560], rtol=1e-6)


def test_the_official_mat_with_its_splits(tmp_path: Path):
    images, depths, normals = nyu_arrays(3)
    path = write_labelled(tmp_path, images, depths, normals)
    scipy_io.savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[3]]), "testNdxs": np.array([[1], [2]])})
    for spec in (tmp_path, path):
        splits = open_frames(f"nyuv2={spec}")
        assert (len(splits.train), len(splits.test), splits.official, splits.max_depth) == (1, 2, False, 10)
        assert any("Deviation: trained on the 1 labelled" in note for note in splits.notes)
        check(splits.train[0], images[2], depths[2], normals[2])
        check(splits.test[1], images[1], depths[1], normals[1])
    assert splits.train.state() != splits.test.state()
    again = pickle.loads(pickle.dumps(splits.test))  # loaders' workers get it so
    check(again[0], images[0], depths[0], normals[0])


def test_the_official_mat_without_normals_and_the_sn40_split(tmp_path: Path):
    images, depths, _ = nyu_arrays(2)
    write_labelled(tmp_path, images, depths, None)
    (tmp_path / "train_SN40.json").write_text(json.dumps([{"img": "0002_rgb.png"}]))
    (tmp_path / "test_SN40.json").write_text(json.dumps([{"img": "0001_rgb.png"}]))
    splits = open_frames(f"nyuv2={tmp_path}")
    check(splits.train[0], images[1], depths[1], None)
    check(splits.test[0], images[0], depths[0], None)
    assert any("No surface normals" in note for note in splits.notes)
    (tmp_path / "test_SN40.json").write_text(json.dumps([{"img": "0002_rgb.png"}]))
    with pytest.raises(UserError, match="numbers repeat"):
        open_frames(f"nyuv2={tmp_path}")
    (tmp_path / "test_SN40.json").write_text("{]")
    with pytest.raises(UserError, match=r"test_SN40\.json is not a list"):
        open_frames(f"nyuv2={tmp_path}")
    (tmp_path / "test_SN40.json").unlink()
    with pytest.raises(UserError, match=r"has no split: put splits\.mat"):
        open_frames(f"nyuv2={tmp_path}")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_probe3ds_pickle(tmp_path: Path, protocol: int):
    images, depths, normals = nyu_arrays(2)
    stored = {
        **{"images": images, "depths": depths, "snorms": normals},
        **{"scene_types": ["kitchen", "bedroom"], "train_indices": [1], "test_indices": [np.int64(0)]},
    }
    path = tmp_path / "nyuv2_snorm_all.pkl"
    path.write_bytes(pickle.dumps(stored, protocol=protocol))
    splits = open_frames(f"nyuv2={tmp_path if protocol == 4 else path}")
    check(splits.train[0], images[1], depths[1], normals[1])
    check(splits.test[0], images[0], depths[0], normals[0])
    del stored["snorms"]
    path.write_bytes(pickle.dumps(stored))
    with pytest.raises(UserError, match="lacks snorms"):
        open_frames(f"nyuv2={tmp_path}")
    path.write_bytes(pickle.dumps({**stored, "snorms": normals[:, :, :9]}))
    with pytest.raises(UserError, match="not \\(3, 480, 640\\)"):
        open_frames(f"nyuv2={tmp_path}")


def geonet(folder: Path, count: int) -> np.ndarray:
    """`count` frames as GeoNet stores them: larger than 480 x 640, twice the mean colour less."""
    folder.mkdir()
    image = np.random.default_rng(1).integers(0, 256, (481, 641, 3)).astype(np.float64)
    depth = np.full((481, 641), 2.0)
    depth[0, 80], depth[1, 90] = 0, 11
    frame = {"img": image - 2 * np.array(nyuv2.GEONET_MEAN), "depth": depth, "norm": np.zeros((481, 641, 3))}
    for number in range(count):
        scipy_io.savemat(folder / f"{number:05d}.mat", frame)
    return image


def test_geonets_training_folder(tmp_path: Path):
    images, depths, normals = nyu_arrays(2)
    write_labelled(tmp_path, images, depths, normals)
    scipy_io.savemat(tmp_path / "splits.mat", {"trainNdxs": [[1]], "testNdxs": [[2]]})
    image = geonet(tmp_path / "nyuv2_geonet", 1)
    splits = open_frames(f"nyuv2={tmp_path}")
    assert not splits.official
    assert any("a part of GeoNet's set" in note for note in splits.notes)
    frame = splits.train[0]
    # Adding and taking away leaves whole numbers a rounding error under themselves; the cast cuts.
    shown = torch.from_numpy(image[:480, 80:560].transpose(2, 0, 1).copy())
    assert (frame.image * 255 - shown).abs().max() <= 1.001
    assert frame.depth[0, 0] == frame.depth[1, 10] == 0
    assert frame.depth[5, 5] == 2
    assert frame.normals.shape == (3, 480, 480)
    check(splits.test[0], images[1], depths[1], normals[1])


def test_only_the_whole_release_loses_its_two_broken_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(45):
        (tmp_path / f"{number:03d}.mat").touch()
    monkeypatch.setattr(nyuv2, "GEONET_BAD", (20, 6))
    part = nyuv2.GeoNetFrames(tmp_path)
    assert (len(part), part.whole) == (45, False)
    monkeypatch.setattr(nyuv2, "GEONET_WHOLE", 45)
    whole = nyuv2.GeoNetFrames(tmp_path)
    names = [file.stem for file in whole.files]
    assert whole.whole
    assert len(names) == 43
    assert {"020", "006"}.isdisjoint(names)
    with pytest.raises(UserError, match="damaged or not a MATLAB"):
        whole[0]


def test_what_is_not_nyuv2(tmp_path: Path):
    with pytest.raises(UserError, match="has neither nyuv2_snorm_all"):
        open_frames(f"nyuv2={tmp_path}")
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"not HDF5")
    with pytest.raises(UserError, match=r"not a MATLAB 7\.3 file"):
        open_frames(f"nyuv2={tmp_path}")
    (tmp_path / "nyuv2_snorm_all.pkl").write_bytes(b"not a pickle")
    with pytest.raises(UserError, match="damaged or not a pickle of arrays"):
        open_frames(f"nyuv2={tmp_path}")


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_malicious_pickle_is_refused_by_name_and_does_nothing(tmp_path: Path, zipped: bool):
    marker, path = tmp_path / "executed", tmp_path / "nyuv2_snorm_all.pkl"
    evil = pickle.dumps({"images": np.zeros(3), "depths": Evil(marker)})
    pickle.loads(evil)
    assert marker.exists()  # what it would do
    marker.unlink()
    path.write_bytes(gzip.compress(evil) if zipped else evil)
    with pytest.raises(UserError, match="the pickle asks for"):
        open_frames(f"nyuv2={path}")
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfrompyfunc\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"Pname\n.",
        b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
        b"cnumpy\nndarray\n((I3\ntS'O'\ntR.",  # the class itself may not be called
    ],
)
def test_programs_in_pickles(tmp_path: Path, program: bytes):
    list(pickletools.genops(program))
    path = tmp_path / "x.pkl"
    path.write_bytes(program)
    with pytest.raises(UserError, match=r"refused|damaged or not"):
        load_arrays(path)


def test_an_array_of_pointers_is_refused(tmp_path: Path):
    """Objects given as bytes would be read as addresses."""
    numbers = pickle.dumps(np.arange(3, dtype=np.int64), protocol=2)
    assert numbers.count(b"\x02\x00\x00\x00i8") == 1
    path = tmp_path / "x.pkl"
    path.write_bytes(numbers.replace(b"\x02\x00\x00\x00i8", b"\x02\x00\x00\x00O8"))
    with pytest.raises(UserError, match="objects given as bytes"):
        load_arrays(path)
    path.write_bytes(numbers.replace(b"\x02\x00\x00\x00i8", b"\x02\x00\x00\x00V8"))
    with pytest.raises(UserError, match="damaged or not a pickle"):
        load_arrays(path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_honest_arrays_come_back(tmp_path: Path, protocol: int):
    rng = np.random.default_rng(0)
    arrays = {
        "f": np.asfortranarray(rng.normal(size=(3, 4)).astype(np.float32)),
        "big": rng.normal(size=5).astype(">f8"),
        "text": np.array(["kitchen", "bath"]),
        "mixed": np.array(["a", 3], dtype=object),
        "list": [1, 2.5, "x", None, (True, np.float32(3.5))],
        "bytes": b"\x00\xff",
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    found = load_arrays(path)
    for key in ("f", "big", "text", "mixed"):
        np.testing.assert_array_equal(found[key], arrays[key])
        assert found[key].dtype.newbyteorder("=") == arrays[key].dtype.newbyteorder("=")
    assert found["list"] == arrays["list"]
    assert found["bytes"] == arrays["bytes"]
