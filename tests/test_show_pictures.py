"""The pictures of a report: each an element of its own, whose marks stand where their values are."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from outgrow.show import curves
from outgrow.show.front import draw_front
from outgrow.show.gains import CLOSE, draw_gains, promise
from outgrow.show.growth import draw_growth, spread
from outgrow.show.record import of_kind, pareto
from outgrow.show.run import Run
from outgrow.show.scale import Scale
from outgrow.show.trajectory import trajectory
from test_show_records import BLOCK, REMOVAL, UNSEEN, comparison, family, story
from test_show_report import CASES


def run_of(records, compared=None):
    return Run("runs/mine", {}, list(records), family(records), compared)


PICTURES = {
    "front": draw_front,
    "growth": draw_growth,
    "losses": curves.draw_losses,
    "metric": curves.draw_metric,
    "gains": lambda run: draw_gains(run.events),
}


def marks(drawing, key):
    """The marks of a drawing that have a value, by that value."""
    return {mark.get(key): mark for mark in ElementTree.fromstring(drawing).iter() if mark.get(key) is not None}


def centre(mark):
    """Where the largest circle of a mark is."""
    circle = next(shape for shape in mark if shape.get("class") == "reach")
    return float(circle.get("cx")), float(circle.get("cy"))


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_picture_is_an_element_of_its_own(draw, case):
    picture = draw(run_of(list(story(**case))))
    assert draw(run_of(list(story(**case)))) == picture
    for svg in filter(None, (picture.drawing, picture.narrow)):
        element = ElementTree.fromstring(svg)
        _, _, width, height = map(float, element.get("viewBox").split())
        assert element.get("aria-label")
        for text in element.iter("{http://www.w3.org/2000/svg}text"):
            assert -0.1 <= float(text.get("x")) <= width
            assert 0 < float(text.get("y")) <= height


@pytest.mark.parametrize("metric", ["accuracy", "rmse"])
def test_every_size_stands_on_the_front_where_its_values_are(metric):
    records = list(story(epochs=30, every=2, metric=metric))
    sizes = {size["name"]: size for size in of_kind(records, "size")}
    found = marks(draw_front(run_of(records)).drawing, "data-size")
    assert found.keys() == sizes.keys()
    places = []
    for name, mark in found.items():
        assert int(mark.get("data-params")) == sizes[name]["params"]
        assert float(mark.get("data-test")) == sizes[name]["test"][metric]
        assert f"{sizes[name]['params']:,} parameters" in mark.get("aria-label")
        assert f'outgrow.Family("runs/mine")["{name}"].load()' in mark.get("aria-label")
        places.append((sizes[name]["params"], -sizes[name]["test"][metric], *centre(mark)))
    for value, pixel in ((0, 2), (1, 3)):
        in_order = sorted(places, key=lambda place: place[value])
        assert all(a[pixel] <= b[pixel] + 0.01 for a, b in pairwise(in_order))


def test_networks_that_were_trained_alone_stand_beside_the_family():
    records = list(story(epochs=30, every=3))
    picture = draw_front(run_of(records, comparison(records)))
    alone = ElementTree.fromstring(picture.drawing).findall(".//*[@data-alone]")
    assert len(alone) == 2 * len(of_kind(records, "size"))
    assert all("30 epochs" in mark.get("aria-label") for mark in alone)
    assert [key.text for key in picture.keys][-2:] == ["trained alone, 30 epochs", "uniform widths, 30 epochs"]


def test_without_a_test_part_the_front_shows_validation():
    records = [record | {"test": None} if record.get("record") == "size" else record for record in story()]
    found = marks(draw_front(run_of(records)).drawing, "data-size")
    assert len(found) == len(of_kind(records, "size"))
    assert all(mark.get("data-test") is None and mark.get("data-validation") for mark in found.values())


@pytest.mark.parametrize("axes", [1, 2, 4, 40])
def test_a_band_is_as_thick_as_its_axis_is_wide(axes):
    records = list(story(axes=axes, epochs=20, every=2))
    widths = {name: sizes[-1] for name, sizes in trajectory(records)[1].items()}
    for svg in (draw_growth(run_of(records)).drawing, draw_growth(run_of(records)).narrow):
        bands = marks(svg, "data-axis")
        assert {name: int(band.get("data-units")) for name, band in bands.items()} == widths
        thick = {name: thickness(band[0].get("d")) for name, band in bands.items()}
        unit = sum(thick.values()) / sum(widths.values())
        assert thick == pytest.approx({name: unit * width for name, width in widths.items()}, abs=0.5)


def thickness(outline):
    """How thick a band is at its right end: where its upper edge has come to, against where its lower one begins."""
    upper, lower = outline.split("V")
    turns = re.findall(r"c\S+ 0 \S+ (\S+) ", upper)
    return float(re.match(r"[\d.]+", lower)[0]) - float(re.match(r"M\S+ ([\d.]+)", upper)[1]) - sum(map(float, turns))


def test_of_many_bands_the_widest_are_named():
    svg = draw_growth(run_of(list(story(axes=40)))).drawing
    assert re.search(r"and \d+ narrower", svg)
    assert len(draw_growth(run_of(list(story(axes=40)))).keys) == 40


def test_sizes_stand_below_the_bands_in_the_order_in_which_they_were_saved():
    records = list(story(epochs=60, every=2))
    svg = draw_growth(run_of(records)).drawing
    named = list(marks(svg, "data-size").values())
    assert 2 < len(named) < len(of_kind(records, "size"))
    places = [float(mark.findall("{http://www.w3.org/2000/svg}text")[0].get("x")) for mark in named]
    assert all(b - a > 40 for a, b in pairwise(places))


def test_events_are_marked_by_what_they_did():
    records = list(story())
    events = of_kind(records, "event")
    events[0]["growths"] = [REMOVAL]
    events[1]["growths"].append(BLOCK)
    for picture in (curves.draw_losses(run_of(records)), draw_growth(run_of(records))):
        told = {name: mark.get("aria-label") for name, mark in marks(picture.drawing, "data-event").items()}
        assert told.keys() == {str(event["event"]) for event in events if event["growths"]}
        assert "shrank conv1 24 → 20" in told["1"]
        assert told["2"].endswith("inserted a block behind block1")
    assert [key.text for key in curves.draw_losses(run_of(records)).keys][2:] == ["2 growths", "1 removal"]


def test_every_epoch_tells_its_values():
    records = list(story())
    found = marks(curves.draw_losses(run_of(records)).drawing, "data-epoch")
    for epoch in of_kind(records, "epoch"):
        label = found[str(epoch["epoch"])].get("aria-label")
        assert f"step {epoch['step']:,}" in label
        assert f"training loss {epoch['train_loss']:.3f}; validation loss {epoch['validation']['loss']:.3f}" in label


def test_what_a_growth_kept_of_its_promise_stands_at_that_height():
    records = list(story(epochs=30, every=2))
    growths = [growth for event in of_kind(records, "event") for growth in event["growths"]]
    found = marks(draw_gains(of_kind(records, "event")).drawing, "data-gain")
    assert len(found) == len(growths)
    scale = Scale(0.25, 4.0, 256, 30, log=True)
    for growth in growths:
        mark = found[str(growth["gain"])]
        assert float(mark.get("data-realised")) == growth["realised"]
        assert centre(mark)[1] == pytest.approx(scale.at(growth["realised"] / growth["gain"]), abs=0.01)
        assert mark.get("aria-label").endswith(f"kept {growth['realised'] / growth['gain']:.2f} of it")


def test_a_promise_counts_as_kept_within_a_third():
    events = of_kind(list(story()), "event")[:1]
    ratios = (0.5, 0.8, 1.0, 1.3, 1.5)
    growth = events[0]["growths"][0]
    events[0]["growths"] = [growth | {"gain": 0.1, "se": 0.01, "realised": 0.1 * ratio} for ratio in ratios]
    events[0]["growths"] += [growth | {"gain": 0.1, "se": 0.2, "realised": 9.0}, REMOVAL, UNSEEN]
    kept = promise(events)
    assert kept.ratios == pytest.approx(ratios)
    assert (kept.growths, kept.close, kept.median, kept.removals) == (6, 3, pytest.approx(1.0), 1)
    assert CLOSE == (0.75, 1.33)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("low", "high"), [(1, 2), (3, 3.001), (0.02, 0.9), (1e-7, 5e3), (7, 7), (950, 23_000)])
def test_a_scale_has_round_ticks_within_its_ends(low, high, log):
    scale = Scale.around([low, high], 10, 110, log=log)
    ticks = scale.ticks()
    assert 2 < len(ticks) < 12 or low == high
    places = [scale.at(tick) for tick in ticks]
    assert places == sorted(places)
    assert all(10 - 1e-6 <= place <= 110 + 1e-6 for place in places)


@pytest.mark.parametrize("values", [(0.9910, 0.9925), (0.9998, 1.0)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 100.0, 6.01e4, 1.0002e7])
@pytest.mark.parametrize("draw", [draw_front, curves.draw_metric])
def test_ticks_say_their_values_however_close_these_are(draw, scale, values):
    metric = "accuracy" if scale == 1 else "rmse"
    records = list(story(metric=metric))
    for number, record in enumerate(of_kind(records, "epoch") + of_kind(records, "size")):
        for part in {"validation", "test"} & record.keys():
            record[part] = record[part] | {metric: scale * values[number % 2]}
    picture = draw(run_of(records))
    for svg in filter(None, (picture.drawing, picture.narrow)):
        upright = [text for text in marks(svg, "data-tick").values() if text.get("text-anchor") == "end"]
        assert len({text.text for text in upright}) == len(upright) > 2
        for text in upright:
            number, prefix = re.fullmatch(r"([\d.]+)([kM]?)", text.text).groups()
            assert float(number) * {"": 1, "k": 1e3, "M": 1e6}[prefix] == pytest.approx(float(text.get("data-tick")))
            assert 7 * len(text.text) < float(text.get("x"))  # there is room for it


def test_labels_keep_their_distance():
    places = spread([0.0, 0.1, 0.2, 7.0, 9.9, 10.0], 1.0, 0.0, 10.0)
    assert all(upper - lower >= 1 - 1e-12 for lower, upper in pairwise(places))
    assert min(places) >= 0
    assert max(places) <= 10


def test_the_front_line_goes_through_the_front():
    records = list(story(epochs=30, every=2))
    svg = draw_front(run_of(records)).drawing
    path = max(re.findall(r'd="(M[^"]*)" fill="none"', svg), key=len)
    assert path.count("L") == len(pareto(of_kind(records, "size"), "accuracy")) - 1
