"use strict";
// Asks which of two pictures is better. page.py says what the data are (PageData); read.py reads what is saved here.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const NAME = /^[\p{L}\p{N}][\p{L}\p{N} ._-]{0,39}$/u;
const HEAD = ["study", "rater", "repeat", "left", "right", "choice", "seconds"];
const panes = [...document.querySelectorAll(".pane")];

// ---- what a rater sees when: from the study and the name alone

function hash(text) {  // FNV-1a of the UTF-8 bytes
  let value = 2166136261;
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 16777619);
  return value >>> 0;
}

function randomFrom(seed) {  // mulberry32
  return () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffle(list, next) {
  for (let k = list.length - 1; k > 0; k--) {
    const other = Math.floor(next() * (k + 1));
    [list[k], list[other]] = [list[other], list[k]];
  }
  return list;
}

// Trials come again in the second half, those of the first, with the sides changed.
function plan(rater) {
  const next = randomFrom(hash(`${data.study}|${rater}`));
  const sides = shuffle(data.trials.map((_, k) => k % 2 === 1), next);
  const order = shuffle(data.trials.map((trial, k) => ({ trial, repeat: 0, turned: sides[k] })), next);
  const again = order.slice(0, data.repeats).map(({ trial, turned }) => ({ trial, repeat: 1, turned: !turned }));
  const half = Math.ceil(order.length / 2);
  return [...order.slice(0, half), ...shuffle([...order.slice(half), ...again], next)];
}

// ---- answers

let rater = "", asked = [], votes = [], shownAt = null;

const place = () => `lucidflux-vote|${data.study}|${rater}`;

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(place()) ?? "[]");
    return Array.isArray(kept) ? kept.slice(0, asked.length) : [];
  } catch { return []; }
}

function keep() {
  try { localStorage.setItem(place(), JSON.stringify(votes)); } catch { /* the page works without */ }
}

function sides({ trial: [first, second], turned }) { return turned ? [second, first] : [first, second]; }

function asCsv() {
  const rows = votes.map(({ choice, seconds }, k) => [data.study, rater, asked[k].repeat, ...sides(asked[k]), choice, seconds]);
  return [HEAD, ...rows].map((row) => `${row.join(",")}\n`).join("");
}

function save() {
  const url = URL.createObjectURL(new Blob([asCsv()], { type: "text/csv" }));
  const link = Object.assign(document.createElement("a"), { href: url, download: `votes-${rater}.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

function choose(choice) {
  if (shownAt === null) return;
  votes.push({ choice, seconds: Math.round((performance.now() - shownAt) / 100) / 10 });
  keep();
  ask();
}

function goBack() {
  if (!votes.length) return;
  votes.pop();
  keep();
  ask();
}

async function ask() {
  shownAt = null;
  const done = votes.length === asked.length, number = votes.length;
  $("start").hidden = true;
  $("asking").hidden = done;
  $("end").hidden = !done;
  if (done) {
    $("text").value = asCsv();
    $("download").focus();
    return;
  }
  $("progress").textContent = `${number + 1} of ${asked.length}`;
  $("back").disabled = number === 0;
  $("panes").classList.add("waiting");
  const [left, right] = sides(asked[number]), codes = { left, right, beside: asked[number].trial[2] };
  try {
    await Promise.all(panes.map((pane) => {
      pane.firstElementChild.src = data.pictures[codes[pane.dataset.side]];
      return pane.firstElementChild.decode();
    }));
  } catch {
    $("broken").hidden = false;
    return;
  }
  if (number !== votes.length) return;
  showWhole();
  $("panes").classList.remove("waiting");
  shownAt = performance.now();
}

// ---- one zoom for all pictures. scale: CSS pixels for a pixel of the outputs, null for the whole picture;
// u, v: the place of the outputs, in shares, that is in the middle of every pane.

const view = { scale: null, u: 0.5, v: 0.5 };
const size = () => { const { naturalWidth, naturalHeight } = panes[0].firstElementChild; return [naturalWidth, naturalHeight]; };
const whole = () => Math.min(panes[0].clientWidth / size()[0], panes[0].clientHeight / size()[1]);
const exact = () => 1 / devicePixelRatio;

function draw() {
  const [width, height] = size();
  if (!width) return;
  const scale = view.scale ?? whole();
  const middle = (at, length, room) => (length <= room ? 0.5 : Math.min(1 - room / 2 / length, Math.max(room / 2 / length, at)));
  view.u = middle(view.u, width * scale, panes[0].clientWidth);
  view.v = middle(view.v, height * scale, panes[0].clientHeight);
  for (const pane of panes) {
    const { style } = pane.firstElementChild, whole = (value) => Math.round(value * devicePixelRatio) / devicePixelRatio;
    style.width = `${width * scale}px`;
    style.height = `${height * scale}px`;
    style.left = `${whole(pane.clientWidth / 2 - view.u * width * scale)}px`;
    style.top = `${whole(pane.clientHeight / 2 - view.v * height * scale)}px`;
  }
  $("panes").classList.toggle("exact", scale >= exact());
  $("zoom").textContent = `${Math.round(scale * devicePixelRatio * 100)}%`;
  $("one").setAttribute("aria-pressed", String(scale === exact()));
  $("fit").setAttribute("aria-pressed", String(view.scale === null));
}

function showWhole() { Object.assign(view, { scale: null, u: 0.5, v: 0.5 }); draw(); }

function showExact() { view.scale = exact(); draw(); }

// x, y: the place that stays, from the middle of a pane in CSS pixels.
function zoom(factor, x = 0, y = 0) {
  const [width, height] = size(), before = view.scale ?? whole();
  const after = Math.min(16 * exact(), Math.max(Math.min(whole(), exact()), before * factor));
  view.u += (x / width) * (1 / before - 1 / after);
  view.v += (y / height) * (1 / before - 1 / after);
  view.scale = after;
  draw();
}

function move(dx, dy) {
  const [width, height] = size(), scale = view.scale ?? whole();
  view.u -= dx / (width * scale);
  view.v -= dy / (height * scale);
  draw();
}

function moveWith(frame) {
  let from = null;
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = event.target.closest(".pane")?.getBoundingClientRect();
    if (box) zoom(event.deltaY < 0 ? 1.25 : 0.8, event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2);
  }, { passive: false });
  frame.addEventListener("pointerdown", (event) => { from = event; frame.setPointerCapture(event.pointerId); });
  frame.addEventListener("pointermove", (event) => {
    if (!from) return;
    move(event.clientX - from.clientX, event.clientY - from.clientY);
    from = event;
  });
  for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, () => { from = null; });
}

// ---- start

function onKey(event) {
  if (event.target.tagName === "INPUT" || event.target.tagName === "TEXTAREA") return;
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat && !event.shiftKey || $("asking").hidden) return;
  const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
  const keys = {
    ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), Backspace: goBack, 1: showExact, 0: showWhole,
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8),
  };
  const does = event.shiftKey && moves[event.key] ? () => move(...moves[event.key]) : keys[event.key];
  if (does) { event.preventDefault(); does(); }
}

$("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("rater").value.normalize("NFC").trim();
  $("no-name").hidden = NAME.test(name);
  if (!NAME.test(name)) return;
  rater = name;
  asked = plan(rater);
  votes = recall();
  ask();
});
const buttons = { left: () => choose("left"), right: () => choose("right"), back: goBack, undo: goBack, save, download: save, one: showExact, fit: showWhole };
for (const [id, does] of Object.entries(buttons)) $(id).addEventListener("click", does);
document.addEventListener("keydown", onKey);
addEventListener("resize", draw);
moveWith($("panes"));
