"use strict";
// The page: sliders over histograms on the left, what they do on the right. Texts of others get in as textContent alone.

const HUES = [265, 355, 200, 45, 285, 230, 18, 330, 188, 305, 248, 210, 62];  // of the rules, in their order
const MORE = 100, TILES = 6, BINS = 48, STEPS = 1000;
const $ = id => document.getElementById(id);
const whole = value => Math.round(value).toLocaleString("en-US");
const short = value => Number.isInteger(value) ? value.toLocaleString("en-US") : String(+value.toPrecision(4));

/** An element with properties, and with children that are elements or text. */
function el(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter(child => child !== null));
  return made;
}

async function unpack(name, kind) {
  const node = $("column-" + name), text = atob(node.textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  node.remove();
  const open = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = await new Response(open).arrayBuffer();
  if (kind === "Text") return new TextDecoder().decode(data).split("\n");
  return new {Int8: Int8Array, Uint8: Uint8Array, Int32: Int32Array, Float64: Float64Array}[kind](data);
}

async function start() {
  const about = JSON.parse($("data").textContent), columns = {};
  await Promise.all(Object.entries(about.columns).map(async ([name, kind]) => { columns[name] = await unpack(name, kind); }));
  const counter = makeCounter(about, columns), page = makeSettings(about), n = columns.fixed.length;
  const marks = {out: new Set(), in: new Set()}, score = columns["measure-score"] ?? null;
  const meaning = new Map(about.reasons), names = about.reasons.map(([name]) => name);
  const reasonOf = found => found === PENDING ? "not_measured" : found === KEPT ? "kept" : names[found];
  const say = reason => reason.replaceAll("_", " ").replace("iqa", "IQA");
  const isKept = found => found === KEPT || found === counter.code.included;
  const keyOf = i => Array.from(columns.keys.subarray(10 * i, 10 * i + 10), b => b.toString(16).padStart(2, "0")).join("");
  const pictures = new Map(Object.entries(about.pictures).map(([row, urls]) => [+row, urls]));
  const changedFirst = () => about.rules.find(rule => rule.known && yours.rules[rule.setting] !== about.own.rules[rule.setting])?.setting ?? null;
  let yours = page.fromHash(location.hash, marks), shown = "you", found = null, touched = changedFirst(), tab = "kept", search = "";
  let toml = false, sorting = ["name", 1], room = MORE, piece = 0, waiting = false, viewed = -1;
  const settings = () => shown === "you" ? yours : shown === "own" ? about.own : about.preset;

  // ---- rules

  const axes = new Map();
  function axisOf(measure, log, limits) {
    if (axes.has(measure)) return axes.get(measure);
    const values = columns["measure-" + measure], to = log ? v => Math.log10(Math.max(0, v) + 1) : v => v;
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < n; i++) if (columns.fixed[i] === KEPT && Number.isFinite(values[i])) {
      low = Math.min(low, values[i]);
      high = Math.max(high, values[i]);
    }
    for (const limit of limits) if (Number.isFinite(limit)) { low = Math.min(low, limit); high = Math.max(high, limit); }
    if (!(high > low)) [low, high] = Number.isFinite(low) ? [low, low + 1] : [0, 1];
    const start = to(low), span = to(high) - start, place = value => (to(value) - start) / span;
    const bins = new Uint8Array(n).fill(255), all = new Float64Array(BINS);
    for (let i = 0; i < n; i++) if (columns.fixed[i] === KEPT && Number.isFinite(values[i])) {
      bins[i] = Math.min(BINS - 1, Math.floor(place(values[i]) * BINS));
      all[bins[i]] += counter.weightOf(i);
    }
    const back = at => log ? 10 ** (start + at * span) - 1 : start + at * span;
    axes.set(measure, {values, place, back, bins, all, low, high});
    return axes.get(measure);
  }

  function drawing(axis) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${BINS} 48`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const parts = ["path", "path", "line"].map(tag => document.createElementNS(svg.namespaceURI, tag));
    parts[0].setAttribute("class", "all");
    parts[1].setAttribute("class", "in");
    svg.append(...parts);
    const most = Math.sqrt(Math.max(1, ...axis.all));
    const path = heights => Array.from(heights, (h, at) => `M${at + .04} 48v${-46 * Math.sqrt(h) / most}h.92V48z`).join("");
    parts[0].setAttribute("d", path(axis.all));
    return {svg, draw(limit) {
      const inside = new Float64Array(BINS);
      for (let i = 0; i < n; i++) if (axis.bins[i] !== 255 && isKept(found.codes[i])) inside[axis.bins[i]] += counter.weightOf(i);
      parts[1].setAttribute("d", path(inside));
      const x = limit === null ? -1 : Math.min(BINS, Math.max(0, axis.place(limit) * BINS));
      for (const [name, value] of [["x1", x], ["x2", x], ["y1", 0], ["y2", 48]]) parts[2].setAttribute(name, value);
    }};
  }

  const tidy = (rule, value) => rule.whole ? Math.round(+value.toPrecision(3)) : +value.toPrecision(3);
  const blocks = [];

  function change(name, edit) {
    if (shown !== "you") yours = page.copy(settings());
    shown = "you";
    touched = name;
    edit(yours);
    refresh();
  }

  function ruleBlock(rule) {
    const id = "rule-" + rule.setting, lost = el("span", {className: "lost"});
    const box = el("section", {className: "rule", id}), head = el("div", {className: "head"});
    const limits = [about.own, about.preset].map(each => each?.rules[rule.setting]).filter(v => v !== null && v !== undefined);
    const axis = axisOf(rule.measure, rule.log, limits), {svg, draw} = drawing(axis);
    const range = el("input", {type: "range", min: 0, max: STEPS, id: id + "-range"});
    const field = el("input", {type: "number", step: rule.whole ? 1 : "any", id: id + "-value"});
    field.setAttribute("aria-label", rule.title + ", value");
    const label = el("label", {htmlFor: range.id}, rule.title);
    const on = rule.history ? el("input", {type: "checkbox", id: id + "-on"}) : null;
    on?.setAttribute("aria-label", rule.title + ", in force");
    const put = value => change(rule.setting, own => {
      own.rules[rule.setting] = value;
      const other = about.rules.find(each => each.measure === rule.measure && each.sense !== rule.sense);
      if (other && value !== null && (rule.sense === "min" ? own.rules[other.setting] < value : own.rules[other.setting] > value)) {
        own.rules[other.setting] = value;  // the two bounds of a measure do not cross
      }
    });
    range.addEventListener("input", () => put(page.bounded(rule, tidy(rule, axis.back(range.value / STEPS)))));
    field.addEventListener("input", () => {
      if (Number.isFinite(field.valueAsNumber)) put(page.bounded(rule, field.valueAsNumber));
    });
    on?.addEventListener("input", () => put(on.checked ? page.bounded(rule, tidy(rule, axis.back(rule.sense === "min" ? .05 : .95))) : null));
    head.append(el("h3", {}, on, label, lost), field);
    box.append(head, svg, range);
    box.addEventListener("focusin", () => { if (touched !== rule.setting) { touched = rule.setting; refresh(); } });
    blocks.push(() => {
      const limit = settings().rules[rule.setting], active = limit !== null && limit !== undefined;
      draw(active ? limit : null);
      if (on) on.checked = active;
      range.disabled = field.disabled = !active;
      range.value = active ? Math.round(axis.place(limit) * STEPS) : 0;
      range.setAttribute("aria-valuetext", active ? short(limit) + " " + rule.unit : "off");
      if (document.activeElement !== field) field.value = active ? limit : "";
      lost.textContent = active ? `${whole(lostBy(rule, limit))} fail it` : "off";
      box.classList.toggle("touched", touched === rule.setting);
    });
    return box;
  }

  function lostBy(rule, limit) {
    const values = columns["measure-" + rule.measure], least = rule.sense === "min";
    let sum = 0;
    for (let i = 0; i < n; i++) if (columns.fixed[i] === KEPT && (least ? values[i] < limit : values[i] > limit)) sum += counter.weightOf(i);
    return sum;
  }

  function cutBlock() {
    const box = el("section", {className: "rule", id: "rule-cut"}), lost = el("span", {className: "lost"});
    const axis = axisOf("score", false, []), {svg, draw} = drawing(axis), modes = el("div", {className: "modes"});
    const range = el("input", {type: "range", min: 0, max: STEPS, id: "rule-cut-range"});
    const field = el("input", {type: "text", inputMode: "decimal", id: "rule-cut-value"});
    const hint = el("p", {className: "note"}), words = {fraction: "best share", k: "best N", bound: "a bound", all: "all"};
    range.setAttribute("aria-label", "Cut by " + about.metric);
    field.setAttribute("aria-label", `Cut by ${about.metric}, value`);
    const radios = Object.entries(words).map(([mode, text]) => {
      const radio = el("input", {type: "radio", name: "mode", value: mode});
      radio.addEventListener("input", () => change("cut", own => {
        if (mode === "bound" && own.cut.bound === null) own.cut.bound = edge() ?? tidy({}, axis.back(.5));
        if (mode === "k" && about.own.cut.mode !== "k") own.cut.k = Math.max(1, Math.round(found.kept));
        own.cut.mode = mode;
      }));
      modes.append(el("label", {}, radio, " " + text));
      return radio;
    });
    const put = (value, text) => change("cut", ({cut}) => {
      if (cut.mode === "fraction") cut.fraction = page.readShare(text) ?? cut.fraction;
      if (cut.mode === "k" && value >= 1) cut.k = Math.round(value);
      if (cut.mode === "bound" && Number.isFinite(value)) cut.bound = value;
    });
    range.addEventListener("input", () => {
      const at = range.value / STEPS, {mode} = settings().cut;
      const value = mode === "bound" ? tidy({}, axis.back(at)) : mode === "k" ? Math.max(1, Math.round(at * found.ranked.length)) : at;
      put(value, Math.max(1, +range.value) / STEPS + "");
    });
    field.addEventListener("input", () => put(field.value.trim() === "" ? NaN : +field.value, field.value));
    box.addEventListener("focusin", () => { if (touched !== "cut") { touched = "cut"; refresh(); } });
    box.append(el("div", {className: "head"}, el("h3", {}, `Score: ${about.metric}`, lost), field), svg, range, modes, hint);
    blocks.push(() => {
      const {cut} = settings(), at = cut.mode === "bound" ? cut.bound : edge();
      draw(at);
      for (const radio of radios) radio.checked = radio.value === cut.mode;
      range.disabled = field.disabled = cut.mode === "all";
      const scored = Math.max(1, found.ranked.length);
      range.value = Math.round(STEPS * ({fraction: +cut.fraction, k: cut.k / scored, bound: axis.place(cut.bound ?? 0)}[cut.mode] ?? 1));
      range.setAttribute("aria-valuetext", `${words[cut.mode]} ${cut[cut.mode] ?? ""}`);
      if (document.activeElement !== field) field.value = cut[cut.mode] ?? "";
      lost.textContent = `${whole(found.counts[1 + (cut.mode === "bound" ? counter.code.where_not_met : counter.code.low_iqa)])} fail it`;
      const better = about.lower_is_better ? "lower is better" : "higher is better";
      hint.textContent = `${better}${at === null ? "" : `; the cut lies at ${short(at)}`}${cut.mode === "bound" ? "; becomes --where" : ""}`;
      box.classList.toggle("touched", touched === "cut");
    });
    return box;
  }

  /** The score of the last one inside the cut. */
  const edge = () => {
    const inside = found.ranked.filter(i => found.codes[i] === KEPT);
    return inside.length ? score[inside.at(-1)] : null;
  };

  // ---- words

  const verdict = i => say(reasonOf(found.codes[i]));

  function whyOf(i) {
    const code = found.codes[i], reason = reasonOf(code), lines = [];
    if (code === PENDING) lines.push("Passes all that is known of it; a measure or the score is not there yet.");
    else if (isKept(code)) lines.push(code === KEPT ? "Kept." : "Kept by hand.");
    else lines.push(`Not kept: ${say(reason)} (${meaning.get(reason)}).`);
    if (columns.fixed[i] === KEPT) for (const rule of about.rules) {
      const limit = settings().rules[rule.setting], values = columns["measure-" + rule.measure];
      if (!values || !Number.isFinite(values[i])) continue;
      const bound = limit === null ? "off" : `${rule.sense === "min" ? "at least" : "at most"} ${short(limit)}`;
      const bad = limit !== null && (rule.sense === "min" ? values[i] < limit : values[i] > limit);
      const sign = limit === null ? "·" : bad ? "✗" : "✓";
      lines.push(`${sign} ${rule.title.replace(/ [≥≤]$/, "")}: ${[short(values[i]), rule.unit].join(" ").trim()} (${bound})`);
    }
    const at = found.ranked.indexOf(i);
    if (score && Number.isFinite(score[i])) {
      lines.push(`${about.metric}: ${short(score[i])}${at >= 0 ? `, place ${whole(at + 1)} of ${whole(found.ranked.length)} scored survivors` : ""}`);
    }
    if (found.codes[i] !== counter.own.codes[i]) lines.push(`As selected: ${say(reasonOf(counter.own.codes[i]))}.`);
    return lines;
  }

  // ---- pictures

  const measureOf = name => name === "cut" ? score : columns["measure-" + about.rules.find(rule => rule.setting === name).measure];

  function tile(i, values) {
    const urls = pictures.get(i), before = isKept(counter.own.codes[i]), now = isKept(found.codes[i]);
    const state = now && !before ? "gained" : before && !now ? "lost" : "";
    const told = state === "gained" ? "newly kept" : state === "lost" ? `newly lost: ${verdict(i)}` : verdict(i);
    const image = el("img", {src: urls[piece], alt: "", loading: "lazy"});
    const made = el("button", {type: "button", className: `tile ${state}`, title: columns.names[i]},
      el("span", {className: "frame"}, image),
      values && Number.isFinite(values[i]) ? el("span", {className: "value"}, short(values[i])) : null,
      el("span", {className: now ? "verdict kept" : "verdict"}, told), el("span", {className: "note"}, columns.names[i]));
    made.addEventListener("click", () => openView(i));
    return made;
  }

  function showCut() {
    const place = $("cut"), name = touched ?? (score ? "cut" : "min_laplacian_variance");
    const rule = about.rules.find(each => each.setting === name), values = measureOf(name);
    const limit = rule ? settings().rules[name] : settings().cut.mode === "bound" ? settings().cut.bound : edge();
    const title = rule ? rule.title : `Score: ${about.metric}`;
    if (!values || limit === null || limit === undefined) {
      $("cut-title").textContent = `At the cut: ${title} is off`;
      place.replaceChildren();
      return;
    }
    $("cut-title").textContent = `At the cut: ${title} ${short(limit)}`;
    const least = rule ? rule.sense === "min" : !about.lower_is_better;
    const passes = i => least ? values[i] >= limit : values[i] <= limit;
    const some = [...pictures.keys()].filter(i => columns.fixed[i] === KEPT && Number.isFinite(values[i]))
      .filter(i => rule || found.codes[i] === KEPT || found.codes[i] === counter.code.low_iqa || found.codes[i] === counter.code.where_not_met);
    some.sort((a, b) => Math.abs(values[a] - limit) - Math.abs(values[b] - limit) || a - b);
    place.replaceChildren(...[["Just outside", i => !passes(i)], ["Just inside", passes]].flatMap(([word, side]) => {
      const near = some.filter(side).slice(0, TILES), far = near.length ? Math.abs(values[near.at(-1)] - limit) : 0;
      let nearer = 0;
      for (let i = 0; i < n; i++) {
        if (columns.fixed[i] === KEPT && !pictures.has(i) && side(i) && Math.abs(values[i] - limit) < far) nearer += counter.weightOf(i);
      }
      const note = near.length ? nearer ? ` · ${whole(nearer)} as near have no picture here` : "" : ": none with a picture";
      const strip = el("div", {className: "strip"}, ...near.map(i => tile(i, values)));
      return [el("p", {className: "side"}, word, el("small", {}, note)), ...(near.length ? [strip] : [])];
    }));
  }

  function walk(event) {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key], tiles = [...event.currentTarget.querySelectorAll(".tile")];
    const at = tiles.indexOf(document.activeElement);
    if (step && at >= 0) { event.preventDefault(); tiles[Math.min(tiles.length - 1, Math.max(0, at + step))].focus(); }
  }

  function openView(i) {
    viewed = i;
    $("view-name").textContent = columns.names[i];
    const urls = pictures.get(i);
    $("view-picture").replaceChildren(...(urls ? [enlarged(urls[piece])] : [el("p", {className: "note"}, "No picture of it in this page.")]));
    const kept = isKept(found.codes[i]), readable = !names.slice(0, about.reasons.findIndex(([name]) => name === "opted_out")).includes(reasonOf(columns.fixed[i]));
    const mark = (name, text) => {
      const button = el("button", {type: "button", id: "mark-" + name}, text);
      button.setAttribute("aria-pressed", marks[name].has(keyOf(i)));
      button.addEventListener("click", () => {
        const key = keyOf(i), other = name === "out" ? marks.in : marks.out;
        if (!marks[name].delete(key)) { marks[name].add(key); other.delete(key); }
        refresh();
        openView(i);
      });
      return button;
    };
    $("view-why").replaceChildren(el("ul", {}, ...whyOf(i).map(line => el("li", {}, line))),
      ...(readable ? [el("div", {className: "buttons"}, mark("out", kept ? "A mistake: leave it out" : "Leave it out always"),
        mark("in", kept ? "Keep it always" : "A mistake: keep it"))] : []));
    if (!$("view").open) $("view").showModal();
  }

  function enlarged(url) {
    const image = el("img", {src: url, alt: `${columns.names[viewed]}, enlarged three times`});
    image.addEventListener("load", () => { image.width = 3 * image.naturalWidth; });
    return image;
  }

  // ---- lists

  function rowsTable(rows, heading) {
    const part = rows.slice(0, room);
    const table = el("table", {}, el("thead", {}, el("tr", {}, ...heading)), el("tbody", {}, ...part.map(i => {
      const open = el("button", {type: "button"}, columns.names[i] || "(no name)");
      open.addEventListener("click", () => openView(i));
      const before = found.codes[i] === counter.own.codes[i] ? null : el("small", {}, ` (${say(reasonOf(counter.own.codes[i]))} before)`);
      return el("tr", {}, el("td", {}, open), el("td", {}, verdict(i), before),
        el("td", {className: "n"}, score && Number.isFinite(score[i]) ? short(score[i]) : "–"));
    })));
    const more = el("button", {type: "button"}, `${whole(rows.length - part.length)} more`);
    more.addEventListener("click", () => { room += 5 * MORE; refresh(); });
    return [table, ...(rows.length > part.length ? [more] : [])];
  }

  function heading(sortable) {
    return [["name", "Name", ""], ["verdict", "What becomes of it", ""], ["score", about.metric ?? "Score", "n"]].map(([name, text, kind]) => {
      const cell = el("th", {scope: "col", className: kind});
      if (!sortable) { cell.textContent = text; return cell; }
      const sort = el("button", {type: "button"}, text);
      cell.setAttribute("aria-sort", sorting[0] !== name ? "none" : sorting[1] > 0 ? "ascending" : "descending");
      sort.addEventListener("click", () => { sorting = [name, sorting[0] === name ? -sorting[1] : 1]; refresh(); });
      cell.append(sort);
      return cell;
    });
  }

  function showChanged() {
    const gained = [], lost = [];
    for (let i = 0; i < n; i++) {
      const now = isKept(found.codes[i]), before = isKept(counter.own.codes[i]);
      if (now && !before) gained.push(i); else if (before && !now) lost.push(i);
    }
    const by = {name: i => columns.names[i], verdict, score: i => score?.[i] ?? 0}[sorting[0]];
    const order = (a, b) => { const x = by(a), y = by(b); return sorting[1] * (x < y ? -1 : x > y ? 1 : a - b); };
    const part = (word, rows) => rows.length ? [el("h3", {}, `${whole(rows.length)} ${word}${about.sample ? " in the sample" : ""}`),
      ...rowsTable(rows.sort(order), heading(true))] : [];
    const rules = page.differences(settings(), counter.sameCut)
      .map(([name, before, now]) => el("li", {}, el("code", {}, name), ` ${before} → ${now}`));
    $("differs").replaceChildren(...rules);
    $("changed").replaceChildren(...(gained.length + lost.length ? [...part("gained", gained), ...part("lost", lost)]
      : [el("p", {className: "note"}, "Nothing: the settings keep what the run keeps.")]));
  }

  function showAll() {
    const rows = [], asked = search.toLowerCase();
    for (let i = 0; i < n; i++) {
      if (reasonOf(found.codes[i]) === tab && (!asked || columns.names[i].toLowerCase().includes(asked))) rows.push(i);
    }
    const rule = about.rules.find(each => each.reason === tab && columns["measure-" + each.measure]);
    const values = rule ? columns["measure-" + rule.measure] : score, sorted = rows.filter(i => pictures.has(i));
    if (values) sorted.sort((a, b) => values[a] - values[b]);
    $("strip").replaceChildren(...sorted.slice(0, MORE).map(i => tile(i, values)));
    $("all-title").textContent = `All: ${say(tab)}${meaning.has(tab) ? `, ${meaning.get(tab)}` : ""}`;
    $("list").replaceChildren(...(rows.length ? rowsTable(rows, heading(false)) : [el("p", {className: "note"}, "None.")]));
  }

  /** Green what is kept, greys what could not be read, a hue each for the rules. */
  function colourOf(reason) {
    if (reason === "kept" || reason === "included") return `hsl(${reason === "kept" ? 145 : 165} 46% 34%)`;
    const at = names.indexOf(reason) - names.indexOf("opted_out");
    if (at < 0) return `hsl(215 10% ${38 + (at + names.length) % 5 * 7}%)`;
    return `hsl(${HUES[at]} 50% ${at % 2 ? 42 : 54}%)`;
  }

  function showFunnel() {
    const entries = [["kept", found.counts[0]], ...names.map((name, at) => [name, found.counts[1 + at]]),
      ["not_measured", found.counts.at(-1)]].filter(([name, count]) => count > 0 || name === "kept" || name === tab);
    const about_ = about.sample && found.low !== found.high ? "≈" : "";
    const make = (name, count, bar) => {
      const button = el("button", {type: "button"});
      button.style.setProperty("--own", colourOf(name));
      button.setAttribute("aria-pressed", tab === name);
      if (bar) { button.style.flexGrow = count; button.setAttribute("aria-label", `${say(name)} ${whole(count)}`); button.title = `${say(name)} ${whole(count)}`; }
      else button.append(el("i"), say(name), el("b", {}, about_ + whole(count)));
      button.dataset.reason = name;
      button.addEventListener("click", () => { tab = name; room = MORE; refresh(); });
      return button;
    };
    $("bar").replaceChildren(...entries.filter(([, count]) => count > 0).map(([name, count]) => make(name, count, true)));
    $("tabs").replaceChildren(...entries.map(([name, count]) => make(name, count, false)));
  }

  function showHead() {
    const before = about.own_counts[0] + about.own_counts[1 + counter.code.included], waits = found.unscored + found.unmeasured;
    $("before").textContent = `${whole(about.candidates)} candidates, ${whole(before)} kept as selected`;
    $("kept").textContent = `${waits && !found.open ? "at least " : found.open ? "about " : ""}${whole(waits ? found.low : found.kept)}`;
    const notes = [];
    if (found.low !== found.high && !waits) notes.push(`between ${whole(found.low)} and ${whole(found.high)}`);
    if (found.unscored) notes.push(`${whole(found.unscored)} to be scored`);
    if (found.unmeasured) notes.push(`${whole(found.unmeasured)} to be measured`);
    if (found.open) notes.push(about.near_followed ? "then near-duplicates are compared" : "too many near-duplicates to follow here");
    $("kept-note").textContent = notes.join("; ");
    for (const name of ["you", "own", "preset"]) $("show-" + name).setAttribute("aria-pressed", shown === name);
  }

  function showFoot() {
    const command = toml ? page.toToml : page.toCommand;
    $("command").value = command(settings(), marks, counter.sameCut);
    $("toml").setAttribute("aria-pressed", toml);
    for (const [name, id] of [["out", "save-out"], ["in", "save-in"]]) {
      const link = $(id), keys = [...marks[name]].sort();
      if (link.href) URL.revokeObjectURL(link.href);
      link.hidden = keys.length === 0;
      link.textContent = `${link.download} (${keys.length})`;
      link.href = URL.createObjectURL(new Blob([keys.map(key => key + "\n").join("")], {type: "text/plain"}));
    }
    $("no-marks").hidden = marks.out.size + marks.in.size > 0;
    const hash = page.toHash(shown === "you" ? yours : settings(), marks);
    if (location.hash.replace(/^#/, "") !== hash) history.replaceState(null, "", "#" + hash);
  }

  // ---- all together

  function refreshNow() {
    waiting = false;
    const focused = document.activeElement?.dataset?.reason;
    found = counter.count(settings());
    for (const show of [showHead, ...blocks, showFunnel, showCut, showChanged, showAll, showFoot]) show();
    if (focused) document.querySelector(`#tabs [data-reason="${focused}"]`)?.focus();
  }

  function refresh() {
    if (!waiting) { waiting = true; requestAnimationFrame(refreshNow); }
  }

  $("rules").append(...about.rules.filter(rule => rule.known).map(ruleBlock), ...(score ? [cutBlock()] : []));
  const unknown = about.rules.filter(rule => !rule.known);
  if (unknown.length) {
    const offered = unknown.map(rule => el("li", {}, `${rule.title}: `, el("code", {}, `rules.${rule.setting}`)));
    $("rules").append(el("section", {className: "rule"}, el("h3", {}, "Not measured yet"), el("ul", {}, ...offered),
      el("p", {className: "note"}, "select --set measures them")));
  }
  const also = [about.where && `--where ${about.where}`, about.near_duplicates !== null && `near-duplicates within ${about.near_duplicates} bits`,
    about.forbid.length && `benchmarks: ${about.forbid.join(", ")}`, about.opt_out.length && `opt-out: ${about.opt_out.join(", ")}`].filter(Boolean);
  $("further").textContent = also.length ? `Also in force: ${also.join("; ")}` : "";
  const show = (name, at = null) => { shown = name; touched = at; refresh(); };
  $("show-you").addEventListener("click", () => show("you"));
  $("show-own").addEventListener("click", () => show("own"));
  $("show-preset").addEventListener("click", () => show("preset"));
  $("show-preset").hidden = about.preset === null;
  $("show-preset").title = "its rules and its cut; the metric and what else is in force stay as the run has them";
  $("show-preset").textContent = `Preset ${about.preset_name}`;
  $("copy").addEventListener("click", () => {
    $("command").select();
    document.execCommand("copy");  // the clipboard's own interface asks for a permission that files are not given
    $("copy").textContent = "Copied";
    setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
  });
  $("toml").addEventListener("click", () => { toml = !toml; refresh(); });
  $("reset").addEventListener("click", () => { yours = page.copy(about.own); marks.out.clear(); marks.in.clear(); show("you"); });
  $("search").addEventListener("input", () => { search = $("search").value; room = MORE; refresh(); });
  $("pieces").addEventListener("input", event => { piece = +event.target.value; refresh(); });
  for (const id of ["cut", "strip"]) $(id).addEventListener("keydown", walk);
  $("view").addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key], tiles = [...document.querySelectorAll("#cut .tile")];
    const at = tiles.findIndex(each => each.title === columns.names[viewed]);
    if (step && at >= 0 && tiles[at + step]) { event.preventDefault(); tiles[at + step].click(); }
  });
  addEventListener("hashchange", () => { marks.out.clear(); marks.in.clear(); yours = page.fromHash(location.hash, marks); show("you", changedFirst()); });
  const header = document.querySelector("header");
  new ResizeObserver(() => document.body.style.setProperty("--head", header.offsetHeight + "px")).observe(header);
  if (matchMedia("(max-width: 760px)").matches) $("drawer").open = false;
  refreshNow();
  globalThis.explore = {about, columns, counter, page};
  document.documentElement.dataset.ready = "yes";
}

start();
