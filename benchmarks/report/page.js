"use strict";
// Tables that sort, dots of every image, and a gallery. page.py says what the data are (PageData).
const data = House.data;
const $ = (id) => document.getElementById(id);
const MAX_ROWS = 200;
const CONFLICT = data.disagreement.some((v) => v !== null);  // one metric alone, or one method, has none

// ---- tables that sort by a click, or by Enter on the heading

function sortTable(table, column, heading) {
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  for (const body of table.tBodies) {  // what is not ranked stays below the line, published rows below that
    if (body.className === "line") continue;
    const rows = [...body.rows].map((row) => [row, value(row)]);
    const numeric = rows.every(([, v]) => v === "" || !Number.isNaN(Number(v)));
    rows.sort(([, a], [, b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");  // what has no value stands last, whatever the order
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows.map(([row]) => row));
  }
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sortTable(table, column, heading));
  });
}

// ---- the table of images

function perImage() {
  const metric = $("metric").value, a = $("method-a").value, b = $("method-b").value;
  const scores = data.scores[metric], sign = data.metrics[metric];
  const methods = data.methods.filter((method) => method in scores);
  return data.ids.map((id, k) => {
    const values = methods.map((method) => scores[method][k]);
    const there = values.filter((v) => v !== null);
    const spread = there.length > 1 ? Math.max(...there) - Math.min(...there) : null;
    const pair = [a, b].map((method) => scores[method]?.[k] ?? null);
    const gain = pair.includes(null) ? null : sign * (pair[0] - pair[1]);
    return { id, k, values, spread, gain, disagreement: data.disagreement[k], methods };
  });
}

const ORDERS = {
  disagreement: (x, y) => (y.disagreement ?? -1) - (x.disagreement ?? -1),
  spread: (x, y) => (y.spread ?? -1) - (x.spread ?? -1),
  regression: (x, y) => (x.gain ?? Infinity) - (y.gain ?? Infinity),
  id: (x, y) => x.k - y.k,
};

const shown = (v) => (v === null ? "" : Math.abs(v) < 1 ? v.toFixed(4) : Math.abs(v) < 20 ? v.toFixed(3) : v.toFixed(2));

function fillImages() {
  const rows = perImage().sort(ORDERS[$("order").value]);
  const table = $("images");
  const names = ["image", ...rows[0].methods, "spread", "gain of A over B", ...(CONFLICT ? ["disagreement"] : [])];
  table.tHead.replaceChildren(document.createElement("tr"));
  for (const name of names) table.tHead.rows[0].append(Object.assign(document.createElement("th"), { textContent: name }));
  const lines = rows.slice(0, MAX_ROWS).map((row) => {
    const line = document.createElement("tr");
    line.className = "pick";
    line.tabIndex = 0;
    line.dataset.id = line.title = row.id;
    for (const v of [row.id, ...row.values, row.spread, row.gain, ...(CONFLICT ? [row.disagreement] : [])]) {
      const cell = document.createElement("td");
      cell.textContent = typeof v === "string" ? v : shown(v);
      cell.dataset.value = v ?? "";
      line.append(cell);
    }
    return line;
  });
  table.tBodies[0].replaceChildren(...lines);
  makeSortable(table);
  $("images-note").textContent = rows.length > MAX_ROWS ? `The first ${MAX_ROWS} of ${rows.length} images in this order.` : "";
}

// ---- win rates

function showHeat() {
  for (const table of document.querySelectorAll(".heat")) table.hidden = table.dataset.metric !== $("heat-metric").value;
}

// ---- the scores of every image: a row of dots for each method, its mean and its interval above them

const MOST_DOTS = 1000;  // of a method, evenly taken

function drawScores(place) {
  const metric = place.dataset.chart, methods = data.methods.filter((method) => method in data.scores[metric]);
  const dots = methods.flatMap((method, row) => {
    const there = data.scores[metric][method].map((value, k) => ({ value, k, row })).filter(({ value }) => value !== null);
    const step = Math.ceil(there.length / MOST_DOTS);
    return there.filter((_, at) => at % step === 0).map((dot, at) => ({ ...dot, y: row + ((at * 0.618) % 1) * 0.5 - 0.25 }));
  }).sort((a, b) => a.value - b.value);
  if (!dots.length) return;
  const x = dots.map(({ value }) => value), low = x[0], high = x[x.length - 1], pad = (high - low || 1) * 0.02;
  const columns = [x, ...methods.map((_, row) => dots.map((dot) => (dot.row === row ? dot.y : null)))];
  const means = methods.map((method) => data.means[metric][method]);
  const cut = place.clientWidth < 480 ? 14 : 24, clip = (text) => (text.length > cut ? text.slice(0, cut - 1) + "…" : text);
  let near = null;
  function findNear(plot) {
    const { left, top, idx } = plot.cursor;
    near = null;
    if (idx === null || idx === undefined) return;
    let best = Infinity;
    for (let k = Math.max(0, idx - 60); k <= Math.min(dots.length - 1, idx + 60); k++) {
      const away = Math.hypot(plot.valToPos(x[k], "x") - left, plot.valToPos(dots[k].y, "y") - top);
      if (away < best) [best, near] = [away, k];
    }
  }
  function drawMeans(plot) {
    const { ctx } = plot, unit = House.ratio();
    ctx.save();
    means.forEach(([mean, from, to], row) => {
      const at = (v) => plot.valToPos(v, "x", true), y = (v) => plot.valToPos(v, "y", true);
      ctx.beginPath();
      ctx.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
      ctx.clip();
      if (from !== null && to !== null) {
        ctx.fillStyle = House.colour("--bad");
        ctx.fillRect(at(from), y(row) - 1.5 * unit, Math.max(unit, at(to) - at(from)), 3 * unit);
      }
      if (mean !== null) {
        ctx.fillStyle = House.colour("--ink");
        ctx.fillRect(at(mean) - unit, y(row - 0.36), 2 * unit, y(row + 0.36) - y(row - 0.36));
      }
    });
    ctx.restore();
  }
  House.make(place, {
    height: 46 + 30 * methods.length,
    scales: { x: { time: false, range: [low - pad, high + pad] }, y: { dir: -1, range: [-0.6, methods.length - 0.4] } },
    series: [{}, ...methods.map((label) => ({ label, paths: () => null, stroke: () => House.colour("--blue"),
      points: { show: true, size: 6, width: 0, fill: () => House.colour("--blue") + "a0" } }))],
    axes: [House.axis({ size: 26, values: (_, ticks) => ticks.map((v) => House.short(+v.toPrecision(12))) }),
      House.axis({ grid: { show: false }, splits: () => methods.map((_, row) => row), values: () => methods.map(clip),
        size: 12 + 6.6 * Math.max(...methods.map((method) => clip(method).length)) })],
    cursor: { dataIdx: (plot, series, index) => { if (series === 0) { findNear(plot); return index; } return near !== null && dots[near].row === series - 1 ? near : null; } },
    hooks: { draw: [drawMeans] },
    top: (plot, index) => plot.valToPos(dots[index].y, "y"),
  }, columns, (plot, index) => (index === null || near === null ? [[null, "point at a dot to read it"]]
    : [[null, methods[dots[near].row]], [null, data.ids[dots[near].k]], [null, House.short(x[near])]]));
  place.addEventListener("click", () => { if (near !== null) openImage(data.ids[dots[near].k]); });
}

// ---- the gallery: a slider between two pictures, all others beneath, one zoom for all

const view = { image: 0, scale: 1, x: 0, y: 0 };

function gallery() { return data.gallery[view.image]; }

function fillGallery() {
  const { id, pictures } = gallery();
  const names = Object.keys(pictures);
  const best = data.methods.find((method) => names.includes(method) && method !== names[0]) ?? names[0];
  for (const [select, fallback] of [[$("left"), names[0]], [$("right"), best]]) {
    const kept = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    select.value = names.includes(kept) ? kept : fallback;
  }
  $("image").value = id;
  $("tiles").replaceChildren(...names.map((name) => {
    const tile = document.createElement("div");
    tile.className = "pane";
    tile.dataset.name = name;
    const picture = new Image();
    picture.alt = `${id}, ${name}`;
    picture.src = pictures[name];
    const tag = Object.assign(document.createElement("span"), { className: "tag left", textContent: name });
    tile.append(picture, tag);
    return tile;
  }));
  compare();
}

function compare() {
  const { id, pictures } = gallery();
  for (const side of ["left", "right"]) {
    const name = $(side).value;
    $(`${side}-picture`).src = pictures[name];
    $(`${side}-picture`).alt = `${id}, ${name}`;
    $(`${side}-tag`).textContent = name;
  }
  for (const tile of document.querySelectorAll(".pane")) {
    tile.classList.toggle("chosen", [$("left").value, $("right").value].includes(tile.dataset.name));
  }
  place();
}

// Every frame has the shape of the picture, so that one place in shares of the frame is the same place in all of them.
function shapeFrames(picture) {
  document.documentElement.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
}

function place() {
  const limit = 1 - view.scale;  // in shares of the frame: the picture always covers it
  view.x = Math.min(0, Math.max(limit, view.x));
  view.y = Math.min(0, Math.max(limit, view.y));
  const move = `translate(${view.x * 100}%, ${view.y * 100}%) scale(${view.scale})`;
  for (const picture of document.querySelectorAll(".viewer img, .pane img")) picture.style.transform = move;
  document.body.classList.toggle("zoomed", view.scale >= 3);
  const at = Number($("slider").value);
  $("clip").style.clipPath = `inset(0 ${100 - at}% 0 0)`;
  $("seam").style.left = `calc(${at}% - 1px)`;
  $("zoom").textContent = `${Math.round(view.scale * 100)}%`;
}

function zoomAt(factor, x, y) {
  const scale = Math.min(16, Math.max(1, view.scale * factor));
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  place();
}

function go(step) {
  view.image = (view.image + step + data.gallery.length) % data.gallery.length;
  fillGallery();
}

function openImage(id) {
  const found = data.gallery.findIndex((entry) => entry.id === id);
  if (found < 0) return;
  view.image = found;
  fillGallery();
  $("gallery").scrollIntoView({ block: "start" });
}

function moveWith(frame) {
  let from = null;
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = event.target.closest(".viewer, .pane").getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    zoomAt(event.deltaY < 0 ? 1.25 : 0.8, x, y);
  }, { passive: false });
  frame.addEventListener("pointerdown", (event) => {
    const box = event.target.closest(".viewer, .pane")?.getBoundingClientRect();
    if (!box) return;
    from = { x: event.clientX, y: event.clientY, box };
    frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener("pointermove", (event) => {
    if (!from) return;
    view.x += (event.clientX - from.x) / from.box.width;
    view.y += (event.clientY - from.y) / from.box.height;
    from = { ...from, x: event.clientX, y: event.clientY };
    place();
  });
  for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, () => { from = null; });
}

function onKey(event) {
  if (["SELECT", "INPUT"].includes(event.target.tagName) || event.ctrlKey || event.metaKey) return;
  const slider = $("slider");
  const keys = {
    n: () => go(1), p: () => go(-1), "+": () => zoomAt(1.25, 0.5, 0.5), "=": () => zoomAt(1.25, 0.5, 0.5),
    "-": () => zoomAt(0.8, 0.5, 0.5), 0: () => zoomAt(1e-3, 0.5, 0.5),
    "[": () => { slider.value = Number(slider.value) - 5; place(); },
    "]": () => { slider.value = Number(slider.value) + 5; place(); },
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
}

// ---- start

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("[data-chart]").forEach(drawScores);
if ($("images")) {
  if (!CONFLICT) $("order").querySelector("[value=disagreement]").remove();
  for (const id of ["metric", "method-a", "method-b", "order"]) $(id).addEventListener("change", fillImages);
  $("images").addEventListener("click", (event) => openImage(event.target.closest("tbody tr")?.dataset.id));
  $("images").addEventListener("keydown", (event) => {
    if (event.key === "Enter") openImage(event.target.closest("tbody tr")?.dataset.id);
  });
  fillImages();
}
if ($("heat-metric")) { $("heat-metric").addEventListener("change", showHeat); showHeat(); }
if (data.gallery.length) {
  $("image").replaceChildren(...data.gallery.map(({ id }) => new Option(id, id)));
  $("image").addEventListener("change", () => openImage($("image").value));
  for (const id of ["left", "right"]) $(id).addEventListener("change", compare);
  $("slider").addEventListener("input", place);
  $("right-picture").addEventListener("load", (event) => shapeFrames(event.target));
  moveWith($("viewer"));
  moveWith($("tiles"));
  document.addEventListener("keydown", onKey);
  fillGallery();
}
