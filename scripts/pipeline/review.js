"use strict";
// The browser of the segmented images: tiles that draw themselves as they come into view, filters, a large view.
(() => {
  const byId = (id) => document.getElementById(id);
  const rows = JSON.parse(byId("rows").textContent); // see describe() in review.py
  const pictures = JSON.parse(byId("pictures").textContent); // base64 WebP of each row, null where it has none
  rows.forEach((row, i) => (row.picture = pictures[i]));

  // -------------------------------------------------------------------------------------------------- what is shown

  const ALL = "all";
  const facets = {
    finding: (row) => row.finding,
    fold_2: (row) => row.fold_2 ?? "none",
    fold_5: (row) => row.fold_5 ?? "none",
    instances: (row) => (row.error ? "unknown" : row.instances.length),
    boxes: (row) => (row.error ? "unknown" : row.boxes.length),
  };
  const hasFit = (fit) => (row) => row.boxes.some((box) => box.fit === fit);
  const unboxed = (row) => row.instances.some((instance) => !instance.boxed);
  const numbersDiffer = (row) => row.boxes.length !== row.instances.length;
  const unfit = (row) => row.boxes.some((box) => box.fit !== "matched");
  const disagrees = (row) => unfit(row) || unboxed(row) || numbersDiffer(row);
  const agrees = (row) => !row.error && !disagrees(row);
  const agreements = {
    [ALL]: ["All", () => true],
    disagree: ["Disagree", disagrees],
    matched: ["A box matches", hasFit("matched")],
    stretched: ["A box is stretched", hasFit("stretched")],
    unmatched: ["A box is unmatched", hasFit("unmatched")],
    unboxed: ["An instance has no box", unboxed],
    numbers: ["Numbers differ", numbersDiffer],
    loose: ["Least IoU below 0.9", (row) => !row.error && row.lowest < 0.9],
    agree: ["Agree", agrees],
    problem: ["Named in a problem", (row) => row.problems.length > 0],
  };
  const orders = {
    id: ["Id", () => 0], // rows come by id, and sorting keeps that among equals
    disagreement: ["Disagreement", (a, b) => a.lowest - b.lowest],
    instances: ["Most instances", (a, b) => b.instances.length - a.instances.length],
    boxes: ["Most boxes", (a, b) => b.boxes.length - a.boxes.length],
    largest: ["Largest mask", (a, b) => b.share - a.share],
    smallest: ["Smallest mask", (a, b) => a.share - b.share],
  };

  let shown = rows;

  function filtered() {
    const wanted = byId("search").value.trim().toLowerCase();
    const chosen = Object.keys(facets).filter((name) => byId(name).value !== ALL);
    const agreement = agreements[byId("agreement").value][1];
    const passes = (row) =>
      row.id.includes(wanted) &&
      chosen.every((name) => String(facets[name](row)) === byId(name).value) &&
      agreement(row);
    return rows.filter(passes).sort(orders[byId("order").value][1]);
  }

  function update() {
    shown = filtered();
    const total = (what) => shown.reduce((sum, row) => sum + row[what].length, 0);
    byId("grid").replaceChildren(...shown.map((row) => tiles.get(row)));
    byId("shown").textContent =
      `${count(shown.length)} of ${plural(rows.length, "image")}, ` +
      `${plural(total("instances"), "instance")}, ${plural(total("boxes"), "box", "boxes")}`;
    byId("none").hidden = shown.length > 0;
    makeStop(shown[0]);
  }

  function fillSelect(select, options) {
    select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  }

  function fillSelects() {
    for (const [name, valueOf] of Object.entries(facets)) {
      const counts = new Map();
      rows.forEach((row) => counts.set(valueOf(row), (counts.get(valueOf(row)) ?? 0) + 1));
      const values = [...counts.keys()].sort((a, b) => String(a).localeCompare(b, "en", { numeric: true }));
      fillSelect(byId(name), [[ALL, "All"], ...values.map((value) => [value, `${value} (${count(counts.get(value))})`])]);
    }
    const tests = Object.entries(agreements).map(([value, [text, test]]) => [value, text, rows.filter(test).length]);
    fillSelect(
      byId("agreement"),
      tests.map(([value, text, number]) => [value, value === ALL ? text : `${text} (${count(number)})`]),
    );
    fillSelect(byId("order"), Object.entries(orders).map(([value, [text]]) => [value, text]));
  }

  // ------------------------------------------------------------------------------------------------------- elements

  const count = (number) => number.toLocaleString("en");
  const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

  function filledIn(node, attributes, children) {
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    node.append(...children);
    return node;
  }
  const element = (tag, attributes, ...children) => filledIn(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    filledIn(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  function picture(row, numbered) {
    if (!row.picture) return element("span", { class: "picture" }, element("span", { class: "unreadable" }, "unreadable"));
    const image = element("img", { src: `data:image/webp;base64,${row.picture}`, alt: "", decoding: "async" });
    return element("span", { class: "picture" }, image, overlay(row, numbered));
  }

  const SLIVER = 10; // pixels

  // All layers are drawn; classes of the body say which are seen.
  function overlay(row, numbered) {
    const outlines = row.instances.map((instance) => instance.path).join("");
    const mask = svg("path", { class: "mask", d: row.mask ?? outlines });
    const instances = row.instances.flatMap(({ path, number }) => [
      svg("path", { class: "under", d: path }),
      svg("path", { class: `line color-${(number - 1) % 5}`, d: path }),
    ]);
    const size = Math.max(row.width, row.height) / 32;
    const boxes = row.boxes.flatMap(({ at: [x, y, width, height], fit }) => {
      const looks = fit === "matched" ? "line" : "line unfit";
      const ring = { cx: x + width / 2, cy: y + height / 2, r: size }; // else a sliver would not be seen
      return [
        svg("rect", { class: "under", x, y, width, height }),
        svg("rect", { class: looks, x, y, width, height }),
        ...(Math.min(width, height) < SLIVER ? ["under", looks].map((name) => svg("circle", { class: name, ...ring })) : []),
      ];
    });
    const numbers = numbered ? row.instances.map(({ at, number }) => numeral(at, number, size)) : [];
    return svg(
      "svg",
      { class: "overlay", viewBox: `0 0 ${row.width} ${row.height}`, "aria-hidden": "true" },
      mask,
      svg("g", { class: "instances" }, ...instances, ...numbers),
      svg("g", { class: "boxes" }, ...boxes),
    );
  }

  function numeral([x, y, width, height], number, size) {
    const place = { x: x + width / 2, y: y + height / 2, "text-anchor": "middle", "dominant-baseline": "central" };
    return svg("text", { ...place, "font-size": size }, String(number));
  }

  // ----------------------------------------------------------------------------------------------------------- grid

  function tile(row) {
    const numbers = `${plural(row.instances.length, "instance")}, ${plural(row.boxes.length, "box", "boxes")}`;
    const objects = row.error ? "unreadable" : numbers;
    const badges = [];
    if (disagrees(row)) badges.push(`≠ IoU ${row.lowest.toFixed(2)}`);
    if (row.problems.length) badges.push("✗ problem");
    const caption = element(
      "span",
      { class: "caption" },
      element("span", { class: "id" }, `${row.id.slice(0, 8)}…`),
      element("span", {}, objects),
      ...badges.map((text) => element("span", { class: "badge" }, text)),
    );
    const label = [`Image ${row.id}`, objects, ...badges].join(", ");
    const button = element("button", { type: "button", class: "tile", tabindex: "-1", "aria-label": label });
    button.append(element("span", { class: "picture" }), caption);
    button.addEventListener("click", () => open(row));
    const item = element("li", {}, button);
    item.row = row;
    return item;
  }

  const tiles = new Map(rows.map((row) => [row, tile(row)]));
  const buttonOf = (row) => tiles.get(row).firstChild;

  // Pictures are in the document only near the view, so that memory and drawing stay small however many rows there are.
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        const place = target.firstChild.firstChild;
        place.replaceWith(isIntersecting ? picture(target.row, false) : element("span", { class: "picture" }));
      }
    },
    { rootMargin: "500px 0px" },
  );
  tiles.forEach((item) => observer.observe(item));

  // One tile is a tab stop, arrow keys move it: a thousand stops would be a wall.
  let stop = null;

  function makeStop(row) {
    if (stop) buttonOf(stop).tabIndex = -1;
    stop = row ?? null;
    if (stop) buttonOf(stop).tabIndex = 0;
  }

  function moveInGrid(event) {
    const columns = getComputedStyle(byId("grid")).gridTemplateColumns.split(" ").length;
    const at = shown.indexOf(event.target.closest("li").row);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at, End: shown.length - 1 - at };
    if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const row = shown[at + steps[event.key]];
    if (!row) return;
    makeStop(row);
    buttonOf(row).focus();
  }

  // ----------------------------------------------------------------------------------------------------- large view

  const large = byId("large");
  let series = shown; // what previous and next go through
  let current = null;

  function open(row) {
    series = shown.includes(row) ? shown : rows;
    show(row);
    if (!large.open) large.showModal();
  }

  function show(row) {
    current = row;
    const at = series.indexOf(row);
    byId("position").textContent = `${count(at + 1)} of ${count(series.length)}`;
    byId("large-picture").replaceChildren(picture(row, true));
    byId("large-facts").replaceChildren(...facts(row));
    byId("previous").setAttribute("aria-disabled", at === 0); // disabled ones would lose the focus
    byId("next").setAttribute("aria-disabled", at === series.length - 1);
  }

  function step(by) {
    const row = series[series.indexOf(current) + by];
    if (row) show(row);
  }

  function facts(row) {
    const words = {
      Finding: row.finding,
      Folds: `2-fold ${row.fold_2 ?? "none"}, 5-fold ${row.fold_5 ?? "none"}`,
      Size: `${row.width} × ${row.height} px`,
      Mask: row.error ? "unknown" : `${(100 * row.share).toFixed(1)}% of the image`,
      "Mask and boxes": row.error ? "unknown" : agrees(row) ? "✓ agree" : "✗ disagree",
      "Least IoU": row.error ? "unknown" : row.lowest.toFixed(3),
    };
    const list = Object.entries(words).flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)]);
    const error = row.error ? [`unreadable: ${row.error}`] : [];
    return [
      element("h2", { id: "large-id" }, row.id),
      element("dl", {}, ...list),
      table("Boxes", ["x, y", "Size", "IoU", "Instance"], row.boxes, (box) => [
        ...place(box),
        box.fit === "matched" ? box.instance : `✗ ${box.fit}`,
      ]),
      table("Instances", ["x, y", "Size", "IoU", "Number"], row.instances, (part) => [
        ...place(part),
        part.boxed ? part.number : `${part.number} ✗ no box`,
      ]),
      ...[...error, ...row.problems].map((text) => element("p", { class: "bad" }, `✗ ${text}`)),
    ];
  }

  const place = ({ at: [x, y, width, height], iou }) => [`${x}, ${y}`, `${width} × ${height}`, iou.toFixed(3)];

  function table(caption, header, items, cells) {
    const line = (tag, texts, attributes = {}) =>
      element("tr", {}, ...texts.map((text) => element(tag, attributes, String(text))));
    return element(
      "table",
      {},
      element("caption", {}, `${caption} (${items.length})`),
      element("thead", {}, line("th", header, { scope: "col" })),
      element("tbody", {}, ...items.map((item) => line("td", cells(item)))),
    );
  }

  // Back to the tile of what was seen last, where it is among those shown; else the browser goes back to the link.
  function closed() {
    if (location.hash.startsWith("#image-")) history.replaceState(null, "", "#browser");
    if (series !== shown) return;
    makeStop(current);
    buttonOf(current).focus();
  }

  // #image-<id> in the address opens that image: links in the problems do, and so does a link handed on.
  function openFromAddress() {
    const row = rows.find(({ id }) => location.hash === `#image-${id}`);
    if (row) open(row);
  }

  // --------------------------------------------------------------------------------------------------------- layers

  const switches = [...document.querySelectorAll("[data-layer]")];

  function setLayer(layer, on) {
    document.body.classList.toggle(`show-${layer}`, on);
    switches.filter((input) => input.dataset.layer === layer).forEach((input) => (input.checked = on));
  }

  // --------------------------------------------------------------------------------------------------------- events

  switches.forEach((input) => {
    setLayer(input.dataset.layer, input.checked);
    input.addEventListener("change", () => setLayer(input.dataset.layer, input.checked));
  });
  byId("filters").addEventListener("input", update);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(update)); // once the controls are reset
  byId("disagreeing").addEventListener("click", () => {
    byId("filters").reset();
    byId("agreement").value = "disagree";
    byId("order").value = "disagreement";
    update();
  });
  byId("grid").addEventListener("keydown", moveInGrid);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => large.close());
  large.addEventListener("click", (event) => event.target === large && large.close()); // the ground behind it
  large.addEventListener("close", closed);
  large.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && !event.ctrlKey && !event.altKey && !event.metaKey) step(by);
  });
  addEventListener("hashchange", openFromAddress);

  fillSelects();
  update();
  openFromAddress();
})();
