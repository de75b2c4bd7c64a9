"use strict";
// Settings as the url says them, as a command, and as TOML. A link is a proposal to a colleague.

function makeSettings(about) {
  const copy = settings => ({rules: {...settings.rules}, cut: {...settings.cut}});
  const quote = text => /^[\w@%+=:,./-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'";

  /** The nearest value that the setting may have. */
  function bounded(rule, value) {
    const inside = Math.min(rule.highest ?? Infinity, Math.max(rule.lowest ?? -Infinity, value));
    return rule.whole ? Math.round(inside) : inside;
  }

  /** The text of a share as `cut.top_fraction` takes it, null where it is none. */
  function readShare(text) {
    const tidy = text.trim().replace(/^\./, "0.");
    if (!/^(0\.\d{1,18}|1(\.0*)?)$/.test(tidy) || /^0\.0*$/.test(tidy)) return null;
    return tidy.includes(".") ? tidy.replace(/0+$/, "").replace(/\.$/, "") : tidy;
  }

  function toHash(settings, marks) {
    const parts = about.rules.filter(rule => settings.rules[rule.setting] !== about.own.rules[rule.setting])
      .map(rule => [rule.setting, settings.rules[rule.setting] ?? "none"]);
    const {mode} = settings.cut;
    if (about.metric !== null && (mode !== about.own.cut.mode || settings.cut[mode] !== about.own.cut[mode])) {
      parts.push(["cut", mode], ["at", mode === "all" ? "" : settings.cut[mode]]);
    }
    for (const [name, keys] of Object.entries(marks)) if (keys.size) parts.push([name, [...keys].sort().join(".")]);
    return new URLSearchParams(parts.map(([name, value]) => [name, String(value)])).toString();
  }

  /** What cannot be read, or is out of bounds, is left as the run has it. */
  function fromHash(text, marks) {
    const settings = copy(about.own), asked = new URLSearchParams(text.replace(/^#/, ""));
    for (const rule of about.rules) {
      const value = asked.get(rule.setting);
      if (value === "none" && rule.history) settings.rules[rule.setting] = null;
      else if (value !== null && value.trim() !== "" && Number.isFinite(+value)) {
        settings.rules[rule.setting] = bounded(rule, +value);
      }
    }
    const mode = asked.get("cut"), at = asked.get("at") ?? "";
    if (about.metric !== null) {
      if (mode === "all") settings.cut.mode = mode;
      if (mode === "fraction" && readShare(at)) Object.assign(settings.cut, {mode, fraction: readShare(at)});
      if (mode === "k" && +at >= 1) Object.assign(settings.cut, {mode, k: Math.round(+at)});
      if (mode === "bound" && at !== "" && Number.isFinite(+at)) Object.assign(settings.cut, {mode, bound: +at});
    }
    for (const [name, keys] of Object.entries(marks)) {
      for (const key of (asked.get(name) ?? "").split(".")) if (/^[0-9a-f]{20}$/.test(key)) keys.add(key);
    }
    return settings;
  }

  const whereOf = cut => {
    const bound = `\`${about.metric}\` ${about.lower_is_better ? "<=" : ">="} ${cut.bound}`;
    return about.where ? `(${about.where}) and ${bound}` : bound;
  };

  const changed = settings => about.rules.filter(rule => settings.rules[rule.setting] !== about.own.rules[rule.setting]);

  /** [setting, its value in the run, its value here] of each that differs, in words. */
  function differences(settings, sameCut) {
    const words = {fraction: cut => `best share ${cut.fraction}`, k: cut => `best ${cut.k}`, all: () => "all",
      bound: cut => `${about.lower_is_better ? "at most" : "at least"} ${cut.bound}`};
    const rows = changed(settings).map(rule => [`rules.${rule.setting}`, about.own.rules[rule.setting] ?? "off", settings.rules[rule.setting] ?? "off"]);
    if (about.metric !== null && !sameCut(settings.cut)) {
      rows.push([`cut by ${about.metric}`, ...[about.own.cut, settings.cut].map(cut => words[cut.mode](cut))]);
    }
    return rows;
  }

  function toCommand(settings, marks, sameCut) {
    const parts = ["lucidflux-data", "select", quote(about.run)], {cut} = settings;
    for (const rule of changed(settings)) {
      parts.push("--set", `rules.${rule.setting}=${settings.rules[rule.setting] ?? "none"}`);
    }
    if (about.metric !== null && !sameCut(cut)) {
      if (cut.mode === "fraction") parts.push("--top-fraction", cut.fraction);
      if (cut.mode === "k") parts.push("--top-k", String(cut.k));
      if (cut.mode === "bound") parts.push("--where", quote(whereOf(cut)));
      if (cut.mode === "bound" || cut.mode === "all") parts.push("--set", "cut.top_k=none", "--set", "cut.top_fraction=1");
    }
    if (marks.out.size) for (const list of [...about.opt_out, "opt-out.txt"]) parts.push("--opt-out", quote(list));
    if (marks.in.size) for (const item of [...about.include, "include.txt"]) parts.push("--include", quote(item));
    return parts.join(" ");
  }

  function toToml(settings, marks, sameCut) {
    const lines = [], {cut} = settings, off = changed(settings).filter(rule => settings.rules[rule.setting] === null);
    const set = changed(settings).filter(rule => settings.rules[rule.setting] !== null), more = [];
    const number = (rule, value) => rule.whole || /[.e]/.test(String(value)) ? String(value) : `${value}.0`;
    if (set.length) lines.push("[rules]", ...set.map(rule => `${rule.setting} = ${number(rule, settings.rules[rule.setting])}`));
    if (about.metric !== null && !sameCut(cut)) {
      if (cut.mode === "k") { lines.push("[cut]", `top_k = ${cut.k}`); more.push("--set cut.top_fraction=none"); }
      else lines.push("[cut]", `top_fraction = "${cut.mode === "fraction" ? cut.fraction : "1"}"`);
      if (cut.mode !== "k" && about.own.cut.mode === "k") more.push("--set cut.top_k=none");
      if (cut.mode === "bound") lines.push("[select]", `where = ${JSON.stringify(whereOf(cut))}`);
    }
    for (const rule of off) more.push(`--set rules.${rule.setting}=none`);
    if (marks.out.size) for (const list of [...about.opt_out, "opt-out.txt"]) more.push(`--opt-out ${quote(list)}`);
    if (marks.in.size) for (const item of [...about.include, "include.txt"]) more.push(`--include ${quote(item)}`);
    const use = `# lucidflux-data select ${quote(about.run)} --config FILE ${more.join(" ")}`.trim();
    return [use, ...lines].join("\n");
  }

  return {copy, bounded, readShare, toHash, fromHash, differences, toCommand, toToml};
}
