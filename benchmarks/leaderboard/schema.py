"""The keys of leaderboard.json, table by table, and of what is made of it. Every view reads these and nothing else."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class MetricRow(TypedDict):
    """One method under one metric."""

    n: int  # images that the mean is over
    of: int  # images of the suite
    seeds: int
    mean: float | None  # None where no image has a score
    low: float | None  # bounds of the mean's interval; None with one image, and for a metric of a set
    high: float | None
    rank: int | None  # 1 for the best; None where it is not ranked
    reasons: dict[str, int]  # why scores are missing -> how many
    first_share: NotRequired[float]  # of ranked methods: the share of the resamples in which it is the best
    tied_with_best: NotRequired[bool]  # of ranked methods that could differ: the best, or not significantly worse


class PairRow(TypedDict):
    """Two ranked methods under one metric."""

    methods: list[str]  # first, second
    difference: float  # mean of first minus second, over images
    low: float  # bounds of its interval
    high: float
    p: float
    detectable: float  # the difference that this many images would show with a power of 0.8
    p_holm: float  # p adjusted over the pairs of the metric


class SharedPair(TypedDict):
    """Two methods of which one is not ranked, over the images that both have."""

    methods: list[str]  # first, second
    n: int  # images
    difference: float  # mean of first minus second, over images
    low: float  # bounds of its interval
    high: float
    p: float
    p_holm: float  # p adjusted over these pairs of the metric


class MetricTable(TypedDict):
    """One metric."""

    lower_is_better: bool
    ranked: bool  # whether its methods may be ranked at all
    n: int  # images that the ranks are over, 0 where nobody is ranked
    of: int  # images of the suite
    rows: dict[str, MetricRow]  # by method
    pairs: list[PairRow]
    shared: list[SharedPair]
    win_rate: dict[str, dict[str, float]]  # [a][b]: share of images on which a is better than b
    why_not: str | None  # why nobody is ranked, where somebody could be
    no_test: str | None  # why no difference can be significant: then nobody is marked as the best
    spread: NotRequired[
        dict[str, float | None]
    ]  # of a metric that is drawn: method -> deviation of its mean over draws


class GroupRow(TypedDict):
    """One method over the metrics of a group."""

    rank: int
    mean_rank: float  # over the metrics
    low: float  # bounds of its interval
    high: float
    first_share: float  # the share of the resamples in which it has the best mean rank


class Group(TypedDict):
    """An overall rank over named metrics."""

    metrics: list[str]
    rows: dict[str, GroupRow]  # by method; empty where nobody is ranked
    why_not: str | None


class Correlation(TypedDict):
    """Spearman's rho between metrics that are turned so that more is better."""

    metrics: list[str]
    rho: list[list[float | None]]  # a row and a column a metric; [] where there is too little, None for a constant


class ImageCounts(TypedDict):
    """How many images were scored, and how many the suite has."""

    scored: int
    of: int


class StatisticsUsed(TypedDict):
    """How intervals and p values were made."""

    resamples: int
    level: float  # of the intervals
    test: str  # permutation or wilcoxon
    adjusted: str  # holm


class Gap(TypedDict):
    """An image of a method that has no score."""

    id: str
    reason: str
    metrics: list[str]  # in which it has none
    seeds: list[str]


class NotShown(TypedDict):
    """An unranked method with too few images to be shown."""

    images: int  # the most that it has in a ranked metric
    scores_missing: int  # over all metrics


class CommonIds(TypedDict):
    """What could be ranked where nobody has every image."""

    methods: list[str]
    ids: list[str]  # that they all have


class ScoreBoard(TypedDict):
    """What follows from the scores alone: equal scores give equal content."""

    methods: list[str]  # that are shown
    below: list[str]  # of them, those that no metric ranks while others are ranked
    not_shown: dict[str, NotShown]  # by method
    images: ImageCounts
    statistics: StatisticsUsed
    metrics: dict[str, MetricTable]
    groups: dict[str, Group]
    gaps: dict[str, list[Gap]]  # by method; only methods that lack a score
    common: CommonIds | None  # where a metric ranks nobody
    correlation: Correlation


class VoteRow(TypedDict):
    """One method under the votes of people."""

    votes: int  # comparisons in which it was shown
    wins: int  # of them, those that it won
    strength: float | None  # in logits, the mean of all methods is 0; None where no finite ones fit
    low: float | None  # bounds of its interval; None where it has no end, see `unbounded`
    high: float | None
    rank: int | None
    first_share: float | None  # the share of the resamples in which it is the strongest
    tied_with_best: bool | None  # whether the interval of the difference to the first holds 0


class VotePair(TypedDict):
    """Two methods that were compared."""

    methods: list[str]  # first, second
    votes: int
    wins: int  # of the first


class RaterRow(TypedDict):
    """One rater."""

    votes: int  # without repeated ones
    repeats: int  # pairs that were answered twice
    same: int  # of them, those with the same answer
    left: float  # the share of all answers that were the left picture
    shared: int  # votes on which the other raters have a majority
    with_others: int  # of them, those of that majority


class Agreement(TypedDict):
    """How often a metric is of the raters' opinion. Equal scores count as half."""

    n: int  # votes on pictures that both have a score
    share: float | None  # None where there are none
    low: float | None  # bounds of its interval
    high: float | None


class VotesTable(TypedDict):
    """The votes of people (`--votes`)."""

    study: str
    votes: int  # without repeated ones
    images: int
    rows: dict[str, VoteRow]  # by method; only methods that were shown
    pairs: list[VotePair]
    why_not: str | None  # why nobody is ranked
    unbounded: float  # the share of the resamples in which no finite strengths fit; they widen every interval
    raters: dict[str, RaterRow]
    among_raters: Agreement  # of two raters on the same pair
    metrics: dict[str, Agreement]  # by metric of single images
    remarks: list[str]  # what was not counted


class WithoutFlagged(TypedDict):
    """Ranks over the images whose references the filter's rules let pass."""

    flagged: dict[str, str]  # id -> rule
    n: int  # images that are left
    ranks: dict[str, dict[str, int]]  # metric -> method -> rank, of ranked metrics


class RunCost(TypedDict, total=False):
    """What method.json has of the making of the outputs."""

    seconds_per_image: float | None
    peak_gpu_mb: int | None
    commit: str | None
    settings: dict[str, str]


class PublishedRow(TypedDict):
    """A method as a paper printed it."""

    method: str
    source: str  # the paper's name
    reference: str  # where in it
    values: dict[str, float]  # by metric


class ColouredRow(PublishedRow):
    """A published row beside measured ones."""

    colours: dict[str, str]  # metric -> green, yellow, red or dim: how near ours is


class Board(ScoreBoard):
    """leaderboard.json."""

    schema_version: int
    suite: str  # name:version, or ad-hoc
    profile: str
    about: str  # the profile's sentence
    flags: dict[str, list[str]]  # method -> remarks, in order of weight
    runs: dict[str, RunCost]  # by method; only methods that have a method.json
    not_computed: dict[str, str]  # metric -> why it has no column
    footnotes: list[str]
    published: list[ColouredRow]
    signature: str  # one line to quote beside the numbers
    # lq and gt -> id -> the first digits of the sha256 of what outputs are compared with, of suites without pins
    compared_with: NotRequired[dict[str, dict[str, str]]]  # since 0.5
    without_flagged: NotRequired[WithoutFlagged | None]  # since 0.5; None where no reference is flagged
    votes: NotRequired[VotesTable | None]  # since 0.5; None without --votes


class ComparedRow(TypedDict):
    """One metric of two methods, over the images that both have scores for."""

    methods: list[str]  # a, b
    metric: str
    lower_is_better: bool
    n: int  # images
    mean_a: float
    mean_b: float
    difference: float  # a minus b
    low: float  # bounds of its interval
    high: float
    p: float
    win_rate: float  # share of images on which a is better
    detectable: float  # the difference that this many images would show with a power of 0.8
    better: str  # a, b or equal
    p_holm: float  # p adjusted over all rows


class Comparison(TypedDict):
    """Two methods, or two results folders."""

    a: str  # as it was asked for
    b: str
    resamples: int  # of intervals and tests
    rows: list[ComparedRow]
    computed_in_two_ways: list[str]  # metrics that are left out for it
