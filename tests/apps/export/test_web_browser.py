"""The page in a real browser under WebAssembly: every control, maps equal to Python's, and no host but its own server."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from aloe.apps.export import formats
from aloe.apps.export.web import build
from aloe.apps.export.web.runtime import CDN, copy_runtime
from aloe.attribution.inherent import explain
from aloe.attribution.inputs import as_batch
from aloe.draw.explanations import colour_explanation, over_white, signed_map
from apps.export.students import NAMES, SIZE
from apps.export.web_pages import STUDENTS, TEXTS, made_page, real_runtime, static
from browser import open_browser, open_page

for needed in formats.PACKAGES["onnx"]:
    pytest.importorskip(needed)
pytestmark = [pytest.mark.browser, pytest.mark.slow]
HOSTILE = "1 <img src=x onerror=window.hacked=1> & 'quotes'.png"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A server's folder with a page of each kind in it, under paths of several parts, with a runtime that runs."""
    source, root = real_runtime(tmp_path_factory), tmp_path_factory.mktemp("server")
    for kind in STUDENTS:
        folder = root / "some" / "where" / kind
        shutil.copytree(made_page(tmp_path_factory, kind), folder)
        shutil.rmtree(folder / "runtime")
        said = json.loads((folder / "manifest.json").read_text())
        said["runtime"] = copy_runtime(source, folder / "runtime", webgpu=kind == "features")
        (folder / "manifest.json").write_text(json.dumps(said))
    return root


@pytest.fixture(scope="module")
def url(home):
    with static(home) as url:
        yield f"{url}some/where/"


@pytest.fixture(scope="module")
def browser():
    """With a camera, and a graphics processor, that are Chromium's own: both in software."""
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    adapter = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
    with open_browser(*camera, *adapter, "--use-vulkan=swiftshader") as browser:
        yield browser


@pytest.fixture(scope="module")
def desktop(browser):
    with open_page(browser) as page:
        page.said = []
        page.on("console", lambda message: page.said.append(message.text) if message.type == "error" else None)
        yield page


@pytest.fixture(scope="module")
def of_classes(desktop, url):
    """The page of classes, opened once, in float32."""
    show(desktop, f"{url}classes/")
    return desktop


@pytest.fixture
def page(of_classes, url):
    """That page, which has obeyed when a test is over."""
    if of_classes.url != f"{url}classes/":
        show(of_classes, f"{url}classes/")
    yield of_classes
    check(of_classes)


@pytest.fixture
def phone(browser, url):
    with open_page(browser, phone=True) as page:
        page.said = []
        show(page, f"{url}classes/", "int8")
        yield page
        check(page)


def show(page, url, weights="float32"):
    page.goto(url)
    page.wait_for_selector("#status[data-ready]")
    if page.get_attribute("#status", "data-ready") != weights:
        page.evaluate("() => { document.querySelector('#facts').open = true; }")
        page.select_option("#precision select", weights)
        page.wait_for_selector(f"#status[data-ready={weights}]")


def check(page):
    """It asked its own server alone, kept to its policy, and missed no file."""
    assert page.asked == {"127.0.0.1"}
    assert page.errors == []
    assert page.said == []
    assert page.evaluate("() => window.hacked") is None


def picture(width=SIZE, height=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def give(page, data, name="x.png"):
    """A file through the picker; waits for the answer or the sentence."""
    page.evaluate("() => { delete document.querySelector('#sum').dataset.target; }")
    page.set_input_files("#file", {"name": name, "mimeType": "image/jpeg", "buffer": data})
    page.wait_for_function(
        "() => document.querySelector('#sum').dataset.target || (document.querySelector('#problem').textContent"
        " && !document.querySelector('#problem').classList.contains('note'))"
    )


def data_of(page, selector):
    return page.evaluate("s => ({...document.querySelector(s).dataset})", selector)


def numbers(page, selector="#sum"):
    return {key: float(value) for key, value in data_of(page, selector).items()}


def canvas(page, selector):
    """(H, W, 4) of a canvas, as it was painted."""
    script = """s => {
      const c = document.querySelector(s), all = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      return [c.height, c.width, btoa(Array.from(all, b => String.fromCharCode(b)).join(''))];
    }"""
    height, width, text = page.evaluate(script, selector)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4).astype(int)


MAPS = """async target => {
  const { Model } = await import('./model.js'), { readJson } = await import('./files.js');
  const manifest = await readJson('manifest.json');
  globalThis.loaded ??= await Model.load(manifest, manifest.graphs[0], 'wasm');
  const c = document.querySelector('#input canvas'), side = c.width;
  const all = c.getContext('2d').getImageData(0, 0, side, side).data;
  const image = new Float32Array(3 * side * side);
  for (let i = 0; i < side * side; i++) for (let k = 0; k < 3; k++) image[k * side * side + i] = all[4 * i + k] / 255;
  const found = await globalThis.loaded.explain(image, { target });
  return [[...found.contributions], [...found.weights], [...(found.logits ?? found.pooled)], found.value, found.target];
}"""


def close(found, expected, tolerance=1e-4):
    found, expected = np.asarray(found, float).ravel(), np.asarray(expected, float).ravel()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


SOURCES = {  # at the model's own size; cut; made smaller and larger; turned by its camera
    "own": lambda: encoded(picture()),
    "wide": lambda: encoded(picture(301, 200, 1)),
    "small": lambda: encoded(picture(17, 23, 2)),
    "photograph": lambda: encoded(picture(1600, 1067, 3)),
    "turned": lambda: encoded(picture(200, 120, 4), exif=_turned(6)),
}


def _turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("source", list(SOURCES))
def test_maps_equal_pythons(page, source):
    """From the bytes of a file to W(x), contributions, logits, and the pictures of both, as `aloe.explain` gives them."""
    data, model = SOURCES[source](), STUDENTS["classes"]()
    give(page, data)
    pixels = as_batch([Image.open(io.BytesIO(data))], model)
    shown = canvas(page, "#input canvas")
    assert np.array_equal(shown[..., :3], (pixels[0].permute(1, 2, 0) * 255).round().int().numpy())
    contributions, weights, logits, value, target = page.evaluate(MAPS, -1)
    expected = explain(model, pixels)
    assert target == int(expected.prediction[0])
    close(contributions, expected.contributions)
    close(weights, expected.weights)
    close(logits, expected.logits)
    said = numbers(page)
    assert said["target"] == target
    for name, theirs in (("value", expected.logit), ("residual", expected.residual)):
        assert said[name] == pytest.approx(float(theirs[0]), rel=1e-4, abs=1e-5), name
    assert value == said["value"]
    colour, signed = (
        colour_explanation(expected.weights, expected.contributions)[0],
        signed_map(expected.contributions)[0],
    )
    painted = canvas(page, "#map .over")
    assert np.abs(painted[..., 3] - colour[..., 3].int().numpy()).max() <= 1
    solid = colour[..., 3].numpy() == 255  # what is half transparent is rounded by the canvas
    assert np.abs(painted - colour.int().numpy())[solid].max(initial=0) <= 1
    page.check("[name=kind][value=signed]")
    assert np.abs(canvas(page, "#map .over")[..., :3] - signed.int().numpy()).max() <= 1
    page.check("[name=kind][value=colour]")


def test_the_sum_is_complete_and_printed(page):
    give(page, encoded(picture(seed=5)))
    said = numbers(page)
    assert abs(said["value"] - said["sum"] - said["residual"]) <= 1e-5 * (abs(said["sum"]) + abs(said["residual"]))
    assert abs(said["residual"]) > 1e-3, "vacuous: constants do not matter"
    found = re.search(r"Logit (\S+) = all pixels (\S+), constants (\S+) \(off by (\S+)\)", page.inner_text("#sum"))
    value, pixels, constants = (float(text.replace("\u2212", "-")) for text in found.groups()[:3])
    assert value == pytest.approx(pixels + constants, rel=1e-3)
    page.hover("#map", position={"x": 40, "y": 90})
    at = data_of(page, "#reading")
    contributions = page.evaluate(MAPS, int(said["target"]))[0]
    assert float(at["value"]) == pytest.approx(contributions[SIZE * int(at["row"]) + int(at["column"])], rel=1e-6)
    side = page.locator("#map").bounding_box()["width"]
    assert (int(at["column"]), int(at["row"])) == (int(40 / side * SIZE), int(90 / side * SIZE))


def test_predictions_and_another_class(page):
    give(page, encoded(picture(seed=6)), HOSTILE)
    assert HOSTILE in page.inner_text("#name")
    model, image = STUDENTS["classes"](), as_batch([picture(seed=6)], STUDENTS["classes"]())
    chances = explain(model, image).logits[0].sigmoid()
    rows = [(int(row.get_attribute("data-index")), row.inner_text()) for row in page.locator(".answer").all()]
    assert [index for index, _ in rows] == chances.argsort(descending=True).tolist()
    for index, text in rows:
        assert NAMES[index] in text
        assert f"{100 * float(chances[index]):.1f}"[:3] in text
    other = rows[2][0]
    page.click(f".answer[data-index='{other}']")
    page.wait_for_selector(f"#sum[data-target='{other}']")
    expected = explain(model, image, other)
    assert numbers(page)["value"] == pytest.approx(float(expected.logit[0]), rel=1e-4, abs=1e-5)
    assert NAMES[other] in page.inner_text("#target")
    assert page.get_attribute(f".answer[data-index='{other}']", "aria-pressed") == "true"


@pytest.mark.parametrize("part", ["", "keep"])
def test_a_rectangle_moves_the_probability(page, part):
    give(page, encoded(picture(seed=7)))
    target = int(numbers(page)["target"])
    page.select_option("#part", part)
    box = page.locator("#input").bounding_box()
    at = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in ((0.25, 0.125), (0.75, 0.625))]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=4)
    page.mouse.up()
    model = STUDENTS["classes"]()
    image = as_batch([picture(seed=7)], model)
    inside = torch.zeros(1, 1, SIZE, SIZE)
    inside[..., 4:20, 8:24] = 1
    keep = inside if part else 1 - inside
    with torch.no_grad():
        logits = model(torch.cat([image, 1 - image], 1) * keep).logits[0]
    expected = float(logits[target])
    page.wait_for_function("v => Math.abs(document.querySelector('#change p')?.dataset.value - v) < 1e-3", arg=expected)
    said = numbers(page, "#change p")
    assert said["value"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert said["to"] == pytest.approx(float(logits[target].sigmoid()), abs=1e-5)
    assert said["from"] == pytest.approx(float(explain(model, image, target).logit.sigmoid()[0]), abs=1e-5)
    alpha = canvas(page, "#input canvas")[..., 3]
    assert np.array_equal(alpha == 255, keep[0, 0].bool().numpy())
    whole = numbers(page)
    assert abs(whole["value"] - whole["sum"] - whole["residual"]) <= 1e-5 * (abs(whole["sum"]) + abs(whole["residual"]))
    page.click("#clear")
    assert page.locator("#change p").count() == 0
    assert (canvas(page, "#input canvas")[..., 3] == 255).all()
    assert numbers(page)["value"] == pytest.approx(float(explain(model, image, target).logit[0]), rel=1e-4, abs=1e-5)


def test_by_keyboard_alone(page):
    give(page, encoded(picture(seed=8)))
    page.focus("#input")
    page.keyboard.press("ArrowRight")
    assert data_of(page, "#reading")["column"] == str(SIZE // 2 + 1)
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(f"Shift+{key}")
    page.wait_for_selector("#change p")
    assert page.locator(".box").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator(".box").is_visible()
    assert page.locator("#change p").count() == 0
    target = page.locator(".answer").nth(1)
    target.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#sum[data-target='{target.get_attribute('data-index')}']")
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('button, input, select, [tabindex]')].filter(e => !e.textContent.trim()"
        " && !e.getAttribute('aria-label') && !e.closest('label')?.textContent.trim()).map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_dropped_and_pasted_images(page):
    script = """([event, data, name]) => {
      const file = new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, { type: 'image/png' });
      const all = new DataTransfer();
      all.items.add(file);
      const given = event === 'drop' ? new DragEvent('drop', { dataTransfer: all, bubbles: true, cancelable: true })
        : new ClipboardEvent('paste', { clipboardData: all, bubbles: true, cancelable: true });
      document.body.dispatchEvent(given);
    }"""
    for event in ("drop", "paste"):
        page.evaluate(script, [event, base64.b64encode(encoded(picture(seed=9))).decode(), f"{event}ed.png"])
        page.wait_for_function(
            "name => document.querySelector('#name').textContent.startsWith(name)", arg=f"{event}ed.png"
        )
        page.wait_for_selector("#sum[data-target]")


def test_a_picture_of_the_camera(page):
    page.click("#camera")
    page.wait_for_function("() => document.querySelector('video').videoWidth > 0")
    page.click("#take")
    page.wait_for_function("() => document.querySelector('#name').textContent.startsWith('camera')")
    page.wait_for_selector("#sum[data-target]")
    assert not page.locator("#viewfinder").is_visible()
    assert page.evaluate("() => document.querySelector('video').srcObject") is None
    assert canvas(page, "#input canvas")[..., :3].std() > 5


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("notes.jpg", b"These are my notes.\n", "notes.jpg is no image but a text, whatever its name says."),
        (
            "x.svg",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "x.svg is an SVG, a drawing without pixels: save it as PNG.",
        ),
        (
            "large.jpg",
            encoded(Image.new("L", (8688, 5792)), "JPEG"),
            "large.jpg has 8688 x 5792 pixels, 50.3 million; an image may have 50 million: make it smaller.",
        ),
    ],
    ids=["text", "svg", "large"],
)
def test_one_sentence_and_the_page_goes_on(page, name, data, sentence):
    give(page, data, name)
    assert page.inner_text("#problem") == sentence
    give(page, encoded(picture(), "GIF"), "x.gif")
    assert page.inner_text("#problem") == "x.gif is a GIF: its first frame is explained."
    give(page, encoded(picture()))
    assert page.inner_text("#problem") == ""


def test_saved_as_one_picture(page):
    give(page, encoded(picture(seed=10)), "my cat.png")
    page.evaluate("document.querySelector('#save').scrollIntoView()")
    with page.expect_download() as waiting:
        page.click("#save")
    assert waiting.value.suggested_filename == "my_cat-aloe.png"
    sheet = np.asarray(Image.open(waiting.value.path()).convert("RGB")).astype(int)
    assert sheet.shape == (448 + 4 * 24 + 32, 3 * 448 + 4 * 16, 3)
    model = STUDENTS["classes"]()
    pixels = as_batch([picture(seed=10)], model)
    found = explain(model, pixels)
    pictures = (
        (pixels[0].permute(1, 2, 0) * 255).round(),
        over_white(found.to_rgba())[0],
        signed_map(found.contributions)[0],
    )
    for i, expected in enumerate(pictures):
        left, size = 16 + i * 464, 448 // SIZE
        shown = sheet[16 + size // 2 : 464 : size, left + size // 2 : left + 448 : size]
        assert np.abs(shown - expected.int().numpy()).max() <= 2
    assert sheet[480:].min() < 100, "the words are missing"


def test_int8_weights_by_choice_with_what_was_measured(desktop, url):
    """The page begins with them; they are what onnxruntime computes here from the same file."""
    page = desktop
    show(page, f"{url}classes/", "int8")
    give(page, encoded(picture(seed=11)))
    page.evaluate("document.querySelector('#facts').open = true")
    assert re.search(r"on 6 images \(noise\): the same answer for [\d.]+ %", page.inner_text("#facts"))
    page.click("#check")
    page.wait_for_selector("#checked[data-error]")
    assert 0 <= float(page.get_attribute("#checked", "data-error")) < 1e-4
    assert "onnxruntime with the same int8 weights" in page.inner_text("#checked")
    rough = numbers(page)
    page.select_option("#precision select", "float32")
    page.wait_for_selector("#status[data-ready=float32]")
    page.wait_for_function(
        "before => Number(document.querySelector('#sum').dataset.value) !== before", arg=rough["value"]
    )
    page.evaluate("() => { delete document.querySelector('#checked').dataset.error; }")
    page.click("#check")
    page.wait_for_selector("#checked[data-error]")
    assert 0 <= float(page.get_attribute("#checked", "data-error")) < 1e-4
    assert "from PyTorch" in page.inner_text("#checked")
    check(page)


def test_on_a_phone(phone):
    give(phone, encoded(picture(seed=12)))
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    small = phone.evaluate(
        "() => [...document.querySelectorAll('button, .button, select, #facts summary')].filter(e => e.offsetParent"
        " && e.getBoundingClientRect().height < 44).map(e => e.outerHTML)"
    )
    assert small == [], "too small for a finger"
    phone.locator("#map").scroll_into_view_if_needed()
    box = phone.locator("#map").bounding_box()
    phone.touchscreen.tap(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    assert data_of(phone, "#reading")["column"] == str(int(0.3 * SIZE))
    phone.locator("#input").scroll_into_view_if_needed()
    box = phone.locator("#input").bounding_box()
    touch = phone.context.new_cdp_session(phone)

    def finger(kind, x, y):
        points = [] if kind == "touchEnd" else [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    finger("touchStart", 0.2, 0.2)
    for k in range(1, 4):
        finger("touchMove", 0.2 + 0.1 * k, 0.2 + 0.1 * k)
    finger("touchEnd", 0, 0)
    phone.wait_for_selector("#change p")
    assert phone.locator(".box").is_visible()


def test_texts_of_a_student_without_classes(desktop, url):
    page = desktop
    show(page, f"{url}texts/")
    give(page, encoded(picture(seed=13)))
    model = STUDENTS["texts"]()
    image = as_batch([picture(seed=13)], model)
    each = [explain(model, image, TEXTS.target(i)) for i in range(3)]
    values = [float(e.logit[0]) for e in each]
    best = int(np.argmax(values))
    contributions, weights, logits, value, target = page.evaluate(MAPS, -1)
    assert target == best == numbers(page)["target"]
    close(logits, values)
    close(contributions, each[best].contributions)
    close(weights, each[best].weights)
    assert value == pytest.approx(values[best], rel=1e-4)
    assert numbers(page)["residual"] == pytest.approx(float(each[best].residual[0]), rel=1e-4, abs=1e-4)
    assert "Texts" in page.inner_text("#answers h2")
    rows = {row.get_attribute("data-index"): row.inner_text() for row in page.locator(".answer").all()}
    assert TEXTS.names[1] in rows["1"]
    assert f"{100 * float(each[0].logit.sigmoid()[0]):.1f}"[:3] in rows["0"]
    page.evaluate("globalThis.loaded = undefined")
    check(page)


def test_features_of_a_student_without_anything_else(browser, url):
    """Its own direction, and how near to it a part of the image is. There is no WebGPU here, which is told."""
    with open_page(browser) as page:
        page.said = []
        page.add_init_script("Object.defineProperty(navigator, 'gpu', { value: undefined })")
        show(page, f"{url}features/")
        give(page, encoded(picture(seed=14)))
        assert "WebAssembly with SIMD, 1 thread" in page.inner_text("#status")
        assert "(there is no WebGPU here)" in page.inner_text("#status")
        model = STUDENTS["features"]()
        image = as_batch([picture(seed=14)], model)
        expected = explain(model, image)
        contributions, _, pooled, value, _ = page.evaluate(MAPS, -1)
        close(contributions, expected.contributions)
        close(pooled, expected.pooled)
        assert value == pytest.approx(float(expected.logit[0]), rel=1e-4)
        assert not page.locator("#answers").is_visible()
        page.focus("#input")
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown"):
            page.keyboard.press(f"Shift+{key}")
        keep = torch.ones(1, 1, SIZE, SIZE)
        keep[..., 16:18, 16:18] = 0
        with torch.no_grad():
            left = model(torch.cat([image, 1 - image], 1) * keep).pooler_output
        similar = float(torch.nn.functional.cosine_similarity(left, expected.pooled)[0])
        page.wait_for_function("v => Math.abs(document.querySelector('#change p')?.dataset.to - v) < 1e-4", arg=similar)
        assert numbers(page, "#change p")["from"] == pytest.approx(1, abs=1e-5)
        check(page)


def test_webgpu_where_it_is_present(browser, url):
    with open_page(browser) as page:
        page.goto(f"{url}features/")
        if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
            pytest.skip("this Chromium has no WebGPU")
        page.wait_for_selector("#status[data-ready]")
        assert page.get_attribute("#status", "data-provider") == "webgpu"
        assert "WebGPU" in page.inner_text("#status")
        give(page, encoded(picture(seed=16)))
        model = STUDENTS["features"]()
        expected = explain(model, as_batch([picture(seed=16)], model))
        said = numbers(page)
        assert said["value"] == pytest.approx(float(expected.logit[0]), rel=1e-4)
        assert abs(said["value"] - said["sum"] - said["residual"]) <= 1e-5 * (abs(said["sum"]) + abs(said["residual"]))
        close(page.evaluate(MAPS.replace("'wasm'", "'webgpu'"), -1)[0], expected.contributions)
        assert page.asked == {"127.0.0.1"}
        assert page.errors == []


def test_what_a_worker_asks_for_is_seen_and_refused(browser, url):
    """Its own loads are among the requests that are watched, and so would be one that leaves the machine."""
    with open_page(browser) as page:
        requests = []
        page.on("request", lambda request: requests.append(request.url.removeprefix(f"{url}classes/")))
        page.goto(f"{url}classes/")
        page.wait_for_selector("#status[data-ready]")
        assert "runtime/ort.wasm.bundle.min.mjs" in requests  # which the worker alone imports
        assert page.asked == {"127.0.0.1"}
        ask = "fetch('http://elsewhere.test/x').then(() => 'sent', error => error.name)"
        assert page.workers[0].evaluate(ask) == "TypeError"
        assert page.asked == {"127.0.0.1", "elsewhere.test"}


def test_a_page_that_fetches_reaches_that_package_alone(browser, home, tmp_path):
    """jsDelivr as such is not allowed: only the package of that version, which answers here in its place."""
    shutil.copytree(home / "some" / "where" / "classes", tmp_path / "page")
    said = json.loads((tmp_path / "page" / "manifest.json").read_text())
    build._write_page(tmp_path / "page", said, {}, cdn=True)
    with static(tmp_path) as url, open_page(browser) as page:
        page.context.route(
            f"{CDN}**", lambda route: route.fulfill(body="x", headers={"access-control-allow-origin": "*"})
        )
        page.goto(f"{url}page/")
        ask = "url => fetch(url).then(answer => answer.text(), error => error.name)"
        assert page.evaluate(ask, f"{CDN}dist/x.wasm") == "x"
        assert page.evaluate(ask, f"{CDN.replace('1.30.0', '1.29.0')}dist/x.wasm") == "TypeError"
        assert page.evaluate(ask, "https://cdn.jsdelivr.net/npm/other@1.0.0/x.js") == "TypeError"


def test_threads_where_the_server_allows_them(browser, home):
    headers = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
    with static(home, headers) as url, open_page(browser) as page:
        page.goto(f"{url}some/where/classes/")
        page.wait_for_selector("#status[data-ready]")
        cores = page.evaluate("navigator.hardwareConcurrency")
        assert page.evaluate("crossOriginIsolated")
        assert int(page.get_attribute("#status", "data-threads")) == min(4, cores)
        give(page, encoded(picture(seed=15)))
        model = STUDENTS["classes"]()
        expected = explain(model, as_batch([picture(seed=15)], model))
        close(page.evaluate(MAPS, -1)[0], expected.contributions)
        assert page.errors == []


@pytest.mark.parametrize("missing", ["float32.onnx", "manifest.json", "runtime/ort.wasm.bundle.min.mjs"])
def test_a_folder_that_is_not_whole_says_so(browser, home, tmp_path, missing):
    shutil.copytree(home / "some" / "where" / "texts", tmp_path / "page")
    (tmp_path / "page" / missing).unlink()
    with static(tmp_path) as url, open_page(browser) as page:
        page.goto(f"{url}page/")
        page.wait_for_function(
            "() => document.querySelector('#status').textContent.startsWith('The model could not be loaded:')"
        )
        if missing != "runtime/ort.wasm.bundle.min.mjs":
            assert f"{missing} is missing from the folder of this page (404)." in page.inner_text("#status")
