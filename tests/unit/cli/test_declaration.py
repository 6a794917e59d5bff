"""`reaseq init` and `reaseq features list`."""

from pathlib import Path

import numpy as np

from features.repository import FeatureRepository
from reaseq import float16
from reaseq.records import ItemFeatures
from reaseq.settings import Settings
from tests.commands import run_command


def test_init_writes_an_example_that_can_be_listed_and_overwrites_nothing(tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    env = {"REASEQ_STATE_DIR": str(tmp_path / "var"), "REASEQ_DECLARATION_FILE": str(file)}

    written = run_command("init", str(file), env={"REASEQ_STATE_DIR": str(tmp_path / "var")})
    assert written.returncode == 0 and f"export REASEQ_DECLARATION_FILE={file}" in written.stdout
    again = run_command("init", str(file), env={"REASEQ_STATE_DIR": str(tmp_path / "var")})
    assert again.returncode == 1 and "exists; name another file" in again.stderr
    nowhere = run_command("init", str(tmp_path / "gone" / "shop.py"), env={})
    assert nowhere.returncode == 1 and "cannot be written: No such file or directory" in nowhere.stderr

    listed = run_command("features", "list", env=env).stdout
    assert str(file) in listed and "1024 buckets" in listed and "no ranker yet" in listed
    assert "item_representation" in listed


def test_list_counts_the_items_that_have_an_attribute(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    repository = FeatureRepository(settings)
    repository.apply()
    vector = float16.pack(np.ones(4) / 2)
    for number, attributes in enumerate(({"weight_g": "5"}, {"weight_g": "heavy"}, {"wieght_g": "5"}, {})):
        record = ItemFeatures(
            item_id=f"i{number}", event_time_ms=1, listed_ms=1, status="text", title="a", attributes=attributes, vector=vector
        )
        repository.write([record])
    file = tmp_path / "shop.py"
    file.write_text('from reaseq.declaration import *\nDECLARATION = Declaration(item_attributes=[Number("weight_g")])')
    env = {"REASEQ_STATE_DIR": str(tmp_path), "REASEQ_DECLARATION_FILE": str(file)}

    assert "25.0% of 4" in run_command("features", "list", "--coverage", env=env).stdout
    assert "no attributes are declared" in run_command("features", "list", env={"REASEQ_STATE_DIR": str(tmp_path)}).stdout


def test_declaration_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.write_text("DECLARATION = (")
    done = run_command("features", "list", env={"REASEQ_STATE_DIR": str(tmp_path), "REASEQ_DECLARATION_FILE": str(file)})

    assert done.returncode == 1 and done.stderr.startswith(f"error: {file} cannot be loaded: SyntaxError")
