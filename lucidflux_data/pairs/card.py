"""The card of a folder of pairs: counts, bytes, and whether what was drawn is distributed as the preset says.

Every drawn parameter becomes either a category or, through the distribution function of its interval, a number that is
uniform in 0..1. Pearson's chi-square compares the counts with the expected ones; a parameter is flagged where its p is
under 0.001 after Bonferroni's correction for the number of parameters.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TypedDict

import pyarrow.compute as pc

from lucidflux_data.degradation.config import DegradeConfig, FinalConfig, StageConfig
from lucidflux_data.degradation.plan import ROTATION, SMALL_KERNEL, Kernel, Plan, Step
from lucidflux_data.escapes import for_markdown
from lucidflux_data.measures import firewall
from lucidflux_data.numerics import chi_square_tail
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import samples
from lucidflux_data.pairs.crop_rules import describe_other_rules
from lucidflux_data.pairs.job import PairsRun, PairsSummary
from lucidflux_data.selection import run as runs
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder

BINS = 10
LEAST_EXPECTED = 5.0  # below this a count says nothing (the usual rule of the chi-square test)
SIGNIFICANT = 0.001

Observation = tuple[str, str | float]


def observe(plan: Plan, config: DegradeConfig) -> Iterator[Observation]:
    """Every drawn parameter of a plan: (name, category) or (name, its place in 0..1)."""
    steps = plan["steps"]
    noises = [number for number, step in enumerate(steps) if step["op"].endswith("_noise")]
    stages = [("first", config.first)] + ([("second", config.second)] if config.second is not None else [])
    last = config.first
    for number, (name, stage) in zip(noises, stages, strict=True):
        blur = steps[number - 2] if number >= 2 and steps[number - 2]["op"] == "blur" else None
        yield f"{name}.blur", str(blur is not None)
        if blur is not None:
            yield from _observe_kernel(name, blur["kernel"], stage)
        yield from _observe_resize(name, steps[number - 1], stage)
        yield from _observe_noise(name, steps[number], stage)
        if stage is not stages[-1][1]:
            yield from _place(f"{name}.jpeg.quality", steps[number + 1]["quality"], stage.jpeg_quality)
        last = stage
    yield from _observe_final(steps[noises[-1] + 1 :], config.final, last, stages[-1][0])
    yield "flip", str(plan["flip"])
    for draw in plan["crop"]["draws"][:1]:
        yield from zip(("crop.top", "crop.left"), draw[1:], strict=True)
        if config.crop.mode == "area":
            yield from _place("crop.cover", draw[0], config.crop.cover)


def _observe_kernel(name: str, kernel: Kernel, stage: StageConfig) -> Iterator[Observation]:
    yield f"{name}.kernel.type", kernel["type"]
    yield f"{name}.kernel.size", str(kernel["size"])
    if kernel["type"] == "sinc":
        lowest = math.pi / 3 if kernel["size"] < SMALL_KERNEL else math.pi / 5
        yield from _place(f"{name}.kernel.cutoff", kernel["cutoff"], (lowest, math.pi))
        return
    yield from _place(f"{name}.kernel.sigma_x", kernel["sigma_x"], stage.sigma)
    if "sigma_y" in kernel:
        yield from _place(f"{name}.kernel.sigma_y", kernel["sigma_y"], stage.sigma)
    if "rotation" in kernel:
        yield from _place(f"{name}.kernel.rotation", kernel["rotation"], ROTATION)
    if "beta" in kernel:
        family = kernel["type"].split("_")[0]
        low, high = stage.beta_generalized if family == "generalized" else stage.beta_plateau
        yield f"{name}.kernel.{family}.beta>1", str(kernel["beta"] > 1)
        above = kernel["beta"] > 1
        yield from _place(f"{name}.kernel.{family}.beta", kernel["beta"], (1.0, high) if above else (low, 1.0))


def _observe_resize(name: str, step: Step, stage: StageConfig) -> Iterator[Observation]:
    scale, (low, high) = step["scale"], stage.resize_range
    yield f"{name}.resize.mode", step["mode"]
    if stage.resize_law == "divisor":
        yield from _place(f"{name}.resize.divisor", 1 / scale, (1 / high, 1 / low))
        return
    direction = "keep" if scale == 1 else "up" if scale > 1 else "down"
    yield f"{name}.resize.direction", direction
    if direction != "keep":
        yield from _place(f"{name}.resize.{direction}", scale, (1.0, high) if direction == "up" else (low, 1.0))


def _observe_noise(name: str, step: Step, stage: StageConfig) -> Iterator[Observation]:
    yield f"{name}.noise", step["op"]
    yield f"{name}.noise.gray", str(step["gray"])
    if step["op"] == "gaussian_noise":
        yield from _place(f"{name}.noise.sigma", step["sigma"], stage.gaussian_sigma)
    else:
        yield from _place(f"{name}.noise.poisson_scale", step["scale"], stage.poisson_scale)


def _observe_final(steps: list[Step], final: FinalConfig, stage: StageConfig, name: str) -> Iterator[Observation]:
    by_name = {step["op"]: step for step in steps}
    yield "final.jpeg_first", str(steps[0]["op"] == "jpeg")
    yield "final.resize.mode", by_name["resize"]["mode"]
    yield from _place(f"{name}.jpeg.quality", by_name["jpeg"]["quality"], stage.jpeg_quality)
    yield "final.sinc", str("blur" in by_name)
    if "blur" in by_name:
        yield "final.kernel.size", str(by_name["blur"]["kernel"]["size"])
        yield from _place("final.kernel.cutoff", by_name["blur"]["kernel"]["cutoff"], final.sinc_cutoff)


def _place(name: str, value: float, interval: tuple[float, float]) -> Iterator[Observation]:
    low, high = interval
    if high > low:
        yield name, (value - low) / (high - low)


def expected(config: DegradeConfig) -> dict[str, dict[str, float]]:
    """The probability of every category of the parameters that have categories."""
    found = {"flip": _coin(config.crop.flip_prob)}
    stages = {"first": config.first} | ({"second": config.second} if config.second is not None else {})
    for name, stage in stages.items():
        types = {kind: p * (1 - stage.sinc_prob) for kind, p in stage.kernel_probs.items()}
        found |= {
            f"{name}.blur": _coin(stage.blur_prob),
            f"{name}.kernel.type": {"sinc": stage.sinc_prob, **types},
            f"{name}.kernel.size": _equal(stage.kernel_sizes),
            f"{name}.kernel.generalized.beta>1": _coin(0.5),
            f"{name}.kernel.plateau.beta>1": _coin(0.5),
            f"{name}.resize.mode": _equal(stage.resize_modes),
            f"{name}.resize.direction": dict(stage.resize_probs),
            f"{name}.noise": {"gaussian_noise": stage.gaussian_prob, "poisson_noise": 1 - stage.gaussian_prob},
            f"{name}.noise.gray": _coin(stage.gray_prob),
        }
    return found | {
        "final.jpeg_first": _coin(config.final.jpeg_first_prob),
        "final.resize.mode": _equal(config.final.resize_modes),
        "final.sinc": _coin(config.final.sinc_prob),
        "final.kernel.size": _equal(config.final.kernel_sizes),
    }


def _coin(probability: float) -> dict[str, float]:
    return {"True": probability, "False": 1 - probability}


def _equal(values: tuple[object, ...]) -> dict[str, float]:
    return {str(value): 1 / len(values) for value in values}


class TestedParameter(TypedDict):
    """`n` observations of a parameter, their `counts` and `expected` probabilities by category, the `p` of the test
    (None where n is too small), and whether that is `flagged`."""

    name: str
    n: int
    counts: dict[str, int]
    expected: dict[str, float]
    p: float | None
    flagged: bool


class Distributions:
    """Counts of observations and their test against a config."""

    def __init__(self, config: DegradeConfig) -> None:
        self.config = config
        self.expected = expected(config)
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, plan: Plan) -> None:
        for name, value in observe(plan, self.config):
            category = value if isinstance(value, str) else f"{min(BINS - 1, max(0, int(value * BINS))) / BINS:.1f}"
            self.counts[name][category] += 1

    def test(self) -> list[TestedParameter]:
        """A row for each parameter."""
        uniform = _equal(tuple(f"{number / BINS:.1f}" for number in range(BINS)))
        rows: list[TestedParameter] = []
        for name, counts in sorted(self.counts.items()):
            probabilities = {c: p for c, p in self.expected.get(name, uniform).items() if p > 0}
            n = counts.total()
            impossible = set(counts) - set(probabilities)
            p = None
            if impossible:
                p = 0.0
            elif len(probabilities) > 1 and n * float(min(probabilities.values())) >= LEAST_EXPECTED:
                statistic = sum((counts[c] - n * q) ** 2 / (n * q) for c, q in probabilities.items())
                p = chi_square_tail(statistic, len(probabilities) - 1)
            row: TestedParameter
            row = {"name": name, "n": n, "counts": dict(counts), "expected": probabilities, "p": p, "flagged": False}
            rows.append(row)
        limit = SIGNIFICANT / max(1, sum(row["p"] is not None for row in rows))
        for row in rows:
            row["flagged"] = row["p"] is not None and row["p"] < limit
        return rows


class ComparedSuites(TypedDict):
    """`checked_against`: suites that every source was compared with as a whole; `not_checked_against`: the others that
    some source was, or forbids; `sources_not_compared`: sources that are no packed run, so nothing is known of them."""

    checked_against: list[str]
    not_checked_against: list[str]
    sources_not_compared: list[str]


class PairsCard(PairsSummary, ComparedSuites):
    """What `info` tells beside the summary: settings (`size` of the HQ in pixels, `scale`, `variants`, `hq`, `seed`);
    `member_bytes` by extension; `looked_at`: pairs; `made_by`: libraries and the number of their `pairs`; `crop_tries`:
    pairs by tries, and crops that failed the rules at every try; `crops_by_other_rules`: a sentence for each run whose
    own rules are other ones; `licences`: images; `parameters`: a test of each."""

    size: int
    scale: int
    variants: int
    hq: str
    seed: int
    member_bytes: dict[str, int]
    looked_at: int
    made_by: list[dict[str, str | int]]
    crop_tries: dict[str, int]
    crops_that_failed_the_rules: int
    crops_by_other_rules: list[str]
    licences: dict[str, int]
    parameters: list[TestedParameter]


def make_card(folder: Folder, limit: int | None) -> PairsCard:
    """Everything that `info` tells.

    `limit`: pairs that are looked at, in key order (keys are hashes, so any prefix is a fair sample); None = all.
    """
    run, config = pairs_run.read(folder), pairs_run.read_config(folder)
    distributions = Distributions(config.degrade)
    member_bytes: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    tries: Counter[int] = Counter()
    failed: set[str] = set()
    seen = failed_crops = 0
    for entry in shards.read_manifest(folder)["shards"]:
        failed |= {row["key"] for row in samples.failed_images(folder, entry["name"])}
        for member, size in _member_sizes(folder, entry["name"]):
            member_bytes[member] += size
        for record in samples.read_records(folder, entry["name"], None if limit is None else limit - seen):
            seen += 1
            distributions.add(record["plan"])
            versions[json.dumps(record["versions"], sort_keys=True)] += 1
            tries[record["cut"]["tries"]] += 1
            failed_crops += not record["cut"]["passed"]
    inputs = pairs_run.read_inputs(folder, config)
    used = inputs.filter(pc.is_null(pc.field("reason"))).select(["key", "licence"]).to_pylist()
    licences = Counter(row["licence"] or "not recorded" for row in used if row["key"] not in failed)
    return {
        **pairs_run.summary(folder),
        "size": config.degrade.size,
        "scale": config.degrade.scale,
        "variants": config.variants,
        "hq": config.hq,
        "seed": config.degrade.seed,
        "member_bytes": dict(sorted(member_bytes.items())),
        "looked_at": seen,
        "made_by": [{**json.loads(text), "pairs": count} for text, count in sorted(versions.items())],
        "crop_tries": {str(count): tries[count] for count in sorted(tries)},
        "crops_that_failed_the_rules": failed_crops,
        "crops_by_other_rules": describe_other_rules(run["sources"], config.degrade.crop),
        **_benchmarks(run),
        "licences": dict(sorted(licences.items())),
        "parameters": distributions.test(),
    }


def _member_sizes(folder: Folder, tar_name: str) -> Iterator[tuple[str, int]]:
    for rows in samples.samples_of_index(folder, tar_name).values():
        for row in rows:
            yield row["member"].partition(".")[2], row["size"]


def _benchmarks(run: PairsRun) -> ComparedSuites:
    named: dict[str, int] = {}  # suite -> sources that were compared with all of it
    unknown = []
    for source in run["sources"]:
        folder = Folder(source)
        if not (folder.exists(shards.MANIFEST) and folder.exists(run_folder.RUN_FILE)):
            unknown.append(source)
            continue
        forbidden = runs.read_run(folder)["config"]["select"]["forbid"]
        card = firewall.read_card(shards.read_manifest(folder, halfway=True), forbidden)
        for suite in [*card["checked"], *card["not_checked"]]:
            named[suite] = named.get(suite, 0) + (suite in card["checked"])
    whole = [suite for suite, sources in named.items() if sources == len(run["sources"])]
    others = [suite for suite in named if suite not in whole]
    return {"checked_against": whole, "not_checked_against": others, "sources_not_compared": unknown}


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(map(for_markdown, texts))


def card_text(card: PairsCard) -> str:
    """The card as Markdown."""
    sizes = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in card["member_bytes"].items())
    reasons = {**card["rejected"], **card["failed"]}
    lines = [
        f"# {card['samples']:,} pairs: {for_markdown(card['label'])}",
        "",
        f"- {card['used']:,} clean images of {card['candidates']:,} candidates"
        + (f" ({', '.join(f'{name} {count:,}' for name, count in reasons.items())})" if reasons else ""),
        f"- {card['variants']} variants each, HQ {card['size']}x{card['size']} ({card['hq']}), "
        f"LQ {card['size'] // card['scale']}x{card['size'] // card['scale']} (PNG), seed {card['seed']}",
        f"- {card['bytes'] / 1e6:,.1f} MB in {card['shards']} shards ({sizes})",
        f"- crops: {', '.join(f'{count:,} at try {n}' for n, count in card['crop_tries'].items())}; "
        f"{card['crops_that_failed_the_rules']:,} fail the blur or flat rule at every try",
        *(f"- {for_markdown(sentence)}" for sentence in card["crops_by_other_rules"]),
        f"- checked against: {_listed(card['checked_against']) or 'no benchmark'}"
        + (f"; NOT CHECKED: {_listed(card['not_checked_against'])}" if card["not_checked_against"] else "")
        + (f"; NOT compared with any: {_listed(unknown)}" if (unknown := card["sources_not_compared"]) else ""),
        f"- licences of the images: {_listed(f'{name} {count:,}' for name, count in card['licences'].items())}",
    ]
    for made_by in card["made_by"]:
        lines.append("- made by " + ", ".join(for_markdown(f"{name} {value}") for name, value in made_by.items()))
    lines += ["", f"Parameters drawn in {card['looked_at']:,} pairs (seen / expected):", ""]
    lines += [f"    {_row_text(row)}" for row in card["parameters"]]
    flagged = [row["name"] for row in card["parameters"] if row["flagged"]]
    tested = sum(row["p"] is not None for row in card["parameters"])
    verdict = f"distributed as the preset says, as far as {tested} of {len(card['parameters'])} could be tested"
    if flagged:
        verdict = f"NOT as the preset says: {', '.join(flagged)}"
    elif not tested:
        verdict = "drawn in too few pairs to be tested against the preset"
    return "\n".join([*lines, "", f"The parameters are {verdict}."])


def _row_text(row: TestedParameter) -> str:
    p = "too few" if row["p"] is None else f"p={row['p']:.3f}"
    if set(row["counts"]) <= {f"{number / BINS:.1f}" for number in range(BINS)}:
        shares = "tenths " + " ".join(f"{row['counts'].get(f'{n / BINS:.1f}', 0) / row['n']:.0%}" for n in range(BINS))
    else:
        names = sorted(
            set(row["counts"]) | set(row["expected"]), key=lambda name: (-row["expected"].get(name, 0), name)
        )
        parts = [(name, row["counts"].get(name, 0) / row["n"], row["expected"].get(name, 0)) for name in names]
        shares = ", ".join(f"{name} {got:.1%}/{wanted:.1%}" for name, got, wanted in parts)
    return f"{row['name']:28} n={row['n']:<8,} {p:8}{' FLAGGED' if row['flagged'] else ''} {shares}"
