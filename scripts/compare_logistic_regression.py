"""Compare the linear probe with scikit-learn's LogisticRegression on the same frozen features, test accuracy in percent.

python scripts/compare_logistic_regression.py vit-cifar10 cifar10-aligned --data cifar10=cifar10.tar.xz
"""

from __future__ import annotations

import argparse

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aloe.data.benchmarks import open_benchmark
from aloe.evaluation.backbones import load_any
from aloe.evaluation.cache import default_cache
from aloe.evaluation.features import extract
from aloe.evaluation.linear import ProbeSettings, fit_probe
from aloe.evaluation.tasks import score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", required=True, help="what aloe evaluate --data takes")
    arguments = parser.parse_args()
    splits = open_benchmark(arguments.data)
    for name in arguments.models:
        model = load_any(name)
        train, test = (extract(model, source, cache=default_cache()) for source in (splits.train, splits.test))
        features, labels = train.tensor(), train.labels
        theirs = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(
            features.numpy(), labels.numpy()
        )
        print(
            f"{name}: LogisticRegression {100 * theirs.score(test.tensor().numpy(), test.labels.numpy()):.2f}", end=""
        )
        for head in ("linear", "bcos"):
            probe = fit_probe(features, labels, len(splits.classes), ProbeSettings(head=head))
            print(f", {head} head {score(probe.predict(test.tensor()), test.labels, 'top-1'):.2f}", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
