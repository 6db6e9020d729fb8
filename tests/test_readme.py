"""The README's promises that a script relies on."""

from __future__ import annotations

import re
from pathlib import Path

from relabel.cli import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_first_two_bash_blocks_are_the_main_job_and_the_tests() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    assert blocks[:2] == [
        "pip install -e . && relabel run configs/quickstart.yaml\n",
        "pip install -e '.[test]' && pytest -q\n",
    ]


def test_every_command_is_in_the_readme_and_every_one_in_the_readme_exists() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert (
        set(re.findall(r"relabel (run|estimate|export|verify|report|status|[a-z]+) (?=CONFIG|RUN|outputs)", README))
        == commands
    )
