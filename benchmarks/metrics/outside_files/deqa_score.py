"""Run by DeQA-Score's interpreter in its checkout: the repository's own scorer, one image at a time."""

import argparse
import csv
import sys

from PIL import Image

sys.path.insert(0, ".")
from src.evaluate.scorer import Scorer  # type: ignore[import-not-found]

options = argparse.ArgumentParser()
for name in ("--list", "--scores", "--weights"):
    options.add_argument(name, required=True)
given = options.parse_args()
scorer = Scorer(pretrained=given.weights)
with open(given.list, newline="") as listed, open(given.scores, "w", newline="") as scores:
    rows = csv.writer(scores)
    rows.writerow(("id", "value"))
    for row in csv.DictReader(listed):
        with Image.open(row["path"]) as image:
            rows.writerow((row["id"], float(scorer([image.convert("RGB")])[0])))
        scores.flush()
