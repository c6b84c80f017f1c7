"""Imagenette's ten and Caltech's 101 classes as one data set: `python scripts/photographs_classes.py DATA OUTPUT`.

DATA holds the folders imagenette160 and 101_ObjectCategories. OUTPUT/train and OUTPUT/test get one folder per class with
links to the images: Imagenette's own parts, and of Caltech-101 the 30 images a class that `aloe evaluate` draws for training,
and the rest. Its background images are in neither; OUTPUT/none has links to them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aloe.data.benchmarks import open_benchmark

CALTECH, BACKGROUND = "101_ObjectCategories", "BACKGROUND_Google"


def link(images: dict[str, Path], folder: Path) -> None:
    """A link to every image, by the name it gets."""
    for name, image in images.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(image.resolve())


def write(data: Path, output: Path) -> None:
    splits = open_benchmark(f"caltech101={data / CALTECH}")
    for part, source in (("train", splits.train), ("test", splits.test)):
        found = {f"{path.parent.name}/{path.name}": path for path in (data / "imagenette160" / part).glob("*/*.jpg")}
        assert source.classes is not None
        assert source.labels is not None
        for i in range(len(source)):
            name = Path(source.name(i))
            found[f"{source.classes[source.labels[i]]}/{name.name}"] = data / CALTECH / name.parent.name / name.name
        link(found, output / part)
        print(f"{part}: {len(found)} images of {len({name.split('/')[0] for name in found})} classes")
    link({path.name: path for path in (data / CALTECH / BACKGROUND).glob("*.jpg")}, output / "none")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    write(given.data, given.output)
