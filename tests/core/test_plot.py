"""A picture holds every line of every panel, and is well-formed whatever its names hold."""

from xml.etree import ElementTree

import pytest

from spanqa.plot import Line, Panel, svg_from_panels

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*panels):
    return ElementTree.fromstring(svg_from_panels(panels, title="a & b < c"))


@pytest.mark.parametrize("n_places", [1, 2, 9, 60])
def test_every_line_has_a_point_for_each_value_inside_its_panel(n_places):
    lines = [Line(name=f"<line> {n}", values=[float(place % 7 + n) for place in range(n_places)]) for n in range(3)]
    picture = drawn(*[Panel(axis="step", labels=[str(p) for p in range(n_places)], lines=lines)] * 2)
    groups = picture.findall(f"{SVG}g")
    assert len(groups) == 2
    for group in groups:
        found = group.findall(f"{SVG}polyline")
        assert len(found) == 3
        for line in found:
            points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
            assert len(points) == n_places
            assert all(60 <= x <= 400 and 40 <= y <= 255 for x, y in points)
        texts = [text.text for text in group.findall(f"{SVG}text")]
        assert "<line> 2" in texts
        assert sum(text.isdigit() for text in texts) <= 9 + 5
    assert picture.find(f"{SVG}text").text == "a & b < c"


def test_a_line_of_zeros_lies_on_the_axis():
    picture = drawn(Panel(axis="x", labels=["1", "2"], lines=[Line(name="none", values=[0.0, 0.0])]))
    assert {point.split(",")[1] for point in picture.find(f".//{SVG}polyline").get("points").split()} == {"255.0"}
