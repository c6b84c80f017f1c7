"""What names look like once they leave this machine."""

from __future__ import annotations

import pytest

from aloe.apps.publish.names import check_repo_id, is_hub_id, public_name, public_words, without_paths
from aloe.core.errors import UserError


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("google/vit-base-patch16-224", "google/vit-base-patch16-224"),
        ("cifar10", "cifar10"),
        ("hf:ethz/food101@train", "hf:ethz/food101@train"),
        ("hf:/home/jo/food101@train", "hf:food101@train"),
        ("wds:/data/jo/x-{000..009}.tar", "wds:x-{000..009}.tar"),
        ("scenes:2000@7", "scenes:2000@7"),
        ("/home/jo doe/pets", "pets"),
        ("/home/jo/pets/", "pets"),
        ("~/pets", "pets"),
        ("../../pets", "pets"),
        ("C:\\Users\\jo\\pets", "pets"),
        ("/home/jo/cifar10.tar.xz::cifar10/train", "cifar10.tar.xz::cifar10/train"),
        ("https://example.org/data/pets", "https://example.org/data/pets"),
    ],
)
def test_public_name(name, public):
    assert public_name(name) == public


@pytest.mark.parametrize(
    ("words", "cut"),
    [
        ("3 test images could not be read, first /home/jo/a/x.jpg", "3 test images could not be read, first x.jpg"),
        ("first ~/a/x.jpg; then C:\\Users\\jo\\y.png", "first x.jpg; then y.png"),
        ("see https://example.org/a/b and cats/x.jpg", "see https://example.org/a/b and cats/x.jpg"),
        ("5000 test images instead of 10000", "5000 test images instead of 10000"),
        ("24/7 and/or", "24/7 and/or"),
    ],
)
def test_without_paths(words, cut):
    assert without_paths(words) == cut


@pytest.mark.parametrize(
    ("words", "public"),
    [
        ("CC12M / LAION, 3 million of them", "CC12M / LAION, 3 million of them"),
        ("/home/jo doe/my pictures", "my pictures"),
        ("C:\\Users\\jo doe\\pictures", "pictures"),
        ("ours, from /home/jo/pictures", "ours, from pictures"),
        ("see https://example.org/terms/of", "see https://example.org/terms/of"),
    ],
)
def test_public_words(words, public):
    assert public_words(words) == public


@pytest.mark.parametrize("name", ["vit", "a/b/c", "/a/b", "../b", "", "a/b c"])
def test_not_a_hub_id(name):
    assert not is_hub_id(name)


@pytest.mark.parametrize("repo_id", ["vit", "a/b/c", "a/b c", "a--b/c", "", "/b", "a/", "a/b.git", "../b"])
def test_repo_ids_are_refused(repo_id):
    with pytest.raises(UserError, match="OWNER/NAME"):
        check_repo_id(repo_id)


def test_a_repo_id_is_taken():
    check_repo_id("my-name/vit_base.aloe")
