"use strict";
// What settings keep: the decision of lucidflux_data/selection/rules.py on the columns of this page, reason by reason in
// the same order. Tests compare the two. In a sample, the run's own counts plus what settings gain, less what they lose.

const KEPT = -1, PENDING = 100;  // PENDING: passes all that is known of it, and something is not measured yet
const LEAK = 1, LEAK_UNKNOWN = 2, WHERE_NOT = 4, WHERE_WAITS_FOR_HISTORY = 16, HISTORY_UNKNOWN = 32, SCORE_UNKNOWN = 64;
const Z = 1.959964;

/** max(1, floor(n * fraction)) with the fraction an exact decimal, as `rules.number_kept`. */
function numberKept(n, cut) {
  if (n === 0) return 0;
  if (cut.mode === "k") return Math.min(cut.k, n);
  if (cut.mode !== "fraction") return n;
  const [whole, decimals = ""] = cut.fraction.split(".");
  const share = BigInt(whole + decimals) * BigInt(n) / 10n ** BigInt(decimals.length);
  return Math.max(1, Number(share));
}

function makeCounter(about, columns) {
  const {fixed, flags, failed, order} = columns, n = fixed.length, metric = about.metric !== null;
  const code = Object.fromEntries(about.reasons.map(([name], at) => [name, at]));
  const score = columns["measure-score"] ?? null, sample = about.sample;
  const byOrder = new Int32Array(n).fill(-1);
  for (let i = 0; i < n; i++) if (order[i] >= 0) byOrder[order[i]] = i;
  const weight = sample && Float64Array.from(sample.sizes, (size, h) => size / sample.drawn[h]);
  const weightOf = i => sample ? weight[columns.strata[i]] : 1;

  function rulesOn(rules) {
    return about.rules.filter(rule => rules[rule.setting] !== null && rules[rule.setting] !== undefined).map(rule => ({
      limit: rules[rule.setting], least: rule.sense === "min", code: code[rule.reason], history: rule.history,
      values: columns["measure-" + rule.measure] ?? null,
    }));
  }

  const fails = (rule, i) => rule.values !== null
    && (rule.least ? rule.values[i] < rule.limit : rule.values[i] > rule.limit);

  const meets = (bound, i) => about.lower_is_better ? score[i] <= bound : score[i] >= bound;

  /** Codes before the cut, with how many of PENDING lack a score, and how many something else. */
  function applyRules(settings) {
    const active = rulesOn(settings.rules), codes = new Int8Array(n), bounded = settings.cut.mode === "bound";
    const cheap = active.filter(rule => !rule.history), history = active.filter(rule => rule.history);
    const needsHistory = history.length > 0 || about.near_duplicates !== null;
    const whereWaits = about.where_names_metric || bounded;
    let unscored = 0, unmeasured = 0;
    for (let i = 0; i < n; i++) {
      let found = fixed[i];
      const known = flags[i];
      if (found !== KEPT) {
        codes[i] = found === code.included && known & LEAK ? code.benchmark_leak : found;
        continue;
      }
      for (let r = 0; found === KEPT && r < cheap.length; r++) if (fails(cheap[r], i)) found = cheap[r].code;
      if (found === KEPT && known & LEAK) found = code.benchmark_leak;
      for (let r = 0; found === KEPT && r < history.length; r++) if (fails(history[r], i)) found = history[r].code;
      const lacksScore = metric && known & SCORE_UNKNOWN, lacksHistory = needsHistory && known & HISTORY_UNKNOWN;
      let lacks = known & LEAK_UNKNOWN || lacksHistory;
      if (found === KEPT && !(whereWaits && lacksScore)) {
        if (known & WHERE_NOT && lacksHistory && known & WHERE_WAITS_FOR_HISTORY) lacks = 1;
        else if (known & WHERE_NOT || bounded && !meets(settings.cut.bound, i)) found = code.where_not_met;
      }
      if (found === KEPT && (lacksScore || lacks)) {
        found = PENDING;
        if (lacksScore) unscored += weightOf(i); else unmeasured += weightOf(i);
      }
      codes[i] = found;
    }
    return {codes, unscored, unmeasured};
  }

  /** The scored survivors, the best first; those outside the cut get their reason. */
  function applyCut(codes, cut) {
    const ranked = [];
    let total = 0, before = 0;
    for (let i = 0; i < n; i++) if (codes[i] === KEPT && failed[i] !== KEPT) codes[i] = failed[i];
    for (let at = 0; at < n && byOrder[at] >= 0; at++) {
      const i = byOrder[at];
      if (codes[i] === KEPT) { ranked.push(i); total += weightOf(i); }
    }
    const size = numberKept(Math.round(total), cut);
    for (const i of ranked) {
      const own = weightOf(i);
      if (before + (sample ? own / 2 : 0) >= size) codes[i] = code.low_iqa;
      before += own;
    }
    return ranked;
  }

  /** Of each group of near-duplicates that take part the best stays, as `rules.drop_near`. */
  function dropNear(codes, ranked, cut) {
    const rows = columns["near-rows"], nodes = columns["near-nodes"], keys = columns["near-keys"];
    const pairs = columns["near-pairs"], rank = new Map(ranked.map((i, at) => [i, at]));
    const parents = new Map(), groups = new Map(), later = new Set(), side = columns["measure-min_side"];
    const root = node => { while (parents.get(node) !== node) node = parents.get(node); return node; };
    const members = [];
    for (let m = 0; m < rows.length; m++) {
      const i = rows[m];
      if (!rank.has(i) && codes[i] !== code.included && codes[i] !== KEPT) continue;
      members.push(m);
      parents.set(nodes[m], nodes[m]);
    }
    for (let p = 0; p < pairs.length; p += 2) {
      if (!parents.has(pairs[p]) || !parents.has(pairs[p + 1])) continue;
      const one = root(pairs[p]), other = root(pairs[p + 1]);
      parents.set(Math.max(one, other), Math.min(one, other));
    }
    for (const m of members) {
      const group = root(nodes[m]);
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(m);
    }
    const first = (a, b) => {
      const i = rows[a], j = rows[b];
      return (codes[j] === code.included) - (codes[i] === code.included)
        || (rank.get(i) ?? n) - (rank.get(j) ?? n) || side[j] - side[i] || keys[a] - keys[b];
    };
    for (const group of groups.values()) group.sort(first).slice(1).forEach(m => later.add(rows[m]));
    for (const i of later) if (codes[i] === code.included) codes[i] = code.near_duplicate;
    if (cut.mode === "k" && ranked.length) {
      let left = cut.k;
      for (const i of ranked) {
        codes[i] = left <= 0 ? code.low_iqa : later.has(i) ? code.near_duplicate : KEPT;
        if (!later.has(i)) left -= weightOf(i);
      }
    } else for (const i of later) if (codes[i] === KEPT) codes[i] = code.near_duplicate;
  }

  function decide(settings) {
    const found = applyRules(settings), open = about.near_duplicates !== null && found.unscored + found.unmeasured > 0;
    found.ranked = metric ? applyCut(found.codes, settings.cut) : [];
    if (about.near_duplicates !== null && about.near_followed) dropNear(found.codes, found.ranked, settings.cut);
    return {...found, open: open || about.near_duplicates !== null && !about.near_followed};
  }

  // What follows is of samples.

  const own = decide(about.own), R = about.reasons.length + 2, PENDING_AT = R - 1;
  const slot = found => found === PENDING ? PENDING_AT : found + 1;
  const slotsOf = found => Int8Array.from(found.codes, slot);
  const ranksOf = found => { const set = new Int8Array(n).fill(-1); for (const i of found.ranked) set[i] = 0; return set; };
  const ownSlots = sample && slotsOf(own), ownRanked = sample && ranksOf(own);
  const coarsest = sample && Math.max(0, ...sample.sizes.map((size, h) =>
    sample.movable[h] ? size / sample.drawn[h] * (1 - sample.drawn[h] / size) : 0));

  /** Estimates of how many change from one category to another: `was` and `is` name it for each row, -1 for none. */
  function estimate(was, is, categories) {
    const H = sample.sizes.length, sums = [0, 1].map(() => new Float64Array(H * categories));
    const squares = [0, 1].map(() => new Float64Array(H * categories)), touched = new Map();
    const flush = h => {
      for (const [key, count] of touched) {
        const side = key % 2, at = h * categories + (key - side) / 2;
        sums[side][at] += count;
        squares[side][at] += count * count;
      }
      touched.clear();
    };
    for (let i = 0; i < n; i++) {
      const before = was[i], after = is[i];
      if (before !== after) {
        if (before >= 0) touched.set(2 * before, (touched.get(2 * before) ?? 0) + 1);
        if (after >= 0) touched.set(2 * after + 1, (touched.get(2 * after + 1) ?? 0) + 1);
      }
      if (touched.size && (i + 1 === n || columns.units[i + 1] !== columns.units[i])) flush(columns.strata[i]);
    }
    return Array.from({length: categories}, (_, c) => {
      const [lost, gained] = [0, 1].map(side => scoreInterval(sums[side], squares[side], c, categories));
      const change = gained.mean - lost.mean;
      return {change, low: change - Math.hypot(gained.mean - gained.low, lost.high - lost.mean),
        high: change + Math.hypot(gained.high - gained.mean, lost.mean - lost.low)};
    });
  }

  /** A total over the strata with its score interval (Wilson's, of a count whose variance is that of the strata). */
  function scoreInterval(sums, squares, c, categories) {
    let mean = 0, variance = 0;
    sample.sizes.forEach((size, h) => {
      const m = sample.drawn[h], sum = sums[h * categories + c];
      if (sum === 0) return;
      mean += size / m * sum;
      const spread = m > 1 ? (squares[h * categories + c] - sum * sum / m) / (m - 1) : 0;
      variance += size * size * (1 - m / size) * spread / m;
    });
    const each = Math.max(mean > 0 ? variance / mean : 0, coarsest), half = Z * Math.sqrt(each * mean + Z * Z * each * each / 4);
    return {mean, low: Math.max(0, mean + Z * Z * each / 2 - half), high: mean + Z * Z * each / 2 + half};
  }

  const sameRules = settings => about.rules.every(rule => settings.rules[rule.setting] === about.own.rules[rule.setting]);
  const sameCut = cut => cut.mode === about.own.cut.mode && (cut.mode === "all" || cut[cut.mode] === about.own.cut[cut.mode]);
  const isOwn = settings => sameRules(settings) && sameCut(settings.cut);

  /** counts: by code + 1, the last of what is pending; kept between low and high, equal where they are exact. */
  function count(settings) {
    const found = isOwn(settings) ? own : decide(settings), counts = new Float64Array(R);
    const total = () => counts[0] + counts[slot(code.included)];
    if (!sample) {
      for (let i = 0; i < n; i++) counts[slot(found.codes[i])]++;
      return {...found, counts, kept: total(), low: total(), high: total()};
    }
    counts.set(about.own_counts);
    if (isOwn(settings)) return {...found, counts, kept: total(), low: total(), high: total()};
    const before = total(), changes = estimate(ownSlots, slotsOf(found), R);
    changes.forEach((each, at) => { counts[at] = Math.max(0, Math.round(counts[at] + each.change)); });
    let kept = before + changes[0].change, low = before + changes[0].low, high = before + changes[0].high;
    if (metric && about.near_duplicates === null && settings.cut.mode !== "bound") {
      const none = {change: 0, low: 0, high: 0};
      const more = sameRules(settings) && about.own.cut.mode !== "bound" ? none
        : estimate(ownRanked, ranksOf(found), 1)[0];
      const inside = each => before - numberKept(about.own_ranked, about.own.cut)
        + numberKept(Math.max(0, Math.round(about.own_ranked + each)), settings.cut);
      [kept, low, high] = [more.change, more.low, more.high].map(inside);
      counts[slot(code.low_iqa)] = Math.max(0, Math.round(about.own_ranked + more.change - (kept - (before - about.own_counts[0]))));
    }
    const most = metric && settings.cut.mode === "k" ? settings.cut.k + before - about.own_counts[0] : about.candidates;
    const clip = value => Math.min(most, Math.max(0, Math.round(value)));
    counts[0] = Math.max(0, Math.round(kept) - counts[slot(code.included)]);
    return {...found, counts, kept: clip(kept), low: clip(Math.floor(low)), high: clip(Math.ceil(high))};
  }

  return {count, code, own, fails, rulesOn, weightOf, sameCut};
}
