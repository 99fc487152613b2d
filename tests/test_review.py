"""The review page in a real browser: it opens from disk, shows what is in the files, and asks nothing of a network."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy import ndimage

from hyper_kvasir import OFFICIAL, TAXONOMY
from scripts.pipeline import stats
from scripts.pipeline.configs import features_of
from scripts.pipeline.manifest import part_of_path, read_manifest
from scripts.pipeline.parquet import find_rows
from scripts.pipeline.review import compare, pictures, rows
from scripts.pipeline.review.outlines import outline
from scripts.pipeline.review.page import Page, status_of, unknown_sources
from scripts.pipeline.review.pictures import MARK, Store
from scripts.pipeline.review.problems import grouped, kinds_of
from scripts.pipeline.review.rows import look
from scripts.pipeline.verify import Verified
from scripts.review import main
from tests.conftest import build, tree
from tests.fake_source import write_source
from tests.test_verify import rewrite

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
BROWSER = "#browser&part=segmented"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A built folder with enough segmented images to scroll through."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built") / "hyper-kvasir"
    write_source(source, images="tiny", segmented=SEGMENTED)
    build(source, built)
    shutil.copy(source / "expected.json", built.parent)
    return built


def review(folder, to, expected, *flags):
    assert main([str(folder), "--to", str(to), "--expect", str(expected), "--workers", "1", *flags]) == 0
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


class Watch:
    """Notes what pages say of errors, and what they ask for: of errors nothing, and nothing but themselves."""

    def __init__(self):
        self.errors, self.requests = [], []

    def __call__(self, page):
        page.on("console", lambda message: self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        return page

    def check(self):
        assert not self.errors
        assert not [url for url in self.requests if not url.startswith(("file:", "data:", "blob:", "about:"))]


@pytest.fixture
def visit(chromium):
    """Opens an address in a window of its own."""
    contexts, watch = [], Watch()

    def visit(address, **options):
        contexts.append(chromium.new_context(**{"reduced_motion": "reduce", **options}))
        page = watch(contexts[-1].new_page())
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    watch.check()


@pytest.fixture(scope="module")
def window(chromium):
    """A window for all tests that need no other: a new one takes longer than the page."""
    context = chromium.new_context(reduced_motion="reduce")
    watch = Watch()
    yield watch(context.new_page()), watch
    context.close()


@pytest.fixture
def page(window, address):
    """The page with the segmented images in its browser."""
    page, watch = window
    page.goto("about:blank")
    page.emulate_media(media="screen", reduced_motion="reduce")
    page.goto(address + BROWSER)
    yield page
    watch.check()


def open_first(page):
    page.locator(".tile").first.click()


@pytest.fixture(scope="module")
def truth(folder):
    """{id: facts} of the segmented rows, found without the code under test: components by scipy, boxes by pixels."""
    rows = pq.read_table(folder / "data/segmented", partitioning=None).to_pylist()
    return {row["image_id"]: facts(row) for row in rows}


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
        "pixels": mask.size,
    }


def quality(jpeg):
    """The quality for which Pillow writes the luminance table that this JPEG has."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return QUALITIES[tuple(image.quantization[0])]


def qualities():
    """{luminance table: quality}"""
    found = {}
    for number in range(1, 101):
        buffer = io.BytesIO()
        Image.new("L", (8, 8)).save(buffer, "JPEG", quality=number)
        found[tuple(Image.open(buffer).quantization[0])] = number
    return found


QUALITIES = qualities()


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


@pytest.fixture(scope="module")
def everything(folder):
    """{(part, id): values as the filters have them} of all rows."""
    found = {}
    for path in sorted((folder / "data").rglob("*.parquet")):
        part, columns = path.relative_to(folder).parts[1], ["image_id", "width", "height", "image"]
        columns += ["label", "fold_2", "fold_5"] if part != "unlabeled" else []
        for row in pq.read_table(path, columns=columns, partitioning=None).to_pylist():
            finding = TAXONOMY[row["label"]] if "label" in row else None
            named = {name: getattr(finding, name) if finding else "none" for name in ("category", "tract")}
            folds = {name: str(row.get(name, "none")) for name in ("fold_2", "fold_5")}
            place = {"part": part, "finding": finding.name if finding else "none", **named, **folds}
            place |= {"megapixels": row["width"] * row["height"] / 1e6, "quality": quality(row["image"]["bytes"])}
            found[part, row["image_id"]] = place
    return found


def shown_ids(page):
    """All that the filters left, in its order, as the button hands them out; the browser takes its time for a file."""
    return page.evaluate("""() => new Promise((done) => {
        const [make, click] = [URL.createObjectURL, HTMLAnchorElement.prototype.click];
        URL.createObjectURL = (blob) => blob.text().then((text) => done(text.split(/\\s+/).filter(Boolean)));
        HTMLAnchorElement.prototype.click = () => null;
        document.getElementById("download").click();
        [URL.createObjectURL, HTMLAnchorElement.prototype.click] = [make, click];
    })""")


def focused_id(page):
    return page.evaluate("document.activeElement.querySelector('.id')?.textContent")


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
        card.write("\n![Bars & <b>numbers</b>](assets/for_the_test.png)\n\n*Drawn by [hand](#how), once.*\n")
    with Store(str(tmp_path / "page.html")) as store:
        text = Page(str(copy), Verified(), OFFICIAL).text(store, 1)
    (tmp_path / "page.html").write_text(text, "utf-8")
    page = visit((tmp_path / "page.html").as_uri())
    names = [text.split(".")[0] for text in page.locator("#figures figcaption").all_inner_texts()]
    assert names == [
        "Findings", "Images of each finding", "JPEG quality by finding", "Masks and boxes", "Sizes of polyps and boxes",
        "Where polyps are", "Boxes that match no instance", "Image sizes", "For the test",
    ]  # fmt: skip
    assert "none is hand-picked" in page.locator("#figures figcaption").first.inner_text()
    figure = page.locator("#figures figure", has_text="For the test").locator("img")
    assert figure.get_attribute("alt") == "Bars & <b>numbers</b>"
    caption = page.locator("#figures figcaption").last
    assert caption.inner_text() == "For the test. Drawn by hand, once.", "a link into the card is none here"
    assert figure.evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
    assert (figure.get_attribute("width"), figure.get_attribute("height")) == ("40", "30")
    assert page.eval_on_selector_all("#figures img", "all => all.every(image => image.height > 0 && image.width > 600)")


def test_pairs_after_the_first_are_folded(visit, folder, tmp_path, monkeypatch):
    rows = pq.read_table(folder / FILE, columns=["image_id", "width", "height"], partitioning=None).to_pylist()
    about = {"parts": ["segmented"], "label": None, "fold_2": 0, "fold_5": 1, "kvasir_seg_set": "train"}
    ends = [{**about, **row} for row in rows]
    found = {"kind": "same_frame", "inliers": 9, "matches": 10, "correlation": 0.9, "scale": 1.0, "mask_iou": None}
    found |= {"transform": [1, 0, 0, 0, 1, 0], "one": {**ends[0], "fold_2": 1, "kvasir_seg_set": "validation"}}
    pairs = [{**found, "other": end} for end in ends[1:9]]
    monkeypatch.setattr("scripts.pipeline.review.page.best_pairs", lambda *_: {"all": 8, "shown": pairs})
    made = Page(str(folder), Verified(), OFFICIAL)
    made.manifest["configs"]["metadata"] = {}
    with Store(str(tmp_path / "page.html")) as store:
        (tmp_path / "page.html").write_text(made.text(store, 1), "utf-8")
    page = visit((tmp_path / "page.html").as_uri())
    assert page.locator("#pairs h3").first.inner_text() == "Same frame. Leaks in: fold_2, Kvasir-SEG"
    assert page.locator("#pairs h3:visible").count() == 6 and page.inner_text("#pairs summary") == "2 more pairs"
    page.click("#pairs summary")
    assert page.locator("#pairs h3:visible").count() == 8


def objects_of(page):
    """{id: masks and boxes} of the segmented images, as the page has them."""
    part = next(part for part in json.loads(page.text_content("#data"))["parts"] if part["name"] == "segmented")
    return dict(zip(part["id"], part["objects"]))


def test_outlines_are_those_of_the_masks_to_the_pixel(page, truth):
    """Filled by the browser, each outline gives the pixels of the mask."""
    filled = """([path, height, width]) => {
        const canvas = new OffscreenCanvas(width, height).getContext("2d");
        canvas.fill(new Path2D(path), "evenodd");
        return [...canvas.getImageData(0, 0, width, height).data].filter((_, i) => i % 4 === 3);
    }"""
    for image_id, objects in list(objects_of(page).items())[:20]:
        mask = truth[image_id]["mask"]
        path = objects.get("mask", "".join(instance["path"] for instance in objects["instances"]))
        alpha = np.array(page.evaluate(filled, [path, *mask.shape])).reshape(mask.shape)
        assert np.array_equal(alpha, 255 * mask)


def test_an_outline_has_holes_and_touching_corners():
    for seed in range(20):
        mask = np.random.default_rng(seed).random((7, 9)) < 0.5
        assert np.array_equal(inside(outline(mask, 3, 2), (9, 12))[2:, 3:], mask)
    assert outline(np.zeros((3, 3), bool)) == ""


def inside(path, shape):
    """The pixels in a path of "M", "h" and "v": those with an odd number of vertical edges to the left."""
    pixels = np.zeros(shape, bool)
    for loop in path.split("z")[:-1]:
        x, y, *_ = map(int, re.findall(r"-?\d+", loop))
        for across, down in re.findall(r"h(-?\d+)v(-?\d+)", loop):
            x += int(across)
            pixels[min(y, y + int(down)) : max(y, y + int(down)), x:] ^= True
            y += int(down)
    return pixels


# ---------------------------------------------------------------------------------------------------- filters, orders


def test_each_value_of_each_filter_shows_the_images_that_have_it(page, truth):
    for control in ("fold_2", "fold_5", "instances", "boxes"):
        for value in {facts[control] for facts in truth.values()}:
            page.select_option(f"#{control}", value)
            wanted = {image_id for image_id, facts in truth.items() if facts[control] == value}
            assert set(shown_ids(page)) == wanted
            assert page.inner_text("#shown").startswith(f"{len(wanted)} of ")
        page.select_option(f"#{control}", "all")


def test_all_parts_are_browsed_and_filtered(page, everything):
    page.click("#filters [type=reset]")
    distinct = {image_id for _, image_id in everything}
    assert page.inner_text("#shown").startswith(f"{len(everything)} rows, {len(distinct)} images, ")
    assert sorted(shown_ids(page)) == sorted(distinct), "each id once, though parts share images"
    options = "options => options.map(option => option.value)"
    for control in ("part", "finding", "category", "tract", "fold_2", "fold_5"):
        values = {facts[control] for facts in everything.values()}
        assert set(page.eval_on_selector_all(f"#{control} option", options)) == values | {"all"}
        for value in sorted(values)[:2]:
            page.select_option(f"#{control}", value)
            assert sorted(shown_ids(page)) == sorted({i for (_, i), f in everything.items() if f[control] == value})
        page.select_option(f"#{control}", "all")


def test_ranges_by_hand_and_by_key(page, everything):
    """Dragging over bars, or moving a handle, leaves the images between; it is said in words, and cleared."""
    page.click("#filters [type=reset]")
    group = page.locator(".range", has=page.locator("#size-from"))
    chart = group.locator(".chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 20)
    page.mouse.up()
    check_range(page, group, everything)
    group.get_by_role("button", name="Clear").click()
    assert len(shown_ids(page)) == len({image_id for _, image_id in everything}) and group.locator(
        "output"
    ).inner_text().startswith("All")
    page.focus("#size-from")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    check_range(page, group, everything)
    assert page.get_attribute("#size-from", "aria-valuetext") == f"{group.locator('output').inner_text().split()[0]} MP"


def test_each_range_stands_in_the_address(page, visit, truth, everything):
    """What is between its ends is shown, here and by whoever opens the address."""
    of_all = {image_id: facts["quality"] for (_, image_id), facts in everything.items()}
    of_segmented = {
        "size": {image_id: facts["pixels"] / 1e6 for image_id, facts in truth.items()},
        "mask": {image_id: 100 * round(facts["mask"].mean(), 5) for image_id, facts in truth.items()},
        "iou": {image_id: round(facts["lowest"], 4) for image_id, facts in truth.items()},
    }
    handed_on = visit(page.url)
    for name, values in of_segmented.items():
        page.click("#filters [type=reset]")
        page.select_option("#part", "segmented")
        slide(page, f"{name}-from", 30 if name == "iou" else 2)
        slide(page, f"{name}-to", -1)
        check_address(page, handed_on, name, values)
    page.click("#filters [type=reset]")
    slide(page, "quality-from", 1)
    check_address(page, handed_on, "quality", of_all)
    handed_on.goto(page.url.split("#")[0] + BROWSER + "&quality=90-10&size=x")
    assert len(shown_ids(handed_on)) == SEGMENTED, "what is no range leaves all"


def slide(page, handle, steps):
    """Moves a handle by some steps, as a hand does: what is between is shown meanwhile, and noted at the end."""
    moved = """([handle, steps]) => {
        const input = document.getElementById(handle);
        input.value = Number(input.value) + steps;
        for (const name of ["input", "change"]) input.dispatchEvent(new Event(name, { bubbles: true }));
    }"""
    page.evaluate(moved, [handle, steps])


def check_address(page, handed_on, name, values):
    """The images shown are those between the ends that the address has, and are shown by whoever opens it."""
    least, most = map(float, re.search(rf"{name}=([\d.]+)-([\d.]+)$", page.url).groups())
    wanted = within(values, least, most)
    assert set(shown_ids(page)) == wanted and 0 < len(wanted) < len(values), name
    handed_on.goto(page.url)
    assert set(shown_ids(handed_on)) == wanted


def within(values, least, most):
    """The images whose values are in a range; the greatest of all is in the last bin."""
    end = most >= max(values.values())
    return {image for image, value in values.items() if least <= value and (value < most or end)}


def check_range(page, group, everything):
    """The images shown are those in the range that is said."""
    least, most = map(float, re.findall(r"[\d.]+", group.locator("output").inner_text()))
    wanted = within({place: facts["megapixels"] for place, facts in everything.items()}, least, most)
    assert sorted(shown_ids(page)) == sorted({image_id for _, image_id in wanted}) and 0 < len(wanted) < len(
        everything
    ), (least, most)


def test_the_address_has_the_filters_and_going_back_undoes_them(page, visit):
    page.select_option("#boxes", "2")
    page.select_option("#order", "boxes")
    page.fill("#search", "a")
    playwright.expect(page).to_have_url(re.compile("search=a"))
    ids = shown_ids(page)
    handed_on = visit(page.url)
    assert shown_ids(handed_on) == ids and handed_on.input_value("#boxes") == "2"
    open_first(handed_on)
    assert handed_on.inner_text("#large-id") == ids[0]
    handed_on.go_back()
    assert handed_on.is_hidden("#large") and shown_ids(handed_on) == ids
    page.go_back()
    assert (page.input_value("#boxes"), page.input_value("#order")) == ("2", "finding")
    page.go_back()
    assert page.input_value("#boxes") == "all" and page.input_value("#part") == "segmented"
    page.click("nav a[href='#counts']")
    assert page.input_value("#part") == "segmented"


def test_what_is_chosen_right_after_an_image_is_closed_stays(page, truth):
    """Though the browser arrives later at the entry of before the image."""
    ids = sorted(truth)
    choose = """() => document.getElementById("large").addEventListener("close", () => {
        document.getElementById("boxes").value = "2";
        document.getElementById("boxes").dispatchEvent(new Event("change", { bubbles: true }));
    }, { once: true })"""
    open_first(page)
    page.evaluate(choose)
    page.keyboard.press("Escape")
    playwright.expect(page).to_have_url(re.compile(r"#browser&.*boxes=2"))
    assert page.input_value("#boxes") == "2" and shown_ids(page) == [i for i in ids if truth[i]["boxes"] == "2"]
    page.go_back()
    assert page.input_value("#boxes") == "all" and shown_ids(page) == ids


def test_another_image_right_after_one_is_closed(page, visit, address, truth):
    """Clicked before the page is told of the closing, or while the browser goes back; closed, the grid is there."""
    page.select_option("#boxes", "2")
    ids = shown_ids(page)
    at_once = "() => { document.getElementById('large').close(); document.querySelectorAll('.tile')[2].click(); }"
    on_the_way = """() => document.getElementById("large").addEventListener("close", () => {
        document.querySelectorAll(".tile")[2].click();
    }, { once: true })"""
    for script, key in ((at_once, None), (on_the_way, "Escape")):
        open_first(page)
        page.evaluate(script)
        if key:
            page.keyboard.press(key)
        playwright.expect(page).to_have_url(re.compile(f"#image-{ids[2]}"))
        assert page.inner_text("#large-id") == ids[2]
        page.keyboard.press("Escape")
        playwright.expect(page).to_have_url(re.compile(r"#browser&.*boxes=2"))
        page.wait_for_timeout(100)
        assert page.is_hidden("#large") and shown_ids(page) == ids
    linked = visit(f"{address}#image-{ids[0]}&part=segmented")
    linked.evaluate("document.getElementById('grid').scrollIntoView()")
    linked.locator(".tile").nth(2).wait_for(state="attached")
    linked.evaluate(at_once)
    linked.keyboard.press("Escape")
    playwright.expect(linked).to_have_url(re.compile("#browser"))
    linked.wait_for_timeout(100)
    assert linked.is_hidden("#large")


def test_two_images_closed_at_once_go_back_once(page):
    """To the grid as it was, and not to what was before."""
    page.select_option("#boxes", "2")
    open_first(page)
    page.evaluate("""() => {
        const large = document.getElementById("large");
        large.addEventListener("close", () => {
            document.querySelectorAll(".tile")[2].click();
            large.close();
        }, { once: true });
    }""")
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    assert page.is_hidden("#large") and page.input_value("#boxes") == "2"


def test_what_is_typed_is_there_after_an_image(page, truth):
    """However soon it was opened."""
    one = sorted(truth)[17]
    page.fill("#search", one[:8])
    page.evaluate("document.querySelector('.tile').click()")
    page.go_back()
    playwright.expect(page.locator("#large")).to_be_hidden()
    assert page.input_value("#search") == one[:8]


def test_the_large_view_follows_other_filters_in_its_address(page, truth):
    ids = [image_id for image_id in sorted(truth) if truth[image_id]["boxes"] == "2"]
    page.evaluate(f"location.hash = '#image-{ids[0]}&part=segmented'")
    playwright.expect(page.locator("#position")).to_have_text(re.compile(f"of {SEGMENTED}"))
    page.evaluate(f"location.hash = '#image-{ids[0]}&part=segmented&boxes=2'")
    playwright.expect(page.locator("#position")).to_have_text(f"1 of {len(ids)}")


def test_ids_are_copied_and_downloaded(visit, address, truth):
    page = visit(address + BROWSER, permissions=["clipboard-read", "clipboard-write"])
    page.select_option("#boxes", "2")
    page.click("#copy")
    playwright.expect(page.locator("#copied")).to_have_text(re.compile("Copied"))
    with page.expect_download() as download:
        page.click("#download")
    ids = Path(download.value.path()).read_text().split()
    assert download.value.suggested_filename == "image_ids.txt" and ids == shown_ids(page)
    assert page.evaluate("navigator.clipboard.readText()").split() == ids


def test_the_page_and_the_card_count_alike(page, folder, truth):
    """Boxes by their fit and instances without a box, in the page, its rows, and the card."""
    segmented = stats.by_part(stats.read_stats(str(folder)))["segmented"]
    said = page.locator("#agreeing b").all_inner_texts()
    fits = Counter(box.fit for box in stats.objects_of(segmented, stats.BOX))
    unboxed = sum(thing.match is None for thing in stats.objects_of(segmented, stats.INSTANCE))
    disagreeing = [facts for facts in truth.values() if disagree(facts)]
    wanted = [fits["matched"], fits["stretched"], fits["unmatched"], unboxed, len(disagreeing)]
    assert [int(number) for number in said] == wanted and min(wanted) > 0
    boxes = [box["fit"] for objects in objects_of(page).values() for box in objects["boxes"]]
    assert {kind: boxes.count(kind) for kind in fits} == fits


def disagree(facts):
    return facts["stretched"] or facts["unmatched"] or facts["unboxed"] or facts["numbers"]


def test_disagreement_of_mask_and_boxes(page, truth):
    for test in ("matched", "stretched", "unmatched", "unboxed", "numbers"):
        page.select_option("#agreement", test)
        assert set(shown_ids(page)) == {image_id for image_id, facts in truth.items() if facts[test]}
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
    assert page.input_value("#fold_2") == page.input_value("#part") == "all" and set(truth) < set(shown_ids(page))


def test_search_by_id(page, truth):
    one = sorted(truth)[17]
    page.fill("#search", f" {one[4:20].upper()} ")
    assert shown_ids(page) == [one]
    page.fill("#search", "no such id")
    assert shown_ids(page) == [] and page.is_visible("#none") and page.locator(".tile").count() == 0


def test_orders(page, truth):
    """What is equal stands by id."""
    keys = {
        "disagreement": lambda image_id: (round(truth[image_id]["lowest"], 4), image_id),
        "largest": lambda image_id: (-round(truth[image_id]["mask"].mean(), 5), image_id),
        "pixels": lambda image_id: (-truth[image_id]["pixels"], image_id),
        "fewest": lambda image_id: (truth[image_id]["pixels"], image_id),
        "instances": lambda image_id: (-int(truth[image_id]["instances"]), image_id),
        "boxes": lambda image_id: (-int(truth[image_id]["boxes"]), image_id),
        "smallest": lambda image_id: (round(truth[image_id]["mask"].mean(), 5), image_id),
        "id": lambda image_id: image_id,
    }
    for order, key in keys.items():
        page.select_option("#order", order)
        assert shown_ids(page) == sorted(truth, key=key)


def test_the_order_of_quality_is_that_of_compression(page, everything):
    page.click("#filters [type=reset]")
    page.select_option("#order", "quality")
    of = {image_id: facts["quality"] for (_, image_id), facts in everything.items()}
    shown = [of[image_id] for image_id in shown_ids(page)]
    assert shown == sorted(of.values()) and shown[0] < shown[-1]


# ----------------------------------------------------------------------------------------- overlays, keys, scrolling


def test_each_switch_changes_what_is_drawn_and_back(page):
    layers = [f"#grid-layers [data-layer={name}]" for name in ("mask", "instances", "boxes")]
    for layer in layers:
        page.uncheck(layer)
    picture = page.locator(".tile .picture").first
    picture.scroll_into_view_if_needed()
    page.wait_for_timeout(100)  # until it is drawn
    plain = screenshot(picture)
    assert len(np.unique(plain)) > 20, "it shows a photograph"
    for layer in layers:
        page.check(layer)
        page.wait_for_timeout(50)
        assert changed(plain, screenshot(picture)) > 40
        page.uncheck(layer)
        page.wait_for_timeout(50)
        assert changed(plain, screenshot(picture)) == 0


def screenshot(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int)


def changed(one, other):
    """The number of pixels that differ by more than what smoothing of edges does."""
    return int((abs(one - other).max(axis=2) > 24).sum())


def test_switches_of_grid_and_large_view_are_one(page):
    open_first(page)
    page.check("#large-layers [data-layer=instances]")
    assert page.is_visible("#stage .instances text")
    for key, layer in (("m", "mask"), ("b", "boxes")):
        page.keyboard.press(key)
        assert page.is_hidden(f"#stage .{layer}") and not page.is_checked(f"#large-layers [data-layer={layer}]")
    page.keyboard.press("Escape")
    assert page.is_checked("#grid-layers [data-layer=instances]")


def test_keyboard_alone_is_enough(page, truth):
    ids = sorted(truth)
    page.focus("#download")
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "tile":
            break
    assert focused_id(page) == ids[0]
    last = SEGMENTED - 1
    for key, at in (("ArrowRight", 1), ("End", last), ("ArrowRight", last), ("Home", 0), ("ArrowRight", 1)):
        page.keyboard.press(key)
        assert focused_id(page) == ids[at]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.inner_text("#large-id") == ids[1]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#large-id") == ids[2] and page.inner_text("#position") == f"3 of {SEGMENTED}"
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert page.inner_text("#large-id") == ids[0]
    page.keyboard.press("Escape")
    playwright.expect(page.locator(".tile", has_text=ids[0])).to_be_focused()  # a task after the key's
    assert page.is_hidden("#large")
    page.keyboard.press("ArrowDown")
    columns = page.eval_on_selector_all("#grid li", "all => new Set(all.map(item => item.style.left)).size")
    assert focused_id(page) == ids[columns]


def test_the_focus_comes_back_to_the_image_seen_last(visit, address, everything):
    """Also where the address is that of a section, to which going back leads, and it is scrolled into the view."""
    page = visit(address + "#browser", viewport={"width": 500, "height": 500})
    page.focus(".tile")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "next"
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    last = page.inner_text("#large-id")
    page.keyboard.press("Escape")
    page.wait_for_timeout(500)
    assert page.is_hidden("#large") and focused_id(page) == last
    assert page.evaluate(
        "(box => box.top >= 0 && box.bottom <= innerHeight)(document.activeElement.getBoundingClientRect())"
    )


def test_links_to_sections_jump(page):
    page.click("nav a[href='#counts']")
    page.emulate_media(reduced_motion="no-preference")
    page.evaluate("document.querySelector(\"nav a[href='#browser']\").click()")
    assert abs(page.evaluate("document.getElementById('browser').getBoundingClientRect().top")) < 100


def test_tiles_hide_neither_numbers_nor_the_beginning_of_the_id(visit, address):
    page = visit(address + "#browser")
    for width in (340, 500, 1240):
        page.set_viewport_size({"width": width, "height": 700})
        page.locator(".tile").last.wait_for()
        cut = "all => all.filter(one => one.scrollHeight > one.clientHeight + 1).map(one => one.innerText)"
        assert page.eval_on_selector_all(".tile .words", cut) == []
        letters = "all => all.map(one => one.clientWidth / parseFloat(getComputedStyle(one).fontSize) / 0.62)"
        assert min(page.eval_on_selector_all(".tile .id", letters)) > 11
        assert len(set(page.eval_on_selector_all(".tile", "all => all.map(one => one.offsetHeight)"))) == 1


def test_numbers_of_instances_keep_their_size(page):
    open_first(page)
    page.check("#large-layers [data-layer=instances]")
    height = "text => text.getBoundingClientRect().height"
    before = page.locator("#stage text").first.evaluate(height)
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert page.locator("#stage text").first.evaluate(height) == pytest.approx(before, rel=0.1) and before < 40


def test_the_bar_of_the_large_view_is_one_line_and_of_this_image(visit, address):
    page = visit(address + BROWSER, viewport={"width": 1200, "height": 800})
    open_first(page)
    assert page.locator(".large-bar").bounding_box()["height"] < 50
    assert page.is_visible("#large-layers") and page.is_visible("#large-legend")
    page.keyboard.press("Escape")
    page.select_option("#part", "labeled")
    open_first(page)
    for gone in ("#large-layers", "#large-legend", "#layer-keys"):
        assert page.is_hidden(gone)
    page.keyboard.press("b")
    assert page.is_checked("#grid-layers [data-layer=boxes]"), "nothing is switched that is not seen"


def test_names_and_sets_of_kvasir_seg(page, folder):
    columns = ["image_id", "kvasir_seg_id", "kvasir_seg_set"]
    rows = pq.read_table(folder / "data/segmented", columns=columns, partitioning=None).to_pylist()
    sets = {row["image_id"]: row["kvasir_seg_set"] or "none" for row in rows}
    for value in {*sets.values()} if len({*sets.values()}) > 1 else ():
        page.select_option("#kvasir_seg_set", value)
        assert set(shown_ids(page)) == {image_id for image_id, of in sets.items() if of == value}
        open_first(page)
        row = next(row for row in rows if row["image_id"] == page.inner_text("#large-id"))
        assert (row["kvasir_seg_id"] or "Part") in page.inner_text("#large-facts")
        page.keyboard.press("Escape")


def test_the_least_iou_is_chosen_by_hundredths(page, truth):
    page.focus("#iou-to")
    said = page.locator(".range output").last
    end = float(said.inner_text().split()[-1])
    page.keyboard.press("ArrowLeft")
    least, most = map(float, re.findall(r"[\d.]+", said.inner_text()))
    assert most == pytest.approx(end - 0.01) and len(page.locator(".range .chart").last.locator(".now").all()) <= 30
    wanted = {image_id for image_id, facts in truth.items() if least <= round(facts["lowest"], 3) < most}
    assert set(shown_ids(page)) == wanted
    assert page.url.endswith(f"iou={least:g}-{most:g}")


def test_the_large_view_goes_through_what_the_filters_left(page, truth):
    page.select_option("#boxes", "2")
    ids = shown_ids(page)
    open_first(page)
    page.click("#next")
    assert (page.inner_text("#large-id"), page.inner_text("#position")) == (ids[1], f"2 of {len(ids)}")
    page.click("#close")
    assert page.is_hidden("#large")


def test_only_tiles_near_the_view_are_in_the_page(page, everything):
    page.click("#filters [type=reset]")
    page.evaluate("document.getElementById('grid').scrollIntoView()")
    page.locator("#grid li[aria-posinset='20']").wait_for()
    assert page.locator(".tile").count() < len(everything)
    last = page.locator(f"#grid li[aria-posinset='{len(everything)}']")
    assert last.count() == 0
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    last.wait_for()
    assert page.locator("#grid li[aria-posinset='30']").count() == 0
    assert last.get_attribute("aria-setsize") == str(len(everything))


def view_box(page):
    """[left, top, width, height] of what is seen of the picture, in its pixels."""
    return [float(number) for number in page.get_attribute("#stage svg", "viewBox").split()]


def test_zoom_and_pan(page):
    open_first(page)
    fitting = view_box(page)
    page.keyboard.press("+")
    assert view_box(page)[2] == pytest.approx(fitting[2] / 1.5)
    page.keyboard.press("-")
    assert view_box(page) == pytest.approx(fitting)
    stage = page.locator("#stage").bounding_box()
    at = [stage["x"] + 0.25 * stage["width"], stage["y"] + 0.5 * stage["height"]]
    page.mouse.move(*at)
    page.mouse.wheel(0, -700)
    page.locator("#stage.movable").wait_for()
    left, top, width, height = view_box(page)
    assert width < fitting[2] / 2
    under = fitting[0] + 0.25 * fitting[2]  # what was under the pointer stays there
    assert left + 0.25 * width == pytest.approx(under, abs=0.5)
    page.mouse.down()
    page.mouse.move(at[0] - 40, at[1])
    page.mouse.up()
    assert view_box(page)[0] == pytest.approx(left + 40 * width / stage["width"], abs=0.01)
    page.keyboard.press("Shift+ArrowLeft")
    assert view_box(page)[0] < left
    page.keyboard.press("0")
    assert view_box(page) == pytest.approx(fitting)
    page.mouse.dblclick(*at)
    assert view_box(page)[2] < fitting[2]
    page.click("#fit")
    assert view_box(page) == pytest.approx(fitting)


def test_segmented_images_are_the_original_files_and_others_say_they_are_not(page, folder):
    rows = pq.read_table(folder / "data/segmented", columns=["image_id", "image"], partitioning=None).to_pylist()
    row = min(rows, key=lambda row: row["image_id"])
    open_first(page)
    address = page.get_attribute("#stage image", "href")
    assert page.inner_text("#large-id") == row["image_id"]
    assert base64.b64decode(address.split(",")[1]) == row["image"]["bytes"]
    assert "the original file, at full resolution" in page.inner_text("#large-facts")
    page.keyboard.press("Escape")
    page.select_option("#part", "labeled")
    open_first(page)
    assert "not the original" in page.inner_text("#large-facts")
    assert page.get_attribute("#stage image", "href").startswith("data:image/webp")


def test_a_large_image_is_kept_small_but_where_it_has_masks(large_row):
    (labeled,), (segmented,) = (look(part, [large_row], ()) for part in ("labeled", "segmented"))
    with Image.open(io.BytesIO(labeled.larger)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (400, 240))
    assert segmented.larger == large_row["image"]["bytes"] and segmented.objects["boxes"][0]["fit"] == "matched"
    assert labeled.tile.shape == segmented.tile.shape == (58, 96, 3)


def test_boxes_that_do_not_fit_are_seen_and_named(page, truth):
    """Dotted and explained; those under ten pixels with a ring, as a sliver is hardly seen."""
    assert page.locator("#grid-layers .legend").inner_text() == "Box that matches no instance"
    page.select_option("#agreement", "unmatched")
    open_first(page)
    assert page.locator("#stage .boxes rect.unfit").count() == 1
    assert page.locator("#stage .boxes circle.unfit").count() == 1
    assert "✗ unmatched" in page.inner_text("#large-facts") and "✗ disagree" in page.inner_text("#large-facts")
    assert page.locator("#large-facts th:not([scope=col])").count() == 0
    page.keyboard.press("Escape")
    page.select_option("#agreement", "unboxed")
    open_first(page)
    assert "✗ no matching box" in page.inner_text("#large-facts")
    page.keyboard.press("Escape")
    page.select_option("#agreement", "agree")
    open_first(page)
    assert page.locator("#stage .boxes rect").count() > 0
    assert page.locator("#stage .boxes .unfit, #stage .boxes circle").count() == 0
    assert "✗" not in page.inner_text("#large-facts")


def test_masks_and_boxes_agree_one_to_one():
    """Two boxes of one instance do not, nor does an instance without a box; where there is nothing, nothing differs."""
    instances = np.zeros((60, 80), np.uint8)
    instances[10:30, 10:40] = 1
    box = [9.0, 9.0, 31.0, 21.0]
    agree = [rows.annotation(instances, instances, boxes)["agree"] for boxes in ([box], [box, box], [])]
    assert agree == [True, False, False]
    nothing = rows.annotation(instances * 0, instances * 0, [])
    assert (nothing["agree"], nothing["lowest"]) == (True, 0.0)


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
        "objects": {"bbox": [[9.0, 9.0, 101.0, 51.0]]},
        "image": {"bytes": photo.getvalue()},
        "mask": as_png(instances * 255),
        "instances": as_png(instances),
    }


def as_png(pixels, **settings):
    return {"bytes": png_of(Image.fromarray(pixels), **settings)}


def png_of(image, **settings):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **settings)
    return buffer.getvalue()


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
    lines = "all => all.filter(one => getComputedStyle(one).overflowWrap !== 'normal').length"
    assert page.eval_on_selector_all("#counts th", lines) == 0, "no word is broken"
    open_first(page)
    assert page.evaluate("document.getElementById('large').scrollWidth") <= 340
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
    assert "✗" in differing.inner_text() and "missing: not all can be read" in differing.inner_text()
    page.select_option("#problem", "named")
    assert {rows[3]["image_id"]} <= set(shown_ids(page)) < {row["image_id"] for row in rows}
    page.click(f"#problems a[href='#image-{rows[3]['image_id']}']")
    page.wait_for_selector("#large-facts h2")
    assert "unreadable" in page.inner_text("#large-facts") and "✓" not in page.inner_text("#large-facts")


def test_a_file_that_cannot_be_read_leaves_the_rest(visit, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "cut")
    for path in (copy / "data/segmented").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    page = visit(review(copy, tmp_path / "page.html", folder.parent / "expected.json"))
    assert "segmented cannot be read" in page.inner_text("#browser")
    assert page.locator("#samples img").count() == 23 + 6


def test_damaged_images_are_tiles_that_say_so(visit, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "damaged")

    def damage(rows):
        for row in rows[:2]:
            row["image"]["bytes"] = row["image"]["bytes"][:-100]

    rewrite(copy, FILE, damage)
    rewrite(copy, "data/unlabeled/00.parquet", damage)
    page = visit(review(copy, tmp_path / "page.html", folder.parent / "expected.json") + "#browser&problem=unreadable")
    assert len(shown_ids(page)) == page.locator(".tile .unreadable").count() == 4
    open_first(page)
    assert "unreadable" in page.inner_text("#stage") and "✗" in page.inner_text("#large-facts")
    problems = page.inner_text("#problems")
    assert "image file is truncated" in problems and "polyp instances" not in problems


def test_rows_without_ids_labels_and_folds_are_shown(visit, folder, tmp_path, unverified):
    copy = shutil.copytree(folder, tmp_path / "folder")
    empty = {"image_id": None, "label": None, "fold_2": None}
    rewrite(copy, FILE, lambda rows: rows[0].update(empty) or rows[1].update(label=99))
    page = visit(review(copy, tmp_path / "page.html", folder.parent / "expected.json") + BROWSER)
    assert len(shown_ids(page)) == SEGMENTED + 1  # "no id" is two words
    page.select_option("#finding", "unknown label 99")
    open_first(page)
    assert "unknown label 99" in page.inner_text("#large-facts")


def test_what_is_alike_is_told_once(visit, folder, tmp_path):
    """Of one kind, the kind with its count, some examples, the rest folded; ids lead to their images."""
    copy = shutil.copytree(folder, tmp_path / "folder")
    named = "another.jpg"
    rewrite(copy, FILE, lambda rows: [row["image"].update(path=named) for row in rows] and None)
    page = visit(review(copy, tmp_path / "page.html", folder.parent / "expected.json"))
    assert re.fullmatch(r"Problems: \d+ kinds?, in \d+ places", page.inner_text("#problems h2"))
    assert "of problem" in page.inner_text("#status .headline")
    kinds = page.locator("#problems .problems > li")
    kind = kinds.filter(has_text="image path")
    rows = pq.read_metadata(folder / FILE).num_rows
    assert kind.count() == 1 and kind.locator("b").inner_text() == f"{rows} ×"
    assert kind.locator("li:visible").count() == 3 and f"{rows - 3} more" in kind.inner_text()
    kind.locator("summary").click()
    links = kind.locator("li:visible a")
    assert links.count() == rows
    links.last.click()
    assert page.inner_text("#large-id") == links.last.inner_text() and "image path" in page.inner_text("#large-facts")


def test_kinds_of_problems():
    ids = [f"0000000{i}-0000-0000-0000-000000000000" for i in range(3)]
    texts = [f"data/a.parquet: {i} is segmented and has no labeled row" for i in ids]
    texts += ["boxes: 7, expected 8", "fold_2 / fold_0: 9, expected 8", "README.md: cannot be read"]
    groups = grouped(kinds_of(texts), {ids[0]})
    assert [(group["kind"], group["count"]) for group in groups] == [
        ("data/a.parquet: (image) is segmented and has no labeled row", 3),
        ("numbers that are not as expected", 2), (None, 1),
    ]  # fmt: skip
    assert groups[0]["examples"][:2] == [[(ids[0], True)], [(ids[1], False)]]
    assert groups[1]["examples"][1] == [("fold_2 / fold_0: 9, expected 8", False)]
    texts = [f"data/{i}.parquet: {image_id} is segmented and has no labeled row" for i, image_id in enumerate(ids)]
    (group,) = grouped(kinds_of(texts), set())
    assert group["kind"] == "is segmented and has no labeled row" and group["examples"][0] == [(ids[0], False)]
    assert (status_of(3, 1, []), status_of(1_000, 3, [])) == ("1 kind of problem", "3 kinds of problem")
    assert (status_of(1, 1, []), status_of(2, 2, [])) == ("1 problem", "2 problems")


@pytest.mark.parametrize("config", ["labeled", "segmented", "unlabeled"])
def test_a_folder_of_one_config(visit, source, tmp_path, config):
    build(source, tmp_path / "part", "--config", config)
    page = visit(review(tmp_path / "part", tmp_path / "page.html", source / "expected.json"))
    assert page.inner_text("#status .headline") == "All good"
    assert f"Checked: {config}." in page.inner_text("#status")
    page.click("#filters [type=reset]")
    assert page.inner_text("#browser .agreement li").startswith(config.capitalize())
    assert page.is_hidden("#part") and page.is_visible("#agreement") == (config == "segmented")
    assert page.locator("#samples img").count() == {"labeled": 23, "segmented": 1, "unlabeled": 6}[config]


def test_an_even_sample_of_the_unlabeled_or_all(visit, folder, tmp_path, monkeypatch):
    """Those that a problem names are shown, too, as far as the page tells of it."""
    ids = pq.read_table(folder / "data/unlabeled/00.parquet", columns=["image_id"])["image_id"].to_pylist()
    monkeypatch.setattr(rows, "UNLABELED", 4)
    copy = shutil.copytree(folder, tmp_path / "folder")
    monkeypatch.setattr("scripts.pipeline.review.page.MOST_TOLD", 1)
    rewrite(copy, "data/unlabeled/00.parquet", lambda some: [row.update(width=7) for row in some[1:3]] and None)
    for flags, wanted in (((), [ids[0], ids[1], *ids[3::3]]), (("--all",), ids)):
        page = visit(review(copy, tmp_path / "page.html", folder.parent / "expected.json", *flags))
        page.select_option("#part", "unlabeled")
        assert shown_ids(page) == wanted
        assert ("spread evenly" in page.inner_text("#browser")) == (not flags)
        assert list(json.loads(page.text_content("#data"))["problems"]) == ids[1 : 3 if flags else 2]


def test_all_good_is_not_said_of_other_archives(folder, tmp_path, unverified):
    expected = json.loads((folder.parent / "expected.json").read_text())
    for name in ("hyper-kvasir-labeled-images.zip", "hyper-kvasir-unlabeled-images.zip"):
        expected["sources"][name]["sha256"] = "0" * 64
    expected["segmented_content"] = None
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    main([str(folder), "--to", str(tmp_path / "page.html"), "--expect", str(tmp_path / "expected.json")])
    page = (tmp_path / "page.html").read_text()
    assert '<h2 class="headline">All good, but not from the known official archives</h2>' in page
    assert "labeled: the digest of hyper-kvasir-labeled-images.zip is not the known one" in page
    assert "segmented: " not in page


def test_an_archive_of_which_no_digest_is_known_is_not_held_against_it(folder):
    manifest = read_manifest(folder)
    unlabeled = {**manifest, "sources": {"unlabeled": manifest["sources"]["unlabeled"]}}
    assert not unknown_sources(unlabeled, OFFICIAL) and status_of(0, 0, []) == "all good"
    assert len(unknown_sources(manifest, OFFICIAL)) == 2


# ----------------------------------------------------------------------------------------- pictures beside the page


@pytest.fixture
def unverified(monkeypatch):
    """Verification, which is not what these tests are about, finds nothing."""
    monkeypatch.setattr("scripts.pipeline.review.page.verify", lambda *_: Verified())


@contextmanager
def nothing_embedded():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "EMBEDDED_BYTES", 0)
        yield


def test_many_pictures_are_beside_the_page(visit, folder, tmp_path, unverified):
    """They are read from disk under the page's policy, and are gone with the next page that has none."""
    to, beside = tmp_path / "a page #1.html", tmp_path / "a page #1_files"
    with nothing_embedded():
        page = visit(review(folder, to, folder.parent / "expected.json") + BROWSER)
    row = pq.read_table(folder / FILE, columns=["image"], partitioning=None).to_pylist()[0]
    assert (beside / "pictures/segmented-0.jpg").read_bytes() == row["image"]["bytes"]
    open_first(page)
    loaded = """image => new Promise(done => Object.assign(new Image(), {
        onload: () => done(true), onerror: () => done(false), src: image.href.baseVal,
    }))"""
    assert page.eval_on_selector("#stage image", loaded)
    page.keyboard.press("Escape")
    page.wait_for_timeout(100)
    assert len(np.unique(screenshot(page.locator(".tile .picture").first))) > 20
    with nothing_embedded():
        review(folder, to, folder.parent / "expected.json")
    assert {path.name for path in tmp_path.iterdir()} == {to.name, beside.name}
    review(folder, to, folder.parent / "expected.json")
    assert {path.name for path in tmp_path.iterdir()} == {to.name}


def test_a_folder_that_is_not_of_a_page_is_left_alone(folder, tmp_path, capsys, unverified):
    beside, flags = tmp_path / "page_files", ["--expect", str(folder.parent / "expected.json")]
    to = [str(folder), "--to", str(tmp_path / "page.html"), *flags]
    for names, message in ((["mine.txt"], "holds 'mine.txt'"), (["sheets/a.webp"], f"has no {MARK}")):
        for name in names:
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).write_text("mine")
        before = tree(tmp_path)
        assert main(to) == 1 and message in capsys.readouterr().err
        assert tree(tmp_path) == before
        shutil.rmtree(beside)


def test_another_page_of_the_same_stem_keeps_its_pictures(folder, tmp_path, capsys, unverified):
    with nothing_embedded():
        review(folder, tmp_path / "page.html", folder.parent / "expected.json")
        before = tree(tmp_path)
        other = ["--to", str(tmp_path / "page.htm"), "--expect", str(folder.parent / "expected.json")]
        assert main([str(folder), *other]) == 1
    assert main([str(folder), *other]) == 1, "nor by a page that needs no folder"
    assert "holds the pictures of page.html" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_page_without_its_folder_says_so(chromium, folder, tmp_path, unverified, capsys):
    """Of tiles and in the large view, and the command names the two that belong together."""
    with nothing_embedded():
        address = review(folder, tmp_path / "a page.html", folder.parent / "expected.json")
    said = capsys.readouterr().out
    assert re.fullmatch(r"wrote a page\.html \(\d+\.\d MB\) and a page_files/ \(\d+\.\d MB\): all good\n", said)
    shutil.rmtree(tmp_path / "a page_files")
    page = chromium.new_page()
    page.goto(address + BROWSER)
    page.locator("#lost").wait_for()
    assert page.inner_text("#lost") == "Pictures not found: keep a page_files/ beside this page"
    open_first(page)
    page.locator("#stage", has_text="picture not found").wait_for()
    assert "original file" not in page.inner_text("#large-facts")
    page.close()


def test_a_page_never_stands_beside_pictures_of_another(folder, tmp_path, monkeypatch, capsys, unverified):
    """The old page goes before its pictures do: here these cannot be removed."""
    with nothing_embedded():
        review(folder, tmp_path / "page.html", folder.parent / "expected.json")
        flags = ["--to", str(tmp_path / "page.html"), "--expect", str(folder.parent / "expected.json")]
        with monkeypatch.context() as patch:
            patch.setattr("shutil.rmtree", refuse)
            assert main([str(folder), *flags]) == 1
    assert "Permission denied" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists() and (tmp_path / "page_files/sheets").exists()


def refuse(path, ignore_errors=False):
    if not ignore_errors:
        raise PermissionError(13, "Permission denied", str(path))


def test_a_page_that_is_not_finished_does_not_look_so(folder, tmp_path, monkeypatch, unverified):
    """After a failure, the page of before and its pictures are whole; what was begun is gone, now or with the next."""
    to = tmp_path / "page.html"
    with nothing_embedded():
        review(folder, to, folder.parent / "expected.json")
        before = tree(tmp_path)
        (tmp_path / "page_files.123.incomplete/sheets").mkdir(parents=True)
        (tmp_path / "page_files.123.incomplete" / MARK).touch()
        with monkeypatch.context() as patch:
            patch.setattr(Store, "embedded", property(lambda store: 1 / 0))
            with pytest.raises(ZeroDivisionError):
                review(folder, to, folder.parent / "expected.json")
        assert {name: data for name, data in tree(tmp_path).items() if "incomplete" not in name} == before
        review(folder, to, folder.parent / "expected.json")
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "page_files"}


# ------------------------------------------------------------------------------------------------- another version


@pytest.fixture(scope="module")
def versions(folder, tmp_path_factory):
    """(the folder, one made of it in which rows were removed, added and changed, {what: ids})"""
    before, after = folder, shutil.copytree(folder, tmp_path_factory.mktemp("after") / "hyper-kvasir")
    what = {}

    def change(rows):
        what["removed"] = rows.pop(0)["image_id"]
        rows[0]["fold_2"], rows[0]["fold_5"] = 1 - rows[0]["fold_2"], rows[0]["fold_5"]
        rows[1]["image"]["bytes"] = rows[2]["image"]["bytes"]
        rows[3]["mask"]["bytes"] = as_png(pixels(rows[3]["mask"]), compress_level=1)["bytes"]  # the same pixels
        what["fold"], what["image"] = rows[0]["image_id"], rows[1]["image_id"]
        new = {**rows[-1], "image_id": "ffffffff-0000-0000-0000-000000000000"}
        what["added"] = new["image_id"]
        return [*rows, new]

    rewrite(after, FILE, change)
    return before, after, what


@pytest.fixture(scope="module")
def compared(versions, tmp_path_factory):
    """The page of the second, compared with the first."""
    before, after, _ = versions
    to = tmp_path_factory.mktemp("compared") / "page.html"
    return review(after, to, before.parent / "expected.json", "--against", str(before))


def test_changes_since_another_folder(visit, versions, compared):
    _, _, what = versions
    page = visit(compared)
    assert page.locator("#changes > p b").all_inner_texts() == ["1", "1", "2"]
    assert "Files that differ, and were compared: 2." in page.inner_text("#changes")
    assert page.input_value("#added-segmented") == what["added"]
    assert page.input_value("#removed-segmented") == what["removed"]
    assert set(page.input_value("#changed-segmented").split()) == {what["fold"], what["image"]}
    fold = page.locator(".changed li", has_text=what["fold"])
    assert fold.locator("tbody tr").inner_text().split()[0] == "fold_2" and fold.locator("svg").count() == 1
    image = page.locator(".changed li", has_text=what["image"])
    assert image.locator("tbody th").all_inner_texts() == ["image"] and image.locator("svg").count() == 2
    assert image.locator("svg .boxes rect").count() > 0
    hrefs = image.locator("svg image").evaluate_all("all => all.map(image => image.href.baseVal)")
    assert len(set(hrefs)) == 2


def version_with(files):
    """A version that has these rows: {path: rows}; those of `rows` that it is asked for are noted as `asked`."""
    data, asked = {}, []
    for path, some in files.items():
        known = features_of(part_of_path(path)).arrow_schema
        table = pa.Table.from_pylist(some, pa.schema([known.field(name) for name in some[0]]))
        pq.write_table(table, buffer := io.BytesIO())
        data[path] = buffer.getvalue()

    def rows(path, image_ids):
        asked.append((path, sorted(image_ids)))
        return find_rows([io.BytesIO(data[path])], image_ids)

    manifest = {"files": dict.fromkeys(data), "configs": {}}
    hashed = {path: hashlib.sha256(some).hexdigest() for path, some in data.items()}
    return compare.Version("it", manifest, lambda path: io.BytesIO(data[path]), data.get, rows, hashed.get), asked


def labeled_row(image_id, color="black", **values):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), color).save(buffer, "JPEG")
    row = {"image_id": image_id, "image": {"bytes": buffer.getvalue(), "path": None}, "width": 16, "height": 16}
    return row | {"label": 4, "fold_2": 0} | values


LABELED, UNLABELED, METADATA_FILE = (f"data/{part}/00.parquet" for part in ("labeled", "unlabeled", "metadata"))


def test_labels_that_changed_are_told_by_name():
    before, _ = version_with({LABELED: [labeled_row("a")]})
    after, _ = version_with({LABELED: [labeled_row("a", label=5)]})
    (row,) = compare.compare(before, after).changed["labeled"]
    assert row["columns"] == [{"name": "label", "before": TAXONOMY[4].name, "after": TAXONOMY[5].name}]
    assert "after" in row and "before" not in row, "the picture is the same"


def test_columns_that_one_version_has_are_told_once():
    """Rows that differ in nothing else did not change."""
    without = {name: value for name, value in labeled_row("a").items() if name != "fold_2"}
    versions = [version_with({LABELED: [row]})[0] for row in (without, labeled_row("a"))]
    changes = compare.compare(*versions)
    assert changes.columns == {"labeled": ["The column fold_2 is new."]} and not any(changes.numbers.values())
    assert compare.compare(*versions[::-1]).columns == {"labeled": ["The column fold_2 is gone."]}


@pytest.mark.parametrize("most", [3, 8])
def test_pictures_are_of_the_first_rows_that_changed_and_of_no_metadata(most, monkeypatch):
    """A file is read once for all of its rows."""
    monkeypatch.setattr(compare, "SIDE_BY_SIDE", most)
    ids = "abcde"

    def version(**values):
        facts = [{"image_id": i, "width": 9, "height": values["fold_2"]} for i in ids]
        return version_with({LABELED: [labeled_row(i, **values) for i in ids], METADATA_FILE: facts})

    (before, of_before), (after, of_after) = version(fold_2=0), version(fold_2=1)
    changes = compare.compare(before, after)
    shown = [*ids[:most]]
    assert [row["id"] for row in changes.changed["labeled"] if "after" in row] == shown
    assert len(changes.changed["metadata"]) == 5 and not any("after" in row for row in changes.changed["metadata"])
    assert of_before == [] and of_after == [(LABELED, shown)]


def test_what_is_seen_in_a_picture_is_shown_first(monkeypatch):
    """Within a part, and of all parts."""
    monkeypatch.setattr(compare, "SIDE_BY_SIDE", 1)
    other = labeled_row("b", color="teal")["image"]
    facts = {"image_id": "c", "width": 16, "height": 16}
    before, _ = version_with({LABELED: [labeled_row("a"), labeled_row("b")]})
    after, _ = version_with({LABELED: [labeled_row("a", fold_2=1), labeled_row("b", image=other)]})
    first, second = compare.compare(before, after).changed["labeled"]
    assert (first["id"], second["id"]) == ("b", "a") and {"before", "after"} <= set(first) and "after" not in second
    before, _ = version_with({LABELED: [labeled_row("a")], UNLABELED: [{**facts, "image": labeled_row("c")["image"]}]})
    after, _ = version_with({LABELED: [labeled_row("a", fold_2=1)], UNLABELED: [{**facts, "image": other}]})
    changed = compare.compare(before, after).changed
    assert "after" in changed["unlabeled"][0] and "after" not in changed["labeled"][0]


@pytest.mark.parametrize("values", [{"image": None}, {"width": 0, "height": 0}, {"label": None}, {"fold_2": None}])
@pytest.mark.parametrize("image_id", ["a", None])
def test_changed_rows_of_any_content_are_compared(image_id, values):
    """Those that the page shows among its problems."""
    before, _ = version_with({LABELED: [labeled_row(image_id)]})
    after, _ = version_with({LABELED: [labeled_row(image_id, **values)]})
    (row,) = compare.compare(before, after).changed["labeled"]
    assert [column["name"] for column in row["columns"]] == list(values)
    assert (row["after"] is None) == ("image" in values or "width" in values)


def test_of_rows_of_one_id_the_first_is_compared_and_shown():
    other = labeled_row("a", color="teal")
    before, _ = version_with({LABELED: [labeled_row("a")] * 20 + [other]})
    after, _ = version_with({LABELED: [other] + [labeled_row("a")] * 20})
    (row,) = compare.compare(before, after).changed["labeled"]
    assert row["before"]["picture"] != row["after"]["picture"]
    same, _ = version_with({LABELED: [labeled_row("a")] * 21})
    assert not compare.compare(before, same).changed


def test_what_cannot_be_compared_is_named_and_the_rest_compared(visit, versions, tmp_path, unverified):
    """A damaged file is compared in neither version, a lost one has no rows; the manifest knows nothing of either."""
    before, after, _ = versions
    damaged = "data/unlabeled/00.parquet"
    copy = shutil.copytree(before, tmp_path / "lossy")
    lost = next(path for path in read_manifest(copy)["files"] if path.startswith("data/labeled"))
    (copy / lost).unlink()
    (copy / damaged).write_bytes((copy / damaged).read_bytes()[:-100])
    gone = pq.read_metadata(before / lost).num_rows
    for one, other, added, removed in ((after, copy, gone + 1, 1), (copy, after, 1, gone + 1)):
        page = visit(review(one, tmp_path / "page.html", before.parent / "expected.json", "--against", str(other)))
        said = page.inner_text("#changes")
        assert f"Could not be compared: {damaged} of " in said and f"Could not be compared: {lost} of " in said
        assert page.locator("#changes > p b").all_inner_texts() == [str(added), str(removed), "2"]
        assert f"labeled: {gone} row" in said and str(tmp_path) not in page.content()
        assert "A row that moved to or from one of these files may be counted" in said


def test_configs_that_only_one_version_has_are_named(source, folder, tmp_path, unverified):
    build(source, tmp_path / "part", "--config", "labeled")
    to = tmp_path / "page.html"
    review(tmp_path / "part", to, source / "expected.json", "--against", str(folder))
    gone = [config for config in read_manifest(folder)["configs"] if config != "labeled"]
    assert f"<p>Configs removed: {', '.join(gone)}.</p>" in to.read_text()


def test_changes_since_a_published_version(xet_publisher, v1, relabeled, tmp_path):
    """As NS/NAME@REVISION; only files whose digests differ are read."""
    from tests.processes import Process

    xet_publisher.ok(v1, "1.0.0")
    to = tmp_path / "page.html"
    flags = [relabeled, "--to", to, "--expect", f"{relabeled}.expected.json", "--workers", 1, "--against"]
    code = f"""
import sys
from scripts.review import main
codes = [main([*{[*map(str, flags)]}, f"ns/hyper-kvasir@v{{version}}"]) for version in ("1.0.0", "9.9.9")]
sys.exit(codes != [0, 1])"""
    status, said = xet_publisher.end(Process(xet_publisher.env(), code=code))
    assert status == 0, said
    page = to.read_text()
    assert "Changes since ns/hyper-kvasir@v1.0.0" in page and "changed: <b>2</b>" in page
    place = "ns/hyper-kvasir@v9.9.9: no such folder, so taken for a repository on the Hub: "
    assert place in said and "no revision 'v9.9.9'" in said and "Traceback" not in said


# --------------------------------------------------------------------------------------------------- everybody, paper


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, compared, scheme):
    """In the page, with all that can be opened open, and in the large view: colors, and in light also all else."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice", "experimental"]
    rules = {"type": "tag", "values": tags} if scheme == "light" else {"type": "rule", "values": ["color-contrast"]}
    page = visit(compared + BROWSER, color_scheme=scheme)
    page.eval_on_selector_all("details", "all => all.forEach(one => (one.open = true))")
    for _ in range(2):
        found = axe.run(page, options={"runOnly": rules, "resultTypes": ["violations"]}).response["violations"]
        assert not [(rule["id"], [node["html"] for node in rule["nodes"][:3]]) for rule in found]
        if page.is_hidden("#large"):
            open_first(page)


def test_on_paper_there_are_counts_problems_figures_and_no_tiles(page):
    page.emulate_media(media="print")
    for shown in ("#status", "#counts", "#problems", "#figures", "#agreeing"):
        assert page.is_visible(shown)
    for hidden in ("nav", "#browsing", "#samples", "#disagreeing"):
        assert page.is_hidden(hidden)
    assert page.evaluate("document.documentElement.scrollHeight") < 12_000, "some pages, and not dozens"
    wide = "all => all.map(image => image.clientWidth / document.querySelector('main').clientWidth)"
    assert min(page.eval_on_selector_all("#figures img", wide)) > 0.99
    assert re.search(r"60 of \d+ .*, .* boxes\. Filters: Part segmented\.$", page.inner_text("#printed"))
    page.emulate_media(media="screen")
    assert page.is_hidden("#printed")


def test_without_javascript_there_is_all_but_the_browser(visit, address):
    page = visit(address, java_script_enabled=False)
    for shown in ("#status", "#counts tbody tr", "#problems p", "#figures img", "#samples img", "#browser noscript p"):
        assert page.locator(shown).first.is_visible()
    for hidden in ("#browsing", "#disagreeing"):
        assert page.is_hidden(hidden)


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command_says_what_it_wrote_always_the_same(folder, address, tmp_path, capsys):
    to = tmp_path / "page.html"
    assert review(folder, to, folder.parent / "expected.json") != address
    assert capsys.readouterr().out.endswith("MB): all good\n")
    assert to.read_bytes() == (folder.parent / "review.html").read_bytes()


def test_the_command_refuses_a_folder_that_was_not_built(folder, tmp_path, capsys, monkeypatch):
    """Also to compare with: what begins with a dot is no repository."""
    monkeypatch.chdir(tmp_path)
    to = ["--to", str(tmp_path / "page.html")]
    for arguments, said in (
        ([str(tmp_path), *to], "no manifest.json"),
        ([str(folder), *to, "--against", "../another"], "another: no such folder"),
    ):
        assert main(arguments) == 1
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
