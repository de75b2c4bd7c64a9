"""What adapters are given and what is said of their sizes, without running a method."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.methods import adapters, submission
from benchmarks.methods.run import collect, describe, run_adapter
from benchmarks.methods.staging import find_unfit, stage
from benchmarks.suites import suite as suites
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.images import decode
from pipelines.bench import infer
from pipelines.bench.making import Place
from pipelines.execution.progress import Progress

# The options that the script of each repository takes at the pinned commit, of those that its command names.
OPTIONS = {
    "osediff": {
        *("-i", "-o", "--osediff_path", "--pretrained_model_name_or_path", "--ram_ft_path", "--ram_path"),
        *("--process_size", "--upscale", "--align_method"),
    },
    "pisa-sr": {
        *("--pretrained_model_path", "--pretrained_path", "--process_size", "--upscale", "--align_method"),
        *("--input_image", "--output_dir", "--default"),
    },
    "tsd-sr": {
        *("--pretrained_model_name_or_path", "-i", "-o", "--lora_dir", "--embedding_dir", "--process_size"),
        *("--upscale", "--align_method"),
    },
    "invsr": {"-i", "-o", "--num_steps", "--color_fix", "--chopping_size"},
    "adcsr": {"--epoch", "--model_dir", "--LR_dir", "--SR_dir"},
    "faithdiff": {
        *("--img_dir", "--save_dir", "--upscale", "--guidance_scale", "--num_inference_steps", "--color_fix"),
        *("--start_point", "--load_8bit_llava", "--seed"),
    },
    "hypir": {
        *("--base_model_type", "--base_model_path", "--model_t", "--coeff_t", "--lora_rank", "--lora_modules"),
        *("--weight_path", "--patch_size", "--stride", "--lq_dir", "--scale_by", "--upscale", "--txt_dir"),
        *("--output_dir", "--seed", "--device"),
    },
    "dit4sr": {
        *("--pretrained_model_name_or_path", "--transformer_model_name_or_path", "--image_path", "--prompt_path"),
        *("--output_dir", "--num_inference_steps", "--guidance_scale", "--process_size", "--upscale"),
        *("--align_method", "--start_point", "--seed"),
    },
}
# What the script of each repository leaves below its outputs for an input x.y.png, its image first.
LAYOUTS = {
    "osediff": ["x.y.png", "txt/x.txt"],
    "pisa-sr": ["x.y.png"],
    "tsd-sr": ["x.y.png"],
    "invsr": ["x.y.png"],
    "adcsr": ["x.y.png"],
    "faithdiff": ["x.y.png"],
    "hypir": ["result/x.y.png", "prompt/x.y.txt"],
    "dit4sr": ["sample00/x.y.png", "txt/x.txt"],
}
SIZES = {"even": (128, 130), "odd": (129, 131), "small": (127, 300), "thin": (300, 120)}


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Inputs by id, of the SIZES; `odd` is a JPEG."""
    folder = tmp_path_factory.mktemp("sized")
    paths = {}
    for id_, (width, height) in SIZES.items():
        pixels = np.random.default_rng(len(id_)).integers(0, 256, (height, width, 3), np.uint8)
        paths[id_] = folder / f"{id_}{'.jpg' if id_ == 'odd' else '.png'}"
        Image.fromarray(pixels).save(paths[id_])
    return paths


@pytest.mark.parametrize("name", adapters.adapter_names())
def test_every_adapter_says_what_its_licence_allows_and_renders(name: str) -> None:
    written = tomllib.loads((adapters.ADAPTER_FILES / f"{name}.toml").read_text())
    told = infer.estimate_work(name, 3, 4, [], Place())
    assert told["licence_class"] == written["licence_class"]
    command = told["command"]
    assert "<inputs>" in " ".join(command)
    assert not [part for part in command if "{" in part]
    assert len(str(told["commit"])) == 7
    if name in OPTIONS:
        assert {part for part in command if part.startswith("-")} == OPTIONS[name]


def test_what_a_method_would_make_larger_first_is_left_out_by_name(sized: dict[str, Path]) -> None:
    adapter = adapters.load_adapter("osediff")
    assert find_unfit(sized, adapter, 4) == {
        "small": "the input is 127x300, osediff is given sides of 128 and more",
        "thin": "the input is 300x120, osediff is given sides of 128 and more",
    }
    assert sorted(find_unfit(sized, adapter, 2)) == ["even", "odd", "small", "thin"]  # 256 at scale 2
    assert find_unfit(sized, adapters.load_adapter("seesr"), 4) == {}
    told = find_unfit(sized, adapters.load_adapter("adcsr"), 4)
    assert sorted(told) == ["even", "odd", "small", "thin"]
    assert told["even"] == "the input is 128x130, adcsr is given sides that are multiples of 16"


def test_png_is_staged_where_a_repository_reads_nothing_else(sized: dict[str, Path], tmp_path: Path) -> None:
    stage(sized, tmp_path / "inputs", adapters.load_adapter("osediff").stage.form)
    assert sorted(path.name for path in (tmp_path / "inputs").iterdir()) == [f"{id_}.png" for id_ in sorted(SIZES)]
    with Image.open(sized["odd"]) as image:
        assert np.array_equal(decode((tmp_path / "inputs" / "odd.png").read_bytes()), np.asarray(image))


def test_a_wrong_size_is_told_with_its_known_cause(sized: dict[str, Path], tmp_path: Path) -> None:
    """odd: 129x131 times 4 is 516x524, of which multiples of 8 are 512 and 520."""
    found = {}
    for id_, size in {"even": (512, 520), "odd": (512, 520), "thin": (1200, 500)}.items():
        found[id_] = tmp_path / f"{id_}.png"
        Image.new("RGB", size).save(found[id_])
    assert collect(found, tmp_path / "out", sized, adapters.load_adapter("osediff"), 4) == {
        "even": None,
        "odd": "the output is 512x520, not 516x524: osediff cuts sides to multiples of 8",
        "thin": "the output is 1200x500, not 1200x480",
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["even.png", "odd.png", "thin.png"]


def test_nothing_is_run_where_nothing_can_be_given(sized: dict[str, Path], tmp_path: Path) -> None:
    """The interpreter does not exist: it is never asked for. What is there stays, and what lacks has its reason."""
    adapter = adapters.load_adapter("osediff")
    small = {id_: sized[id_] for id_ in ("small", "thin")}
    place = tmp_path / "out"
    given = (adapter, small, tmp_path, place, {"align": "adain"}, 4, 0, "no-such-python", tmp_path, None)
    with pytest.raises(InputError, match=r"small: the input is 127x300, .* \(2 such, and no other\)"):
        run_adapter(*given)
    place.mkdir()
    Image.new("RGB", (508, 1200)).save(place / "small.png")
    run = run_adapter(*given)
    assert run is not None
    assert (run["images"], run["missing"]) == (0, ["thin"])
    assert run["remarks"] == {"thin": "the input is 300x120, osediff is given sides of 128 and more"}


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_the_image_of_an_id_is_found_where_the_script_puts_it(name: str, tmp_path: Path) -> None:
    for file in LAYOUTS[name]:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert adapters.load_adapter(name).found(tmp_path) == {"x.y": tmp_path / LAYOUTS[name][0]}


def test_a_seed_that_would_change_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="osediff takes no seed: leave out --seed"):
        infer.check_method("osediff", [], [1])
    infer.check_method("seesr", [], [1])


def test_a_scale_that_a_method_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="invsr enlarges by 4 and by nothing else: not by 2"):
        infer.estimate_work("invsr", 3, 2, [], Place())
    with pytest.raises(ConfigError, match="adcsr enlarges by 4 and by nothing else: not by 3"):
        infer.infer_method("adcsr", {}, tmp_path, 3, [], [], Place(repo=tmp_path), Progress(True))


def test_the_table_of_methods_is_what_the_adapters_say() -> None:
    text = Path(__file__).parents[3].joinpath("docs", "howto", "methods.md").read_text()
    rows = text.split("| adapter | commit |")[1].split("\n\n")[0].splitlines()[2:]
    cells = {row.split("|")[1].strip(" `"): [cell.strip(" `") for cell in row.split("|")[2:-1]] for row in rows}
    assert list(cells) == adapters.adapter_names()
    for name, (commit, licence_class, seed, prompts, sizes) in cells.items():
        adapter = adapters.load_adapter(name)
        assert (commit, licence_class) == (adapter.commit, adapter.licence_class)
        assert (seed == "yes") == ("{seed}" in adapter.command)
        assert (prompts == "yes") == ("{prompts}" in adapter.command)
        assert ("inputs under" in sizes) == (adapter.stage.min_side > 0)
        assert ("cut to multiples of 8" in sizes) == (adapter.rounds_to == 8)
        assert ("no multiples of 16" in sizes) == (adapter.stage.multiple == 16)
        assert ("times 4 alone" in sizes) == (adapter.scale == 4)


def test_the_licence_class_is_in_the_remarks_of_the_leaderboard(sized: dict[str, Path], tmp_path: Path) -> None:
    about = describe(adapters.load_adapter("hypir"), "hypir", {}, 4, tmp_path, "no-such-python")
    for name, content in (("hypir", dict(about)), ("ours", {"method": "ours"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "even.png").write_bytes(sized["even"].read_bytes())
        (tmp_path / name / "method.json").write_text(json.dumps(content))
    methods = submission.find_methods([str(tmp_path / "hypir"), str(tmp_path / "ours")])
    submission.inspect(methods, suites.ad_hoc_suite(None, None, {"even"}), ("even",))
    told = [[flag for flag in method.flags if "licence" in flag] for method in methods]
    assert told == [["licence class: noncommercial"], []]


def test_the_leaderboard_tells_the_cause_of_a_wrong_size(sized: dict[str, Path], tmp_path: Path) -> None:
    """Of two outputs one is cut to multiples of 8; then of one. The references are what the sizes should be."""
    told = "the output is 512x520, not 516x524: osediff cuts sides to multiples of 8"
    for folder, id_, size in (("gt", "even", (512, 520)), ("gt", "odd", (516, 524)), ("osediff", "odd", (512, 520))):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / folder / f"{id_}.png")
    run = {"exit_code": 0, "images": 1, "remarks": {"odd": told}}
    (tmp_path / "osediff" / "method.json").write_text(json.dumps({"method": "osediff", "runs": {"7": [run]}}))
    suite = suites.ad_hoc_suite(None, tmp_path / "gt", set())
    with pytest.raises(InputError, match=f"all 1 images have the wrong size .*; odd: {told}"):
        submission.inspect(submission.find_methods([str(tmp_path / "osediff")]), suite, ("even", "odd"))
    Image.new("RGB", (512, 520)).save(tmp_path / "osediff" / "even.png")
    methods = submission.find_methods([str(tmp_path / "osediff")])
    submission.inspect(methods, suite, ("even", "odd"))
    assert f"1 images cannot be scored: wrong_size; odd: {told}" in methods[0].flags
