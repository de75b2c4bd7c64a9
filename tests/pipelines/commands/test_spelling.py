"""Mistyped options, commands, settings and names are answered with the nearest; short options and completion work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import cli
from lucidflux_data.config import setting_names
from lucidflux_data.errors import ConfigError
from lucidflux_data.selection.config import FilterConfig, make_config
from tests.support.paths import LUCIDFLUX_DATA

RUN = ["filter", "photos", "-o", "run", "--iqa", "none"]


def answer(app: typer.Typer, *args: str) -> str:
    """What a wrong command line is told: the error of a ConfigError, or typer's own words without its frame."""
    done = CliRunner().invoke(app, list(args))
    assert done.exit_code != 0, args
    if isinstance(done.exception, ConfigError):
        return str(done.exception)
    assert done.exit_code == 2, done.output
    return " ".join(done.output.replace("│", " ").split())


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with photos, in which a wrong command leaves nothing."""
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    yield
    assert os.listdir(tmp_path) == ["photos"]


@pytest.mark.parametrize(
    ("app", "args", "near"),
    [
        (cli.data_app, ["filter", "photos", "--otu", "run"], "No such option: --otu. Did you mean --out?"),
        (cli.data_app, ["select", "run", "--top-fracton", "0.2"], "Did you mean --top-fraction?"),
        (cli.data_app, ["--versoin"], "Did you mean --version?"),
        (cli.data_app, ["selec"], "Did you mean 'select'?"),
        (cli.app, ["bench", "--otputs", "a"], "Did you mean --outputs?"),
        (cli.app, ["bench", "evla"], "Did you mean 'eval'?"),
        (cli.app, ["weights", "download", "--onyl", "x"], "Did you mean --only?"),
        (cli.data_app, [*RUN, "--iqa", "nique"], "did you mean niqe"),
        (cli.data_app, [*RUN, "--preset", "stict"], "did you mean strict?"),
        (cli.data_app, [*RUN, "--set", "rules.min_sied=3"], "did you mean rules.min_side?"),
        (cli.data_app, [*RUN, "--set", "min_side=3"], "did you mean rules.min_side?"),
        (cli.data_app, [*RUN, "--set", "rulez.min_side=3"], "did you mean rules?"),
        (cli.data_app, [*RUN, "--forbid", "relsr"], "(did you mean realsr?)"),
        (cli.app, ["bench", "prepare", "reallq25"], "did you mean reallq250"),
        (cli.app, ["bench", "--outputs", "photos", "--metrics", "nieq"], "did you mean niqe"),
        (cli.app, ["bench", "--outputs", "photos", "--profile", "offlin"], "did you mean offline?"),
    ],
)
def test_the_nearest_name_is_told(app: typer.Typer, args: list[str], near: str) -> None:
    assert near in answer(app, *args)


def test_an_option_like_no_other_is_told_as_it_stands() -> None:
    said = answer(cli.data_app, "filter", "photos", "--xyzzy")
    assert "No such option: --xyzzy" in said
    assert "Did you mean" not in said


@pytest.mark.parametrize(
    "command", [["filter", "photos", "-o", "run"], ["select", "run"], ["synthesize", "photos", "-o", "run"]]
)
def test_an_executor_that_is_none_leaves_no_folder(command: list[str]) -> None:
    said = answer(cli.data_app, *command, "--executor", "dask")
    assert "'dask' is not one of 'ray', 'local'" in said


def test_every_setting_can_be_named() -> None:
    names = setting_names(FilterConfig)
    assert {"rules.min_side", "cut.top_k", "select.where", "workers.decode_threads"} <= set(names)
    for name in names:
        with pytest.raises(ConfigError, match=f"there is no setting {name}x"):
            make_config(settings=[f"{name}x=1"])


@pytest.mark.parametrize("app", [cli.app, cli.data_app])
def test_every_command_has_short_help(app: typer.Typer) -> None:
    def commands(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        inner = getattr(command, "commands", {})
        yield path
        for name, each in inner.items():
            yield from commands(each, (*path, name))

    found = list(commands(typer.main.get_command(app)))
    assert len(found) > 10
    for path in found:
        done = CliRunner().invoke(app, [*path, "-h"])
        assert done.exit_code == 0, path
        assert "Usage:" in done.output


def test_the_shell_completes_commands_and_values() -> None:
    def complete(line: str) -> list[str]:
        words = line.split(" ")
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_LUCIDFLUX_DATA_COMPLETE": "complete_bash"}
        done = subprocess.run([LUCIDFLUX_DATA], env=os.environ | asked, capture_output=True, text=True, timeout=60)
        return done.stdout.split()

    assert complete("lucidflux-data expla") == ["explain"]
    assert complete("lucidflux-data filter photos --executor ") == ["ray", "local"]
