import json
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from ernie5.data.digits.world import WorldConfig

ROOT = Path(__file__).parents[3]


def test_sheet_of_the_guide_shows_the_world_as_it_is_made_today():
    with Image.open(ROOT / "docs" / "images" / "digits.png") as sheet:
        shown = json.loads(sheet.text["Description"])
    config = asdict(WorldConfig())
    assert shown == config | {"weights": dict(config["weights"])}
