import re
import xml.etree.ElementTree as ElementTree

import pytest

from ernie5.train.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    compact,
    heat_map,
    line_chart,
    share_map,
    smooth,
)


def drawn(svg, tag):
    return [element for element in ElementTree.fromstring(svg).iter() if element.tag == tag]


def coordinates(svg):
    text = drawn(svg, "polyline")[0].get("points")
    return [tuple(map(float, point.split(","))) for point in text.split()]


def test_a_line_spans_the_width_and_goes_up_with_its_values():
    points = coordinates(line_chart([Series("a", [(0, 0.0), (5, 10.0), (10, 4.0)], "red")]))
    assert points[0] == (LEFT, HEIGHT - BOTTOM)
    assert points[1] == (LEFT + (WIDTH - RIGHT - LEFT) / 2, TOP)
    assert points[2][0] == WIDTH - RIGHT
    assert TOP < points[2][1] < HEIGHT - BOTTOM


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0], [0.0, 0.0], [1e-12, 2e-12], [-5.0, 1e9]])
def test_any_values_give_a_drawing_inside_its_frame(values):
    for x, y in coordinates(line_chart([Series("a", list(enumerate(values)), "red")])):
        assert LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM


def test_one_spike_does_not_flatten_the_rest():
    values = [1.0 + i % 2 for i in range(200)] + [1e6]
    heights = [y for _, y in coordinates(line_chart([Series("a", list(enumerate(values)), "red")]))]
    assert max(heights[:-1]) - min(heights[:-1]) > 50


def test_a_long_line_is_thinned_and_keeps_its_end():
    points = coordinates(line_chart([Series("a", [(i, float(i)) for i in range(10_001)], "red")]))
    assert len(points) <= 400
    assert points[-1] == (WIDTH - RIGHT, TOP)


def test_without_points_nothing_is_drawn():
    assert line_chart([Series("a", [], "red")]) == ""


def test_labels_are_escaped():
    svg = line_chart([Series("<a>", [(0, 1.0)], "red", dots=True)], marks=[(0, "<b>")])
    assert "<a>" not in svg and "&lt;b&gt;" in svg


def test_a_cell_says_how_its_expert_stands_to_the_mean_of_its_layer():
    svg = heat_map([[1, 3], [2, 2]]).split("<div")[0]
    titles = [element.text for element in drawn(svg, "title")]
    assert titles[1] == "layer 0, expert 1: 1.50 times the mean"
    opacity = [float(value) for value in re.findall(r'fill-opacity="([\d.]+)"', svg)]
    assert opacity == [0.25, 0.75, 0.5, 0.5]


def test_a_layer_without_load_is_drawn():
    assert "expert 1: 0.00 times" in heat_map([[0, 0]])


def test_a_share_is_shown_against_the_given_top_and_names_its_row():
    svg = share_map({"text": [0.5, 0.25], "<a>": [0.0, 0.5]}, top=0.5).split("<div")[0]
    assert [element.text for element in drawn(svg, "title")][1:3] == ["text, expert 1: 25.0%", "<a>, expert 0: 0.0%"]
    assert [float(value) for value in re.findall(r'fill-opacity="([\d.]+)"', svg)] == [1.0, 0.5, 0.03, 1.0]


@pytest.mark.parametrize("experts", [1, 8, 384])
def test_cells_of_a_share_map_stay_inside_its_frame(experts):
    cells = drawn(share_map({"vision drawn": [1.0] * experts}, top=1.0).split("<div")[0], "rect")
    assert len(cells) == experts
    assert float(cells[-1].get("x")) + float(cells[-1].get("width")) <= WIDTH
    assert all(float(cell.get("width")) > 0 for cell in cells)


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (0.0005, "0.0005"),
        (0.000012, "1.2e-05"),
        (3.14159, "3.142"),
        (5255, "5255"),
        (12_345, "12.35k"),
        (2.4e12, "2.4T"),
    ],
)
def test_numbers_are_compact(value, text):
    assert compact(value) == text


def test_smoothing_keeps_short_series_and_is_not_moved_by_a_spike():
    short = [(0, 1.0), (1, 5.0)]
    assert smooth(short) == short
    spiked = [(i, 100.0 if i == 200 else 1.0) for i in range(400)]
    assert {y for _, y in smooth(spiked)} == {1.0}
