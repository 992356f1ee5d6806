import json

import pytest

from nngraph.cli import main
from nngraph.zoo import fit_zoo, load_digits_images


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "zoo"
    return fit_zoo(
        path, load_digits_images(), widths=(2, 6, 5, 1), count=60, views=2, steps=5,
        progress=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def run(zoo, tmp_path_factory):
    """A trained run, made by the command itself."""
    path = tmp_path_factory.mktemp("cli") / "run"
    options = "--epochs 2 --batch_size 16 --warmup_steps 2 --model message-passing --quiet"
    small = '{"channels": 8, "messages": 4, "hidden": 8, "edge_channels": 0}'
    line = ["train", "classify", "--run", str(path), "--zoo", str(zoo.path), "--options", small]
    code = main([*line, *options.split()])
    assert code == 0
    return path


@pytest.fixture
def command(capsys):
    """Run a command line: its exit code, stdout and stderr."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def answer(command):
    """Run a command line with --json: its exit code, and the one document on stdout."""

    def call(*arguments):
        code, out, _ = command(*arguments, "--json")
        return code, json.loads(out)

    return call
