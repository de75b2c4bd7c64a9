"""What raters are asked: balanced, drawn by a seed, called by names that tell nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from benchmarks.methods.copies import OutputFile
from benchmarks.methods.submission import Method
from benchmarks.suites.suite import Suite
from benchmarks.votes.study import Study, check_study, code_pictures, make_study, name_study
from lucidflux_data.errors import ConfigError, InputError

SUITE = Suite("photos", "1", "", 2, 40, False, None, True, fingerprint="ab" * 32)
IDS = [f"{number:02}" for number in range(40)]


def output(method: str, id_: str, **about: object) -> OutputFile:
    sha256 = hashlib.sha256(f"{method} {id_}".encode()).hexdigest()
    return replace(OutputFile(Path(f"{method}/{id_}.png"), sha256, 64, 48, "PNG", ()), **about)


def methods(*names: str, ids: list[str] = IDS) -> list[Method]:
    return [Method(name, Path(name), {}, files={"0": {id_: output(name, id_) for id_ in ids}}) for name in names]


def shown(study: Study) -> list[tuple[str, frozenset[str]]]:
    pictures = study.pictures
    assert all(pictures[a].id == pictures[b].id for a, b in study.trials)
    return [(pictures[a].id, frozenset((pictures[a].method, pictures[b].method))) for a, b in study.trials]


@pytest.mark.parametrize("trials", [1, 37, 60, 200])
def test_every_pair_comes_as_often_as_another_and_images_are_spread(trials: int) -> None:
    study = make_study(SUITE, methods(*"abcd"), IDS, 3, trials, 0.1, "nothing")
    asked = shown(study)
    assert len(set(asked)) == len(asked) == trials, "no comparison twice"
    by_pair = Counter(pair for _, pair in asked)
    counts = [by_pair[frozenset(pair)] for pair in combinations("abcd", 2)]
    assert max(counts) - min(counts) <= 1
    images = Counter(id_ for id_, _ in asked)
    assert len(images) == min(trials, 40)
    assert max(images.values()) <= -(-trials // 40) + 1
    assert study.repeats == min(-(-trials // 10), trials // 2)


def test_all_comparisons_are_there_where_they_are_asked_for() -> None:
    study = make_study(SUITE, methods(*"abc"), IDS[:7], 0, 1000, 0, "nothing")
    assert set(shown(study)) == {(id_, frozenset(pair)) for id_ in IDS[:7] for pair in combinations("abc", 2)}
    assert study.repeats == 0


def test_the_seed_decides_and_no_name_or_place_tells_the_method() -> None:
    first, again, other = (make_study(SUITE, methods(*"ab"), IDS, seed, 40, 0, "nothing") for seed in (1, 1, 2))
    assert first == again
    assert not set(first.pictures) & set(other.pictures), "codes are of the study"
    places = Counter(first.pictures[trial[0]].method for trial in first.trials)
    assert 10 <= places["a"] <= 30, "the smaller code is of either method"
    assert list(first.pictures) == sorted(first.pictures)


def test_what_cannot_be_compared_is_counted() -> None:
    three = methods("a", "b", "c", ids=IDS[:6])
    a, b, _ = (method.files["0"] for method in three)
    del a["00"]
    b["01"] = output("b", "01", reason="wrong_size")
    b["02"] = output("b", "02", width=63)
    b["03"] = output("a", "03")
    study = make_study(SUITE, three, IDS[:6], 0, 100, 0, "nothing")
    assert study.left_out == {
        "an output is missing or cannot be read": 4,
        "the outputs have different sizes": 2,
        "the outputs are the same file": 1,
    }
    assert len(study.trials) == 18 - 7
    with pytest.raises(InputError, match="no two outputs can be compared: there is one method"):
        make_study(SUITE, methods("a"), IDS, 0, 10, 0, "nothing")
    with pytest.raises(ConfigError, match="--beside input: photos has not the input of every image"):
        make_study(SUITE, methods(*"ab"), IDS, 0, 10, 0, "input")


def test_a_study_is_of_one_suite_and_a_picture_of_its_bytes() -> None:
    name = name_study(SUITE, 5, "nothing")
    check_study(name, SUITE, "here")
    for other in (replace(SUITE, version="2"), replace(SUITE, fingerprint="cd" * 32), replace(SUITE, name="others")):
        with pytest.raises(InputError, match=r"here: the study .* is over another suite than"):
            check_study(name, other, "here")
    for wrong in ("", "5", f"={name}", f"{name}\n", name.replace("5.", "6.", 1), name.replace("nothing", "input")):
        with pytest.raises(InputError):
            check_study(wrong, SUITE, "here")
    two = methods(*"ab")
    before = set(code_pictures(name, two))
    two[0].files["0"]["07"] = output("a", "changed")
    assert len(before - set(code_pictures(name, two))) == 1
