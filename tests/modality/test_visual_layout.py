"""Where visual tokens stand and who sees them, against the rules of decision 0004 applied token by token."""

import itertools

import numpy as np
import pytest

from ernie5.modality.visual_layout import (
    TO_THE_END,
    VisualLayout,
    generated_length,
    generation_layout,
    scale_coordinates,
    understanding_layout,
)

SQUARE = ((1, 1), (2, 2), (4, 4))
WIDE = ((1, 1), (1, 2), (2, 3), (3, 5))  # non-square; 5 is no multiple of 2 or 3
TALL = ((1, 1), (3, 2), (7, 2), (8, 4), (8, 4))  # the last size twice
ALONE = ((1, 1),)
TABLES = {"square": SQUARE, "wide": WIDE, "tall": TALL, "alone": ALONE}
FILMS = list(itertools.product((1, 2, 5), (1, 2, 4), ((), (0,), (1, 3), (4,))))  # frames, window, masked frames
every_table = pytest.mark.parametrize("scales", TABLES.values(), ids=TABLES)


def film_tokens(num_frames, scales):
    """(frame, scale, row, column) of each token in order; the sum of all scales is scale `len(scales)`, of one cell."""
    tokens = []
    for frame in range(num_frames):
        for k in [*range(1, len(scales)), len(scales)]:
            height, width = scales[k] if k < len(scales) else (1, 1)
            tokens += [(frame, k, i, j) for i in range(height) for j in range(width)]
    return tokens


def visible(layout: VisualLayout, num_behind: int) -> np.ndarray:
    """bool [n + num_behind, n]: which queries, of the medium and of text behind it, see which tokens."""
    query = np.arange(len(layout) + num_behind)[:, None]
    return (query >= layout.group_start) & (query < layout.hidden_from)


@every_table
@pytest.mark.parametrize("num_frames", (1, 3))
def test_generated_film_has_the_inputs_of_all_scales_but_the_first_and_their_sum(scales, num_frames):
    layout = generation_layout(num_frames, scales, 1)
    tokens = film_tokens(num_frames, scales)
    assert len(layout) == generated_length(num_frames, scales) == len(tokens)
    assert layout.scale_ids.tolist() == [scale % len(scales) for _, scale, _, _ in tokens]  # the sum stands for scale 0


@every_table
def test_cell_stands_at_the_mean_of_the_last_scales_cells_that_it_covers(scales):
    height, width = scales[-1]
    for scale in scales:
        # each cell of the last scale cut into so many slivers that no sliver lies in two cells of this scale
        slivers = [(np.arange(n * m) + 0.5) / m - 0.5 for n, m in zip((height, width), scale, strict=True)]
        centres = [part.reshape(m, -1).mean(1) for part, m in zip(slivers, scale, strict=True)]
        expected = [(row, column) for row in centres[0] for column in centres[1]]
        np.testing.assert_allclose(scale_coordinates(scale, scales[-1]), expected, rtol=0, atol=1e-12)


@every_table
def test_positions_are_the_frame_and_the_aligned_centre(scales):
    layout = generation_layout(3, scales, 1)
    height, width = scales[-1]
    expected = []
    for frame, k, i, j in film_tokens(3, scales):
        h, w = scales[k] if k < len(scales) else (1, 1)
        expected.append([frame, (i + 0.5) * height / h - 0.5, (j + 0.5) * width / w - 0.5])
    assert layout.positions.dtype == np.float32
    np.testing.assert_allclose(layout.positions, expected, rtol=0, atol=1e-6)


def test_last_scale_stands_on_whole_numbers_and_the_sum_in_the_middle():
    positions = generation_layout(1, WIDE, 1).positions
    assert positions[-16:-1, 1:].tolist() == [[i, j] for i in range(3) for j in range(5)]
    assert positions[-1].tolist() == [0, 1, 2]


@every_table
def test_group_is_the_scale_of_one_frame(scales):
    layout = generation_layout(3, scales, 1)
    tokens = [token[:2] for token in film_tokens(3, scales)]
    assert layout.group_start.tolist() == [tokens.index(token) for token in tokens]


@every_table
@pytest.mark.parametrize("num_frames, window, masked", FILMS)
def test_frame_is_seen_by_the_window_behind_it_and_a_masked_one_by_itself(scales, num_frames, window, masked):
    layout = generation_layout(num_frames, scales, window, masked)
    tokens = film_tokens(num_frames, scales)
    expected = np.zeros([len(tokens)] * 2, bool)
    for q, (query_frame, query_scale, _, _) in enumerate(tokens):
        for k, (frame, scale, _, _) in enumerate(tokens):
            reach = 0 if frame in masked else window
            is_past = (frame, scale) <= (query_frame, query_scale)
            expected[q, k] = is_past and query_frame - frame <= reach
    assert np.array_equal(visible(layout, 0), expected)


@pytest.mark.parametrize("num_frames, window, masked", FILMS)
def test_text_behind_sees_the_frames_that_no_frame_has_evicted(num_frames, window, masked):
    see = visible(generation_layout(num_frames, SQUARE, window, masked), 3)
    length = len(see) - 3
    frames = [frame for frame, *_ in film_tokens(num_frames, SQUARE)]
    last = num_frames - 1
    kept = [frame == last or (frame not in masked and frame + window >= last) for frame in frames]
    assert (see[length:] == kept).all()
    # what the last token of the film sees: nothing comes back, and nothing more goes
    assert np.array_equal(see[-1], see[length - 1])


def test_what_is_never_hidden_is_marked_so():
    layout = generation_layout(3, SQUARE, 1)
    length = len(layout) // 3
    assert layout.hidden_from.tolist() == [2 * length] * length + [TO_THE_END] * 2 * length
    assert (generation_layout(1, SQUARE, 1, (0,)).hidden_from == TO_THE_END).all()


@pytest.mark.parametrize("num_frames, groups", [(1, 1), (2, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
@pytest.mark.parametrize("height, width", [(2, 2), (4, 6), (6, 2)])
def test_understood_medium_has_a_token_for_2_x_2_cells_of_four_frames(num_frames, groups, height, width):
    layout = understanding_layout(num_frames, height, width)
    rows, columns = height // 2, width // 2
    grid = [[t, i, j] for t in range(groups) for i in range(rows) for j in range(columns)]
    assert layout.positions.dtype == np.float32
    assert layout.positions.tolist() == grid
    assert layout.group_start.tolist() == [t * rows * columns for t, _, _ in grid]
    assert (layout.hidden_from == TO_THE_END).all() and len(layout.hidden_from) == len(grid)
    assert layout.scale_ids.tolist() == [-1] * len(grid)


@pytest.mark.parametrize(
    "layout, extent",
    [
        (generation_layout(1, ALONE, 1), 1),
        (generation_layout(1, WIDE, 1), 5),  # the widest side: columns 0 to 4
        (generation_layout(1, TALL, 1), 8),
        (generation_layout(9, SQUARE, 1), 9),  # more frames than cells on a side
        (generation_layout(1, ((1, 1), (1, 4)), 1), 4),
        (understanding_layout(1, 4, 12), 6),
        (understanding_layout(17, 2, 2), 5),
    ],
)
def test_text_goes_on_behind_the_largest_coordinate(layout, extent):
    assert layout.extent == extent


def test_coordinate_between_two_numbers_is_rounded_up():
    positions = np.array([[0, 0.5, 1.5]], np.float32)
    ones = np.ones(1, np.int64)
    assert VisualLayout(positions, ones, ones, ones).extent == 3


@pytest.mark.parametrize("layout", [generation_layout(2, WIDE, 1, (0,)), understanding_layout(5, 4, 4)])
def test_indices_are_int64(layout):
    assert {array.dtype for array in (layout.group_start, layout.hidden_from, layout.scale_ids)} == {np.dtype(np.int64)}
