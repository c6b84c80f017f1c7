"""Which licence a student carries."""

from __future__ import annotations

import pytest

from aloe.apps.publish.licences import choose_licence, licence_of, named
from aloe.core.errors import UserError
from aloe.models.zoo import TEACHERS


@pytest.mark.parametrize(
    ("teacher", "licence"),
    [
        ("google/vit-base-patch16-224", "apache-2.0"),
        ("facebook/dinov2-small", "apache-2.0"),
        ("facebook/dinov2-with-registers-base", "apache-2.0"),
        ("facebook/dinov3-vitb16-pretrain-lvd1689m", "dinov3-license"),
        ("timm/vit_base_patch16_dinov3.lvd1689m", "dinov3-license"),
        ("google/siglip2-base-patch16-224", "apache-2.0"),
        ("openai/clip-vit-base-patch16", "mit"),
        ("rmaser/aloe-v2-dinov3-base", "cc-by-nc-sa-4.0"),
        ("rmaser/aloe-dinov3-base-in1k-lp", "cc-by-nc-sa-4.0"),
        ("someone/vit-base", None),
        ("vit-cifar10", None),
    ],
)
def test_known_teachers(teacher, licence):
    found = licence_of(teacher)
    assert (found.id if found else None) == licence


def test_every_teacher_of_the_paper_has_one():
    assert all(licence_of(teacher.id) for teacher in TEACHERS)


def test_the_nearest_origin_counts():
    assert licence_of("rmaser/aloe-vit-base", "google/vit-base-patch16-224").id == "cc-by-nc-sa-4.0"
    assert licence_of("unknown/x", "google/vit-base-patch16-224").id == "apache-2.0"


def test_inherited_given_and_missing():
    apache, dino = named("apache-2.0"), named("dinov3-license")
    assert choose_licence(None, apache, "t") == apache
    assert choose_licence("CC BY 4.0", apache, "t").id == "cc-by-4.0"
    assert choose_licence("dinov3-license", dino, "t") == dino
    with pytest.raises(UserError, match="--licence"):
        choose_licence(None, None, "my-folder")
    with pytest.raises(UserError, match="dinov3-license, which asks"):
        choose_licence("apache-2.0", dino, "t")


def test_front_matter():
    assert named("mit").front_matter == {"license": "mit"}
    dino = named("dinov3-license").front_matter
    assert dino["license"] == "other"
    assert dino["license_name"] == "dinov3-license"
    assert dino["license_link"].startswith("https://")
    assert named("my-own-1.0").front_matter == {"license": "other", "license_name": "my-own-1.0"}


@pytest.mark.parametrize(
    ("name", "said"),
    [("apache2.0", "did you mean apache-2.0"), ("other", "name of your own"), ("a\nb: c", "no licence")],
)
def test_misspelt(name, said):
    with pytest.raises(UserError, match=said):
        named(name)
