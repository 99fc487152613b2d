"use strict";
// The browser of all images: tiles that are drawn as one scrolls, filters that stand in the address, a large view.
//
// Rows are numbers, and what is known of them is in columns: there may be 110,000, and no nodes are made but for those
// in view. Top to bottom: rows, filters, ranges, address, tiles, large view, layers, copying, events.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent); // see Page._data in page.py
  const embedded = JSON.parse(byId("pictures").textContent); // base64 by name; null if pictures are in the folder
  const count = (number) => number.toLocaleString("en");
  const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      button.textContent = (await copied(byId(button.dataset.copy).value)) ? "Copied" : "The browser refused to copy";
    });
  }

  async function copied(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  }

  if (!data.parts.length) return;

  // ---------------------------------------------------------------------------------------------------------- rows

  const parts = data.parts;
  const number = parts.reduce((sum, part) => sum + part.id.length, 0);
  const joined = (name) => [].concat(...parts.map((part) => part[name] ?? part.id.map(() => null)));
  const [ids, labels, folds2, folds5, widths, heights, qualities, segIds, segSets] = [
    "id", "label", "fold_2", "fold_5", "width", "height", "quality", "kvasir_seg_id", "kvasir_seg_set",
  ].map(joined);
  const partOf = new Uint8Array(number);
  const inPart = new Uint32Array(number); // the row's number within its part
  const objects = new Map(); // see annotation() in rows.py
  const errors = new Map();
  let start = 0;
  parts.forEach((part, which) => {
    partOf.fill(which, start, start + part.id.length);
    part.id.forEach((_, i) => (inPart[start + i] = i));
    part.objects.forEach((some, i) => objects.set(start + i, some));
    Object.entries(part.errors).forEach(([i, text]) => errors.set(start + Number(i), text));
    start += part.id.length;
  });
  const distinct = new Set(ids).size === number; // labeled and segmented rows share images
  const partName = (row) => parts[partOf[row]].name;
  const finding = (row) => data.findings[labels[row]] ?? [];
  const findingName = (row) => (labels[row] === null ? "none" : (finding(row)[0] ?? `unknown label ${labels[row]}`));
  const problemsOf = (row) => data.problems[ids[row]] ?? [];

  // By part and finding, and so as images are seen together on contact sheets; what is sorted otherwise keeps it.
  const natural = Uint32Array.from({ length: number }, (_, row) => row).sort(
    (a, b) => partOf[a] - partOf[b] || labels[a] - labels[b] || (ids[a] < ids[b] ? -1 : ids[a] > ids[b] ? 1 : a - b),
  );

  // ------------------------------------------------------------------------------------------------------- filters

  const ALL = "all";
  const some = (row) => objects.get(row); // undefined of other parts, null where it cannot be read
  const unknown = (row, value) => (partName(row) !== "segmented" ? "none" : some(row) ? value(some(row)) : "unknown");
  const facets = {
    part: partName,
    finding: findingName,
    category: (row) => finding(row)[1] ?? "none",
    tract: (row) => finding(row)[2] ?? "none",
    fold_2: (row) => folds2[row] ?? "none",
    fold_5: (row) => folds5[row] ?? "none",
    kvasir_seg_set: (row) => segSets[row] ?? "none",
    instances: (row) => unknown(row, ({ instances }) => instances.length),
    boxes: (row) => unknown(row, ({ boxes }) => boxes.length),
  };
  const hasFit = (fit) => (row) => some(row)?.boxes.some((box) => box.fit === fit) ?? false;
  const unboxed = (row) => some(row)?.instances.some((instance) => instance.fit === "unboxed") ?? false;
  const numbersDiffer = (row) => Boolean(some(row)) && some(row).boxes.length !== some(row).instances.length;
  const agrees = (row) => some(row)?.agree ?? false;
  const disagrees = (row) => Boolean(some(row)) && !agrees(row);
  const tests = {
    agreement: {
      [ALL]: ["All", () => true],
      disagree: ["Disagree", disagrees],
      matched: ["A box matches", hasFit("matched")],
      stretched: ["A box is stretched", hasFit("stretched")],
      unmatched: ["A box is unmatched", hasFit("unmatched")],
      unboxed: ["No box matches an instance", unboxed],
      numbers: ["Numbers differ", numbersDiffer],
      agree: ["Agree", agrees],
    },
    problem: {
      [ALL]: ["All", () => true],
      named: ["Named in a problem", (row) => problemsOf(row).length > 0],
      unreadable: ["Unreadable", (row) => errors.has(row)],
    },
  };
  const lowest = (row) => some(row)?.lowest ?? 2;
  const total = (row, what) => some(row)?.[what].length ?? -1;
  const pixels = (row) => widths[row] * heights[row];
  const orders = {
    finding: ["Part and finding", null],
    id: ["Id", (a, b) => (ids[a] < ids[b] ? -1 : ids[a] > ids[b] ? 1 : 0)],
    disagreement: ["Disagreement", (a, b) => lowest(a) - lowest(b)],
    instances: ["Most instances", (a, b) => total(b, "instances") - total(a, "instances")],
    boxes: ["Most boxes", (a, b) => total(b, "boxes") - total(a, "boxes")],
    largest: ["Largest mask", (a, b) => (some(b)?.share ?? -1) - (some(a)?.share ?? -1)],
    smallest: ["Smallest mask", (a, b) => (some(a)?.share ?? 2) - (some(b)?.share ?? 2)],
    pixels: ["Most pixels", (a, b) => pixels(b) - pixels(a)],
    fewest: ["Fewest pixels", (a, b) => pixels(a) - pixels(b)],
    quality: ["Lowest JPEG quality", (a, b) => (qualities[a] ?? 101) - (qualities[b] ?? 101)],
  };
  const selects = [...Object.keys(facets), ...Object.keys(tests)];

  let shown = natural;

  // A row that only a range hides is counted in that range's bars: they show what another range would bring.
  function filter() {
    const wanted = byId("search").value.trim().toLowerCase();
    const passes = wanted ? [(row) => ids[row].includes(wanted)] : [];
    for (const [name, valueOf] of Object.entries(facets)) {
      const value = byId(name).value;
      if (value !== ALL) passes.push((row) => String(valueOf(row)) === value);
    }
    for (const [name, choices] of Object.entries(tests)) {
      if (byId(name).value !== ALL) passes.push(choices[byId(name).value][1]);
    }
    ranges.forEach((range) => range.counts.fill(0));
    const found = new Uint32Array(number);
    let length = 0;
    rows: for (const row of natural) {
      for (const test of passes) if (!test(row)) continue rows;
      let hiding = null;
      for (const range of ranges) {
        if (range.has(row)) continue;
        if (hiding) continue rows;
        hiding = range;
      }
      for (const range of hiding ? [hiding] : ranges) if (range.bins[row] < NO_BIN) range.counts[range.bins[row]]++;
      if (!hiding) found[length++] = row;
    }
    const compare = orders[byId("order").value][1];
    return compare ? found.subarray(0, length).sort(compare) : found.subarray(0, length);
  }

  function update() {
    shown = filter();
    const sum = (what) => shown.reduce((all, row) => all + (some(row)?.[what].length ?? 0), 0);
    const numbers = [`${count(shown.length)} of ${plural(number, distinct ? "image" : "row")}`];
    if (!distinct) {
      if (shown.length === number) numbers[0] = plural(number, "row");
      numbers.push(plural(shownIds().length, "image"));
    }
    if (objects.size) numbers.push(plural(sum("instances"), "instance"), plural(sum("boxes"), "box", "boxes"));
    byId("shown").textContent = numbers.join(", ");
    const chosen = new URLSearchParams(filterText());
    const titles = [...chosen].filter(([name]) => name !== "order").map(([name, value]) => `${titleOf(name)} ${value}`);
    byId("printed").textContent = `Shown in the browser: ${numbers.join(", ")}. Filters: ${titles.join("; ") || "none"}.`;
    byId("none").hidden = shown.length > 0;
    byId("copied").textContent = "";
    ranges.forEach((range) => range.draw());
    stop = 0;
    layOut();
  }

  // What a filter is called in the page: ranges by their own titles.
  const titleOf = (name) =>
    ranges.find((range) => range.name === name)?.title ?? byId(name).closest("label").firstChild.textContent;

  function fillSelects() {
    const fill = (name, options) => {
      byId(name).replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
      byId(name).closest("label").hidden = options.length < 3 && name in facets; // of one value, besides "All"
    };
    for (const [name, valueOf] of Object.entries(facets)) {
      const counts = new Map();
      natural.forEach((row) => counts.set(valueOf(row), (counts.get(valueOf(row)) ?? 0) + 1));
      const values = [...counts.keys()].sort((a, b) => String(a).localeCompare(b, "en", { numeric: true }));
      fill(name, [[ALL, "All"], ...values.map((value) => [value, `${value} (${count(counts.get(value))})`])]);
    }
    for (const [name, choices] of Object.entries(tests)) {
      const numbers = Object.values(choices).map(([, test]) => natural.reduce((sum, row) => sum + test(row), 0));
      const options = Object.entries(choices).map(([value, [text]], i) =>
        value === ALL ? [value, text] : [value, `${text} (${count(numbers[i])})`],
      );
      fill(name, options);
    }
    byId("agreement").closest("label").hidden = objects.size === 0;
    fill("order", Object.entries(orders).map(([value, [text]]) => [value, text]));
  }

  // -------------------------------------------------------------------------------------------------------- ranges

  const NO_BIN = 255;
  const NO_NOTCH = 65535;
  const MOST_BINS = 30;

  // A histogram of a number that rows have, and the range of it that is chosen: notches `from` to `to`, without `to`.
  // A bin is a notch, or where `finest` is given, some notches of that size.
  class Range {
    constructor(name, title, valueOf, unit, finest = null) {
      Object.assign(this, { name, title, unit });
      const values = Array.from({ length: number }, (_, row) => valueOf(row));
      const known = values.filter((value) => value !== null);
      const [least, most] = known.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [
        Infinity, -Infinity,
      ]);
      this.step = niceStep((most - least) / MOST_BINS);
      const inBin = Number((this.step / (finest ?? this.step)).toFixed(6));
      this.inBin = Number.isInteger(inBin) ? inBin : 1;
      const steps = (value, step = this.step) => Number((value / step).toFixed(6)); // without the error of 0.3 / 0.1
      this.first = Math.floor(steps(least));
      this.size = Math.ceil(steps(most)) - this.first; // what is at the upper end is in the last bin
      this.most = this.size * this.inBin;
      this.notches = Uint16Array.from(values, (value) => {
        if (value === null) return NO_NOTCH;
        return Math.min(Math.floor(steps(value, this.step / this.inBin)) - this.first * this.inBin, this.most - 1);
      });
      this.bins = Uint8Array.from(this.notches, (at) => (at === NO_NOTCH ? NO_BIN : Math.floor(at / this.inBin)));
      this.counts = new Uint32Array(Math.max(this.size, 0));
      this.all = new Uint32Array(this.counts.length);
      for (const bin of this.bins) if (bin < NO_BIN) this.all[bin]++;
      [this.from, this.to] = [0, this.most];
    }

    get chosen() {
      return this.from > 0 || this.to < this.most;
    }
    has(row) {
      return !this.chosen || (this.notches[row] >= this.from && this.notches[row] < this.to);
    }
    edge(notch) {
      return Number(((this.first + notch / this.inBin) * this.step).toFixed(6));
    }
    choose(from, to) {
      [this.from, this.to] = [from, to];
    }

    get text() {
      if (!this.chosen) return `All, ${this.edge(0)} to ${this.edge(this.most)}${this.unit}`;
      return `${this.edge(this.from)} to ${this.edge(this.to)}${this.unit}`;
    }
    get address() {
      return this.chosen ? `${this.edge(this.from)}-${this.edge(this.to)}` : "";
    }
    set address(text) {
      const ends = (text ?? "").split("-").map((edge) => Math.round((Number(edge) / this.step - this.first) * this.inBin));
      const within = ends.length === 2 && ends[0] >= 0 && ends[0] < ends[1] && ends[1] <= this.most;
      this.choose(...(within ? ends : [0, this.most]));
    }

    make() {
      const bar = (side) => svg("rect", { class: side, width: 0.86 });
      this.bars = Array.from({ length: this.size }, () => [bar("every"), bar("now")]);
      this.chart = svg(
        "svg",
        { viewBox: `0 0 ${this.size} 1`, preserveAspectRatio: "none", "aria-hidden": "true", class: "chart" },
        ...this.bars.flat(),
      );
      this.handles = ["from", "to"].map((end) => {
        const label = `${this.title}, ${end}`;
        const steps = { type: "range", min: 0, max: this.most, step: 1, id: `${this.name}-${end}` };
        return element("input", { ...steps, "aria-label": label });
      });
      this.said = element("output", { for: `${this.name}-from ${this.name}-to` });
      this.clear = element("button", { type: "button", "aria-label": `Clear ${this.title}` }, "Clear");
      this.clear.addEventListener("click", () => {
        this.choose(0, this.most);
        changed();
        this.handles[0].focus(); // the button is gone
      });
      this.handles.forEach((handle, end) => {
        handle.addEventListener("input", () => {
          const at = Number(handle.value);
          this.choose(end ? this.from : Math.min(at, this.to - 1), end ? Math.max(at, this.from + 1) : this.to);
          update();
        });
        handle.addEventListener("change", () => changed());
      });
      this.chart.addEventListener("pointerdown", (event) => this.brush(event));
      return element(
        "div",
        { class: "range", role: "group", "aria-label": this.title },
        element("p", { class: "range-title" }, this.title, this.clear),
        this.chart,
        ...this.handles,
        this.said,
      );
    }

    brush(event) {
      const { left, width } = this.chart.getBoundingClientRect();
      const binAt = ({ clientX }) =>
        Math.min(Math.max(Math.floor(((clientX - left) / width) * this.size), 0), this.size - 1);
      const begun = binAt(event);
      this.chart.setPointerCapture(event.pointerId);
      const move = (moved) => {
        const bin = binAt(moved);
        this.choose(Math.min(begun, bin) * this.inBin, (Math.max(begun, bin) + 1) * this.inBin);
        update();
      };
      move(event);
      const done = () => {
        this.chart.removeEventListener("pointermove", move);
        changed();
      };
      this.chart.addEventListener("pointermove", move);
      this.chart.addEventListener("lostpointercapture", done, { once: true });
    }

    draw() {
      const most = Math.max(...this.all);
      const height = (images) => (images ? Math.max(images / most, 0.03) : 0); // a bin of one is seen, too
      this.bars.forEach((pair, bin) =>
        [this.all[bin], this.counts[bin]].forEach((images, which) => {
          const place = { x: bin + 0.07, y: 1 - height(images), height: height(images) };
          Object.entries(place).forEach(([name, value]) => pair[which].setAttribute(name, value));
          pair[which].classList.toggle("out", (bin + 1) * this.inBin <= this.from || bin * this.inBin >= this.to);
        }),
      );
      [this.from, this.to].forEach((notch, end) => {
        this.handles[end].value = notch;
        this.handles[end].setAttribute("aria-valuetext", `${this.edge(notch)}${this.unit}`);
      });
      this.said.textContent = this.text;
      this.clear.hidden = !this.chosen;
    }
  }

  function niceStep(least) {
    const power = 10 ** Math.floor(Math.log10(least || 1));
    return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= least * 0.999) ?? 1;
  }

  const ranges = [
    new Range("size", "Image size, megapixels", (row) => (widths[row] ? pixels(row) / 1e6 : null), " MP"),
    new Range("quality", "JPEG quality", (row) => qualities[row], ""),
    new Range("mask", "Mask, share of the image", (row) => (some(row) ? 100 * some(row).share : null), "%"),
    new Range("iou", "Least IoU of boxes", (row) => some(row)?.lowest ?? null, "", 0.01),
  ].filter((range) => range.size > 1);

  // ------------------------------------------------------------------------------------------------------- address

  // #browser&part=labeled&order=id, or #image-<id>&part=labeled with an image open. Each entry of the history also has
  // its filters in its state: links to sections and images have none in them, and leave them as they are.

  const defaults = { search: "", order: "finding", ...Object.fromEntries(selects.map((name) => [name, ALL])) };

  function filterText() {
    const chosen = Object.entries(defaults).filter(([name, value]) => byId(name).value !== value);
    const pairs = chosen.map(([name]) => [name, byId(name).value.trim()]);
    pairs.push(...ranges.filter((range) => range.chosen).map((range) => [range.name, range.address]));
    return new URLSearchParams(pairs.filter(([, value]) => value)).toString();
  }

  function setFilters(text) {
    const wanted = new URLSearchParams(text);
    for (const [name, value] of Object.entries(defaults)) {
      byId(name).value = wanted.get(name) ?? value;
      if (byId(name).selectedIndex === -1) byId(name).value = value; // a value that is not here
    }
    ranges.forEach((range) => (range.address = wanted.get(range.name)));
    update();
  }

  function remember(how, image = null, pushed = false) {
    clearTimeout(waiting);
    if (leaving) return;
    const filters = filterText();
    let place = image === null ? "#browser" : `#image-${ids[image]}`;
    if (image !== null && rowOf(ids[image]) !== image) place += `&in=${partName(image)}`;
    history[`${how}State`]({ filters, pushed }, "", filters ? `${place}&${filters}` : place);
  }

  // An image was closed, and the browser is on its way back to the grid's entry. It arrives later than what is chosen at
  // once, which is noted then.
  let leaving = false;
  function arrive() {
    leaving = false;
    if (large.open) remember("push", current, true);
    else if (filterText() !== history.state?.filters) remember("push");
    requestAnimationFrame(() => setTimeout(seeFocus)); // going back scrolls, and may take the focus away
  }

  let waiting = null;
  // Browsers refuse to note more than some changes a second.
  function rememberSoon(...settings) {
    clearTimeout(waiting);
    waiting = setTimeout(() => remember(...settings), 200);
  }

  function changed() {
    update();
    if (filterText() !== history.state?.filters) remember("push");
  }

  // The segmented image of an id, else the labeled one: of these two it has more to show.
  const byImageId = new Map();
  for (const name of ["unlabeled", "labeled", "segmented"]) {
    natural.forEach((row) => partName(row) === name && byImageId.set(ids[row], row));
  }
  const rowOf = (id, part) =>
    part ? [...natural].find((row) => ids[row] === id && partName(row) === part) : byImageId.get(id);

  // Does what the address says: when the page is opened, by a link in it, and when one goes back.
  function follow() {
    if (leaving) return arrive();
    const [, section, id, text] = location.hash.match(/^#(browser|image-([^&]+))(?:&(.*))?$/) ?? [];
    const filters = history.state?.filters ?? text;
    if (filters !== undefined && filters !== filterText()) setFilters(filters);
    const row = id && rowOf(id, new URLSearchParams(text).get("in"));
    if (row !== undefined && row !== "") {
      if (!large.open || row !== current || series !== seriesOf(row)) open(row);
      if (!history.state) remember("replace", row);
      return;
    }
    if (large.open) large.close();
    if (history.state) return;
    if (text) byId("browser").scrollIntoView();
    if (section) remember("replace");
    else history.replaceState({ filters: filterText() }, "");
  }

  // ------------------------------------------------------------------------------------------------------ elements

  function filledIn(node, attributes, children) {
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    node.append(...children);
    return node;
  }
  const element = (tag, attributes, ...children) => filledIn(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    filledIn(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  // --------------------------------------------------------------------------------------------------------- tiles

  const address = (name) =>
    embedded ? `data:image/${name.endsWith("jpg") ? "jpeg" : "webp"};base64,${embedded[name]}` : `${data.folder}/${name}`;

  // Sheets that were drawn last, as they are decoded: one takes 4 MB.
  const SHEETS = 24;
  const sheets = new Map();
  function sheetOf(row) {
    const name = `sheets/${partName(row)}-${Math.floor(inPart[row] / data.across ** 2)}.webp`;
    const sheet = sheets.get(name) ?? loaded(address(name));
    sheets.delete(name);
    sheets.set(name, sheet);
    if (sheets.size > SHEETS) sheets.delete(sheets.keys().next().value);
    return sheet;
  }
  function loaded(source) {
    const image = new Image();
    image.src = source;
    return image.decode().then(
      () => image,
      () => lose(),
    );
  }

  // A page that was moved without its folder says so, once, and claims nothing of what it does not show.
  let lost = false;
  const keepBeside = data.folder === null ? "the file is damaged" : `keep ${decodeURIComponent(data.folder)}/ beside this page`;
  function lose() {
    if (!lost) byId("lost").textContent = `Pictures not found: ${keepBeside}`;
    byId("lost").hidden = !(lost = true);
    return null;
  }

  function tileSize(row) {
    const scale = Math.min(data.tile / Math.max(widths[row], heights[row]), 1);
    return [widths[row], heights[row]].map((side) => Math.max(Math.floor(side * scale + 0.5), 1));
  }

  async function drawTile(canvas, row) {
    const sheet = await sheetOf(row);
    if (!canvas.isConnected || !sheet) return;
    const side = (canvas.width = canvas.height = Math.round(canvas.clientWidth * devicePixelRatio));
    const context = canvas.getContext("2d");
    const [width, height] = tileSize(row);
    const place = inPart[row] % data.across ** 2;
    const [x, y] = [place % data.across, Math.floor(place / data.across)].map((at) => at * data.tile);
    const scale = side / Math.max(width, height);
    const [left, top] = [(side - width * scale) / 2, (side - height * scale) / 2];
    context.imageSmoothingQuality = "high";
    context.drawImage(sheet, x, y, width, height, left, top, width * scale, height * scale);
    const perPixel = (width * scale) / widths[row];
    context.setTransform(perPixel, 0, 0, perPixel, left, top);
    if (some(row)) drawLayers(context, some(row), devicePixelRatio / perPixel);
  }

  // As the overlay of the large view has them; `unit` is a pixel of the screen in pixels of the image.
  function drawLayers(context, { mask, instances, boxes }, unit) {
    const color = (name) => getComputedStyle(document.body).getPropertyValue(`--${name}`);
    const stroke = (path, style, width, dash = []) => {
      context.setLineDash(dash.map((length) => length * unit));
      Object.assign(context, { strokeStyle: style, lineWidth: width * unit });
      context.stroke(path);
    };
    if (isShown("mask")) {
      const path = new Path2D(mask ?? instances.map((instance) => instance.path).join(""));
      Object.assign(context, { fillStyle: color("mask"), globalAlpha: 0.28 });
      context.fill(path, "evenodd");
      context.globalAlpha = 1;
      stroke(path, color("mask"), 1);
    }
    if (isShown("instances")) {
      for (const { path, number: which } of instances) {
        stroke(new Path2D(path), "rgb(0 0 0 / 65%)", 3);
        stroke(new Path2D(path), color(`color-${(which - 1) % 5}`), 1.5);
      }
    }
    for (const { at: [x, y, width, height], fit } of isShown("boxes") ? boxes : []) {
      const path = new Path2D();
      path.rect(x, y, width, height);
      stroke(path, "rgb(0 0 0 / 65%)", 3);
      if (fit === "matched") stroke(path, color("box"), 1.5, [5, 3]);
      else stroke(path, color("unfit"), 2, [2, 3]);
    }
  }

  function wordsOf(row) {
    if (partName(row) !== "segmented") return labels[row] === null ? "unlabeled" : findingName(row);
    if (!some(row)) return "mask not read";
    const numbers = [plural(some(row).instances.length, "instance"), plural(some(row).boxes.length, "box", "boxes")];
    return numbers.map((text) => text.replace(" ", "\u00a0")).join(" · "); // it breaks between the two alone
  }

  function tile(row) {
    const badges = [];
    if (disagrees(row)) badges.push(`≠ IoU ${lowest(row).toFixed(2)}`);
    if (problemsOf(row).length) badges.push("✗ problem");
    const canvas = element("canvas", { "aria-hidden": "true" });
    const picture = element("span", { class: "picture" }, widths[row] ? canvas : element("span", { class: "unreadable" }, "unreadable"));
    const button = element(
      "button",
      { type: "button", class: "tile", tabindex: "-1" },
      picture,
      element("span", { class: "id" }, ids[row]), // cut by its style, so that it is whole in the button's name
      element("span", { class: "words" }, wordsOf(row)),
      ...(badges.length ? [element("span", { class: "badge" }, badges.join(", "))] : []),
    );
    button.addEventListener("click", () => openHere(row));
    return element("li", {}, button);
  }

  const GAP = 8; // pixels, as in the style
  const LEAST = 104;
  const grid = byId("grid");
  const items = new Map(); // those in the document, by their place in `shown`
  let width = 0;
  let columns = 1;
  let side = LEAST;
  let pitch = LEAST; // from row to row
  // One tile is a tab stop, arrow keys move it: a thousand stops would be a wall.
  let stop = 0;

  function layOut() {
    const focused = grid.contains(document.activeElement);
    items.forEach((item) => item.remove());
    items.clear();
    width = grid.clientWidth;
    columns = Math.max(Math.floor((width + GAP) / (LEAST + GAP)), 1);
    side = (width - GAP * (columns - 1)) / columns;
    if (shown.length) pitch = put(0).offsetHeight + GAP;
    grid.style.height = `${Math.max(Math.ceil(shown.length / columns) * pitch - GAP, 0)}px`;
    drawGrid();
    if (focused && shown.length) focusTile(stop);
  }

  function put(at) {
    if (items.has(at)) return items.get(at);
    const item = tile(shown[at]);
    items.set(at, item);
    item.setAttribute("aria-setsize", shown.length);
    item.setAttribute("aria-posinset", at + 1);
    item.style.width = `${side}px`;
    item.style.left = `${(at % columns) * (side + GAP)}px`;
    item.style.top = `${Math.floor(at / columns) * pitch}px`;
    item.firstChild.tabIndex = at === stop ? 0 : -1;
    const later = [...items.keys()].filter((other) => other > at).sort((a, b) => a - b)[0];
    grid.insertBefore(item, items.get(later) ?? null); // in order, as screen readers go
    const canvas = item.querySelector("canvas");
    if (canvas) drawTile(canvas, shown[at]);
    return item;
  }

  // Tiles are in the document only near the view, and the tab stop: it may have the focus.
  function drawGrid() {
    const top = grid.getBoundingClientRect().top;
    const first = Math.max(Math.floor((-top - innerHeight / 2) / pitch), 0) * columns;
    const last = Math.min(Math.ceil((-top + 1.5 * innerHeight) / pitch) * columns, shown.length);
    for (const [at, item] of items) {
      if ((at < first || at >= last) && at !== stop) {
        item.remove();
        items.delete(at);
      }
    }
    for (let at = first; at < last; at++) put(at);
    if (stop < shown.length) put(stop);
  }

  function drawTiles() {
    items.forEach((item, at) => item.querySelector("canvas") && drawTile(item.querySelector("canvas"), shown[at]));
  }

  function makeStop(at) {
    if (items.has(stop)) items.get(stop).firstChild.tabIndex = -1;
    stop = at;
    put(at).firstChild.tabIndex = 0;
  }

  function focusTile(at) {
    makeStop(at);
    const button = put(at).firstChild;
    button.focus({ preventScroll: true });
    button.scrollIntoView({ block: "nearest" });
  }

  function moveInGrid(event) {
    const last = shown.length - 1;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -stop, End: last - stop };
    if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const at = stop + steps[event.key];
    if (at >= 0 && at <= last) focusTile(at);
  }

  // ---------------------------------------------------------------------------------------------------- large view

  const large = byId("large");
  const stage = byId("stage");
  const NUMBER = 18; // pixels of the screen
  const MOST_ZOOM = 24; // pixels of the screen a pixel of the image
  let series = natural; // what previous and next go through
  let current = null;
  let view = null; // the picture as SVG, and what of it is seen: `x`, `y` of the middle in its pixels, `scale`

  // Of an image that was closed this instant, the entry in the history becomes this one's; what was typed is noted first.
  function openHere(row) {
    const left = location.hash.startsWith("#image-");
    const over = left && history.state?.pushed;
    if (!over && (left || filterText() !== history.state?.filters)) remember("replace");
    open(row);
    remember(over ? "replace" : "push", row, true);
  }

  const seriesOf = (row) => (shown.includes(row) ? shown : natural);

  function open(row) {
    series = seriesOf(row);
    if (!large.open) {
      large.showModal();
      byId("next").focus(); // by the attribute, Chromium may refuse where the address is that of a section
    }
    show(row);
  }

  function show(row) {
    current = row;
    const at = series.indexOf(row);
    byId("position").textContent = `${count(at + 1)} of ${count(series.length)}`;
    byId("large-facts").replaceChildren(...facts(row));
    byId("large-facts").scrollTop = 0;
    byId("previous").setAttribute("aria-disabled", at === 0); // disabled ones would lose the focus
    byId("next").setAttribute("aria-disabled", at === series.length - 1);
    for (const id of ["large-layers", "large-legend", "layer-keys"]) byId(id)?.toggleAttribute("hidden", !isOriginal(row));
    view = null;
    if (!widths[row]) {
      stage.replaceChildren(element("span", { class: "unreadable" }, "unreadable"));
      byId("zoom").textContent = "";
      return;
    }
    const image = svg("image", { width: widths[row], height: heights[row], preserveAspectRatio: "none" });
    const drawn = svg("svg", { class: "overlay", role: "img", "aria-label": `Image ${ids[row]}` }, image);
    if (some(row)) drawn.append(...overlay(some(row), Math.max(widths[row], heights[row]) / 32));
    stage.replaceChildren(drawn);
    view = { row, drawn, image, numbers: [...drawn.querySelectorAll("text")] };
    image.addEventListener("error", () => {
      lose();
      if (view?.image !== image) return;
      view = null;
      stage.replaceChildren(element("span", { class: "unreadable" }, "picture not found"));
      byId("zoom").textContent = "";
      byId("large-facts").replaceChildren(...facts(row, false));
    });
    image.setAttribute("href", address(`pictures/${partName(row)}-${inPart[row]}.${isOriginal(row) ? "jpg" : "webp"}`));
    fit();
  }

  const isOriginal = (row) => partName(row) === "segmented";
  const SLIVER = 10; // pixels

  // All layers are drawn; classes of the body say which are seen.
  function overlay({ mask, instances, boxes }, size) {
    const outlines = instances.flatMap(({ path, number: which }) => [
      svg("path", { class: "under", d: path }),
      svg("path", { class: `line color-${(which - 1) % 5}`, d: path }),
    ]);
    const drawn = boxes.flatMap(({ at: [x, y, width, height], fit: kind }) => {
      const looks = kind === "matched" ? "line" : "line unfit";
      const ring = { cx: x + width / 2, cy: y + height / 2, r: size }; // else a sliver would not be seen
      return ["under", looks].flatMap((name) => [
        svg("rect", { class: name, x, y, width, height }),
        ...(Math.min(width, height) < SLIVER ? [svg("circle", { class: name, ...ring })] : []),
      ]);
    });
    const numbers = instances.map(({ at: [x, y, width, height], number: which }) => {
      const place = { x: x + width / 2, y: y + height / 2, "text-anchor": "middle", "dominant-baseline": "central" };
      return svg("text", place, String(which));
    });
    return [
      svg("path", { class: "mask", d: mask ?? instances.map(({ path }) => path).join("") }),
      svg("g", { class: "instances" }, ...outlines, ...numbers),
      svg("g", { class: "boxes" }, ...drawn),
    ];
  }

  function step(by) {
    const row = series[series.indexOf(current) + by];
    if (row === undefined) return;
    show(row);
    rememberSoon("replace", row, history.state?.pushed ?? false);
  }

  // Zoom and pan: the SVG fills the stage, and its viewBox is what is seen.

  const fitting = () => Math.min(stage.clientWidth / widths[view.row], stage.clientHeight / heights[view.row]);
  const mostZoom = () => Math.max(MOST_ZOOM, 4 * fitting());

  function fit() {
    if (view) look(widths[view.row] / 2, heights[view.row] / 2, fitting());
  }

  function look(x, y, scale) {
    view.scale = Math.min(Math.max(scale, fitting()), mostZoom());
    // The picture's edges stay at those of the stage, or the picture in its middle.
    const within = (at, size, seen) => (seen >= size ? size / 2 : Math.min(Math.max(at, seen / 2), size - seen / 2));
    const [width, height] = [stage.clientWidth / view.scale, stage.clientHeight / view.scale];
    view.x = within(x, widths[view.row], width);
    view.y = within(y, heights[view.row], height);
    view.drawn.setAttribute("viewBox", `${view.x - width / 2} ${view.y - height / 2} ${width} ${height}`);
    view.numbers.forEach((text) => text.setAttribute("font-size", NUMBER / view.scale)); // the same on the screen
    view.image.classList.toggle("pixelated", isOriginal(view.row) && view.scale >= 3);
    view.fits = view.scale <= fitting() * 1.001;
    stage.classList.toggle("movable", !view.fits);
    byId("zoom").textContent = `${Math.round(100 * view.scale)}%`;
  }

  // Zooms so that the point of the stage, from its middle, stays where it is.
  function zoom(by, [right, down] = [0, 0]) {
    if (!view) return;
    const scale = Math.min(Math.max(view.scale * by, fitting()), mostZoom());
    const moved = 1 / view.scale - 1 / scale;
    look(view.x + right * moved, view.y + down * moved, scale);
  }
  const move = (right, down) => view && look(view.x - right / view.scale, view.y - down / view.scale, view.scale);

  function fromMiddle({ clientX, clientY }) {
    const { left, top, width, height } = stage.getBoundingClientRect();
    return [clientX - left - width / 2, clientY - top - height / 2];
  }

  // One pointer moves the picture; two, as fingers, also zoom.
  const pointers = new Map();
  const middle = () => [0, 1].map((i) => [...pointers.values()].reduce((sum, at) => sum + at[i], 0) / pointers.size);
  const spread = () => Math.hypot(...[0, 1].map((i) => [...pointers.values()].reduce((a, at) => at[i] - a, 0)));
  function drag(event) {
    if (!pointers.has(event.pointerId)) return;
    const [[x, y], apart] = [middle(), spread()];
    pointers.set(event.pointerId, fromMiddle(event));
    const [newX, newY] = middle();
    move(newX - x, newY - y);
    if (pointers.size === 2 && apart) zoom(spread() / apart, middle());
  }

  function facts(row, found = true) {
    const [width, height] = [widths[row], heights[row]];
    const objectsOf = some(row);
    const words = { Part: partName(row) };
    if (labels[row] !== null) {
      Object.assign(words, { Finding: findingName(row), Category: finding(row)[1] ?? "unknown", Tract: finding(row)[2] ?? "unknown" });
      words.Folds = `2-fold ${folds2[row] ?? "none"}, 5-fold ${folds5[row] ?? "none"}`;
    }
    if (segIds[row]) words["Kvasir-SEG"] = `${segIds[row]}, ${segSets[row] ?? "no set"}`;
    words.Size = width ? `${count(width)} × ${count(height)} px, JPEG quality ${qualities[row]}` : "unknown";
    if (isOriginal(row)) {
      words.Mask = objectsOf ? `${(100 * objectsOf.share).toFixed(1)}% of the image` : "unknown";
      words["Mask and boxes"] = objectsOf ? (agrees(row) ? "✓ agree" : "✗ disagree") : "unknown";
      words["Least IoU"] = objectsOf ? objectsOf.lowest.toFixed(3) : "unknown";
    }
    if (width && !found) words.Shown = `nothing: ${keepBeside}`;
    else if (width) {
      const small = Math.max(width, height) > data.side;
      words.Shown = isOriginal(row)
        ? "the original file, at full resolution"
        : `${small ? `made smaller, to ${data.side} px, and ` : ""}encoded again as WebP: not the original`;
    }
    const list = Object.entries(words).flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)]);
    const wrong = [...(errors.has(row) ? [`unreadable: ${errors.get(row)}`] : []), ...problemsOf(row)];
    return [
      element("h2", { id: "large-id" }, ids[row]),
      element("dl", {}, ...list),
      ...(objectsOf ? objectTables(objectsOf) : []),
      ...wrong.map((text) => element("p", { class: "bad" }, `✗ ${text}`)),
    ];
  }

  function objectTables({ boxes, instances }) {
    return [
      table("Boxes", ["x, y", "Size", "IoU", "Instance"], boxes, (box) => [
        ...place(box),
        box.match ?? `✗ ${box.fit}`,
      ]),
      table("Instances", ["x, y", "Size", "IoU", "Number"], instances, (part) => [
        ...place(part),
        part.fit === "matched" ? part.number : `${part.number} ✗ no matching box`,
      ]),
    ];
  }

  const place = ({ at: [x, y, width, height], iou }) => [`${x}, ${y}`, `${width} × ${height}`, iou.toFixed(3)];

  function table(caption, header, lines, cells) {
    const line = (tag, texts, attributes = {}) =>
      element("tr", {}, ...texts.map((text) => element(tag, attributes, String(text))));
    return element(
      "table",
      {},
      element("caption", {}, `${caption} (${lines.length})`),
      element("thead", {}, line("th", header, { scope: "col" })),
      element("tbody", {}, ...lines.map((item) => line("td", cells(item)))),
    );
  }

  // Back to the tile of what was seen last, where it is among those shown; else the browser goes back to the link.
  function closed() {
    clearTimeout(waiting);
    if (location.hash.startsWith("#image-") && !leaving) {
      if (history.state?.pushed) {
        leaving = true;
        history.back();
      } else remember("replace");
    }
    focusLast();
  }

  function seeFocus() {
    if (grid.contains(document.activeElement)) document.activeElement.scrollIntoView({ block: "nearest" });
    else focusLast();
  }

  function focusLast() {
    const at = series !== shown || large.open ? -1 : shown.indexOf(current);
    if (at >= 0) focusTile(at);
  }

  function keyInLarge(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const by = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const key = event.key.toLowerCase();
    if (by && event.shiftKey) move(by[0] * 60, by[1] * 60);
    else if (by && by[0]) step(-by[0]);
    else if (key === "+" || key === "=") zoom(1.5);
    else if (key === "-" || key === "_") zoom(1 / 1.5);
    else if (key === "0") fit();
    else if (layerKeys[key] && isOriginal(current)) setLayer(layerKeys[key], !isShown(layerKeys[key]));
    else return;
    if (!by || event.shiftKey) event.preventDefault();
  }

  // -------------------------------------------------------------------------------------------------------- layers

  const switches = [...document.querySelectorAll("[data-layer]")];
  const layerKeys = switches.length ? { m: "mask", i: "instances", b: "boxes" } : {};
  const isShown = (layer) => document.body.classList.contains(`show-${layer}`);

  function setLayer(layer, on) {
    document.body.classList.toggle(`show-${layer}`, on);
    switches.filter((input) => input.dataset.layer === layer).forEach((input) => (input.checked = on));
    drawTiles();
  }

  // -------------------------------------------------------------------------------------------------------- copying

  const shownIds = () => [...new Set(Array.from(shown, (row) => ids[row]))];

  async function copyShown() {
    const some = shownIds();
    const done = await copied(some.join("\n"));
    byId("copied").textContent = done ? `Copied ${plural(some.length, "id")}` : "The browser refused; download them";
  }

  function downloadShown() {
    const link = element("a", { download: "image_ids.txt" });
    link.href = URL.createObjectURL(new Blob([`${shownIds().join("\n")}\n`], { type: "text/plain" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  // --------------------------------------------------------------------------------------------------------- events

  byId("browsing").hidden = false;
  fillSelects();
  byId("ranges").replaceChildren(...ranges.map((range) => range.make()));
  switches.forEach((input) => {
    setLayer(input.dataset.layer, input.checked);
    input.addEventListener("change", () => setLayer(input.dataset.layer, input.checked));
  });
  byId("search").addEventListener("input", () => {
    update();
    rememberSoon("replace");
  });
  byId("filters").addEventListener("change", (event) => event.target.id !== "search" && changed());
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", (event) => {
    event.preventDefault(); // the first option need not be the one to go back to
    setFilters("");
    remember("push");
  });
  if (byId("disagreeing")) {
    byId("disagreeing").hidden = false;
    byId("disagreeing").addEventListener("click", () => {
      setFilters("agreement=disagree&order=disagreement");
      remember("push");
    });
  }
  byId("copy").addEventListener("click", copyShown);
  byId("download").addEventListener("click", downloadShown);
  grid.addEventListener("keydown", moveInGrid);
  grid.addEventListener("focusin", (event) => {
    const at = [...items].find(([, item]) => item.contains(event.target))?.[0];
    if (at !== undefined && at !== stop) makeStop(at);
  });
  addEventListener("scroll", drawGrid, { passive: true });
  new ResizeObserver(() => grid.clientWidth !== width && layOut()).observe(grid.parentElement);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => large.close());
  byId("zoom-in").addEventListener("click", () => zoom(1.5));
  byId("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
  byId("fit").addEventListener("click", fit);
  large.addEventListener("click", (event) => event.target === large && large.close()); // the ground behind it
  large.addEventListener("close", closed);
  large.addEventListener("keydown", keyInLarge);
  new ResizeObserver(() => {
    if (!view || !stage.clientWidth) return; // it is closed
    if (view.fits) fit();
    else look(view.x, view.y, view.scale);
  }).observe(stage);
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), fromMiddle(event));
  });
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, fromMiddle(event));
  });
  stage.addEventListener("pointermove", drag);
  stage.addEventListener("lostpointercapture", (event) => pointers.delete(event.pointerId));
  stage.addEventListener("dblclick", (event) => {
    if (!view) return;
    if (!view.fits) fit();
    else zoom(Math.max(2 / view.scale, 2), fromMiddle(event));
  });
  addEventListener("popstate", follow);
  addEventListener("hashchange", follow);

  update();
  follow();
})();
