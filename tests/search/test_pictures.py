"""The picture of a plan: well formed, every sublayer in it, wider where more stays, darker where bits are more."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from models.loading import Source
from search.pictures import colour_of, plan_picture
from space.choices import PARTS, whole_size
from space.rates import CODED_RATES
from tests.tiny import random_plans

_SVG = "{http://www.w3.org/2000/svg}"


def test_every_sublayer_has_a_frame_and_what_stays_its_share_of_it(source: Source) -> None:
    for plan in random_plans(source, 5):
        picture = ET.fromstring(plan_picture(source.layout, plan, "a <plan> & more"))  # noqa: S314
        assert picture.find(f"{_SVG}text").text == "a <plan> & more"  # type: ignore[union-attr]
        frames = [one for one in picture.iter(f"{_SVG}rect") if one.get("fill") == "none"]
        sublayers = [
            (getattr(layer, part), whole_size(tower, part))
            for tower in source.layout.towers
            for layer in plan.layers(tower)
            for part in PARTS
        ]
        assert len(frames) == len(sublayers)
        gone = [one for one in frames if one.get("stroke-dasharray")]
        assert len(gone) == sum(not sublayer.kept for sublayer, _ in sublayers)
        boxes = [(float(one.get("x", 0)), float(one.get("y", 0))) for one in frames]
        assert len(set(boxes)) == len(boxes)
        width, height = (float(picture.get(name, 0)) for name in ("width", "height"))
        assert all(x + float(one.get("width", 0)) <= width for (x, _), one in zip(boxes, frames, strict=True))
        assert max(y for _, y in boxes) < height
        whole = float(frames[0].get("width", 0))
        wanted = [f"{whole * sublayer.kept / size:.1f}" for sublayer, size in sublayers if sublayer.kept]
        bars = [one.get("width") for one in picture.iter(f"{_SVG}rect") if "." in one.get("width", "")]
        assert sorted(bars) == sorted(wanted)


def test_more_bits_are_darker() -> None:
    shades = [sum(bytes.fromhex(colour_of(rate)[1:])) for rate in CODED_RATES]
    assert shades == sorted(set(shades), reverse=True)
