"""The review page in a real browser: it opens from disk, shows what is in the files, and asks nothing of a network."""

import base64
import io
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy import ndimage

from scripts.pipeline.review import LARGE_SIDE, SIDE, describe, outline, page_text
from scripts.pipeline.stats import read_stats
from scripts.pipeline.verify import Verified
from scripts.review import main
from tests.conftest import build
from tests.fake_source import write_source

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -r tests/requirements.txt")

# Of one worker, so that it makes the page once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("review")]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SEGMENTED = 60
FILE = "data/segmented/train_00.parquet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A built folder with enough segmented images to scroll through."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built") / "hyper-kvasir"
    write_source(source, images="tiny", segmented=SEGMENTED)
    build(source, built)
    shutil.copy(source / "expected.json", built.parent)
    return built


def review(folder, to, expected):
    assert main([str(folder), "--to", str(to), "--expect", str(expected), "--workers", "2"]) == 0
    return to.as_uri()


@pytest.fixture(scope="module")
def address(folder):
    return review(folder, folder.parent / "review.html", folder.parent / "expected.json")


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens an address; at the end no page may have said an error or asked for anything but itself."""
    contexts, errors, requests = [], [], []

    def visit(address, **options):
        contexts.append(chromium.new_context(**{"reduced_motion": "reduce", **options}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not errors
    assert not [url for url in requests if not url.startswith(("file:", "data:"))]


@pytest.fixture
def page(visit, address):
    return visit(address)


def open_first(page):
    page.locator(".tile").first.scroll_into_view_if_needed()
    page.wait_for_selector(".tile img")  # put there once in view; a click at that moment would be lost
    page.click(".tile")


@pytest.fixture(scope="module")
def truth(folder):
    """{id: facts} of the segmented rows, found without the code under test: components by scipy, boxes by pixels."""
    return {row["image_id"]: facts(row) for row in pq.read_table(folder / FILE, partitioning=None).to_pylist()}


def facts(row):
    mask = pixels(row["mask"]) > 0
    components = ndimage.find_objects(ndimage.label(mask, np.ones((3, 3)))[0])
    painted = [painted_box(mask.shape, box) for box in row["objects"]["bbox"]]
    parts = [np.zeros_like(mask) for _ in components]
    for part, slices in zip(parts, components):
        part[slices] = True
    iou = np.array([[(box & part).sum() / (box | part).sum() for part in parts] for box in painted])
    best = [*iou.max(axis=0), *iou.max(axis=1)]
    fits = [fit(box, components[i]) for box, i in zip(row["objects"]["bbox"], iou.argmax(axis=1))]
    return {
        "fold_2": str(row["fold_2"]),
        "fold_5": str(row["fold_5"]),
        "instances": str(len(parts)),
        "boxes": str(len(painted)),
        "finding": "polyps",
        "lowest": min(best),
        **{kind: kind in fits for kind in ("matched", "stretched", "unmatched")},
        "unboxed": len({i for i, kind in zip(iou.argmax(axis=1), fits) if kind == "matched"}) < len(parts),
        "numbers": len(parts) != len(painted),
        "mask": mask,
    }


def fit(box, component):
    """How a box fits the component, a pair of slices, that it overlaps best."""
    x, y, width, height = box
    edges = zip((x, x + width, y, y + height), [end for s in component[::-1] for end in (s.start, s.stop)])
    if all(abs(one - other) <= 2 for one, other in edges):
        return "matched"
    return "stretched" if (x, y) == (0, 0) else "unmatched"


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png["bytes"])))


def painted_box(shape, box):
    x, y, width, height = map(int, box)
    pixels = np.zeros(shape, bool)
    pixels[y : y + height, x : x + width] = True
    return pixels


def shown_ids(page):
    return page.eval_on_selector_all("#grid .tile", "tiles => tiles.map(tile => tile.ariaLabel.slice(6, 42))")


# ------------------------------------------------------------------------------------------------- what the page says


def test_status_and_counts_are_those_of_the_folder(page, folder):
    expected = json.loads((folder.parent / "expected.json").read_text())
    assert page.inner_text("#status .headline") == "All good"
    cells = "rows => rows.map(row => [row.cells[0].innerText, row.cells[2].innerText])"
    counts = dict(page.eval_on_selector_all("#counts tbody tr", cells))
    assert counts["segmented / train"] == str(SEGMENTED)
    assert counts["boxes"] == str(expected["boxes"]) and counts["polyp instances"] == str(expected["instances"])
    assert {name: int(counts[name]) for name in expected["findings"]} == expected["findings"]
    assert page.inner_text("#problems p").startswith("None")


def test_a_sample_of_every_finding_and_of_the_unlabeled_is_a_picture(page, folder):
    names = page.eval_on_selector_all("#samples .name", "all => all.map(name => name.innerText)")
    assert sorted(names) == sorted(json.loads((folder.parent / "expected.json").read_text())["findings"])
    decoded = "all => Promise.all(all.map(image => image.decode().then(() => image.naturalWidth)))"
    widths = page.eval_on_selector_all("#samples img", decoded)
    assert len(widths) == 23 + 6 and min(widths) > 0


def test_figures_of_the_folder_are_shown_with_the_words_of_the_card(visit, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "with-figure")
    (copy / "assets").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30), "teal").save(copy / "assets" / "for_the_test.png")
    with open(copy / "README.md", "a") as card:
        card.write("\n![Bars & <b>numbers</b>](assets/for_the_test.png)\n")
    _, text = page_text(copy, Verified(), workers=1)
    (tmp_path / "page.html").write_text(text, "utf-8")
    page = visit((tmp_path / "page.html").as_uri())
    names = [text.split(".")[0] for text in page.locator("#figures figcaption").all_inner_texts()]
    assert names == [
        "Findings", "Polyps", "Class balance", "Folds", "Objects", "Heat maps", "Agreement", "Sizes", "For the test"
    ]  # fmt: skip
    assert "framed" not in (caption := page.locator("#figures figcaption").first.inner_text())
    assert "none is hand-picked" in caption
    figure = page.locator("#figures figure", has_text="For the test").locator("img")
    assert figure.get_attribute("alt") == "Bars & <b>numbers</b>"
    assert figure.evaluate("image => image.decode().then(() => image.naturalWidth)") == 40


def test_outlines_are_those_of_the_masks(page, truth):
    inside = """rows => rows.map(row => {
        const canvas = new OffscreenCanvas(row.width, row.height).getContext("2d");
        canvas.fill(new Path2D(row.mask ?? row.instances.map(part => part.path).join("")), "evenodd");
        return [row.id, [...canvas.getImageData(0, 0, row.width, row.height).data].filter((_, i) => i % 4 === 3)];
    })"""
    rows = json.loads(page.text_content("#rows"))[:20]
    for image_id, alpha in page.evaluate(inside, rows):
        mask = truth[image_id]["mask"]
        drawn = np.array(alpha).reshape(mask.shape) >= 128
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.9


def test_an_outline_has_holes_and_corners():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8], mask[3:5, 3:5], mask[8, 8] = True, False, True
    path = outline(mask)
    assert path.count("M") in (2, 3) and path.count("M") == path.count("z")


# ---------------------------------------------------------------------------------------------------- filters, orders


def test_each_value_of_each_filter_shows_the_images_that_have_it(page, truth):
    for control in ("finding", "fold_2", "fold_5", "instances", "boxes"):
        values = page.eval_on_selector_all(f"#{control} option", "options => options.map(option => option.value)")[1:]
        assert set(values) == {facts[control] for facts in truth.values()}
        for value in values:
            page.select_option(f"#{control}", value)
            wanted = {image_id for image_id, facts in truth.items() if facts[control] == value}
            assert set(shown_ids(page)) == wanted
            assert page.inner_text("#shown").startswith(f"{len(wanted)} of {SEGMENTED} images")
        page.select_option(f"#{control}", "all")


def test_the_page_and_the_card_count_alike(page, folder, truth):
    """Boxes by their fit and instances without a box, in the page, its rows, and the card."""
    summary = read_stats(str(folder))[FILE]
    said = page.locator("#browser .agreement b").all_inner_texts()
    fits = summary["boxes_by_fit"]
    disagreeing = [facts for facts in truth.values() if disagree(facts)]
    wanted = [fits["matched"], fits["stretched"], fits["unmatched"], summary["unboxed"], len(disagreeing)]
    assert [int(number) for number in said] == wanted and min(wanted) > 0
    boxes = [box["fit"] for row in json.loads(page.text_content("#rows")) for box in row["boxes"]]
    assert {kind: boxes.count(kind) for kind in fits} == fits


def disagree(facts):
    return facts["stretched"] or facts["unmatched"] or facts["unboxed"] or facts["numbers"]


def test_disagreement_of_mask_and_boxes(page, truth):
    for test in ("matched", "stretched", "unmatched", "unboxed", "numbers"):
        page.select_option("#agreement", test)
        assert set(shown_ids(page)) == {image_id for image_id, facts in truth.items() if facts[test]}
    page.select_option("#agreement", "loose")
    assert set(shown_ids(page)) == {image_id for image_id, facts in truth.items() if round(facts["lowest"], 3) < 0.9}
    page.click("#disagreeing")
    either = {image_id for image_id, facts in truth.items() if disagree(facts)}
    assert 0 < len(either) < SEGMENTED and set(shown_ids(page)) == either
    lowest = [truth[image_id]["lowest"] for image_id in shown_ids(page)]
    assert lowest == pytest.approx(sorted(lowest), abs=2e-3)


def test_filters_combine_and_reset(page, truth):
    page.select_option("#fold_2", "1")
    page.select_option("#boxes", "2")
    both = {image_id for image_id, facts in truth.items() if (facts["fold_2"], facts["boxes"]) == ("1", "2")}
    assert set(shown_ids(page)) == both
    page.click("#filters [type=reset]")
    page.locator(".tile").nth(SEGMENTED - 1).wait_for(state="attached")
    assert set(shown_ids(page)) == set(truth)


def test_search_by_id(page, truth):
    one = sorted(truth)[17]
    page.fill("#search", f" {one[4:20].upper()} ")
    assert shown_ids(page) == [one]
    page.fill("#search", "no such id")
    assert shown_ids(page) == [] and page.is_visible("#none")


def test_orders(page, truth):
    keys = {
        "instances": lambda image_id: (-int(truth[image_id]["instances"]), image_id),
        "boxes": lambda image_id: (-int(truth[image_id]["boxes"]), image_id),
        "smallest": lambda image_id: (round(truth[image_id]["mask"].mean(), 5), image_id),
        "id": lambda image_id: image_id,
    }
    for order, key in keys.items():
        page.select_option("#order", order)
        assert shown_ids(page) == sorted(truth, key=key)


# ----------------------------------------------------------------------------------------- overlays, keys, scrolling


def test_each_switch_changes_what_is_drawn_and_back(page):
    layers = [f"#grid-layers [data-layer={name}]" for name in ("mask", "instances", "boxes")]
    for layer in layers:
        page.uncheck(layer)
    picture = page.locator(".tile .picture").first
    picture.locator("img").wait_for()
    page.evaluate("Promise.all([...document.querySelectorAll('.tile img')].map(image => image.decode()))")
    plain = screenshot(picture)
    for layer in layers:
        page.check(layer)
        assert changed(plain, screenshot(picture)) > 100
        page.uncheck(layer)
        assert changed(plain, screenshot(picture)) == 0


def screenshot(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int)


def changed(one, other):
    """The number of pixels that differ by more than what smoothing of edges does."""
    return int((abs(one - other).max(axis=2) > 24).sum())


def test_switches_of_grid_and_large_view_are_one(page):
    page.focus(".tile")
    page.keyboard.press("Enter")
    page.check("#large-layers [data-layer=instances]")
    assert page.is_visible("#large-picture .instances text")
    page.keyboard.press("Escape")
    assert page.is_checked("#grid-layers [data-layer=instances]")


def test_keyboard_alone_is_enough(page, truth):
    ids = sorted(truth)
    page.focus("#filters [type=reset]")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "tile":
            break
    focused = "document.activeElement.ariaLabel"
    assert ids[0] in page.evaluate(focused)
    last = SEGMENTED - 1
    for key, at in (("ArrowRight", 1), ("End", last), ("ArrowRight", last), ("Home", 0), ("ArrowRight", 1)):
        page.keyboard.press(key)
        assert ids[at] in page.evaluate(focused)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.inner_text("#large-id") == ids[1]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#large-id") == ids[2] and page.inner_text("#position") == f"3 of {SEGMENTED}"
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert page.inner_text("#large-id") == ids[0]
    page.keyboard.press("Escape")
    playwright.expect(page.locator(f".tile[aria-label*='{ids[0]}']")).to_be_focused()  # a task after the key's
    assert page.is_hidden("#large")
    page.keyboard.press("ArrowDown")
    columns = page.evaluate("getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ').length")
    assert ids[columns] in page.evaluate(focused)


def test_the_large_view_goes_through_what_the_filters_left(page, truth):
    page.select_option("#boxes", "2")
    ids = shown_ids(page)
    open_first(page)
    page.click("#next")
    assert (page.inner_text("#large-id"), page.inner_text("#position")) == (ids[1], f"2 of {len(ids)}")
    page.click("#close")
    assert page.is_hidden("#large")


def test_pictures_come_into_the_page_as_one_scrolls(page):
    last = page.locator(".tile").last
    assert last.locator("img").count() == 0
    assert 0 <= page.locator(".tile img").count() < SEGMENTED
    last.scroll_into_view_if_needed()
    last.locator("img").wait_for()
    assert last.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.evaluate("scrollTo(0, 0)")
    last.locator("img").wait_for(state="detached")


def test_boxes_that_do_not_fit_are_seen_and_named(page, truth):
    """Dotted and explained; those under ten pixels with a ring, as a sliver is hardly seen."""
    assert page.locator("#grid-layers .legend").inner_text() == "Box that matches no instance"
    page.select_option("#agreement", "unmatched")
    open_first(page)
    assert page.locator("#large-picture .boxes rect.unfit").count() == 1
    assert page.locator("#large-picture .boxes circle.unfit").count() == 1
    assert "✗ unmatched" in page.inner_text("#large-facts") and "✗ disagree" in page.inner_text("#large-facts")
    assert page.locator("#large-facts th:not([scope=col])").count() == 0
    page.keyboard.press("Escape")
    page.select_option("#agreement", "agree")
    open_first(page)
    assert page.locator("#large-picture .boxes rect").count() > 0
    assert page.locator("#large-picture .boxes .unfit, #large-picture .boxes circle").count() == 0


def test_rows_that_disagree_have_larger_pictures(large_row):
    sizes = {}
    for name, box in (("agrees", [9.0, 9.0, 101.0, 51.0]), ("disagrees", [9.0, 9.0, 150.0, 51.0])):
        described = describe({**large_row, "objects": {"bbox": [box]}})
        with Image.open(io.BytesIO(base64.b64decode(described["picture"]))) as picture:
            sizes[name] = max(picture.size)
    assert sizes == {"agrees": SIDE, "disagrees": LARGE_SIDE}


@pytest.fixture
def large_row():
    """A segmented row of 1,000 x 600 pixels, with one instance at (10, 10), 100 wide and 50 high."""
    instances = np.zeros((600, 1000), np.uint8)
    instances[10:60, 10:110] = 1
    photo = io.BytesIO()
    Image.new("RGB", (1000, 600), "teal").save(photo, "JPEG")
    row = {"image_id": "x", "label": 4, "fold_2": 0, "fold_5": 0, "width": 1000, "height": 600}
    return {
        **row,
        "image": {"bytes": photo.getvalue()},
        "mask": as_png(instances * 255),
        "instances": as_png(instances),
    }


def as_png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue()}


def test_a_link_to_an_image_opens_it(visit, address, truth):
    one = sorted(truth)[50]
    page = visit(f"{address}#image-{one}")
    assert page.inner_text("#large-id") == one
    page.keyboard.press("Escape")
    playwright.expect(page).to_have_url(f"{address}#browser")


def test_narrow_windows_and_both_schemes(visit, address):
    page = visit(address, viewport={"width": 340, "height": 700})
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(247, 248, 249)", "rgb(18, 22, 25)"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 340
    ends = page.eval_on_selector_all("nav a", "links => links.map(link => link.getBoundingClientRect().right)")
    assert max(ends) <= 340, "no section is cut off"


def test_forced_colors_leave_the_keys_of_the_layers(visit, address):
    page = visit(address, forced_colors="active")
    kept = page.eval_on_selector_all(".key", "keys => keys.map(key => getComputedStyle(key).forcedColorAdjust)")
    assert len(kept) == 8 and set(kept) == {"none"}


# ---------------------------------------------------------------------------------------- broken and partial folders


def test_the_policy_forbids_network_and_other_scripts(chromium, address):
    page = chromium.new_page()
    page.goto(address)
    blocked = """async () => {
        const blocked = [];
        addEventListener("securitypolicyviolation", event => blocked.push(event.effectiveDirective));
        await fetch("https://example.org/").catch(() => null);
        document.body.append(Object.assign(new Image(), {src: "https://example.org/x.png"}));
        document.body.append(Object.assign(document.createElement("script"), {textContent: "document.title = 'run'"}));
        await new Promise(resolve => setTimeout(resolve, 200));
        return [blocked.sort(), document.title];
    }"""
    directives, title = page.evaluate(blocked)
    assert directives == ["connect-src", "img-src", "script-src-elem"] and title != "run"
    page.close()


def test_a_broken_folder_is_shown_as_far_as_it_goes(visit, folder, tmp_path):
    """A cut mask, a mask that differs from the instances, a labeled file lost, and a file with a hostile name."""
    copy = shutil.copytree(folder, tmp_path / "a <b>folder")
    lost = next((copy / "data" / "labeled").rglob("*.parquet"))
    lost.unlink()
    (copy / "data" / "<img src=x onerror=document.title='run'>.parquet").write_bytes(b"")
    table = pq.read_table(copy / FILE, partitioning=None)
    rows = table.to_pylist()
    rows[3]["mask"]["bytes"] = rows[3]["mask"]["bytes"][:40]
    rows[5]["mask"]["bytes"] = rows[4]["mask"]["bytes"]
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), copy / FILE)

    page = visit(review(copy, tmp_path / "page.html", folder.parent / "expected.json"))
    assert page.inner_text("h1") == "a <b>folder"
    assert page.inner_text("#status .headline").endswith("problems")
    assert page.title().startswith("Review of a <b>folder: ")
    problems = page.inner_text("#problems")
    assert "<img src=x onerror=document.title='run'>.parquet" in problems and lost.name in problems
    assert str(tmp_path) not in page.content()
    differing = page.locator("#counts .differs").first
    assert "✗" in differing.inner_text() and "missing" in differing.inner_text()
    page.select_option("#agreement", "problem")
    assert {rows[3]["image_id"]} <= set(shown_ids(page)) < {row["image_id"] for row in rows}
    page.click(f"#problems a[href='#image-{rows[3]['image_id']}']")
    page.wait_for_selector("#large-facts h2")
    assert "unreadable" in page.inner_text("#large-facts") and "✓" not in page.inner_text("#large-facts")


def test_a_file_that_cannot_be_read_leaves_the_rest(visit, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "cut")
    (copy / FILE).write_bytes((copy / FILE).read_bytes()[:1000])
    page = visit(review(copy, tmp_path / "page.html", folder.parent / "expected.json"))
    assert "cannot be read" in page.inner_text("#browser")
    assert page.locator("#samples img").count() == 23 + 6


@pytest.mark.parametrize("config", ["labeled", "segmented", "unlabeled"])
def test_a_folder_of_one_config(visit, source, tmp_path, config):
    build(source, tmp_path / "part", "--config", config)
    page = visit(review(tmp_path / "part", tmp_path / "page.html", source / "expected.json"))
    assert page.inner_text("#status .headline") == "All good"
    assert f"Checked: {config}." in page.inner_text("#status")
    assert ("Not in this folder" in page.inner_text("#browser")) == (config != "segmented")
    assert page.locator("#samples img").count() == {"labeled": 23, "segmented": 1, "unlabeled": 6}[config]


def test_the_command_says_what_it_wrote_always_the_same(folder, address, tmp_path, capsys):
    to = tmp_path / "page.html"
    assert review(folder, to, folder.parent / "expected.json") != address
    assert capsys.readouterr().out.endswith("MB): all good\n")
    assert to.read_bytes() == (folder.parent / "review.html").read_bytes()


def test_the_command_refuses_a_folder_that_was_not_built(tmp_path, capsys):
    assert main([str(tmp_path), "--to", str(tmp_path / "page.html")]) == 1
    assert "no manifest.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
