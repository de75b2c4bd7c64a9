"use strict";
// Charts of the page's data, by uPlot: drag zooms, a double click or 0 shows the whole, arrows read values.
// charts.py says what a chart is. A page with charts of its own gives its options to `House.make`.

const House = (() => {
  const node = document.getElementById("data"), data = node ? JSON.parse(node.textContent) : {};
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const ratio = () => devicePixelRatio || 1;
  const made = [];

  /** Whole numbers with commas, others to four digits. */
  function short(value) {
    if (value === null || value === undefined) return "–";
    value = +value.toPrecision(10);
    if (Number.isInteger(value)) return value.toLocaleString("en-US");
    if (Math.abs(value) >= 1e4) return Math.round(value).toLocaleString("en-US");
    return Math.abs(value) < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(4));
  }

  /** Ticks of log10(value + 1) at 1, 2, 5, 10, ...; what is too narrow for them has even ones. */
  function logTicks(low, high) {
    const ticks = [0];
    for (let ten = 1; Math.log10(ten + 1) <= high; ten *= 10) for (const part of [1, 2, 5]) ticks.push(Math.log10(part * ten + 1));
    const inside = ticks.filter(at => at >= low && at <= high);
    return inside.length > 2 ? inside : [0, 1, 2, 3, 4].map(k => low + (high - low) * k / 4);
  }

  const axis = more => ({stroke: () => colour("--soft"), font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif",
    grid: {stroke: () => colour("--grid"), width: 1}, ticks: {show: false}, gap: 6, ...more});

  /** A uPlot in `place`. `options` as uPlot takes them, but for `height`, the whole range of x as `scales.x.range`, and `top`:
      (plot, index) -> where in the height a key puts the cursor. `read`: (plot, index or null) -> what the line below
      says, as [colour or null, text] parts. Gives the plot. */
  function make(place, options, columns, read) {
    const box = place.closest(".chart"), readout = box.querySelector(".readout"), back = box.querySelector(".whole");
    const size = () => ({width: Math.max(200, place.clientWidth), height: options.height ?? 220});
    const say = index => readout.replaceChildren(...read(plot, index).map(([fill, text]) => {
      const part = document.createElement("span");
      if (fill) part.append(Object.assign(document.createElement("i"), {style: `background:${fill}`}));
      part.append(text);
      return part;
    }));
    const x = columns[0], span = options.scales.x.range ?? [x[0], x[x.length - 1]];
    // Without a zoom uPlot asks with the ends of the data, or around the only one.
    options.scales.x.range = (_, low, high) => low === null || (low <= x[0] && high >= x[x.length - 1]) ? span : [low, high];
    let plot = null;
    plot = new uPlot({padding: [10, 12, 0, 0], legend: {show: false}, ...options, ...size(),
      cursor: {y: false, points: {size: 8, width: 2}, drag: {x: true, y: false}, ...options.cursor},
      hooks: {...options.hooks,
        setCursor: [self => { if (plot) say(self.cursor.idx ?? null); }],
        setScale: [(self, name) => {
          if (name === "x" && plot) back.hidden = self.scales.x.min <= span[0] && self.scales.x.max >= span[1];
        }]}}, columns, place);
    const zoom = (low, high) => plot.setScale("x", {min: Math.max(span[0], low), max: Math.min(span[1], high)});
    const whole = () => zoom(...span);
    back.addEventListener("click", whole);
    place.addEventListener("keydown", event => {
      const {min, max} = plot.scales.x, at = plot.cursor.idx;
      const step = {ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity}[event.key];
      const middle = at === null || at === undefined ? (min + max) / 2 : x[at];
      const scale = {"+": .5, "=": .5, "-": 2}[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (step) {
        const [first, last] = plot.series[0].idxs ?? [0, x.length - 1];
        const next = Math.min(last, Math.max(first, (at ?? (step > 0 ? first - 1 : last + 1)) + step));
        plot.setCursor({left: plot.valToPos(x[next], "x"), top: options.top ? options.top(plot, next) : 0});
      } else if (scale) zoom(middle - (middle - min) * scale, middle + (max - middle) * scale);
      else if (event.key === "0" || event.key === "Escape") whole();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    new ResizeObserver(() => { if (place.clientWidth && place.clientWidth !== plot.width) plot.setSize(size()); }).observe(place);
    say(null);
    made.push(plot);
    return plot;
  }

  /** Lines across a chart, each with its word: left of the line where it would leave the picture, lower where another
      word is in the way. */
  function drawMarks(plot, marks) {
    const {ctx, bbox} = plot, unit = ratio(), right = bbox.left + bbox.width, ends = [];
    ctx.save();
    ctx.font = `600 ${12 * unit}px system-ui, sans-serif`;
    [ctx.textBaseline, ctx.textAlign] = ["top", "left"];
    ctx.lineJoin = "round";
    for (const {at, text} of marks) {
      const x = plot.valToPos(at, "x", true), wide = ctx.measureText(text).width;
      if (x < bbox.left - 1 || x > right + 1) continue;
      const from = x + wide + 6 * unit > right ? x - wide - 5 * unit : x + 5 * unit;
      let row = 0;
      while (from < (ends[row] ?? -Infinity)) row++;
      ends[row] = from + wide + 4 * unit;
      const y = bbox.top + 15 * unit * row;
      ctx.strokeStyle = ctx.fillStyle = colour("--bad");
      ctx.lineWidth = 1.5 * unit;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.strokeStyle = colour("--back");  // around the word, so that bars do not hide it
      ctx.lineWidth = 4 * unit;
      ctx.strokeText(text, from, y);
      ctx.fillText(text, from, y);
    }
    ctx.restore();
  }

  function draw(place) {
    const chart = data.charts[place.dataset.chart], bars = chart.kind === "bars";
    const back = v => chart.log ? 10 ** v - 1 : v;
    const names = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5"];
    const hue = k => bars ? [() => colour("--pale"), () => colour("--blue")][k] : () => colour(names[k % names.length]);
    const series = chart.series.map(({name, values}, k) => bars
      ? {label: name, stroke: hue(k), fill: hue(k), width: 0, points: {show: false}, paths: uPlot.paths.bars({size: [1, Infinity], align: 1, gap: 1})}
      : {label: name, stroke: hue(k), width: 1.75, spanGaps: true,
        points: {show: values.filter(v => v !== null).length < 12, size: 6, fill: hue(k)}});
    const x = chart.x, several = chart.series.length > 1;
    // The end of the last bin is an x without a bar.
    const columns = [x, ...chart.series.map(({values}) => bars ? [...values, null] : values)];
    const last = values => values.findLast(v => v !== null) ?? null;
    const read = (plot, index) => {
      if (bars) {
        if (index === null || index >= x.length - 1) return [[null, chart.spoken], ...chart.series.map(({name}, k) => [hue(k)(), name])];
        return [[null, `${short(back(x[index]))} to ${short(back(x[index + 1]))}`],
          ...chart.series.map(({name, values}, k) => [hue(k)(), `${short(values[index])} ${name}`])];
      }
      return [[null, index === null ? "last" : `${chart.x_title} ${short(x[index])}`],
        ...chart.series.map(({name, values}, k) => [hue(k)(), `${several ? name + ": " : ""}${short(index === null ? last(values) : values[index])}`])];
    };
    // Curves over steps have one range, so that what is below each other is of one time.
    const ends = bars ? x : Object.values(data.charts).filter(each => each.kind === "lines" && each.x_title === chart.x_title).flatMap(each => each.x);
    let wide = ends.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
    if (wide[0] === wide[1]) wide = [wide[0] - 1, wide[1] + 1];
    make(place, {
      scales: {x: {time: false, range: wide}, y: bars ? {range: (_, low, high) => [0, Math.max(1, high * 1.04)]} : {}},
      series: [{}, ...series],
      axes: [axis({size: 26, values: (_, ticks) => ticks.map(v => !bars && v % 1 ? "" : short(back(chart.log ? v : +v.toPrecision(12)))),
        ...(chart.log ? {splits: (_, __, low, high) => logTicks(low, high)} : {})}),
      axis({size: (_, ticks) => 18 + 7 * Math.max(3, ...(ticks ?? []).map(t => t.length)), values: (_, ticks) => ticks.map(v => bars && v % 1 ? "" : short(+v.toPrecision(12)))})],
      hooks: {draw: [plot => drawMarks(plot, chart.marks)]},
    }, columns, read);
  }

  if (data.charts) document.querySelectorAll("[data-chart]").forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const plot of made) plot.redraw(false); });
  return {data, make, axis, colour, ratio, short, made};
})();
